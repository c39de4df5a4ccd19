"""The SO-101's model against the published one: joint frames, ranges, the tool, and which way every joint turns."""

from __future__ import annotations

import math

import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from latent_mpc.robots.so101 import JAW_RAD, MOTIONS, SO101_SERVOS, so101

SPEC = so101()
# TheRobotStudio, SO-ARM100, Simulation/SO101/so101_new_calib: body positions in metres, quaternions w x y z.
PUBLISHED = [
    ((0.0388353, 0, 0.0624), (0, 0, -1, 0)),
    ((-0.0303992, -0.0182778, -0.0542), (0.5, -0.5, -0.5, -0.5)),
    ((-0.11257, -0.028, 0), (1, 0, 0, 1)),
    ((-0.1349, 0.0052, 0), (1, 0, 0, -1)),
    ((0, -0.0611, 0.0181), (0.0172091, -0.0172091, 0.706897, 0.706897)),
]
TOOL = ((-0.0079, -0.000218121, -0.0981274), (1, 0, 1, 0))
ROLL_MIDDLE = (2.8412 - 2.7438) / 2  # of the published range of wrist_roll; ours counts from the middle


def pose(position: tuple[float, ...], quaternion: tuple[float, ...]) -> np.ndarray:
    w, *xyz = quaternion
    x = np.eye(4)
    x[:3, :3], x[:3, 3] = Rotation.from_quat([*xyz, w]).as_matrix(), position
    return x


def published_tool(q: np.ndarray) -> np.ndarray:
    x = np.eye(4)
    for (position, quaternion), angle in zip(PUBLISHED, q + [0, 0, 0, 0, ROLL_MIDDLE], strict=True):
        x = x @ pose(position, quaternion) @ pose((0, 0, 0), (math.cos(angle / 2), 0, 0, math.sin(angle / 2)))
    return x @ pose(*TOOL)


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_path(str(SPEC.mjcf))


def at(model: mujoco.MjModel, q: np.ndarray, jaw: float = 0.0) -> mujoco.MjData:
    data = mujoco.MjData(model)
    data.qpos[:] = [*q, jaw]
    mujoco.mj_forward(model, data)
    return data


def test_the_spec_is_the_model_s(model: mujoco.MjModel) -> None:
    names = [model.joint(i).name for i in range(model.njnt)]
    assert names == [*SPEC.joint_names, "gripper"] == [s.name for s in SO101_SERVOS]
    np.testing.assert_allclose(model.jnt_range[:5, 0], SPEC.q_low_rad, atol=1e-4)
    np.testing.assert_allclose(model.jnt_range[:5, 1], SPEC.q_high_rad, atol=1e-4)
    assert np.ptp(model.jnt_range[5]) == pytest.approx(JAW_RAD, abs=1e-3)
    assert model.body_mass.sum() == pytest.approx(0.632, abs=0.01), "the sum of the published masses"


def test_the_tool_is_where_the_published_model_has_it(model: mujoco.MjModel) -> None:
    random = np.random.default_rng(0)
    for _ in range(100):
        q = random.uniform(SPEC.q_low_rad, SPEC.q_high_rad)
        tool, expected = at(model, q).site(SPEC.tool_site), published_tool(q)
        np.testing.assert_allclose(tool.xpos, expected[:3, 3], atol=5e-4)
        ours = tool.xmat.reshape(3, 3)
        np.testing.assert_allclose(ours[:, 2], expected[:3, 0], atol=1e-3)  # out of the hand
        np.testing.assert_allclose(ours[:, 1], expected[:3, 2], atol=1e-3)  # from the fixed finger to the jaw


def test_at_home_the_tool_points_down_and_nothing_touches(model: mujoco.MjModel) -> None:
    data = at(model, np.array(SPEC.home_rad), 0.5)
    np.testing.assert_allclose(data.site(SPEC.tool_site).xmat.reshape(3, 3)[:, 2], [0, 0, -1], atol=1e-3)
    assert data.site(SPEC.tool_site).xpos[2] > 0.04
    for a in range(model.ngeom):
        for b in range(a):
            body_a, body_b = sorted((model.geom_bodyid[a], model.geom_bodyid[b]))
            if body_a != body_b and model.body_parentid[body_b] != body_a:
                assert mujoco.mj_geomDistance(model, data, a, b, 1.0, None) > 0.005


def test_the_jaw_closes_at_one_end_and_opens_as_wide_as_it_says(model: mujoco.MjModel) -> None:
    def gap(jaw: float) -> float:
        fixed, moving = model.geom("fixed_finger").id, model.geom("moving_finger").id
        return mujoco.mj_geomDistance(model, at(model, np.zeros(5), jaw), fixed, moving, 1.0, None)

    closed, opened = model.jnt_range[5]
    assert 0 <= gap(closed) < 0.002 < 0.07 < gap(opened)

    def tip(jaw: float) -> np.ndarray:
        data, geom = at(model, np.zeros(5), jaw), model.geom("moving_finger").id
        return data.geom_xpos[geom] + data.geom_xmat[geom].reshape(3, 3) @ [model.geom_size[geom][0], 0, 0]

    assert np.linalg.norm(tip(opened) - tip(closed)) == pytest.approx(SPEC.gripper_width_m, abs=0.006)


@pytest.mark.parametrize(
    ("joint", "axis", "seen"),
    [(0, 1, "right"), (1, 2, "down"), (2, 2, "down"), (3, 2, "down")],
)
def test_positive_is_what_the_person_is_told(model: mujoco.MjModel, joint: int, axis: int, seen: str) -> None:
    """x forwards, y to the arm's left, z up: right and down are negative."""
    q = np.zeros(5)
    q[joint] = 0.1
    before, after = (at(model, x).site(SPEC.tool_site).xpos.copy() for x in (np.zeros(5), q))
    assert (after - before)[axis] < -0.005 and seen in MOTIONS[SPEC.joint_names[joint]][0]


def test_the_wrist_rolls_as_the_person_is_told(model: mujoco.MjModel) -> None:
    """The jaw is above at zero; anticlockwise, seen from behind, it goes to the left, which is +y."""
    q = np.array([0, 0, 0, 0, 0.1])
    assert at(model, q).site(SPEC.tool_site).xmat.reshape(3, 3)[1, 1] > 0.05
    assert MOTIONS["wrist_roll"][0].startswith("anticlockwise")
