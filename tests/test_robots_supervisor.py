"""Real processes, and what is left of them: whoever dies or hangs, the torque goes off and nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latent_mpc.robots.channels import Phase, PlannerPort
from latent_mpc.robots.log import read_run
from latent_mpc.robots.robot import DriverError, TimedPlan
from latent_mpc.robots.supervisor import Supervisor

sys.path.insert(0, str(Path(__file__).parent))
from fake_driver import RecordingDriver, calls_of, gantry

SHM = Path("/dev/shm")
pytestmark = pytest.mark.skipif(not SHM.exists(), reason="looks at Linux's /dev/shm and signals")


def until(condition: Callable[[], Any], at_most_s: float, what: str) -> float:
    """Seconds until the condition holds."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < at_most_s, f"not within {at_most_s} s: {what}"
        time.sleep(0.005)
    return time.monotonic() - began_s


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def named(folder: Path, call: str) -> list[dict[str, Any]]:
    return [entry for entry in calls_of(folder) if entry["call"] == call]


def plan(supervisor: Supervisor, sequence: int, x_m: float = 0.05, valid_s: float = 1.0) -> TimedPlan:
    status = supervisor.status()
    start = status.tick["sent_rad"]
    position_m = np.stack([start, [x_m, 0, 0]])
    times_s = status.motion_s + np.array([0.0, 0.3])
    return TimedPlan(sequence, 0, times_s, position_m, np.zeros(2), np.ones(2), time.monotonic() + valid_s)


def shared_memory(supervisor: Supervisor) -> set[Path]:
    return {SHM / slot.name.lstrip("/") for slot in supervisor._slots}


@pytest.fixture
def memory() -> Iterator[set[Path]]:
    """A test adds what it uses; afterwards all of it must be gone."""
    used: set[Path] = set()
    yield used
    assert len(used) == 3
    until(lambda: not any(path.exists() for path in used), 10, f"shared memory is gone: {used}")


def test_a_session_from_arming_to_its_end(tmp_path: Path, memory: set[Path]) -> None:
    """Arms, moves, holds when the planner falls silent, stops a second later, resets; ends with the torque off."""
    with Supervisor(partial(RecordingDriver, tmp_path), gantry, folder=tmp_path / "run") as supervisor:
        pid = supervisor.pid
        memory |= shared_memory(supervisor)
        assert all(path.exists() for path in memory)
        supervisor.arm()
        port = PlannerPort(supervisor.ports)
        port.send(plan(supervisor, 1, valid_s=0.6))
        until(lambda: supervisor.status().phase is Phase.RUNNING, 2, "RUNNING")
        hang_s = time.monotonic() + 0.4
        while time.monotonic() < hang_s:  # a planner that hangs keeps the interpreter busy; the heartbeat goes on
            pass
        until(lambda: supervisor.status().phase is Phase.HOLD, 3, "HOLD, the planner being silent")
        assert "expired" in supervisor.status().reason
        assert supervisor.status().tick["q_rad"][0] == pytest.approx(0.05, abs=1e-3)
        supervisor.send(plan(supervisor, 1))
        until(lambda: "not newer" in supervisor.status().refusal, 2, "a refusal of the duplicate")
        held_s = until(lambda: supervisor.status().phase is Phase.STOPPED, 3, "STOPPED")
        assert held_s < 1.5
        with pytest.raises(DriverError, match="cannot arm: STOPPED"):
            supervisor.arm()
        supervisor.reset()
        supervisor.arm()
        supervisor.hold()
        until(lambda: supervisor.status().phase is Phase.HOLD, 1, "HOLD by command")
        supervisor.stop()
        until(lambda: supervisor.status().phase is Phase.STOPPED, 1, "STOPPED by command")
        status = supervisor.status()
        assert status.motion_at(float(status.history[-1, 0])) == status.history[-1, 1] == status.motion_s
        assert 0 < status.period_error_s[1] < 0.1
        port.close()
    assert not alive(pid)
    for call in (supervisor.hold, supervisor.stop, supervisor.status):
        with pytest.raises(DriverError, match="no controller is running"):
            call()
    assert [entry["call"] for entry in calls_of(tmp_path)][-3:] == ["stop", "disarm", "close"]
    assert {entry["pid"] for entry in calls_of(tmp_path)} == {pid}, "the second path was not needed"
    run = read_run(tmp_path / "run")
    assert list(np.diff(run.ticks["tick"])) == [1] * (len(run.ticks) - 1) and len(run.ticks) > 200
    assert [e["text"].split(":")[0] for e in run.events if e["kind"] == "phase"][:5] == [
        "CONNECTED",
        "CALIBRATED",
        "ARMED",
        "RUNNING",
        "HOLD",
    ]
    sent = [entry["q_rad"] for entry in named(tmp_path, "write")]
    logged = run.ticks["sent_rad"][np.isin(run.ticks["phase"], [Phase.ARMED, Phase.RUNNING])]
    assert {tuple(q) for q in logged} <= {tuple(q) for q in sent}


@pytest.mark.parametrize(
    "how", ["SIGKILL", "read hangs", "read crashes", pytest.param("SIGSTOP", marks=pytest.mark.slow)]
)
def test_a_controller_that_dies_or_hangs_is_disarmed(tmp_path: Path, memory: set[Path], how: str) -> None:
    with Supervisor(partial(RecordingDriver, tmp_path, how), gantry, folder=tmp_path / "run") as supervisor:
        memory |= shared_memory(supervisor)
        supervisor.arm()
        supervisor.send(plan(supervisor, 1))
        until(lambda: supervisor.status().phase is Phase.RUNNING, 2, "RUNNING")
        pid, began_s = supervisor.pid, time.monotonic()
        if how.startswith("SIG"):
            os.kill(pid, getattr(signal, how))
        else:
            (tmp_path / "misbehave").touch()
        until(lambda: named(tmp_path, "disarm"), 5, "disarmed")
        delay_s = named(tmp_path, "disarm")[0]["time_s"] - began_s
        assert delay_s < (0.5 if how == "SIGKILL" else 1.5)
        by = os.getpid() if how != "read crashes" else pid
        assert named(tmp_path, "disarm")[0]["pid"] == by
        until(lambda: not alive(pid), 5, "the controller is gone")
        until(lambda: supervisor.status().phase is Phase.FAULT, 5, "FAULT")
        assert not supervisor.status().torque
        assert ("a bug" if how == "read crashes" else "second path: torque off") in supervisor.status().reason
        count = len(named(tmp_path, "write"))
        with pytest.raises(DriverError, match="FAULT"):
            supervisor.arm(timeout_s=1)
        assert len(named(tmp_path, "write")) == count
    assert "the controller ended" in read_run(tmp_path / "run").events[-1]["text"]


def test_a_device_that_is_missing_is_reported_and_nothing_stays(
    tmp_path: Path, memory: set[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = Supervisor(partial(RecordingDriver, tmp_path, "connect raises"), gantry)
    close = supervisor.close

    def watched_close() -> None:
        memory.update(shared_memory(supervisor))
        close()

    monkeypatch.setattr(supervisor, "close", watched_close)
    with pytest.raises(DriverError, match="there is no such device"):
        with supervisor:
            raise AssertionError("entered")
    calls = calls_of(tmp_path)
    assert [entry["call"] for entry in calls] == ["connect", "disarm", "close"]
    assert not alive(calls[0]["pid"])


SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
from functools import partial
from pathlib import Path
from fake_driver import RecordingDriver, gantry
from latent_mpc.robots.supervisor import Supervisor

if __name__ == "__main__":
    with Supervisor(partial(RecordingDriver, Path({folder!r})), gantry) as supervisor:
        supervisor.arm()
        print(supervisor.pid, *(slot.name for slot in supervisor._slots), flush=True)
        time.sleep(1000)
"""


@pytest.mark.parametrize(
    "how", ["SIGKILL", "SIGINT twice", *(pytest.param(how, marks=pytest.mark.slow) for how in ("SIGTERM", "SIGSTOP"))]
)
def test_when_the_program_ends_the_arm_is_disarmed_and_no_process_stays(
    tmp_path: Path, memory: set[Path], how: str
) -> None:
    script = tmp_path / "program.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path)))
    program = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    try:
        assert program.stdout is not None
        number, *names = program.stdout.readline().decode().split()
        pid = int(number)
        memory |= {SHM / name.lstrip("/") for name in names}
        assert named(tmp_path, "write")
        began_s = time.monotonic()
        if how == "SIGINT twice":
            os.killpg(program.pid, signal.SIGINT)  # as Ctrl-C in a terminal: to both processes
            time.sleep(0.05)
            os.killpg(program.pid, signal.SIGINT)
        else:
            program.send_signal(getattr(signal, how))
        until(lambda: named(tmp_path, "disarm"), 8, "disarmed")
        disarmed = named(tmp_path, "disarm")[0]
        assert disarmed["pid"] == pid and disarmed["time_s"] - began_s < 1.5
        if how == "SIGSTOP":
            assert alive(pid), "it waits in FAULT for the program to come back"
            program.kill()
        until(lambda: not alive(pid), 8, "the controller is gone")
        assert program.wait(8) == {"SIGTERM": 143, "SIGINT twice": -signal.SIGINT}.get(how, -signal.SIGKILL)
    finally:
        program.kill()
        program.communicate()
