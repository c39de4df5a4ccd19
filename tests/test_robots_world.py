"""The simulated robot's physics: the environment's own to the bit, and its faults."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest

from latent_mpc.envs.rendering import make_renderer
from latent_mpc.envs.tabletop import TabletopConfig, TabletopEnv
from latent_mpc.robots.panda import panda
from latent_mpc.robots.world import Faults, SceneCamera, SimulationConfig, World
from latent_mpc.types import InvalidInputError, UnknownNameError

ROOT = Path(__file__).parents[1]
SPEC = replace(panda(ROOT / "envs/panda.xml"), control_hz=125.0)
PERIOD_S = 0.008  # two steps of physics


@pytest.fixture
def env():
    env = TabletopEnv("PickPlace", TabletopConfig(num_objects=2, shapes=("cylinder", "box", "sphere")))
    env.reset(seed=3)
    yield env
    env.close()


@pytest.fixture
def world(env, tmp_path):
    scene = tmp_path / "scene.mjb"
    mujoco.mj_saveModel(env.model, str(scene), None)
    world = World(SimulationConfig(scene, SPEC, tuple(env.data.qpos), SceneCamera(make_renderer)))
    yield world
    world.close()


def run(world: World, seconds: float) -> None:
    for _ in range(round(seconds / world.model.opt.timestep)):
        world.step()


def test_motion_and_pixels_are_the_environments(env, world) -> None:
    # The compiled scene carries the edited objects' shapes, sizes and colours, and the same commands do the same.
    world.close()
    world = World(replace(world.config, spec=replace(SPEC, control_hz=250.0)))  # a setpoint for each step of physics
    world.power(True)
    start = world.q_rad
    assert (world.render() == env._observe_image()).all()
    target = np.clip(start + 0.25, SPEC.q_low_rad, SPEC.q_high_rad)
    for k in range(120):
        q = start + (target - start) * (k + 1) / 120
        world.move(k + 1, q, 0.5, 0.0)
        env.data.ctrl[:7], env.data.ctrl[7] = q, 0.02
        world.step()
        mujoco.mj_step(env.model, env.data)
    assert (world.data.qpos == env.data.qpos).all()
    assert np.abs(world.q_rad - start).max() > 0.2
    image = env._observe_image()
    assert (world.render() == image).all()
    env.data.qpos[world.model.joint("object0").qposadr[0]] += 0.03
    mujoco.mj_forward(env.model, env.data)
    assert (world.render() != env._observe_image()).any()
    world.close()


def test_without_torque_the_arm_stays_where_it_is(world) -> None:
    start = world.q_rad
    world.move(1, start + 0.2, 1.0, 0.0)
    run(world, 2)
    np.testing.assert_allclose(world.q_rad, start, atol=1e-3)
    assert world.check.counts.unarmed == 1


def test_torque_off_in_motion_comes_to_rest_soon(world) -> None:
    world.power(True)
    q = world.q_rad
    for k in range(40):
        q[0] += PERIOD_S
        world.move(k + 1, q, 1.0, 0.0)
        run(world, PERIOD_S)
    assert world.qd_rad_s[0] > 0.5
    world.power(False)
    run(world, 0.3)
    assert np.abs(world.qd_rad_s).max() < 0.01


@pytest.mark.parametrize("speed_rad_s", [0.05, 0.2, 0.5, 1.0, 2.0])
def test_without_torque_every_joint_comes_to_rest(world, speed_rad_s) -> None:
    """At 0.2 rad/s and 4 ms, a friction that is clipped as the motors are would turn a wrist round in every step."""
    start = world.data.qpos.copy()
    for dof in world.dof_of:
        world.place(start)
        world.data.qvel[dof] = speed_rad_s
        run(world, 0.3)
        assert np.abs(world.qd_rad_s).max() < 1e-3


def test_friction_is_the_servos_damping_up_to_its_torque(world) -> None:
    for joint, speed_rad_s, torque_nm in ((0, 0.1, 22.5), (0, 2.0, 87.0), (6, 0.05, 5.0), (6, 2.0, 12.0)):
        dof, world.data.qvel[:] = world.dof_of[joint], 0
        world.data.qvel[dof] = speed_rad_s
        world.step()
        friction = world.model.dof_damping[dof] - world._damping[dof]
        assert friction * speed_rad_s == pytest.approx(torque_nm)
        assert not world.torque_nm.any()
    world.power(True)
    assert (world.model.dof_damping == world._damping).all()


def test_brake_decelerates_within_the_limit_and_holds(world) -> None:
    world.power(True)
    q = world.q_rad
    for k in range(125):
        q[0] -= PERIOD_S
        world.move(k + 1, q, 1.0, 0.0)
        run(world, PERIOD_S)
    assert world.qd_rad_s[0] == pytest.approx(-1.0, abs=0.02)
    world.move(101, q - [PERIOD_S, 0, 0, 0, 0, 0, 0], 1.0, 0.0)
    setpoints = [world.data.ctrl[0]]
    world.step()
    setpoints.append(world.data.ctrl[0])
    world.brake()
    for _ in range(100):
        world.step()
        setpoints.append(world.data.ctrl[0])
    limit, dt = SPEC.acceleration_rad_s2[0], world.model.opt.timestep
    assert setpoints[1] - setpoints[-1] == pytest.approx(1 / (2 * limit), rel=0.1)  # v² / 2a
    assert np.abs(np.diff(setpoints, 2)).max() / dt**2 < 1.01 * limit
    run(world, 1)
    assert abs(world.qd_rad_s[0]) < 1e-3


def test_a_blocked_joint_stays_while_the_others_move(world) -> None:
    world.power(True)
    start = world.q_rad
    world.break_down(Faults(blocked="joint1"))
    world.move(1, start + 0.1, 1.0, 0.0)
    run(world, 2)
    moved = world.q_rad - start
    assert abs(moved[0]) < 1e-3
    assert (moved[1:] > 0.09).all()
    world.break_down(Faults())
    run(world, 2)
    assert world.q_rad[0] - start[0] > 0.09
    with pytest.raises(UnknownNameError, match="joint8"):
        world.break_down(Faults(blocked="joint8"))


@pytest.mark.parametrize("opening", [0.0, 0.5, 1.0])
def test_gripper_opening_is_the_commanded_share_of_its_width(world, opening) -> None:
    world.power(True)
    world.move(1, world.q_rad, opening, 0.0)
    run(world, 2)
    assert world.gripper == pytest.approx(opening, abs=0.02)
    width = world.data.qpos[7] + world.data.qpos[8]
    assert width == pytest.approx(opening * SPEC.gripper_width_m, abs=2e-3)


def test_place_leaves_what_is_nan(world) -> None:
    before = world.data.qpos.copy()
    qpos = np.full(world.model.nq, np.nan)
    joint = world.model.joint("object1")
    qpos[joint.qposadr[0]] = 0.5
    world.data.qvel[:] = 0.1
    world.place(qpos)
    changed = np.flatnonzero(world.data.qpos != before)
    assert changed.tolist() == [joint.qposadr[0]]
    still = np.flatnonzero(world.data.qvel == 0)
    assert still.tolist() == list(range(joint.dofadr[0], joint.dofadr[0] + 6))


def test_what_does_not_fit_is_refused(tmp_path) -> None:
    scene = ROOT / "envs/panda.xml"
    with pytest.raises(InvalidInputError, match=r"9 finite numbers"):
        World(SimulationConfig(scene, SPEC, (0.0,) * 8))
    with pytest.raises(InvalidInputError, match="missing"):
        World(SimulationConfig(tmp_path / "missing.xml", SPEC))
    with pytest.raises(UnknownNameError, match="front"):
        World(SimulationConfig(scene, SPEC, camera=SceneCamera(make_renderer)))
    bare = tmp_path / "bare.xml"
    bare.write_text("<mujoco><worldbody><body><joint name='joint1'/><geom size='1'/></body></worldbody></mujoco>")
    with pytest.raises(UnknownNameError, match=r"joint2.*available: \['joint1'\]"):
        World(SimulationConfig(bare, SPEC))
    motor = tmp_path / "motor.xml"
    motor.write_text(
        (scene)
        .read_text()
        .replace('<position name="joint3"', '<general name="joint3"')
        .replace('kp="3500" kv="175" ', "", 1)
    )
    with pytest.raises(InvalidInputError, match=r"no position actuator for the joints \['joint3'\]"):
        World(SimulationConfig(motor, SPEC))
    with pytest.raises(UnknownNameError, match="frame fault"):
        Faults(frame="upside down")
