"""The last check before a wire, and where to come to rest: the same in every driver that has neither of its own.

q_sent = q_last + clip(clip(q, q_low, q_high) - q_last, ±q'_max / control_hz)
q_rest = clip(q + q' t / 2, q_low, q_high)
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from latent_mpc.robots.robot import Array, RobotSpec, RobotState, Setpoint
from latent_mpc.types import InvalidInputError

ROUNDING = 1e-6  # share of a step by which a setpoint at the very limit may exceed it


def limited(spec: RobotSpec, setpoint: Setpoint, q_last_rad: Array) -> Setpoint:
    """The setpoint as it may be sent: inside the joints' range, no further from the last one than a tick allows.

    Args:
        q_last_rad: (J,), the joints last sent, or where the arm was when it was armed.
    Raises:
        InvalidInputError: wrong shape or dtype, NaN or inf.
    """
    q_rad = np.asarray(setpoint.q_rad)
    if q_rad.shape != (spec.num_joints,) or q_rad.dtype.kind not in "fiu" or not np.isfinite(q_rad).all():
        raise InvalidInputError(f"{spec.name}: q_rad must be {spec.num_joints} finite numbers, got {setpoint.q_rad!r}")
    if not np.isfinite(setpoint.gripper):
        raise InvalidInputError(f"{spec.name}: gripper must be finite, got {setpoint.gripper}")
    step = np.array(spec.velocity_rad_s) / spec.control_hz * (1 + ROUNDING)
    q_rad = np.clip(q_rad.astype(np.float64), spec.q_low_rad, spec.q_high_rad)
    q_rad = np.clip(q_rad, q_last_rad - step, q_last_rad + step)
    return replace(setpoint, q_rad=q_rad, gripper=float(np.clip(setpoint.gripper, 0, 1)))


def rest(spec: RobotSpec, state: RobotState, seconds: float) -> Array:
    """Where the joints (J,) stand after `seconds` of a constant deceleration, inside their range."""
    return np.clip(state.q_rad + state.qd_rad_s * seconds / 2, spec.q_low_rad, spec.q_high_rad)
