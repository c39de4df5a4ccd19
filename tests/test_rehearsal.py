"""The whole loop in simulated time repeats to the bit, and sends nothing unsound."""

from __future__ import annotations

import pytest

from latent_mpc.agent import load_agent
from latent_mpc.envs.tabletop import TabletopEnv
from latent_mpc.pilot import PilotConfig
from latent_mpc.rehearsal import Outcome, RehearsalConfig, rehearse
from latent_mpc.types import InvalidInputError


def rehearsed(seed: int, **config: float) -> Outcome:
    env = TabletopEnv("Reach")
    try:
        pilot = PilotConfig(deadline_s=None)
        return rehearse(
            load_agent("panda-tabletop"), env, seed=seed, config=RehearsalConfig(**config), pilot_config=pilot
        )
    finally:
        env.close()


def test_an_episode_repeats_to_the_bit_and_reaches_its_goal() -> None:
    first, again, another = rehearsed(3), rehearsed(3), rehearsed(4)
    assert first == again != another
    assert first.success and another.success
    assert first.violations == another.violations == 0
    assert "RUNNING" in "".join(first.events)


def test_time_runs_out() -> None:
    outcome = rehearsed(3, seconds=1.5)
    assert not outcome.success and outcome.seconds == pytest.approx(1.5, abs=0.011)


@pytest.mark.parametrize("wrong", [{"frame_hz": 0.0}, {"seconds": -1.0}, {"latency_s": (0.2, 0.1)}])
def test_impossible_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(InvalidInputError):
        RehearsalConfig(**wrong)
