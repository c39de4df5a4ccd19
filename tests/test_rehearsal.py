"""The whole loop in simulated time repeats to the bit, and sends nothing unsound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from latent_mpc.agent import load_agent
from latent_mpc.envs.tabletop import TabletopEnv
from latent_mpc.pilot import PilotConfig
from latent_mpc.rehearsal import Outcome, RehearsalConfig, WorldDriver, rehearse
from latent_mpc.simulated_panda import TABLETOP
from latent_mpc.tool_guardrails import HAND_M
from latent_mpc.types import InvalidInputError, WorkspaceSpec


def rehearsed(seed: int, workspace: WorkspaceSpec = TABLETOP, *, known: bool = True, **config: float) -> Outcome:
    """`known`: to the agent; the gate always knows the workspace."""
    env = TabletopEnv("Reach")
    try:
        return rehearse(
            load_agent("panda-tabletop", workspace=workspace if known else None),
            env,
            seed=seed,
            config=RehearsalConfig(**config),
            pilot_config=PilotConfig(deadline_s=None, speed_m_s=workspace.speed_m_s),
            workspace=workspace,
        )
    finally:
        env.close()


def halfway(seed: int) -> tuple[float, float, float]:
    """Between where the tool starts and where it is to go."""
    env = TabletopEnv("Reach")
    try:
        env.reset(seed=seed)
        x, y, z = (env.arm.pose(env.data)[0] + env.layout.goal_arm_pose[:3]) / 2
    finally:
        env.close()
    return float(x), float(y), float(z)


def way_of_the_tool(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Will hold where the tool of every world was, (3,), tick by tick."""
    found: list[np.ndarray] = []
    advance = WorldDriver.advance

    def watched(driver: WorldDriver) -> None:
        advance(driver)
        found.append(driver.world.data.site("tcp").xpos.copy())

    monkeypatch.setattr(WorldDriver, "advance", watched)
    return found


def test_an_episode_repeats_to_the_bit_and_reaches_its_goal() -> None:
    first, again, another = rehearsed(3), rehearsed(3), rehearsed(4)
    assert first == again != another
    assert first.success and another.success
    assert first.violations == another.violations == 0
    assert "RUNNING" in "".join(first.events)


@pytest.mark.slow
def test_a_ball_in_the_way_is_gone_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the planner's knowledge of it the gate stops the arm in front of it, again and again."""
    seed, radius_m = 2, 0.03
    ball = (*halfway(seed), radius_m)
    workspace = replace(TABLETOP, keep_out_balls_m=(ball,))
    way = way_of_the_tool(monkeypatch)
    assert rehearsed(seed).success
    assert np.linalg.norm(np.subtract(way, ball[:3]), axis=1).min() < radius_m  # nothing there: straight through
    way.clear()
    outcome = rehearsed(seed, workspace)
    assert outcome.success and outcome.violations == 0
    assert np.linalg.norm(np.subtract(way, ball[:3]), axis=1).min() > radius_m + HAND_M - 0.01
    assert not rehearsed(seed, workspace, known=False, seconds=2 * outcome.seconds).success


def test_a_slow_workspace_is_kept_to_and_the_goal_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    way = way_of_the_tool(monkeypatch)
    outcome = rehearsed(4, replace(TABLETOP, speed_m_s=0.2))
    assert outcome.success and outcome.violations == 0
    moved_m = np.linalg.norm(np.subtract(way[20:], way[:-20]), axis=1)  # in 0.2 s; the servos swing a little
    assert 0.15 * 0.2 < moved_m.max() < 1.2 * 0.2 * 0.2


def test_time_runs_out() -> None:
    outcome = rehearsed(3, seconds=1.5)
    assert not outcome.success and outcome.seconds == pytest.approx(1.5, abs=0.011)


@pytest.mark.parametrize("wrong", [{"frame_hz": 0.0}, {"seconds": -1.0}, {"latency_s": (0.2, 0.1)}])
def test_impossible_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(InvalidInputError):
        RehearsalConfig(**wrong)
