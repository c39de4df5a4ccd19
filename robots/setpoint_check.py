"""Counts the setpoints that no sound controller sends.

Setpoints u_k come a control period T apart, counted by their sequence numbers and not by when they arrive. A trajectory
q(t) with |q̇| ≤ v and |q̈| ≤ a, sampled at t_k, keeps to them in its divided differences exactly, gaps and all:

    |v_k| ≤ v,  v_k = (u_k − u_{k−1}) / (t_k − t_{k−1})            a mean of q̇
    |v_k − v_{k−1}| ≤ a (t_k − t_{k−2}) / 2                        a mean of q̈

so whatever exceeds them, but for rounding, came from no such trajectory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from latent_mpc.robots.robot import Array, RobotSpec

TOLERANCE = 1.01  # of the limits
SLACK_RAD = 1e-9  # of a position
SETTLED_S = 1.0  # a motion clock that has stood still for longer than any stop takes


@dataclass
class Violations:
    """How many setpoints were not finite, or outside the limits, or came while the torque was off, or moved the arm
    although the motion clock had stood still for longer than a stop takes; none of these is a sound controller's."""

    not_finite: int = 0
    position: int = 0
    velocity: int = 0
    acceleration: int = 0
    unarmed: int = 0
    at_rest: int = 0


class SetpointCheck:
    """Counts violations of a stream of setpoints; judges, and changes nothing."""

    def __init__(self, spec: RobotSpec) -> None:
        self.counts = Violations()
        self._spec = spec
        self.begin(0, np.array(spec.home_rad), 0.0)

    def begin(self, sequence: int, q_rad: Array, motion_s: float) -> None:
        """The arm holds `q_rad` (J,) still; the next setpoint is measured against that."""
        self._sequence, self._q, self._v, self._dt = sequence, q_rad, np.zeros_like(q_rad), 0.0
        self._motion, self._moved = motion_s, sequence

    def take(self, sequence: int, q_rad: Array, gripper: float, motion_s: float) -> bool:
        """Count what is wrong with a setpoint; whether it is finite."""
        s, n = self._spec, self.counts
        if not (np.isfinite(q_rad).all() and math.isfinite(gripper) and math.isfinite(motion_s)):
            n.not_finite += 1
            return False
        dt = max(sequence - self._sequence, 1) / s.control_hz
        v = (q_rad - self._q) / dt
        between = (dt + (self._dt or dt)) / 2  # the two mean velocities belong to the middles of their intervals
        n.position += bool(
            (q_rad < np.subtract(s.q_low_rad, SLACK_RAD)).any() or (q_rad > np.add(s.q_high_rad, SLACK_RAD)).any()
        )
        n.velocity += bool((np.abs(v) > TOLERANCE * np.array(s.velocity_rad_s) + SLACK_RAD / dt).any())
        n.acceleration += bool(
            (np.abs(v - self._v) / between > TOLERANCE * np.array(s.acceleration_rad_s2) + 4 * SLACK_RAD / dt**2).any()
        )
        if motion_s != self._motion:
            self._motion, self._moved = motion_s, sequence
        elif (sequence - self._moved) / s.control_hz > SETTLED_S:
            n.at_rest += bool(np.abs(q_rad - self._q).max() > SLACK_RAD)
        self._sequence, self._q, self._v, self._dt = sequence, q_rad.copy(), v, dt
        return True
