"""Whatever the targets do, the setpoints stay within the range and the limits; to a resting target they go exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latent_mpc.robots.retiming import Retiming
from latent_mpc.robots.robot import RobotSpec
from latent_mpc.types import InvalidInputError

DT = 0.01
SPEC = RobotSpec(
    name="two-joint arm",
    joint_names=("shoulder", "elbow"),
    q_low_rad=(-1.0, -2.0),
    q_high_rad=(1.0, 0.5),
    velocity_rad_s=(2.0, 0.7),
    acceleration_rad_s2=(7.5, 3.0),
    jerk_rad_s3=(5000.0, 40.0),
    torque_nm=(1.0, 1.0),
    home_rad=(0.0, 0.0),
    gripper_width_m=0.08,
    mjcf=Path("none.xml"),
)


def assert_within_limits(q_rad: np.ndarray, retiming: Retiming, dt_s: float = DT) -> None:
    """Differences of samples are averages of the derivative, so the limits hold for them exactly."""
    q = np.concatenate([np.tile(q_rad[0], (3, 1)), q_rad])
    assert (q >= np.array(SPEC.q_low_rad) - 1e-12).all() and (q <= np.array(SPEC.q_high_rad) + 1e-12).all()
    for order, limit in (
        (1, retiming.velocity_rad_s),
        (2, retiming.acceleration_rad_s2),
        (3, retiming.jerk_rad_s3),
    ):
        assert (np.abs(np.diff(q, order, axis=0)) / dt_s**order <= limit * (1 + 1e-6) + 1e-7).all(), order


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 7, 40]), st.sampled_from([1.0, 0.3]))
def test_jumping_targets_and_braking_never_leave_limits_or_range(seed: int, every: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    retiming = Retiming(SPEC, DT, factor)
    retiming.start(rng.uniform(SPEC.q_low_rad, SPEC.q_high_rad))
    path = [retiming.motion.q_rad]
    for k in range(200):
        if k % every == 0:
            target, brake = rng.uniform((-1.5, -2.5), (1.5, 1.0)), rng.random() < 0.2
        motion = retiming.brake() if brake else retiming.step(target)
        assert (np.abs(motion.qd_rad_s) <= retiming.velocity_rad_s + 1e-9).all()
        assert (np.abs(motion.qdd_rad_s2) <= retiming.acceleration_rad_s2 + 1e-9).all()
        path.append(motion.q_rad)
    assert_within_limits(np.array(path), retiming)


def test_it_reaches_a_target_in_the_time_of_the_optimal_profile_and_rests_there() -> None:
    retiming = Retiming(SPEC, DT)
    retiming.start(np.zeros(2))
    distance, (v, a, j) = 0.4, (2.0, 7.5, 375.0)  # the jerk is kept to a / (2 dt)
    peak = (-(a**2) / j + np.sqrt((a**2 / j) ** 2 + 4 * a * distance)) / 2  # no cruise: distance = v²/a + v·a/j
    assert peak < v
    expected = 2 * (peak / a + a / j)
    ticks = 0
    while not (ticks and retiming.at_rest):
        retiming.step(np.array([distance, 0.0]))
        ticks += 1
    assert ticks == int(np.ceil(expected / DT))
    np.testing.assert_allclose(retiming.motion.q_rad, [distance, 0.0], atol=1e-9)


def test_braking_takes_the_optimal_time_and_then_nothing_moves() -> None:
    retiming = Retiming(SPEC, DT)
    retiming.start(np.array([-1.0, 0.0]))
    while retiming.motion.qd_rad_s[0] < 1.0:
        retiming.step(np.array([1.0, 0.0]))
    v, a0, a, j = retiming.motion.qd_rad_s[0], retiming.motion.qdd_rad_s2[0], 7.5, 375.0
    expected = a0 / j + (v + a0**2 / (2 * j)) / a + a / j
    ticks = 0
    while not retiming.at_rest:
        retiming.brake()
        ticks += 1
    assert ticks == int(np.ceil(expected / DT))
    q = retiming.motion.q_rad
    assert all(np.array_equal(retiming.brake().q_rad, q) for _ in range(5))


def test_a_moving_target_is_never_passed_and_the_lag_is_one_stopping_distance() -> None:
    retiming = Retiming(SPEC, DT)
    retiming.start(np.array([-1.0, 0.0]))
    lags, accelerations = [], []
    for k in range(300):
        target = min(-1.0 + 0.5 * k * DT, 0.4)
        motion = retiming.step(np.array([target, 0.0]))
        assert motion.q_rad[0] <= target + 1e-9
        lags.append(target - motion.q_rad[0])
        accelerations.append(motion.qdd_rad_s2[0])
    stopping = 0.5**2 / (2 * 7.5) + 0.5 * 7.5 / (2 * 375)
    assert max(lags[50:250]) < stopping + 2 * 0.5 * DT
    assert np.std(accelerations[50:250]) < 1.0  # bang-bang would be 7.5


@pytest.mark.parametrize("bad", [[np.nan, 0.0], [np.inf, 0.0], [0.0], [[0.0, 0.0]]])
def test_what_is_no_pose_is_refused_and_changes_nothing(bad: list[float]) -> None:
    retiming = Retiming(SPEC, DT)
    before = retiming.motion
    for call in (retiming.step, retiming.start):
        with pytest.raises(InvalidInputError, match="is 2 finite joints"):
            call(np.array(bad))
    assert retiming.motion is before


@pytest.mark.parametrize("factor", [0.0, -1.0, 1.5, np.nan])
def test_a_factor_outside_zero_to_one_is_refused(factor: float) -> None:
    with pytest.raises(InvalidInputError, match="factor"):
        Retiming(SPEC, DT, factor)
