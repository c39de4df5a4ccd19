"""Kinematics against the Panda's published table, finite differences, and itself backwards."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from latent_mpc.robots.kinematics import STEP_RAD, Kinematics
from latent_mpc.robots.panda import panda
from latent_mpc.robots.so101 import so101
from latent_mpc.robots.ur5e import ur5e
from latent_mpc.types import InvalidInputError

PANDA = panda(Path(__file__).parents[1] / "envs/panda.xml")
SPECS = {"panda": PANDA, "so101": so101(), "ur5e": ur5e()}
# a (m), d (m), alpha of the Panda's joints, modified Denavit-Hartenberg; then flange and hand
TABLE = [
    (0, 0.333, 0),
    (0, 0, -np.pi / 2),
    (0, 0.316, np.pi / 2),
    (0.0825, 0, np.pi / 2),
    (-0.0825, 0.384, -np.pi / 2),
    (0, 0, np.pi / 2),
    (0.088, 0, np.pi / 2),
]


@pytest.fixture(scope="module", params=SPECS)
def arm(request):
    return Kinematics(SPECS[request.param])


@pytest.fixture(scope="module")
def panda_arm():
    return Kinematics(PANDA)


def random_joints(spec, rng, share=1.0):
    low, high = np.array(spec.q_low_rad), np.array(spec.q_high_rad)
    middle = (low + high) / 2
    return middle + share * (rng.uniform(low, high) - middle)


def turn(angle_difference):
    return abs((angle_difference + np.pi) % (2 * np.pi) - np.pi)


def by_table(q):
    X = np.eye(4)
    for (a, d, alpha), theta in zip([*TABLE, (0, 0.107 + 0.1034, 0)], [*q, -np.pi / 4], strict=True):
        ca, sa, c, s = np.cos(alpha), np.sin(alpha), np.cos(theta), np.sin(theta)
        X = X @ [[c, -s, 0, a], [s * ca, c * ca, -sa, -sa * d], [s * sa, c * sa, ca, ca * d], [0, 0, 0, 1]]
    return X


def test_the_pandas_tool_is_where_its_table_says(panda_arm):
    rng = np.random.default_rng(0)
    for _ in range(100):
        q = random_joints(PANDA, rng)
        found, X_BT = panda_arm.pose(q), by_table(q)
        np.testing.assert_allclose(found.position_m, X_BT[:3, 3], atol=1e-6)
        assert turn(found.yaw_rad - np.arctan2(X_BT[1, 0], X_BT[0, 0])) < 1e-5
        assert found.tilt_rad == pytest.approx(np.arccos(-X_BT[2, 2]), abs=1e-5)


def test_the_jacobian_is_the_derivative(arm):
    rng, step = np.random.default_rng(1), 1e-6
    for _ in range(20):
        q = random_joints(arm.spec, rng)
        jacobian = arm.jacobian(q)
        for j in range(arm.spec.num_joints):
            ends = []
            for sign in (-1, 1):
                position = arm.pose(q + sign * step * np.eye(arm.spec.num_joints)[j]).position_m
                ends.append((position, arm.data.site_xmat[arm.model.site("tcp").id].reshape(3, 3).copy()))
            (before, R_before), (after, R_after) = ends
            spin = (R_after - R_before) / (2 * step) @ ((R_after + R_before) / 2).T
            angular = np.array([spin[2, 1] - spin[1, 2], spin[0, 2] - spin[2, 0], spin[1, 0] - spin[0, 1]]) / 2
            np.testing.assert_allclose(jacobian[:, j], [*(after - before) / (2 * step), *angular], atol=1e-7)


def test_the_condition_number_does_not_depend_on_the_unit_of_length(panda_arm):
    q = np.array(PANDA.home_rad)
    for unit in (1.0, 1000.0):
        jacobian = panda_arm.jacobian(q)
        jacobian[:3] *= unit
        jacobian[:3] /= np.linalg.norm(jacobian[:3], axis=0).mean()
        assert panda_arm.condition(q) == pytest.approx(np.linalg.cond(jacobian))
    assert panda_arm.condition(q) < 10
    singular = np.array([0, 0, np.pi / 2, -1.5, 0, 1.5, 0])  # the first axis passes through shoulder and wrist
    assert panda_arm.condition(singular) > 1e6


@pytest.mark.parametrize("name", ["panda", "ur5e"])
def test_poses_that_point_down_are_reached(name):
    arm, rng = Kinematics(SPECS[name]), np.random.default_rng(2)
    forward = arm.pose(np.array(arm.spec.home_rad)).yaw_rad
    low, high = ((0.3, -0.28, 0.015), (0.7, 0.28, 0.3))
    for _ in range(60):
        target, yaw, q = rng.uniform(low, high), forward + rng.uniform(-1, 1), np.array(arm.spec.home_rad)
        for _ in range(30):
            q = arm.solve(q, target, yaw, iterations=2)
            if np.linalg.norm(arm.pose(q).position_m - target) < 1e-5:
                break
        found = arm.pose(q)
        np.testing.assert_allclose(found.position_m, target, atol=1e-3)
        assert turn(found.yaw_rad - yaw) < 1e-2 and found.tilt_rad < 1e-2
        assert (q >= arm.spec.q_low_rad).all() and (q <= arm.spec.q_high_rad).all()


def test_five_joints_reach_positions_that_they_can_reach_pointing_down():
    arm, rng, reached = Kinematics(so101()), np.random.default_rng(3), 0
    for _ in range(100):
        q_true = np.array(arm.spec.home_rad) + rng.uniform(-0.5, 0.5, 5)
        q_true[3] = np.pi / 2 - q_true[1] - q_true[2]  # the hand points down
        if abs(q_true[3]) > 1.6:
            continue
        target, q = arm.pose(q_true), np.array(arm.spec.home_rad)
        assert target.tilt_rad < 1e-5
        q = arm.solve(q, target.position_m, target.yaw_rad, iterations=40)
        np.testing.assert_allclose(arm.pose(q).position_m, target.position_m, atol=1e-3)
        reached += 1
    assert reached > 50


def test_two_iterations_a_tick_follow_a_moving_target(panda_arm):
    q, start = np.array(PANDA.home_rad), panda_arm.pose(np.array(PANDA.home_rad))
    for tick in range(300):
        phase = 2 * np.pi * tick / 300
        target = start.position_m + [0.08 * np.sin(phase), 0.08 * np.sin(2 * phase), -0.05 + 0.05 * np.cos(phase)]
        q_next = panda_arm.solve(q, target, 0.5 * np.sin(phase))
        assert (np.abs(q_next - q) < np.array(PANDA.velocity_rad_s) / PANDA.control_hz).all()
        q, found = q_next, panda_arm.pose(q_next)
        np.testing.assert_allclose(found.position_m, target, atol=1e-4)
        assert turn(found.yaw_rad - 0.5 * np.sin(phase)) < 1e-3


def test_a_far_target_is_approached_by_bounded_steps(arm):
    q = np.array(arm.spec.home_rad)
    for target in ([3.0, 0.0, 0.2], [-0.3, 0.2, -2.0], [0.0, 0.0, 0.0]):
        for iterations in (1, 3):
            found = arm.solve(q, np.array(target), 2.0, iterations)
            assert np.abs(found - q).max() <= iterations * STEP_RAD + 1e-6
            assert (found >= arm.spec.q_low_rad).all() and (found <= arm.spec.q_high_rad).all()


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(panda_arm, place, value):
    arguments = [np.array(PANDA.home_rad), np.array([0.5, 0.0, 0.2]), np.array(0.0)]
    arguments[place] = arguments[place] + value
    with pytest.raises(InvalidInputError, match="not finite"):
        panda_arm.solve(*arguments)


def test_a_model_that_does_not_fit_is_refused_with_what_it_has(tmp_path):
    with pytest.raises(InvalidInputError, match=r"lacks the hinges \['elbow'\]; it has \['joint1'"):
        Kinematics(replace(PANDA, joint_names=(*PANDA.joint_names[:6], "elbow")))
    with pytest.raises(InvalidInputError, match=r"lacks the site 'hook'; it has \['tcp'\]"):
        Kinematics(replace(PANDA, tool_site="hook"))
    with pytest.raises(InvalidInputError, match="cannot read"):
        Kinematics(replace(PANDA, mjcf=tmp_path / "none.xml"))
