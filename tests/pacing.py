"""Driving a device at its control rate, and waiting for what it is to do; for the tests of drivers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np

from latent_mpc.robots.robot import Driver, Setpoint


def follow(driver: Driver, q_goal: np.ndarray, gripper: float, seconds: float, settle: float = 0.0) -> Setpoint:
    """Write a smooth way to a goal at the control rate, and the goal for `settle` seconds; returns the last sent."""
    state, ticks = driver.read(), round(seconds * driver.spec.control_hz)
    due = time.monotonic()
    for tick in range(1, ticks + round(settle * driver.spec.control_hz) + 1):
        share = 0.5 - 0.5 * math.cos(math.pi * min(tick / ticks, 1))
        q_rad = state.q_rad + share * (q_goal - state.q_rad)
        sent = driver.write(Setpoint(q_rad, state.gripper + share * (gripper - state.gripper)))
        due += 1 / driver.spec.control_hz
        time.sleep(max(0.0, due - time.monotonic()))
    return sent


def wait(reached: Callable[[], bool], seconds: float = 20.0) -> float:
    """Seconds until it is so; fails when it never is."""
    begin = time.monotonic()
    while not reached():
        assert time.monotonic() - begin < seconds, "never came"
        time.sleep(0.005)
    return time.monotonic() - begin
