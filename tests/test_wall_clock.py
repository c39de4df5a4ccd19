"""The wall clock jumps an hour, forth and back, while every process of the loop runs: nothing happens."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latent_mpc.robots.channels import Phase
from latent_mpc.robots.log import read_run

sys.path.insert(0, str(Path(__file__).parent))
from moved_clock import COMPILER, MovedClock

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or COMPILER is None, reason="compiles a library to be preloaded on Linux"
)
HOUR_S = 3600.0

# Patient, since a busy machine is not what is tried here; an hour is longer than any patience.
LOOP = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, {benchmarks!r})
from latent_mpc.robots.controller import ControllerConfig
from latent_mpc.robots.kinematics import Kinematics
from latent_mpc.robots.simulation import Simulation
from soak import Circler, simulated_panda, supervise

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    patient = ControllerConfig(state_timeout_s=1.0, heartbeat_timeout_s=3.0, max_validity_s=10.0)
    arm = Simulation(simulated_panda(folder))
    with arm as simulation, supervise(simulation, folder / "run", patient) as supervisor:
        kinematics = Kinematics(supervisor.spec)
        supervisor.arm(timeout_s=20.0)
        with Circler(supervisor.ports, kinematics, valid_s=2.8):
            time.sleep(1.0)
            print(json.dumps({{"began_s": time.monotonic(), "pids": [supervisor.pid, simulation.pid]}}), flush=True)
            sys.stdin.readline()
            ended_s, wall_s = time.monotonic(), time.time()
        violations = vars(simulation.truth().violations)
    print(json.dumps({{"ended_s": ended_s, "wall_s": wall_s, "violations": violations}}))
"""


def test_the_clock_moves_for_those_who_are_to_see_it_and_the_monotonic_one_does_not(tmp_path: Path) -> None:
    clock = MovedClock(tmp_path)
    ask = "import time, datetime as d; print(time.time(), d.datetime.now().timestamp(), time.monotonic())"
    for offset_s in (HOUR_S, -HOUR_S, 0.0):
        clock.move(offset_s)
        here = time.time(), time.time(), time.monotonic()
        environment = {**os.environ, **clock.environment}
        there = subprocess.run([sys.executable, "-c", ask], env=environment, capture_output=True, text=True, check=True)
        wall_s, date_s, monotonic_s = map(float, there.stdout.split())
        assert abs(wall_s - here[0] - offset_s) < 60 and abs(date_s - here[1] - offset_s) < 60
        assert 0 <= monotonic_s - here[2] < 60


def drive(folder: Path, clock: MovedClock, offsets_s: tuple[float, ...]) -> dict[str, Any]:
    """Go round in circles, a second after each move of the clock; what was found, with the phases of those seconds."""
    moved_s: list[float] = []
    folder.mkdir()
    script = folder / "loop.py"
    script.write_text(LOOP.format(benchmarks=str(Path(__file__).parents[1] / "benchmarks")))
    program = subprocess.Popen(
        [sys.executable, str(script), str(folder)],
        env={**os.environ, **clock.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert program.stdout is not None
        found = json.loads(program.stdout.readline())
        for pid in found["pids"]:
            assert "clock.so" in Path(f"/proc/{pid}/maps").read_text()
        for offset_s in offsets_s:
            clock.move(offset_s)
            moved_s.append(time.monotonic())
            time.sleep(1.0)
        moved_s.append(time.monotonic())
        output, _ = program.communicate("\n", timeout=60)
        found |= json.loads(output)
        assert program.returncode == 0 and abs(found["wall_s"] - time.time() - offsets_s[-1]) < 60
    finally:
        program.kill()
        program.communicate()
        clock.move(0.0)
    ticks = read_run(folder / "run").ticks
    ticks = ticks[(ticks["now_s"] > found["began_s"]) & (ticks["now_s"] < found["ended_s"])]
    found["phases"] = {Phase(int(phase)).name for phase in ticks["phase"]}
    found["motion_s"] = np.diff(np.interp(moved_s, ticks["now_s"], ticks["motion_s"])).tolist()
    found["events"] = (folder / "run" / "events.jsonl").read_text()
    return found


def test_nothing_happens_when_the_wall_clock_jumps_an_hour(tmp_path: Path) -> None:
    """Supervisor, planner, controller and arm all see it jump; the arm goes on, and no setpoint is unsound.

    A busy machine may hold the arm for a moment; a jump would do so until it is taken back, or for good.
    """
    offsets_s = (HOUR_S, -HOUR_S, 0.0, -HOUR_S)
    found = drive(tmp_path / "run", MovedClock(tmp_path), offsets_s)
    assert found["phases"] <= {"RUNNING", "HOLD"} and not any(found["violations"].values()), found
    assert all(motion_s > 0.2 for motion_s in found["motion_s"]), "in every second it goes on"
    assert not re.search(r"\d{4,} m?s|\d{4,}\.\d+ s", found["events"]), "whatever holds it for a moment is no hour old"
