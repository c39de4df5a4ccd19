"""The motion clock, and the plans that are joined by it.

    m ← m + dt at every tick on a plan, and stands still otherwise;    tool = linear between waypoints at m + latency

Plans are stamped on m. A newer plan takes over where the clock is: what lies in its past is skipped, whatever the
camera, the planner and the wire took. A plan that begins ahead of the clock is led up to from where the tool is.
Yaw takes the short way round; the gripper steps at its waypoint; after the last waypoint the tool stays there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from latent_mpc.robots.robot import Array, TimedPlan


class Waypoint(NamedTuple):
    """Where the tool is to be: of T in B, pointing down, (3,) in metres and a yaw; opening of the gripper, 0 to 1."""

    position_m: Array
    yaw_rad: float
    gripper: float


class Splice:
    """Follows one plan by the motion clock, and judges which may follow it.

    Attributes:
        motion_s: the motion clock.
        plan: the one followed, or None.
        last_sequence: of the newest plan ever taken.
    """

    def __init__(
        self, dt_s: float, latency_s: float, max_lead_s: float, max_validity_s: float, max_distance_m: float
    ) -> None:
        """Args:
        dt_s: a tick.
        latency_s: of the arm behind its setpoints; plans are sampled so much ahead.
        max_lead_s: how far ahead of the clock a plan may begin.
        max_validity_s: how long from now a plan may last.
        max_distance_m: from the tool to where the plan has it.
        """
        self.motion_s = 0.0
        self.plan: TimedPlan | None = None
        self.last_sequence = -1
        self._dt_s, self._latency_s, self._max_lead_s = dt_s, latency_s, max_lead_s
        self._max_validity_s, self._max_distance_m = max_validity_s, max_distance_m

    def refusal(self, plan: TimedPlan, tool: Waypoint, now_s: float) -> str:
        """Why `plan` may not be followed now, on the monotonic clock; empty if it may."""
        if plan.sequence <= self.last_sequence:
            return f"plan {plan.sequence} is not newer than {self.last_sequence}"
        if plan.expires_s <= now_s:
            return f"plan {plan.sequence} came {now_s - plan.expires_s:.3f} s after it expired"
        if plan.expires_s > now_s + self._max_validity_s:
            return f"plan {plan.sequence} would last {plan.expires_s - now_s:.3g} s, at most {self._max_validity_s} may"
        if plan.times_s[-1] < self.motion_s:
            return f"plan {plan.sequence} ended {self.motion_s - plan.times_s[-1]:.3f} s ago on the motion clock"
        if plan.times_s[0] > self.motion_s + self._max_lead_s:
            return f"plan {plan.sequence} begins {plan.times_s[0] - self.motion_s:.3g} s ahead on the motion clock"
        start = max(self._sampled_s, plan.times_s[0])
        position = [np.interp(start, plan.times_s, plan.position_m[:, axis]) for axis in range(3)]
        distance = float(np.linalg.norm(np.array(position) - tool.position_m))
        if distance > self._max_distance_m:
            return f"plan {plan.sequence} has the tool {distance:.3f} m away, at most {self._max_distance_m} may be"
        return ""

    def take(self, plan: TimedPlan, tool: Waypoint) -> None:
        """Follow `plan` from now on; `tool` is where the tool is told to be."""
        times_s, position_m, gripper = plan.times_s, plan.position_m, plan.gripper
        yaw_rad = plan.yaw_rad
        if times_s[0] > self._sampled_s:
            times_s = np.concatenate([[self._sampled_s], times_s])
            position_m = np.concatenate([tool.position_m[None], position_m])  # (N + 1, 3)
            yaw_rad = np.concatenate([[tool.yaw_rad], yaw_rad])
            gripper = np.concatenate([[tool.gripper], gripper])
        self._times_s, self._position_m, self._gripper = times_s, position_m, gripper
        self._yaw_rad = np.unwrap(yaw_rad)
        self.plan, self.last_sequence = plan, plan.sequence

    def drop(self) -> None:
        """Follow no plan; the clock stands."""
        self.plan = None

    def sample(self) -> Waypoint:
        """Where the plan followed has the tool at the motion clock plus the latency."""
        s = self._sampled_s
        position = np.array([np.interp(s, self._times_s, self._position_m[:, axis]) for axis in range(3)])
        step = max(int(np.searchsorted(self._times_s, s, side="right")) - 1, 0)
        return Waypoint(position, float(np.interp(s, self._times_s, self._yaw_rad)), float(self._gripper[step]))

    def advance(self) -> None:
        """A tick was executed."""
        self.motion_s += self._dt_s

    @property
    def _sampled_s(self) -> float:
        return self.motion_s + self._latency_s
