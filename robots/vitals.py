"""Are the device and the supervisor alive? Judged by the age of what they last said, on the monotonic clock.

    age = now - receipt of the newest reading,    silence = now - last heartbeat

A reading is newest by the device's own time: the same one again, or an older one, keeps its age, whenever it comes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from latent_mpc.robots.robot import Driver, DriverError, RobotState


class Vitals:
    """Newest reading, heartbeat, and since when both are fresh.

    Attributes:
        state: the newest valid reading, or None.
    """

    def __init__(
        self, driver: Driver, state_timeout_s: float, heartbeat_timeout_s: float, complain: Callable[[float, str], None]
    ) -> None:
        """Args: complain: called with the time and what was wrong with reading; not twice on end with the same."""
        self.state: RobotState | None = None
        self._driver, self._complain = driver, complain
        self._state_timeout_s, self._heartbeat_timeout_s = state_timeout_s, heartbeat_timeout_s
        self._beat_s = self._received_s = self._hardware_s = -np.inf
        self._steady_s: float | None = None
        self._complaint = ""

    def read(self, now_s: float) -> str:
        """Ask the device; an answer that fails or is no reading is no answer. Returns what the device complains of."""
        name = self._driver.spec.name
        try:
            state = self._driver.read()
            if not _valid(state, self._driver.spec.num_joints):
                raise DriverError(f"{name}: a reading of wrong shape, or with NaN or inf")
        except DriverError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                self._complain(now_s, self._complaint)
            return ""
        if state.hardware_time_s > self._hardware_s:
            self._hardware_s, self._received_s = state.hardware_time_s, min(state.receipt_time_s, now_s)
            self.state, self._complaint = state, ""
        return state.fault

    def beat(self, time_s: float) -> None:
        """The supervisor was alive at `time_s`."""
        self._beat_s = max(self._beat_s, time_s)

    def watch(self, now_s: float) -> None:
        """Once a tick: keeps since when both are fresh."""
        if not self.fresh(now_s) or not self.beating(now_s):
            self._steady_s = None
        elif self._steady_s is None:
            self._steady_s = now_s

    def forget(self) -> None:
        """The device's clock may begin anew."""
        self._hardware_s = -np.inf

    def age_s(self, now_s: float) -> float:
        return now_s - self._received_s

    def silence_s(self, now_s: float) -> float:
        return now_s - self._beat_s

    def steady_for_s(self, now_s: float) -> float:
        """How long readings and heartbeats have been fresh without a gap; 0 when they are not."""
        return now_s - self._steady_s if self._steady_s is not None and self.fresh(now_s) else 0.0

    def fresh(self, now_s: float) -> bool:
        """The reading is young enough to act on."""
        return self.age_s(now_s) <= self._state_timeout_s

    def beating(self, now_s: float) -> bool:
        return self.silence_s(now_s) <= self._heartbeat_timeout_s


def _valid(state: RobotState, num_joints: int) -> bool:
    vectors = (state.q_rad, state.qd_rad_s)
    numbers = (state.gripper, state.hardware_time_s, state.receipt_time_s)
    return all(np.shape(v) == (num_joints,) and bool(np.isfinite(v).all()) for v in vectors) and bool(
        np.isfinite(numbers).all()
    )
