"""A world and a controller on one clock: physics neither falls behind it nor runs ahead."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
import pytest

from latent_mpc.envs.scene import build_model
from latent_mpc.robots.panda import panda
from latent_mpc.robots.robot import Setpoint
from latent_mpc.robots.world import SimulationConfig, World
from latent_mpc.robots.world_driver import WorldDriver

XML = Path(__file__).parents[1] / "envs/panda.xml"


def driver(folder: Path, physics_dt_s: float) -> WorldDriver:
    scene = folder / "scene.mjb"
    mujoco.mj_saveModel(build_model(0, physics_dt_s), str(scene), None)
    return WorldDriver(World(SimulationConfig(scene, panda(XML))))


@pytest.mark.parametrize("physics_dt_s", [0.004, 0.002, 0.003])
def test_physics_keeps_to_the_clock_whatever_its_step(tmp_path: Path, physics_dt_s: float) -> None:
    arm = driver(tmp_path, physics_dt_s)
    for tick in range(1, 101):
        arm.advance()
        assert arm.now_s == pytest.approx(tick / 100)
        assert abs(arm.world.data.time - arm.now_s) <= physics_dt_s / 2 + 1e-9


def test_it_follows_setpoints_while_it_has_torque_and_counts_its_readings(tmp_path: Path) -> None:
    arm = driver(tmp_path, 0.004)
    first, goal = arm.read(), arm.read().q_rad + 0.002
    arm.arm()
    for _ in range(100):
        assert arm.write(Setpoint(goal, 0.5)).q_rad is goal
        arm.advance()
    state = arm.read()
    np.testing.assert_allclose(state.q_rad, goal, atol=2e-4)
    assert state.sequence > first.sequence and state.hardware_time_s == pytest.approx(1.0)
    assert arm.disarm() == () and not arm.world.powered
