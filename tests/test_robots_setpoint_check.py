"""The check of setpoints: silent on what keeps to the limits, and told apart what does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from latent_mpc.robots.panda import panda
from latent_mpc.robots.setpoint_check import SetpointCheck, Violations

SPEC = panda(Path(__file__).parents[1] / "envs/panda.xml")
HOME = np.array(SPEC.home_rad)
DT = 1 / SPEC.control_hz


def extreme(joint: int) -> np.ndarray:
    """A move of one joint at its largest acceleration and velocity, and back, sampled in closed form; (N, J)."""
    v, a = SPEC.velocity_rad_s[joint], SPEC.acceleration_rad_s2[joint]
    t = np.arange(0, 0.9, DT)
    ramp, cruise = v / a, 0.3
    s = np.select(
        [t < ramp, t < ramp + cruise, t < 2 * ramp + cruise],
        [a * t**2 / 2, v * ramp / 2 + v * (t - ramp), v * (ramp + cruise) - a * (2 * ramp + cruise - t) ** 2 / 2],
        v * (ramp + cruise),
    )
    q = np.tile(HOME, (len(t), 1))
    q[:, joint] += s * (-1 if HOME[joint] > 0 else 1)
    return q


def count(setpoints: np.ndarray, sequences: np.ndarray, motion: np.ndarray | None = None) -> Violations:
    check = SetpointCheck(SPEC)
    check.begin(int(sequences[0]) - 1, HOME, 0.0)
    for i, (n, q) in enumerate(zip(sequences, setpoints, strict=True)):
        check.take(int(n), q, 1.0, n * DT if motion is None else motion[i])
    return check.counts


@pytest.mark.parametrize("joint", range(7))
def test_the_fastest_move_is_no_violation_also_with_gaps(joint) -> None:
    q = extreme(joint)
    n = np.arange(1, len(q) + 1)
    assert count(q, n) == Violations()
    seen = np.random.default_rng(joint).random(len(q)) < 0.6
    seen[0] = True
    assert count(q[seen], n[seen]) == Violations()


def test_a_little_faster_is(joint: int = 1) -> None:
    q = extreme(joint)
    n = np.arange(1, len(q) + 1)
    found = count(HOME + 1.05 * (q - HOME), n)
    assert found.velocity >= 20
    assert found.acceleration >= 20
    assert found.position == found.at_rest == found.not_finite == 0


def test_a_jump_a_range_and_nonsense_are_told_apart() -> None:
    jump = np.stack([HOME, HOME + 0.0004, HOME + 0.0004])  # 0.04 rad/s at once: slow, but 4 rad/s²... times ten below
    assert count(jump, np.arange(1, 4)) == Violations()
    found = count(np.stack([HOME, HOME + 0.01]), np.arange(1, 3))  # 1 rad/s at once: 100 rad/s²
    assert (found.velocity, found.acceleration) == (0, 1)
    beyond = np.array(SPEC.q_high_rad) + 0.001
    check = SetpointCheck(SPEC)
    check.begin(0, beyond, 0.0)
    check.take(1, beyond, 1.0, 0.0)
    assert check.counts == Violations(position=1)
    for q, gripper, motion in ((HOME * np.nan, 1.0, 0.0), (HOME, np.inf, 0.0), (HOME, 1.0, np.nan)):
        assert not check.take(2, q, gripper, motion)
    assert check.counts == Violations(position=1, not_finite=3)


def test_motion_while_the_motion_clock_stands_is_counted_after_the_time_of_a_stop() -> None:
    n = np.arange(1, 301)
    q = HOME + 1e-4 * n[:, None] * 0.1
    assert count(q, n).at_rest == 0
    still = count(q, n, motion=np.zeros(300))
    assert still.at_rest == 200  # those later than a second after the clock last moved
    assert count(np.tile(HOME, (300, 1)), n, motion=np.zeros(300)).at_rest == 0
