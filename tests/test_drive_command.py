"""The command `latent-mpc drive` as a process: however it ends, nothing is left; and its page moves a real loop.

The short tests drive a simulated arm by a planner that does not think; the slow ones run the whole command.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest

from latent_mpc.drive import Drive, simulated_station
from latent_mpc.navigator_link import view_dtype
from latent_mpc.robots.camera import OpenCVCamera
from latent_mpc.robots.channels import Phase, Ports
from latent_mpc.robots.kinematics import Kinematics
from latent_mpc.robots.robot import DriverError, RobotSpec
from latent_mpc.robots.simulation import Simulation
from latent_mpc.robots.supervisor import Supervisor

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from chromium import Tab, chromium
from leaks import session, shared_memory
from soak import WORKSPACE, Circler, simulated_panda, supervise

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at Linux's /proc and signals")
START_S = 90.0  # torch and the simulation load on a busy machine
REACT_S = 1.0  # from a click to the controller's phase, the arm at rest: it brakes within half a second
SHOWN_S = 2.0  # from then to the page, on two busy cores
STILL_RAD = 1e-3


def until(condition: Callable[[], Any], at_most_s: float, what: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + at_most_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {at_most_s} s; {what()}"
        time.sleep(0.01)


class Command:
    """`latent-mpc drive` with some arguments, in a session of its own, while the context is entered."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._out, self._err = folder / "out.txt", folder / "err.txt"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from latent_mpc.cli import main; main()", "drive", *arguments],
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
            )

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in session(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def wait_for(self, text: str) -> None:
        """Until it has said `text` on its standard output or in its line of status."""
        until(lambda: text in self.out + self.err or self.process.poll() is not None, START_S, lambda: self.err[-2000:])
        assert self.process.poll() is None, self.err[-2000:]

    def planner(self) -> int:
        """The process that has torch."""
        return next(pid for pid in session(self.process.pid) if "torch" in Path(f"/proc/{pid}/maps").read_text())

    def interrupt(self) -> None:
        """As a terminal does at Ctrl-C: to every process."""
        os.killpg(self.process.pid, signal.SIGINT)

    def ended(self) -> int:
        """Its exit code; nothing is left of it."""
        memory = shared_memory(session(self.process.pid))
        code = self.process.wait(30)
        until(lambda: not session(self.process.pid), 10, lambda: session(self.process.pid))
        until(lambda: not any(map(os.path.exists, memory)), 10, lambda: memory)
        return code


@pytest.mark.parametrize("how", ["Ctrl-C twice", pytest.param("SIGTERM", marks=pytest.mark.slow)])
def test_nothing_is_left_of_a_drive(tmp_path: Path, how: str) -> None:
    with Command(tmp_path, "--seed", "3", "--task", "Reach", "--log", str(tmp_path / "run")) as command:
        command.wait_for("RUNNING")
        assert len(shared_memory(session(command.process.pid))) == 10, "of the simulation, controller and view"
        if how == "SIGTERM":
            command.process.terminate()
        else:
            for _ in range(2):
                command.interrupt()
                time.sleep(0.05)
        memory = shared_memory(session(command.process.pid))
        assert command.ended() == {"SIGTERM": 128 + signal.SIGTERM}.get(how, 130)
        assert not any(map(os.path.exists, memory))
        assert "Traceback" not in command.err
        assert how == "SIGTERM" or f"interrupted; kept in {tmp_path / 'run'}" in command.err


def test_an_arm_that_is_not_there_is_told_in_one_line_and_nothing_is_left(tmp_path: Path) -> None:
    pytest.importorskip("rtde_control", reason="needs ur_rtde")
    goal, workspace = tmp_path / "goal.png", tmp_path / "workspace.yaml"
    iio.imwrite(goal, np.zeros((64, 64, 3), np.uint8))
    workspace.write_text("low_m: [0.2, -0.3, 0.0]\nhigh_m: [0.6, 0.3, 0.4]\n")
    real = ("--robot", "ur", "--set", "host=127.0.3.251", "--camera", "0")
    with Command(tmp_path, *real, "--goal", str(goal), "--workspace", str(workspace)) as command:
        assert command.ended() == 2
        message = command.err.strip().splitlines()[-1]
        assert message.startswith("latent-mpc: ") and "ur5e at 127.0.3.251" in message, command.err


@pytest.mark.slow
def test_a_camera_that_is_not_there_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    before = set(os.listdir("/dev/shm"))
    with simulated_station("Reach", 0) as station:
        blind = replace(station, make_camera=partial(OpenCVCamera, "http://127.0.0.1:9/", start_s=0.5))
        with Drive(blind) as drive, pytest.raises(DriverError, match=r"127\.0\.0\.1:9/' gave no frame within 0\.5 s"):
            drive.run()
    assert set(os.listdir("/dev/shm")) <= before


# ---- the page ----


class Bench:
    """What a page needs of a drive, around a real supervisor of a simulated arm that goes round in circles."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor, self.spec = supervisor, supervisor.spec
        self.station, self.config = SimpleNamespace(workspace=WORKSPACE), SimpleNamespace(dry_run=False)

    def view(self) -> np.void:
        view = np.zeros((), view_dtype(16))
        view["frame"], view["at_s"] = 1, time.monotonic()
        return view[()]


@pytest.fixture
def viser() -> None:
    pytest.importorskip("viser", minversion="1.1", reason="needs the extra 'page'")
    if chromium() is None:
        pytest.skip("no Chromium: apt-get install chromium")


def still(simulation: Simulation, seconds: float = 0.5) -> bool:
    """Whether no joint moves for so long, by the simulation's truth."""
    before = simulation.truth().qpos[:7]
    time.sleep(seconds)
    return bool(np.abs(simulation.truth().qpos[:7] - before).max() < STILL_RAD)


def long_circle(ports: Ports, spec: RobotSpec) -> None:
    """A planner's process; when it hangs, the arm would go on for two seconds."""
    with Circler(ports, Kinematics(spec), valid_s=1.9):
        time.sleep(1000)


def test_hold_stop_reset_and_arm_are_clicked_on_a_moving_arm_whose_planner_hangs(viser: None, tmp_path: Path) -> None:
    from latent_mpc.web import Page

    with contextlib.ExitStack() as stack:
        simulation = stack.enter_context(Simulation(simulated_panda(tmp_path)))
        supervisor = supervise(simulation, None)
        page = Page(Bench(supervisor), port=0)  # type: ignore[arg-type]
        stack.enter_context(supervisor)
        stack.enter_context(page)
        tab = stack.enter_context(Tab(page.url, width=640, height=480))
        tab.wait_for("CALIBRATED", START_S)
        tab.click("ARM")
        tab.wait_for("ARM done")
        planner = multiprocessing.get_context("spawn").Process(
            target=long_circle, args=(supervisor.ports, supervisor.spec), daemon=True
        )
        planner.start()
        stack.callback(planner.kill)
        tab.wait_for("RUNNING", START_S)
        until(lambda: not still(simulation, 0.2), 10, lambda: "it does not move")
        assert planner.pid is not None
        os.kill(planner.pid, signal.SIGSTOP)
        phase_after_click(tab, supervisor, "HOLD", Phase.HOLD)
        assert supervisor.status().reason == "held by command"
        time.sleep(0.5)
        assert still(simulation)
        phase_after_click(tab, supervisor, "STOP", Phase.STOPPED)
        assert still(simulation)
        tab.click("ARM")
        tab.wait_for("ARM failed: cannot arm: STOPPED")
        tab.click("RESET")
        tab.wait_for("RESET done")
        tab.click("ARM")
        tab.wait_for("ARM done")
        os.kill(planner.pid, signal.SIGCONT)
        tab.wait_for("RUNNING")
        until(lambda: not still(simulation, 0.2), 10, lambda: "it does not move again")
        phase_after_click(tab, supervisor, "STOP", Phase.STOPPED)


def phase_after_click(tab: Tab, supervisor: Supervisor, label: str, phase: Phase) -> None:
    """Click, and within the bound the controller is in the phase, and the page says so."""
    clicked_s = tab.click(label)
    until(lambda: supervisor.status().phase is phase, REACT_S, supervisor.status)
    tab.wait_for(phase.name)
    assert time.monotonic() - clicked_s < REACT_S + SHOWN_S


def run(tab: Tab) -> None:
    """Until the arm follows a plan; where it is STOPPED, by us or by a machine that starves it, RESET and ARM again."""
    deadline_s = time.monotonic() + START_S
    while "RUNNING" not in (text := tab.text()):
        assert time.monotonic() < deadline_s, text
        if order := "RESET" if "STOPPED" in text else "ARM" if "CALIBRATED" in text else "":
            tab.click(order)
            until(lambda asked=order: re.search(f"{asked} (done|failed)", tab.text()), 15, tab.text)
        time.sleep(0.2)


@pytest.mark.slow
def test_the_whole_command_is_held_stopped_reset_and_armed_on_its_page_while_its_planner_hangs(
    viser: None, tmp_path: Path
) -> None:
    with socket.socket() as free:
        if free.connect_ex(("127.0.0.1", 8080)) == 0:
            pytest.skip("port 8080 is taken")
    with simulated_station("PickPlace", 4) as other:
        iio.imwrite(tmp_path / "goal.png", other.goal_image)  # with a goal of its own nobody judges: it goes on
    with Command(tmp_path, "--page", "--seconds", "200", "--goal", str(tmp_path / "goal.png")) as command:
        command.wait_for("live page: ")
        found = re.search(r"live page: (\S+)", command.out)
        assert found is not None
        with Tab(found[1], width=640, height=480) as tab:
            run(tab)
            for part in ("camera", "subgoal", "goal", "frame to plan", "predicted energy", "p99"):
                tab.wait_for(part)
            assert tab.evaluate("[...document.images].filter(i => i.naturalWidth === 64).length") == 3
            planner = command.planner()
            os.kill(planner, signal.SIGSTOP)
            for label, phase in (("HOLD", "HOLD"), ("STOP", "STOPPED")):
                clicked_s = tab.click(label)
                tab.wait_for(phase)
                tab.wait_for(f"{label} sent")
                assert time.monotonic() - clicked_s < REACT_S + SHOWN_S
            command.wait_for("RESET and ARM on the page")
            os.kill(planner, signal.SIGCONT)
            run(tab)
            if kept := os.environ.get("KEEP_SCREENSHOT"):
                tab.screenshot(Path(kept))
        for _ in range(2):
            command.interrupt()
            time.sleep(0.05)
        assert command.ended() == 130
        assert "Traceback" not in command.err
    with socket.socket() as freed:
        assert freed.connect_ex(("127.0.0.1", 8080)) != 0
