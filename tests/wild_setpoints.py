"""Setpoints of every wrong kind, for property tests of drivers: NaN, infinities, degrees, 1e9, shapes and dtypes."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st

from latent_mpc.robots.robot import Array, Setpoint

NUMBERS = st.one_of(
    st.floats(-3.2, 3.2),
    st.floats(-180, 180),  # degrees
    st.sampled_from([math.nan, math.inf, -math.inf, 1e9, -1e9, 5e-324, 1.7e308]),
    st.floats(),
)
DTYPES = st.sampled_from(["f8"] * 6 + ["f4", "f2", "O", "U8", "?", "c16"])
GRIPPERS = st.one_of(st.floats(0, 1), st.floats(), st.sampled_from([1e9, math.nan, -math.inf]))


@st.composite
def near_and_wild(draw: st.DrawFn, count: int) -> tuple[Array, str, str, float]:
    """What a setpoint of `count` joints is made of: numbers, how to take them, dtype, gripper."""
    how = draw(st.sampled_from(["step", "step", "all", "one", "shape"]))
    size = draw(st.integers(0, count + 2)) if how == "shape" else count
    values = st.floats(-0.05, 0.05) if how == "step" else NUMBERS
    return np.array(draw(st.lists(values, min_size=size, max_size=size))), how, draw(DTYPES), draw(GRIPPERS)


def setpoint(made_of: tuple[Array, str, str, float], last_rad: Array) -> Setpoint:
    """Steps are from `last_rad` (J,), and so are all joints but one of "one"."""
    values, how, dtype, gripper = made_of
    q_rad = values.copy()
    if how == "step":
        q_rad = last_rad + values
    elif how == "one":
        q_rad = last_rad.copy()
        q_rad[len(q_rad) // 2] = values[0]
    with np.errstate(all="ignore"):
        return Setpoint(q_rad.astype(dtype), gripper)


def sound(wanted: Setpoint, count: int) -> bool:
    """Whether a driver has to take it, within its limits; it refuses all others."""
    q_rad = wanted.q_rad
    numbers = q_rad.dtype.kind == "f" and q_rad.shape == (count,)
    return bool(numbers and np.isfinite(q_rad).all() and math.isfinite(wanted.gripper))
