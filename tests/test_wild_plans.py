"""Wild plans through the whole controller in simulated time: the true clearance holds, and so does every limit."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from latent_mpc.robots.setpoint_check import Violations
from latent_mpc.robots.workspace import Distances

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import wild_plans
from wild_plans import Found, ride

LAG_M = 0.002  # the arm's servos are behind its setpoints, and cut corners of their own
OUTSIDE_M = 0.005  # of the tool's box, the same
DISTANCES = Distances()


def assert_held(found: Found, plans: int) -> None:
    arm_m, tool_m = found.nearest_m
    assert arm_m >= DISTANCES.arm_stop_m - LAG_M and tool_m >= DISTANCES.tool_stop_m - LAG_M, found
    assert found.outside_m <= OUTSIDE_M and found.violations == Violations(), found
    # it was put to the test, and did not pass by standing still
    assert arm_m < DISTANCES.arm_slow_m and tool_m < DISTANCES.tool_slow_m, found
    assert {"velocity", "joint box", "collision", "singularity", "tool speed"} <= set(found.checks), found
    assert found.followed > 0.7 * plans and found.refused > 0 and found.gone_m > 0.1 * plans, found


def test_wild_plans_never_bring_the_arm_too_near() -> None:
    assert_held(ride(60, seed=2), 60)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_wild_plans_never_bring_the_arm_too_near() -> None:
    assert_held(ride(1000, seed=0), 1000)


@pytest.mark.parametrize("part", ["gate", "clear"])
def test_without_a_part_of_the_controller_the_same_plans_do(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So clearance is measured, and each part is needed."""
    standard_parts = wild_plans.standard_parts

    def careless(*args: object) -> object:
        parts = standard_parts(*args)
        blind = parts.gate.__self__.tightened()
        shape = blind._room.stop.shape
        blind._room.stop, blind._room.slow = np.full(shape, -1e9), np.full(shape, -5e8)
        parts = parts._replace(clear=blind.clear)
        return parts._replace(gate=blind.check) if part == "gate" else parts

    monkeypatch.setattr(wild_plans, "standard_parts", careless)
    arm_m, tool_m = ride(36, seed=1).nearest_m
    assert min(arm_m, tool_m) < -0.003
