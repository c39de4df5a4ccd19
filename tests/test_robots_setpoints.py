"""The last check before a wire."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latent_mpc.robots.robot import RobotSpec, RobotState, Setpoint
from latent_mpc.robots.setpoints import limited, rest
from latent_mpc.types import InvalidInputError

SPEC = RobotSpec(
    name="toy",
    joint_names=("pan", "lift"),
    q_low_rad=(-2.0, 0.0),
    q_high_rad=(2.0, 1.0),
    velocity_rad_s=(1.0, 4.0),
    acceleration_rad_s2=(5.0,) * 2,
    jerk_rad_s3=(50.0,) * 2,
    torque_nm=(3.0,) * 2,
    home_rad=(0.0, 0.5),
    gripper_width_m=0.1,
    mjcf=Path("toy.xml"),
)
STEP = np.array([0.01, 0.04])
LAST = np.array([0.3, 0.99])


def test_what_is_allowed_is_left_as_it_is() -> None:
    for q in (LAST, LAST + STEP * [1, -1], LAST - STEP):
        sent = limited(SPEC, Setpoint(q, 0.4, motion_s=7.0), LAST)
        assert (sent.q_rad == q).all() and sent.gripper == 0.4 and sent.motion_s == 7.0


def test_the_nearest_allowed_is_sent() -> None:
    sent = limited(SPEC, Setpoint(np.array([0.0, 9.0]), 3.0), LAST)
    np.testing.assert_allclose(sent.q_rad, [0.29, 1.0], atol=1e-7)
    assert sent.gripper == 1.0


@settings(max_examples=200, deadline=None)
@given(
    q=st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=0, max_size=4),
    gripper=st.floats(allow_nan=True, allow_infinity=True),
)
def test_nothing_else_comes_out(q: list[float], gripper: float) -> None:
    setpoint = Setpoint(np.array(q), gripper)
    if len(q) != 2 or not all(map(math.isfinite, [*q, gripper])):
        with pytest.raises(InvalidInputError):
            limited(SPEC, setpoint, LAST)
        return
    sent = limited(SPEC, setpoint, LAST)
    assert (sent.q_rad >= SPEC.q_low_rad).all() and (sent.q_rad <= SPEC.q_high_rad).all()
    assert (np.abs(sent.q_rad - LAST) <= STEP * (1 + 1e-5)).all() and 0 <= sent.gripper <= 1


@pytest.mark.parametrize("bad", [["a", "b"], [[0.0, 0.0]], [True, False], [1j, 0j], None])
def test_foreign_types_are_refused(bad: object) -> None:
    with pytest.raises(InvalidInputError):
        limited(SPEC, Setpoint(bad, 0.5), LAST)  # type: ignore[arg-type]


def test_rest_is_where_a_constant_deceleration_ends_inside_the_range() -> None:
    def moving(q_rad: list[float], qd_rad_s: list[float]) -> RobotState:
        return RobotState(np.array(q_rad), np.array(qd_rad_s), 0.5, 0.0, 0.0, 0)

    np.testing.assert_allclose(rest(SPEC, moving([0.3, 0.5], [0.8, -2.0]), 0.2), [0.38, 0.3])
    np.testing.assert_allclose(rest(SPEC, moving([1.9, 0.5], [8.0, -40.0]), 0.2), [2.0, 0.0])
