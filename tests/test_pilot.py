"""The pilot on a small random-weight model: when plans begin and end, what is corrected, and what surprises."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latent_mpc.agent import Agent
from latent_mpc.agent_config import AgentConfig, SearchConfig
from latent_mpc.pilot import SPEED_SHARE, Pilot, PilotConfig
from latent_mpc.sight import Sight
from latent_mpc.tool_guardrails import GuardrailConfig
from latent_mpc.types import InvalidInputError, PlanningFailed
from latent_mpc.world_model.encoder import EncoderConfig
from latent_mpc.world_model.model import ModelConfig, WorldModel

STEP_S = 0.2
TOOL_M = np.array([0.5, 0.1, 0.2])


@pytest.fixture(scope="module")
def agent():
    torch.manual_seed(0)
    sizes = ModelConfig(head_width=16, predictor_width=16, macro_dim=3, macro_width=16)
    model = WorldModel(EncoderConfig(image_size=32, channels=(4, 4), num_keypoints=4, hidden=16, latent_dim=8), sizes)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.encoder.calibrate(torch.randint(0, 256, (16, 32, 32, 3), dtype=torch.uint8))
    model.proprio_mean.copy_(torch.tensor([0.5, 0.0, 0.15, 0.0, 1.0, 0.04]))
    model.proprio_std.copy_(torch.tensor([0.1, 0.1, 0.05, 0.3, 0.1, 0.03]))
    small = SearchConfig(16, 2)
    still = GuardrailConfig(weight=0.0)
    config = AgentConfig(coarse=small, fine=small, settle=small, execute_steps=4, guardrails=still)
    return Agent(model.requires_grad_(False).eval(), config)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@pytest.fixture
def pilot(agent, image):
    agent.reset(image[::-1].copy(), seed=0)
    agent._noise = 1e-6  # never arranged: always over subgoals
    return Pilot(agent, PilotConfig(deadline_s=None))


def sight(image, motion_s, sequence=1, position_m=TOOL_M):
    return Sight(image, sequence, motion_s, position_m, 0.1, 0.08)


def at(motion_s):
    return lambda: motion_s


def test_the_first_plan_begins_where_the_arm_is_when_it_is_ready(pilot, image):
    plan = pilot.plan(sight(image, 3.0, sequence=7), now_s=100.0, ready=at(3.5))
    np.testing.assert_allclose(plan.times_s, 3.5 + STEP_S * np.arange(5))  # four steps of five are executed
    np.testing.assert_allclose(plan.position_m[0], TOOL_M, atol=1e-5)
    assert plan.yaw_rad[0] == pytest.approx(0.1, abs=1e-4)
    assert plan.observation == 7 and plan.sequence == 1
    config = pilot.config
    assert ((plan.gripper >= 0) & (plan.gripper <= 1)).all()
    assert plan.expires_s == pytest.approx(100.0 + 0.5 + 4 * STEP_S + config.grace_s)


def test_a_correction_begins_with_a_step_that_is_still_to_come_and_keeps_those_before(pilot, image):
    first = pilot.plan(sight(image, 0.0), 0.0, at(0.0))
    off = first.position_m[0] + [0.0, 0.02, 0.0]  # the arm is not where it was expected
    plan = pilot.plan(sight(image, 0.05, 2, off), 0.1, at(0.15))
    assert plan.times_s[0] == pytest.approx(STEP_S)  # 0.05 and the lead of 0.12 fall into step 0
    assert plan.times_s[-1] == pytest.approx(first.times_s[-1]) and plan.sequence == 2
    later = pilot.plan(sight(image, 0.10, 3, off), 0.2, at(0.2))
    assert later.times_s[0] == pytest.approx(2 * STEP_S)  # 0.10 and the lead reach into step 1
    assert not np.allclose(later.position_m[0], first.position_m[2], atol=1e-4)


def test_a_correction_that_comes_too_late_changes_nothing(pilot, image):
    first = pilot.plan(sight(image, 0.0), 0.0, at(0.0))
    states = pilot._states.clone()
    assert pilot.plan(sight(image, 0.05, 2), 0.3, at(STEP_S + 0.01)) is None
    assert torch.equal(pilot._states, states)
    on_time = pilot.plan(sight(image, 0.05, 3), 0.3, at(STEP_S - 0.01))
    assert on_time.times_s[-1] == pytest.approx(first.times_s[-1])


def test_the_last_step_is_let_be_and_the_next_plan_waits_for_rest(pilot, image):
    plan = pilot.plan(sight(image, 0.0), 0.0, at(0.0))
    end_s = plan.times_s[-1]
    for motion_s in (end_s - 0.15, end_s - 0.01, end_s + 0.02):
        assert pilot.plan(sight(image, motion_s, 2), 1.0, at(motion_s)) is None
    new = pilot.plan(sight(image, end_s + 0.06, 3), 1.0, at(end_s + 0.3))
    assert new.times_s[0] == pytest.approx(end_s + 0.3)


def test_a_frame_from_before_the_plan_changes_nothing(pilot, image):
    pilot.plan(sight(image, 1.0), 0.0, at(1.3))
    assert pilot.plan(sight(image, 1.1, 2), 0.1, at(1.35)) is None


@pytest.mark.parametrize("step", [0, 3])
def test_a_surprise_halts_the_arm_at_once(step, pilot, image):
    first = pilot.plan(sight(image, 0.0), 0.0, at(0.0))
    begin_s = step * STEP_S
    pilot.surprise, usual = 0.0, 1e-4
    pilot._usual._values = [usual] * 10
    black = np.zeros_like(image)
    plan = pilot.plan(sight(black, begin_s + 0.05, 2), 0.1, at(begin_s + 0.1))
    assert pilot.surprise > pilot.config.surprise
    np.testing.assert_allclose(plan.times_s, begin_s + np.array([0.1, 0.15]))
    half_way = first.position_m[step : step + 2].mean(0)
    np.testing.assert_allclose(plan.position_m[0], half_way, atol=1e-4)  # it goes on from where the plan had it
    assert pilot._usual.value == usual  # a surprise does not become usual
    assert pilot.plan(sight(black, begin_s + 0.18, 3), 0.2, at(begin_s + 0.2)) is None
    new = pilot.plan(sight(black, begin_s + 0.21, 4), 0.3, at(begin_s + 0.5))  # looks, and plans anew
    assert new.times_s[0] == pytest.approx(begin_s + 0.5) and len(new.times_s) == 5


def test_after_forgetting_the_plan_begins_at_the_arm(pilot, image):
    pilot.plan(sight(image, 0.0), 0.0, at(0.0))
    pilot.forget()
    moved = TOOL_M + [0.05, 0.0, 0.0]
    plan = pilot.plan(sight(image, 0.1, 2, moved), 0.2, at(0.1))
    np.testing.assert_allclose(plan.position_m[0], moved, atol=1e-5)


def speeds(plan):
    return np.linalg.norm(np.diff(plan.position_m, axis=0), axis=1) / np.diff(plan.times_s)


def test_a_plan_that_would_be_too_fast_takes_longer(agent, pilot, image):
    free = pilot.plan(sight(image, 0.0), 0.0, at(0.0))
    allowed = 0.5 * float(speeds(free).max())
    agent.reset(image[::-1].copy(), seed=0)
    agent._noise = 1e-6
    slow = Pilot(agent, PilotConfig(deadline_s=None, speed_m_s=allowed))
    plan = slow.plan(sight(image, 0.0), 0.0, at(0.0))
    assert speeds(plan).max() == pytest.approx(SPEED_SHARE * allowed, rel=0.2)  # the same way, in the same steps …
    assert speeds(plan).max() <= allowed
    count = len(plan.times_s)
    np.testing.assert_allclose(plan.position_m, free.position_m[:count], atol=1e-6)
    assert 1 < count < len(free.times_s) and plan.times_s[-1] <= slow.config.longest_s  # … of which fewer fit
    step_s = plan.times_s[1]
    again = slow.plan(sight(image, 0.05, 2), 0.1, at(0.1))
    assert again is None or again.times_s[0] == pytest.approx(step_s)
    assert slow.plan(sight(image, plan.times_s[-1] + 0.06, 3), 1.0, at(2.0)).times_s[0] == 2.0


def test_a_model_that_is_far_too_fast_for_the_workspace_is_told(agent, pilot, image):
    slow = Pilot(agent, PilotConfig(deadline_s=None, speed_m_s=1e-4))
    with pytest.raises(InvalidInputError, match="raise the workspace's speed_m_s"):
        slow.plan(sight(image, 0.0), 0.0, at(0.0))


def test_a_plan_into_a_keep_out_is_not_sent_and_a_correction_into_one_halts_the_arm(pilot, image, monkeypatch):
    monkeypatch.setattr(pilot.agent, "enters_keep_out", lambda state, plan: True)
    with pytest.raises(PlanningFailed, match="keep-outs"):
        pilot.plan(sight(image, 0.0), 0.0, at(0.0))
    monkeypatch.undo()
    pilot.plan(sight(image, 0.0, 2), 0.0, at(0.0))
    monkeypatch.setattr(pilot.agent, "enters_keep_out", lambda state, plan: True)
    plan = pilot.plan(sight(image, 0.05, 3), 0.1, at(0.1))
    np.testing.assert_allclose(plan.times_s, [0.1, 0.15])


@pytest.mark.parametrize(
    "wrong",
    [{"longest_s": 0.1}, {"speed_m_s": 0.0}, {"step_s": 0.0}, {"lead_s": -1.0}, {"surprise": 1.0}, {"deadline_s": 0.0}],
)
def test_an_impossible_config_is_refused(wrong):
    with pytest.raises(InvalidInputError):
        PilotConfig(**wrong)
