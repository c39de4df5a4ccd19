"""Jerk-limited motion, one tick at a time.

    min T   s.t.  q(0), q̇(0), q̈(0) as they are,  q(T) = target, q̇(T) = q̈(T) = 0,  |q̇| ≤ v, |q̈| ≤ a, |q⃛| ≤ j

is solved for all joints together, again at every tick, and only its first dt is executed. They arrive at the same
time, so that the way between two targets that the safety gate let pass is nearly straight. A target is a place to
come to rest at, so the arm can always stop between where it is and a target it was given: it never passes one, and
never leaves a range that its targets lie in. The price is a lag of one stopping distance behind a moving target.

A chaser that ends at rest switches between +j and -j at every tick once it has caught up; with j·dt near a that would
be bang-bang acceleration. So the jerk is kept to a / (2 dt): full acceleration takes two ticks at least. On a sine of
0.3 rad and 2 rad/s (a = 7.5, 100 Hz) that takes the acceleration's rms from 7.4 to 1.6 rad/s², for 3 mrad more of lag.
Passing the targets with their velocity was tried: between linear waypoints it lagged more, and it overshot.

A chaser that lags cuts corners, between targets that the gate let pass. So a step is taken only if whoever is asked
finds the whole way to rest clear that would follow it; else the arm goes on along the way that was clear before.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import ruckig

from latent_mpc.robots.robot import Array, RobotSpec
from latent_mpc.types import InvalidInputError

REST = 1e-9  # rad/s and rad/s²: below it a joint is at rest
STOPPING = 4  # places on the way to rest, evenly in time, that are looked at


class NoMotionError(InvalidInputError):
    """The solver found no motion within the limits."""


class Motion(NamedTuple):
    """Position, velocity and acceleration of each joint at the end of a tick, (J,) each, in rad and s."""

    q_rad: Array
    qd_rad_s: Array
    qdd_rad_s2: Array


class Retiming:
    """Chases targets within the arm's limits.

    Attributes:
        motion: where it is. Its derivatives are those of the setpoints, not of the arm.
        velocity_rad_s, acceleration_rad_s2, jerk_rad_s3: the limits in force, (J,).
    """

    def __init__(self, spec: RobotSpec, dt_s: float, factor: float = 1.0) -> None:
        """Args: factor: of the limits of velocity, acceleration and jerk, in (0, 1]."""
        if not 0 < factor <= 1:
            raise InvalidInputError(f"factor must be in (0, 1], got {factor}")
        self.spec = spec
        self.velocity_rad_s = factor * np.array(spec.velocity_rad_s)
        self.acceleration_rad_s2 = factor * np.array(spec.acceleration_rad_s2)
        self.jerk_rad_s3 = np.minimum(factor * np.array(spec.jerk_rad_s3), self.acceleration_rad_s2 / (2 * dt_s))
        self._low, self._high = np.array(spec.q_low_rad), np.array(spec.q_high_rad)
        self._solver = ruckig.Ruckig(spec.num_joints, dt_s)
        self._next = ruckig.OutputParameter(spec.num_joints)
        self._trajectory = ruckig.Trajectory(spec.num_joints)
        self._now = ruckig.InputParameter(spec.num_joints)
        self._now.max_velocity = list(self.velocity_rad_s)
        self._now.max_acceleration = list(self.acceleration_rad_s2)
        self._now.max_jerk = list(self.jerk_rad_s3)
        self.start(np.array(spec.home_rad))

    def start(self, q_rad: Array) -> None:
        """Be at rest at `q_rad`, (J,), as measured; what lies outside the range is taken to its end."""
        q = np.clip(self._checked(q_rad, "a start"), self._low, self._high)
        self.motion = Motion(q, np.zeros_like(q), np.zeros_like(q))

    def step(self, target_rad: Array) -> Motion:
        """One tick towards a target, (J,), finite; what lies outside the range is taken to its end.

        Raises:
            NoMotionError: none was found; it is still where it was.
        """
        target = np.clip(self._checked(target_rad, "a target"), self._low, self._high)
        self._now.control_interface = ruckig.ControlInterface.Position
        self._now.synchronization = ruckig.Synchronization.Time
        self._now.target_position = list(target)
        return self._advance()

    def attempt(self, target_rad: Array, clear: Callable[[Array, Array], bool]) -> bool:
        """One tick towards a target as `step`, if it is clear to stop after it; else one towards rest.

        Args:
            clear: asked with the joints now (J,) and with places on the way to rest (N, J), the next setpoint first.
        Returns:
            Whether it was clear.
        """
        before, target = self.motion, self._checked(target_rad, "a target")
        with suppress(NoMotionError):  # the solver's own rounding, once in many thousand steps
            self.step(target)
            if clear(before.q_rad, self._stopping()):
                return True
        self.motion = before
        self.brake()
        return False

    def _stopping(self) -> Array:
        """Where it is, and on the way to rest from there; (N, J)."""
        if self.at_rest:
            return self.motion.q_rad[None]
        self._to_rest()
        self._solver.calculate(self._now, self._trajectory)
        times_s = np.linspace(0, self._trajectory.duration, STOPPING)
        return np.clip([self._trajectory.at_time(t)[0] for t in times_s], self._low, self._high)

    def brake(self) -> Motion:
        """One tick towards rest, wherever that is; at rest it stays."""
        if self.at_rest:
            return self.motion
        self._to_rest()
        return self._advance()

    @property
    def at_rest(self) -> bool:
        return bool(max(np.abs(self.motion.qd_rad_s).max(), np.abs(self.motion.qdd_rad_s2).max()) < REST)

    def _to_rest(self) -> None:
        self._now.control_interface = ruckig.ControlInterface.Velocity
        self._now.synchronization = ruckig.Synchronization.No  # each as soon as it can
        self._now.current_position, self._now.current_velocity, self._now.current_acceleration = map(list, self.motion)

    def _advance(self) -> Motion:
        self._now.current_position, self._now.current_velocity, self._now.current_acceleration = map(list, self.motion)
        try:
            self._solver.update(self._now, self._next)
        except ruckig.RuckigError as error:
            raise NoMotionError(f"{self.spec.name}: no jerk-limited motion from {self.motion}: {error}") from error
        self.motion = Motion(
            np.clip(self._next.new_position, self._low, self._high),  # rounding
            np.array(self._next.new_velocity),
            np.array(self._next.new_acceleration),
        )
        return self.motion

    def _checked(self, values: Array, what: str) -> Array:
        values = np.asarray(values, np.float64)
        if values.shape != (self.spec.num_joints,) or not np.isfinite(values).all():
            raise InvalidInputError(f"{self.spec.name}: {what} is {self.spec.num_joints} finite joints, not {values}")
        return values
