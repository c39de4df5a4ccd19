"""The simulated robot as a process: it keeps the time, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest

from latent_mpc.envs.rendering import make_renderer
from latent_mpc.envs.scene import build_model
from latent_mpc.robots.panda import panda
from latent_mpc.robots.robot import DriverError
from latent_mpc.robots.setpoint_check import Violations
from latent_mpc.robots.simulation import Simulation
from latent_mpc.robots.world import Faults, SceneCamera, SimulationConfig
from latent_mpc.types import InvalidInputError, UnknownNameError

from .leaks import no_memory_left

ROOT = Path(__file__).parents[1]
SPEC = panda(ROOT / "envs/panda.xml")
DT = 0.004


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("scene") / "scene.mjb"
    mujoco.mj_saveModel(build_model(1, DT), str(path), None)
    return path


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def wait_until(condition, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_a_process_keeps_the_time_and_leaves_nothing(scene) -> None:
    with no_memory_left() as memory:
        camera = SceneCamera(make_renderer)
        with Simulation(SimulationConfig(scene, SPEC, camera=camera)) as simulation:
            pid = simulation.pid
            assert pid is not None
            first = simulation.truth()
            os.kill(pid, signal.SIGINT)  # a terminal's Ctrl-C is the owner's to judge
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.3)
            os.kill(pid, signal.SIGCONT)
            assert wait_until(lambda: simulation.truth().sent_s > first.sent_s + 1.5, 20)
            last = simulation.truth()
            # no drift: what physics is behind the clock now is at most what a step and one delay make, not the sum
            assert last.time_s - first.time_s == pytest.approx(last.sent_s - first.sent_s, abs=0.1)
            assert last.late_s >= 0.25
            assert last.violations == Violations()
            qpos = np.full(simulation.link.nq, np.nan)
            qpos[0] = 0.5
            simulation.place(qpos)
            assert simulation.truth().qpos[0] == pytest.approx(0.5, abs=1e-3)
            with pytest.raises(InvalidInputError, match="shape"):
                simulation.place(qpos[1:])
            with pytest.raises(UnknownNameError, match="joint9"):
                simulation.inject(Faults(blocked="joint9"))
            simulation.inject(Faults(frozen=True))
        simulation.close()
        assert not alive(pid)
        assert len(memory) == 6


OWNER = """
import sys, time
from pathlib import Path
from latent_mpc.robots.panda import panda
from latent_mpc.robots.simulation import Simulation
from latent_mpc.robots.world import SimulationConfig
if __name__ == "__main__":
    s = Simulation(SimulationConfig(Path(sys.argv[1]), panda(Path(sys.argv[1]))))
    sys.stdout.write(" ".join([str(s.pid), *s.link.names]) + "\\n")
    sys.stdout.flush()
    time.sleep(60)
"""


def test_the_process_ends_with_its_owner_also_when_that_is_killed(scene, tmp_path) -> None:
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    owner = subprocess.Popen(
        [sys.executable, str(script), str(scene)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert owner.stdout is not None
    pid, *names = owner.stdout.readline().split()
    assert alive(int(pid))
    assert {name.decode() for name in names} <= set(os.listdir("/dev/shm"))
    owner.kill()
    owner.wait()
    owner.stdout.close()
    assert wait_until(lambda: not alive(int(pid)), 5)
    assert wait_until(lambda: not {name.decode() for name in names} & set(os.listdir("/dev/shm")), 5)


def test_a_scene_that_does_not_load_leaves_nothing(scene, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])  # the process imports `no_renderer` from tests
    with no_memory_left() as memory:
        with pytest.raises(InvalidInputError):
            Simulation(SimulationConfig(tmp_path / "none.mjb", SPEC))
        with pytest.raises(DriverError, match="no such renderer"):
            Simulation(SimulationConfig(scene, SPEC, camera=SceneCamera(no_renderer)))
        assert len(memory) == 6


def no_renderer(model: mujoco.MjModel, height: int, width: int) -> mujoco.Renderer:
    raise DriverError("no such renderer")


def test_config_refuses_the_impossible(scene) -> None:
    for change in ({"size": 0}, {"frame_hz": 0.0}, {"latency_s": (0.06, 0.03)}):
        with pytest.raises(InvalidInputError):
            replace(SceneCamera(make_renderer), **change)
    with pytest.raises(InvalidInputError):
        SimulationConfig(scene, SPEC, watchdog_s=0.0)
