"""The whole loop under faults: simulated arm, controller and planner in processes of their own, in real time.

The planner is one that does not think, so that no model is needed. The bounds are on the controller's own ticks, less
what this machine held it up by; the arm counts what no sound controller sends, and is watched for motion by its truth.
"""

from __future__ import annotations

import ast
import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from latent_mpc import navigator
from latent_mpc.envs.rendering import make_renderer
from latent_mpc.navigator import navigate
from latent_mpc.navigator_link import Charge, view_dtype
from latent_mpc.robots.camera import SimulatedCamera
from latent_mpc.robots.channels import Phase, Status
from latent_mpc.robots.kinematics import Kinematics
from latent_mpc.robots.log import read_run
from latent_mpc.robots.robot import DriverError, TimedPlan
from latent_mpc.robots.setpoint_check import Violations
from latent_mpc.robots.simulation import Simulation
from latent_mpc.robots.simulation_link import Slots
from latent_mpc.robots.slots import Slot
from latent_mpc.robots.supervisor import Supervisor
from latent_mpc.robots.world import Faults, SceneCamera

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parent))
from leaks import session, shared_memory
from soak import WORKSPACE, Circler, circle, simulated_panda, soak, supervise

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at Linux's /proc and signals")
ROOT = Path(__file__).parents[1]
VALID_S = 0.5  # of a planner's plans
UNDER_WAY_S = 0.4
STILL_RAD = 1e-3
ATTEMPTS = 3
HICCUP_S = 0.25  # that a loaded machine may keep a controller from its tick


def until(condition: Callable[[], Any], at_most_s: float, what: str, found: Callable[[], object] = str) -> None:
    deadline_s = time.monotonic() + at_most_s
    while not condition():
        if time.monotonic() > deadline_s:
            pytest.fail(f"not within {at_most_s} s: {what} {found()}")
        time.sleep(0.002)


class Rig:
    """A simulated arm and its controller; a controller that was killed is started anew."""

    def __init__(self, folder: Path, camera: SceneCamera | None = None) -> None:
        self._folder, self._runs = folder, 0
        self.simulation = Simulation(replace(simulated_panda(folder), camera=camera))
        with contextlib.suppress(OSError):  # a real arm is not kept waiting by our machine
            os.sched_setscheduler(self.simulation.pid, os.SCHED_FIFO, os.sched_param(10))
        self._stack = contextlib.ExitStack()
        self.supervisor = self._start()
        self.kinematics = Kinematics(self.supervisor.spec)

    def _start(self) -> Supervisor:
        self._runs += 1
        return self._stack.enter_context(supervise(self.simulation, self._folder / str(self._runs)))

    def armed(self) -> None:
        """At home, without faults, ARMED."""
        self.simulation.inject(Faults())
        if "controller ended" in self.status.reason:
            self._stack.close()
            self.supervisor = self._start()
        if self.status.torque:
            self.supervisor.stop()
            self.wait(Phase.STOPPED)
        if self.status.phase in (Phase.STOPPED, Phase.FAULT):
            self.supervisor.reset()
        qpos = np.full(self.simulation.link.nq, np.nan)
        qpos[:7] = home = self.supervisor.spec.home_rad
        self.simulation.place(qpos)
        until(lambda: np.allclose(self.status.tick["q_rad"], home, atol=0.01), 5, "at home, but", self._where)
        self.supervisor.arm(timeout_s=20.0)

    @contextlib.contextmanager
    def running(self, **options: Any) -> Iterator[Circler]:
        """Armed, and going round in circles. Whatever a test does then, nothing that is sent may be unsound."""
        before = self.violations
        for _ in range(ATTEMPTS):
            self.armed()
            with self.planner(**options) as planner:
                self.wait_running(patient=True)
                if self.status.phase is Phase.RUNNING:
                    yield planner
                    break
        else:
            pytest.fail(f"this machine starves it: {self._where()}")
        assert self.violations == before

    def wait_running(self, patient: bool = False) -> None:
        """RUNNING without a break for UNDER_WAY_S; `patient`: or STOPPED or FAULT."""

        def moved() -> bool:
            clock = self.status.history
            if patient and self.status.phase in (Phase.STOPPED, Phase.FAULT):
                return True
            return bool(clock[-1, 1] - np.interp(clock[-1, 0] - UNDER_WAY_S, *clock.T) > 0.99 * UNDER_WAY_S)

        until(moved, 20, f"RUNNING for {UNDER_WAY_S} s, but", self._where)

    def _where(self) -> str:
        return f"{self.status.phase.name}: {self.status.reason}; {self.status.refusal}"

    def planner(self, **options: Any) -> Circler:
        return Circler(self.supervisor.ports, self.kinematics, **options)

    @property
    def status(self) -> Status:
        return self.supervisor.status()

    @property
    def violations(self) -> Violations:
        return self.simulation.truth().violations

    @property
    def q_rad(self) -> np.ndarray:
        return self.simulation.truth().qpos[:7]

    def wait(self, phase: Phase, at_most_s: float = 10.0) -> Status:
        until(lambda: self.status.phase is phase, at_most_s, f"{phase.name}, but", self._where)
        return self.status

    def took_s(self, phase: Phase, since_s: float) -> float:
        """From `since_s` to the first tick in `phase`, less the longest that this machine kept a tick waiting."""
        self.wait(phase)
        ticks = self.ticks()
        before = ticks["now_s"] < since_s
        there = np.flatnonzero(~before & (ticks["phase"] == phase))
        assert len(there), f"{phase.name} was there before"
        span = ticks["now_s"][max(np.count_nonzero(before) - 1, 0) : there[0] + 1]
        hiccup_s = float(np.diff(span).max()) - 0.01
        return float(span[-1]) - since_s - min(max(hiccup_s, 0.0), HICCUP_S)

    def ticks(self, since_s: float = 0.0) -> np.ndarray:
        """What the controller logged up to now."""
        time.sleep(0.25)  # it writes ten times a second
        ticks = read_run(self._folder / str(self._runs)).ticks
        return ticks[ticks["now_s"] >= since_s]

    def assert_still(self, within_s: float = 2.0, seconds: float = 0.5) -> None:
        """The arm comes to rest `within_s`, and stays there for `seconds`."""
        began_s = since_s = time.monotonic()
        at = self.q_rad
        while time.monotonic() - since_s < seconds:
            if not np.allclose(q_rad := self.q_rad, at, rtol=0.0, atol=STILL_RAD):
                at, since_s = q_rad, time.monotonic()
                assert since_s - began_s <= within_s, "it still moves"
            time.sleep(0.01)

    def close(self) -> None:
        self._stack.close()
        self.simulation.close()


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("rig"))
    yield rig
    rig.close()


# ---- the planner ----


@pytest.mark.parametrize(
    "end",
    [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)],
    ids=["hangs, then is killed", "hangs, then raises"],
)
def test_a_planner_falls_silent(rig: Rig, end: signal.Signals) -> None:
    rig.armed()
    before = rig.violations
    ports, spec, last = rig.supervisor.ports, rig.supervisor.spec, rig.status.last_plan
    planner = multiprocessing.get_context("spawn").Process(target=circle, args=(ports, spec), daemon=True)
    planner.start()
    try:
        until(lambda: rig.status.last_plan > last, 60, "the planner is there")
        for how in (signal.SIGSTOP, end):
            rig.wait_running()
            assert planner.pid is not None
            silent_s = time.monotonic()
            os.kill(planner.pid, how)
            assert 0.2 < rig.took_s(Phase.HOLD, silent_s) < VALID_S + 0.1
            assert "expired" in rig.status.reason
            if how is not end:
                os.kill(planner.pid, signal.SIGCONT)
        assert VALID_S + 0.7 < rig.took_s(Phase.STOPPED, silent_s) < VALID_S + 1.2
        assert "in HOLD" in rig.status.reason and "expired" in rig.status.reason
        rig.assert_still(within_s=0.0)
    finally:
        planner.kill()
        planner.join()
    assert rig.violations == before


def test_late_reordered_and_duplicated_plans_change_nothing(rig: Rig) -> None:
    with rig.running(valid_s=1.9) as planner:
        planner.idle = True
        time.sleep(0.2)
        good = planner.plan()
        planner.send(good)
        until(lambda: rig.status.last_plan == good.sequence, 1, "the plan is followed")
        newer, away = good.sequence + 1, np.array([0.0, 0.0, 0.3])
        for bad, why in (
            (replace(good, sequence=good.sequence - 1), "not newer"),
            (good, "not newer"),
            (replace(good, sequence=newer, expires_s=time.monotonic() - 0.001), "after it expired"),
            (replace(good, sequence=newer + 1, times_s=good.times_s - 10), "ago on the motion clock"),
            (replace(good, sequence=newer + 2, times_s=good.times_s + 10), "ahead on the motion clock"),
            (replace(good, sequence=newer + 3, position_m=good.position_m + away), "has the tool"),
        ):
            planner.send(bad)
            refusal = f"plan {bad.sequence} "
            until(lambda r=refusal: rig.status.refusal.startswith(r), 1, refusal, lambda: rig.status.refusal)
            assert why in rig.status.refusal
            assert rig.status.phase is Phase.RUNNING and rig.status.last_plan == good.sequence
        rig.wait(Phase.HOLD)
    ticks = rig.ticks()
    on_it = ticks[ticks["plan"] == good.sequence]
    assert len(on_it) > 150 and (np.diff(on_it["tick"]) == 1).all()
    for tick in on_it[on_it["phase"] == Phase.RUNNING][::10]:
        due = [np.interp(tick["motion_s"], good.times_s, axis) for axis in good.position_m.T]
        assert np.linalg.norm(rig.kinematics.pose(tick["sent_rad"]).position_m - due) < 0.02


def test_a_slow_first_plan_is_waited_for_without_a_move(rig: Rig) -> None:
    rig.armed()
    clock_s = rig.status.motion_s
    rig.assert_still(within_s=0.0, seconds=1.5)
    assert rig.status.phase is Phase.ARMED and rig.status.motion_s == clock_s
    with rig.planner():
        rig.wait_running()


# ---- the arm ----


@pytest.mark.parametrize("fault", [Faults(frozen=True), Faults(nan=True)], ids=["frozen", "nan"])
def test_states_that_freeze_or_are_no_numbers_hold_the_arm(rig: Rig, fault: Faults) -> None:
    with rig.running():
        since_s = time.monotonic()
        rig.simulation.inject(fault)
        assert rig.took_s(Phase.HOLD, since_s) < 0.15
        assert "the reading is" in rig.status.reason
        rig.assert_still()
        rig.wait(Phase.STOPPED)


def test_a_protective_stop_is_a_fault_until_it_is_cleared(rig: Rig) -> None:
    with rig.running():
        since_s = time.monotonic()
        rig.simulation.inject(Faults(protective_stop=True))
        assert rig.took_s(Phase.FAULT, since_s) < 0.15
        assert "protective stop" in rig.status.reason and not rig.status.torque
        rig.assert_still()
        with contextlib.suppress(DriverError):
            rig.supervisor.reset(timeout_s=0.5)
        with pytest.raises(DriverError, match="protective stop"):
            rig.supervisor.arm(timeout_s=2.0)
    with rig.running():
        pass


def test_a_blocked_joint_stops_the_arm_and_is_named(rig: Rig) -> None:
    with rig.running(size_m=(0.05, 0.25)):
        since_s = time.monotonic()
        rig.simulation.inject(Faults(blocked="joint1"))
        assert rig.took_s(Phase.STOPPED, since_s) < 2.0
        assert rig.status.reason.startswith(("joint joint1 rests", "joint joint1 strains"))  # whichever is seen first
        rig.assert_still()


# ---- the controller and the machine ----


def test_a_killed_controller_is_limp_within_half_a_second(rig: Rig) -> None:
    slots = Slots(rig.simulation.link)
    try:
        with rig.running() as planner:
            pid, killed_s = rig.supervisor.pid, time.monotonic()
            os.kill(pid, signal.SIGKILL)
            until(lambda: not slots.state.read()[0]["armed"], 5, "limp")
            assert float(slots.state.read()[0]["sent_s"]) - killed_s < 0.5
            rig.wait(Phase.FAULT)
            assert "second path: torque off" in rig.status.reason and not rig.status.torque
            rig.assert_still()
            assert planner.last is not None and planner.last.expires_s > time.monotonic(), "plans go on, to nobody"
    finally:
        slots.close()
    assert not Path(f"/proc/{pid}").exists()


def test_hogged_cores_cost_a_hold_at_most(rig: Rig) -> None:
    with rig.running():
        began_s = time.monotonic()
        hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
        try:
            time.sleep(3.0)
        finally:
            for hog in hogs:
                hog.kill()
                hog.wait()
        rig.wait_running()
    phases = rig.ticks(began_s)["phase"]
    assert {Phase(int(phase)) for phase in phases} <= {Phase.RUNNING, Phase.HOLD}


WALL_CLOCKS = {"time", "time_ns", "now", "utcnow", "today", "localtime", "gmtime", "ctime", "strftime", "clock_gettime"}
ALLOWED = {("log.py", "now")}  # when a run was started, for people


@pytest.mark.parametrize(
    "file",
    [*sorted((ROOT / "robots").glob("*.py")), *(ROOT / f"latent_mpc/{n}.py" for n in ("pilot", "navigator", "drive"))],
    ids=lambda file: file.name,
)
def test_nothing_looks_at_the_wall_clock(file: Path) -> None:
    assert wall_clocks(file.read_text(encoding="utf-8"), file.name) == []


@pytest.mark.parametrize(
    "source", ["import time\ntime.time()", "from time import time", "now = datetime.now()", "f(clock=time.time_ns)"]
)
def test_the_look_at_the_clock_is_seen(source: str) -> None:
    assert wall_clocks(source, "any.py")


def wall_clocks(source: str, name: str) -> list[str]:
    """Every mention of a wall clock, as line and name."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            owner = getattr(node.value, "id", getattr(node.value, "attr", ""))
            if owner in ("time", "datetime", "date") and node.attr in WALL_CLOCKS and (name, node.attr) not in ALLOWED:
                found.append(f"{node.lineno}: {owner}.{node.attr}")
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            found += [f"{node.lineno}: {alias.name}" for alias in node.names if alias.name in WALL_CLOCKS]
    return found


# ---- the camera ----


class Owner:
    """Of a planner that runs in a thread: there until it says so."""

    gone = False

    def __eq__(self, pid: object) -> bool:
        return not self.gone

    __hash__ = object.__hash__


class Eyes:
    """In place of agent and pilot: plans from every frame that it is shown, to where `Circler` would go."""

    trace = None
    surprise = 0.0

    def __init__(self, circler: Circler) -> None:
        self._circler, self.seen = circler, 0

    def reset(self, *_: object, **__: object) -> None: ...

    def forget(self) -> None: ...

    def plan(self, *_: object) -> TimedPlan:
        self.seen += 1
        return self._circler.plan()


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("filmed"), SceneCamera(make_renderer, size=32, supersample=1))
    yield rig
    rig.close()


@pytest.mark.parametrize(
    "fault",
    ["stalled", "repeated", "swapped", *(pytest.param(f, marks=pytest.mark.slow) for f in ("black", "wrong size"))],
)
def test_a_bad_camera_ends_planning_then_motion_and_is_told(
    filmed: Rig, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, owner = filmed, Owner()
    rig.armed()
    before, link = rig.violations, rig.simulation.link
    camera = SimulatedCamera(link)
    camera.connect()
    frame = camera.read()
    camera.close()
    assert frame is not None
    circler = rig.planner()
    eyes, view = Eyes(circler), Slot(view_dtype(32))
    monkeypatch.setattr(navigator, "load_agent", lambda *_, **__: eyes)
    monkeypatch.setattr(navigator, "Pilot", lambda *_: eyes)
    monkeypatch.setattr(navigator, "signal", mock.MagicMock())  # for main threads only
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    ports, spec = rig.supervisor.ports, rig.supervisor.spec
    charge = Charge("", frame.image, 0, partial(SimulatedCamera, link), ports, view.name, spec, WORKSPACE, owner)
    thread = threading.Thread(target=navigate, args=(charge,))
    thread.start()

    def complaint() -> str:
        return view.read()[0]["complaint"].item().decode()

    try:
        rig.wait_running()
        assert complaint() == ""
        since_s = time.monotonic()
        rig.simulation.inject(Faults(frame=fault))
        word = {"black": "blank"}.get(fault, fault)
        until(lambda: complaint().startswith(word), 3, word, complaint)
        seen = eyes.seen
        held_s = rig.took_s(Phase.HOLD, since_s)
        assert held_s < VALID_S + (0.7 if fault == "repeated" else 0.45), held_s
        rig.assert_still(within_s=0.3, seconds=0.3)
        assert eyes.seen == seen and complaint().startswith(word)
        rig.simulation.inject(Faults())
        until(lambda: complaint() == "", 5, "it sees again, but", complaint)
        until(lambda: rig.status.phase in (Phase.RUNNING, Phase.STOPPED), 5, "it goes on, but", rig._where)
        if rig.status.phase is Phase.STOPPED:  # after a second in HOLD, on a slow machine
            rig.armed()
        rig.wait(Phase.RUNNING)
    finally:
        owner.gone = True
        thread.join(10)
        view.close()
        circler.close()
    assert rig.violations == before


# ---- the end of the program ----

PROGRAM = """
import multiprocessing, os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {benchmarks!r})
from latent_mpc.robots.channels import Phase
from latent_mpc.robots.simulation import Simulation
from soak import circle, simulated_panda, supervise

if __name__ == "__main__":
    with Simulation(simulated_panda(Path(sys.argv[1]))) as simulation:
        if sys.argv[2] == "connect":
            os.kill(simulation.pid, signal.SIGKILL)
            print("there", flush=True)
            sys.stdin.readline()
        with supervise(simulation, None) as supervisor:
            context = multiprocessing.get_context("spawn")
            context.Process(target=circle, args=(supervisor.ports, supervisor.spec), daemon=True).start()
            supervisor.arm(timeout_s=20.0)
            while (phase := supervisor.status().phase) is not Phase.RUNNING:
                if phase in (Phase.STOPPED, Phase.FAULT):  # a machine that starved it
                    supervisor.reset()
                    supervisor.arm(timeout_s=20.0)
                time.sleep(0.01)
            print("there", flush=True)
            time.sleep(1000)
"""


@pytest.mark.parametrize(
    "how", ["Ctrl-C twice", *(pytest.param(how, marks=pytest.mark.slow) for how in ("SIGTERM", "connect"))]
)
def test_nothing_is_left_when_the_program_ends(tmp_path: Path, how: str) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM.format(benchmarks=str(ROOT / "benchmarks")))
    program = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
    )
    try:
        assert program.stdout is not None and program.stdout.readline() == "there\n"
        if how == "Ctrl-C twice":
            assert len(session(program.pid)) >= 4, "program, simulation, controller, planner"
        memory = shared_memory(session(program.pid))
        assert len(memory) == (6 if how == "connect" else 9)
        if how == "Ctrl-C twice":
            for _ in range(2):
                os.killpg(program.pid, signal.SIGINT)  # as a terminal does: to every process
                time.sleep(0.05)
        elif how == "SIGTERM":
            program.terminate()
        _, errors = program.communicate("\n", timeout=30)
        assert program.returncode == {"Ctrl-C twice": -signal.SIGINT, "SIGTERM": 128 + signal.SIGTERM}.get(how, 1)
        assert ("sends no state" in errors) == (how == "connect")
        until(lambda: not session(program.pid), 10, "all processes are gone, but", lambda: session(program.pid))
        until(lambda: not any(map(os.path.exists, memory)), 10, "no shared memory is left of", lambda: memory)
    finally:
        for pid in session(program.pid):
            os.kill(pid, signal.SIGKILL)
        program.communicate()


# ---- for long ----


@pytest.mark.parametrize("seconds", [5.0, pytest.param(60.0, marks=pytest.mark.slow)])
def test_a_soak(seconds: float) -> None:
    found = soak(seconds, warm_s=1.0)
    assert found.violations == Violations(), found
    assert set(found.phases) <= {"RUNNING", "HOLD"} and found.phases["RUNNING"] > 50 * (seconds - 1), found
    assert all(after < 1.02 * before for before, after in found.kib.values()), found
    if found.realtime:
        assert np.percentile(found.error_ms, 99) < 5.0, found
    else:
        warnings.warn(f"no real-time priority on this system, so its period is not judged: {found}", stacklevel=1)
