"""Arms by name: each has a model that fits, and room at home; FR3 and SO-100 against what their makers publish."""

from __future__ import annotations

import math

import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from latent_mpc.robots.panda import fr3, panda
from latent_mpc.robots.parts import standard_parts
from latent_mpc.robots.so101 import SERVOS, so100
from latent_mpc.robots.specs import SPECS, make_spec
from latent_mpc.robots.workspace import Distances, Room
from latent_mpc.types import UnknownNameError, WorkspaceSpec

EVERYWHERE = WorkspaceSpec((-2, -2, -2), (2, 2, 2), table_m=None)


@pytest.mark.parametrize("name", list(SPECS))
def test_each_arm_has_its_name_and_a_model_with_room_at_home(name: str) -> None:
    spec = make_spec(name)
    assert spec.name == name
    room = Room(spec, EVERYWHERE, Distances())
    assert (room(np.array(spec.home_rad))[0] > room.stop).all()
    pose = standard_parts(spec, EVERYWHERE).forward(np.array(spec.home_rad))
    assert pose.position_m[0] > 0.1 and pose.tilt_rad < 0.1  # type: ignore[attr-defined]


def test_an_unknown_arm_is_told_which_there_are() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown arm 'kuka'; available: .*'panda'"):
        make_spec("kuka")


def test_fr3_keeps_inside_the_position_dependent_limits_of_its_maker() -> None:
    """Its published range and speeds, of which the constant ones are a part; links as the Panda's."""
    spec = fr3()
    low = (-2.9007, -1.8361, -2.9007, -3.0770, -2.8763, 0.4398, -3.0508)
    high = (2.9007, 1.8361, 2.9007, -0.1169, 2.8763, 4.6216, 3.0508)
    fastest = (2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26)
    assert (np.array(spec.q_low_rad) > low).all() and (np.array(spec.q_high_rad) < high).all()
    assert (np.array(spec.velocity_rad_s) < fastest).all()
    assert set(spec.acceleration_rad_s2) == {10.0} and set(spec.jerk_rad_s3) == {5000.0}
    assert spec.torque_nm == panda().torque_nm and spec.mjcf == panda().mjcf


# TheRobotStudio, SO-ARM100, Simulation/SO100/so100.urdf: where each joint is, in metres, roll, pitch, yaw; its axis;
# and what it reads where ours reads zero: upper arm upright, forearm level, hand forwards. Forwards is -y there.
QUARTER = math.pi / 2
PUBLISHED = [
    ((0, -0.0452, 0.0165), (QUARTER, 0, 0), (0, -1, 0), 0.0),  # ours turns the other way, as the SO-101's
    ((0, 0.1025, 0.0306), (-1.8, 0, 0), (1, 0, 0), 1.8),
    ((0, 0.11257, 0.028), (QUARTER, 0, 0), (1, 0, 0), -QUARTER),
    ((0, 0.0052, 0.1349), (-1.0, 0, 0), (1, 0, 0), 1.0 - QUARTER),
    ((0, -0.0601, 0), (0, QUARTER, 0), (0, 1, 0), 0.0),
]
RANGES = [(-2, 2), (0, 3.5), (-math.pi, 0), (-2.5, 1.2), (-math.pi, math.pi)]


def published_hand(q_rad: np.ndarray) -> np.ndarray:
    """Place of the hand's roll axis, and how the hand points, (2, 3), in our frame."""
    x = np.eye(4)
    for (position, rpy, axis, zero), q in zip(PUBLISHED, q_rad, strict=True):
        joint, turn = np.eye(4), np.eye(4)
        joint[:3, :3], joint[:3, 3] = Rotation.from_euler("xyz", rpy).as_matrix(), position
        turn[:3, :3] = Rotation.from_rotvec((q + zero) * np.array(axis)).as_matrix()
        x = x @ joint @ turn
    ours = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    return np.array([ours @ x[:3, 3], ours @ -x[:3, 1]])


def test_so100_is_where_the_published_model_has_it() -> None:
    spec, random = so100(), np.random.default_rng(0)
    model = mujoco.MjModel.from_xml_path(str(spec.mjcf))
    data = mujoco.MjData(model)
    for _ in range(100):
        q_rad = random.uniform(spec.q_low_rad, spec.q_high_rad)
        data.qpos[:5] = q_rad
        mujoco.mj_kinematics(model, data)
        place, pointing = published_hand(q_rad)
        np.testing.assert_allclose(data.body("gripper").xpos, place, atol=5e-4)
        np.testing.assert_allclose(data.site("tcp").xmat.reshape(3, 3)[:, 2], pointing, atol=1e-3)
    for (low, high), (_, _, _, zero), ours_low, ours_high in zip(
        RANGES, PUBLISHED, spec.q_low_rad, spec.q_high_rad, strict=True
    ):
        assert low - 1e-4 <= ours_low + zero and ours_high + zero <= high + 1e-4
    names = [model.joint(i).name for i in range(model.njnt)]
    assert names == [*spec.joint_names, "gripper"] == [servo.name for servo in SERVOS["so100"]]
    np.testing.assert_allclose(model.jnt_range[:5, 1], spec.q_high_rad, atol=1e-4)
