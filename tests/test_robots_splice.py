"""Plans are joined by the motion clock, exactly; what comes late, twice or from nowhere is refused."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latent_mpc.robots.robot import TimedPlan
from latent_mpc.robots.splice import Splice, Waypoint

DT = 0.01
HERE = Waypoint(np.zeros(3), 0.0, 0.5)


def splice(latency_s: float = 0.0) -> Splice:
    return Splice(DT, latency_s, max_lead_s=1.0, max_validity_s=2.0, max_distance_m=0.1)


def plan(times_s: list[float], x_m: list[float], sequence: int = 0, **changes: object) -> TimedPlan:
    count = len(times_s)
    position_m = np.zeros((count, 3))
    position_m[:, 0] = x_m
    made = TimedPlan(sequence, 0, np.array(times_s), position_m, np.zeros(count), np.full(count, 0.5), 1.0)
    return replace(made, **changes)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_newer_plan_takes_over_exactly_where_the_clock_is(seed: int) -> None:
    rng = np.random.default_rng(seed)
    latency_s = rng.choice([0.0, 0.03])
    joined = splice(latency_s)
    followed = plan([0.0, 5.0], [0.0, 0.05])
    joined.take(followed, HERE)
    taken = 0
    for _ in range(200):
        if rng.random() < 0.1:
            start = joined.motion_s + latency_s - rng.uniform(0, 0.3)  # stamped on an observation that lies back
            times = start + np.concatenate([[0.0], np.cumsum(rng.uniform(0.05, 0.3, 5))])
            newer = plan(list(times), list(rng.uniform(-0.09, 0.09, 6)), sequence=joined.last_sequence + 1)
            if newer.times_s[-1] > joined.motion_s and not joined.refusal(newer, joined.sample(), 0.0):
                joined.take(newer, joined.sample())
                followed, taken = newer, taken + 1
        expected = np.interp(joined.motion_s + latency_s, followed.times_s, followed.position_m[:, 0])
        assert joined.sample().position_m[0] == expected
        joined.advance()
    assert joined.motion_s == pytest.approx(200 * DT)


def test_a_plan_ahead_of_the_clock_is_led_up_to_from_the_tool() -> None:
    ahead = splice()
    ahead.motion_s = 1.0
    ahead.take(plan([1.1, 1.2], [0.05, 0.05], yaw_rad=np.array([1.0, 1.0]), gripper=np.array([0.0, 1.0])), HERE)
    seen = []
    for _ in range(25):
        seen.append(ahead.sample())
        ahead.advance()
    np.testing.assert_allclose([w.position_m[0] for w in seen[:11]], np.linspace(0, 0.05, 11), atol=1e-12)
    np.testing.assert_allclose([w.yaw_rad for w in seen[:11]], np.linspace(0, 1.0, 11), atol=1e-12)
    assert [w.gripper for w in seen[1:10:8]] == [0.5, 0.5]
    assert [w.gripper for w in seen[12:19:6]] == [0.0, 0.0]
    assert seen[-1].gripper == 1.0 and seen[-1].position_m[0] == 0.05  # it stays at the last waypoint


def test_yaw_takes_the_short_way_round() -> None:
    turning = splice()
    turning.take(plan([0.0, 1.0], [0.0, 0.0], yaw_rad=np.array([3.1, -3.1])), HERE)
    turning.motion_s = 0.5
    assert turning.sample().yaw_rad == pytest.approx(np.pi)


@pytest.mark.parametrize(
    ("late", "why"),
    [
        (plan([0.0, 3.0], [0.0, 0.0], sequence=4), "not newer than 4"),
        (plan([0.0, 3.0], [0.0, 0.0], sequence=3), "not newer than 4"),
        (plan([0.0, 3.0], [0.0, 0.0], sequence=5, expires_s=-0.5), "0.500 s after it expired"),
        (plan([0.0, 3.0], [0.0, 0.0], sequence=5, expires_s=1e9), "would last 1e[+]09 s"),
        (plan([0.0, 1.9], [0.0, 0.0], sequence=5), "ended 0.100 s ago"),
        (plan([3.5, 4.0], [0.0, 0.0], sequence=5), "begins 1.5 s ahead"),
        (plan([0.0, 3.0], [0.2, 0.2], sequence=5), "0.200 m away, at most 0.1"),
        (plan([0.0, 4.0], [0.0, 0.3], sequence=5), "0.150 m away"),
        (plan([2.5, 4.0], [0.11, 0.0], sequence=5), "0.110 m away"),
    ],
)
def test_what_may_not_be_followed_is_refused_with_the_reason(late: TimedPlan, why: str) -> None:
    judging = splice()
    judging.take(plan([0.0, 9.0], [0.0, 0.0], sequence=4), HERE)
    judging.motion_s = 2.0
    assert re.search(why, judging.refusal(late, HERE, 0.0))
    assert judging.refusal(plan([0.0, 4.0], [0.0, 0.1], sequence=5), HERE, 0.0) == ""
