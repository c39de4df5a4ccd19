"""Does an arm turn the way that its model says? Nudge one joint after the other and let a person look.

A calibration whose sign is wrong passes every check that a program can make: encoder and motor agree with each other,
and only the world differs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from latent_mpc.robots.robot import Driver, DriverError, Setpoint


def sign_test(
    driver: Driver,
    motions: Mapping[str, tuple[str, str]],
    ask: Callable[[str], bool],
    nudge_rad: float = 0.06,
    speed_rad_s: float = 0.2,
) -> dict[str, bool]:
    """Nudge one joint after the other, and ask whether it turned the way that the model says.

    Args:
        driver: connected and armed; any arm.
        motions: what the person sees when a joint turns in the positive and in the negative direction, by joint.
        ask: also asks before each joint, whether it may move; false leaves that joint out.
    Returns:
        For each joint tried, whether the person saw it turn the right way.
    Raises:
        DriverError: a joint did not follow its setpoint.
    """
    spec, right = driver.spec, {}
    for i, name in enumerate(spec.joint_names):
        start = driver.read()
        positive = start.q_rad[i] + nudge_rad < spec.q_high_rad[i]
        seen = motions.get(name, ("in its positive direction", "in its negative direction"))[not positive]
        if not ask(f"May {name} move by {math.degrees(nudge_rad):.0f} degrees, {seen}?"):
            continue
        sign = 1 if positive else -1
        steps = max(1, round(nudge_rad / speed_rad_s * spec.control_hz))
        moved = 0.0
        for step in [*range(1, steps + 1), *[steps] * round(0.5 * spec.control_hz)]:
            goal = start.q_rad.copy()
            goal[i] += sign * nudge_rad * step / steps
            driver.write(Setpoint(goal, start.gripper))
            time.sleep(1 / spec.control_hz)
            moved = sign * (driver.read().q_rad[i] - start.q_rad[i])
        if moved < nudge_rad / 2:
            raise DriverError(
                f"{name} moved by {moved:.3f} rad of {nudge_rad}: it is blocked, or its encoder is reversed"
            )
        right[name] = ask(f"Did {name} turn {seen}?")
        for step in range(steps, -1, -1):
            goal = start.q_rad.copy()
            goal[i] += sign * nudge_rad * step / steps
            driver.write(Setpoint(goal, start.gripper))
            time.sleep(1 / spec.control_hz)
            driver.read()
    return right
