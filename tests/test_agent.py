"""The agent on a small random-weight model: determinism, what it may look at, its trace, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import latent_mpc
from latent_mpc.agent import Agent
from latent_mpc.agent_config import AgentConfig, SearchConfig
from latent_mpc.tool_guardrails import GuardrailConfig
from latent_mpc.types import InvalidInputError, UnknownNameError
from latent_mpc.world_model.encoder import EncoderConfig
from latent_mpc.world_model.model import ModelConfig, WorldModel, save_world_model

# On random weights the arm is nowhere near its box: without guardrails, which would drown the rest.
SMALL = dict(
    coarse=SearchConfig(24, 2),
    fine=SearchConfig(24, 2, 0.3),
    settle=SearchConfig(24, 2),
    flat=SearchConfig(24, 3),
    guardrails=GuardrailConfig(weight=0.0),
    execute_steps=2,
    noise_margin=1.0,
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = ModelConfig(head_width=16, predictor_width=16, macro_dim=3, macro_width=16)
    model = WorldModel(EncoderConfig(image_size=32, channels=(4, 4), num_keypoints=4, hidden=16, latent_dim=8), sizes)
    for parameter in model.parameters():  # output layers start at zero, which would make every plan equal
        torch.nn.init.normal_(parameter, std=0.1)
    model.encoder.calibrate(torch.randint(0, 256, (16, 32, 32, 3), dtype=torch.uint8))  # images differ in the latent
    return model.requires_grad_(False).eval()


@pytest.fixture
def observation():
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (32, 32, 3), dtype=np.uint8),
        "proprio": rng.normal(size=6).astype(np.float32),
        "goal_image": rng.integers(0, 256, (32, 32, 3), dtype=np.uint8),
    }


def actions(model, observation, seed=3, steps=5, **settings):
    agent = Agent(model, AgentConfig(**SMALL, **settings))
    agent.reset(observation["goal_image"], seed=seed)
    return np.array([agent.act(observation) for _ in range(steps)])


@pytest.mark.parametrize("planner", ["hierarchy", "flat", "prior"])
def test_same_seed_and_observation_same_action(planner, model, observation):
    first = actions(model, observation, planner=planner)
    assert first.shape == (5, 5) and first.dtype == np.float32 and np.abs(first).max() <= 1
    np.testing.assert_array_equal(first, actions(model, observation, planner=planner))
    other = actions(model, observation, seed=4, planner=planner)
    assert np.array_equal(first, other) == (planner == "prior")  # which does not sample


def test_reset_forgets_the_episode_before(model, observation):
    agent = Agent(model, AgentConfig(**SMALL))
    agent.reset(observation["image"], seed=9)
    agent.act(observation)
    agent.reset(observation["goal_image"], seed=3)
    np.testing.assert_array_equal([agent.act(observation) for _ in range(5)], actions(model, observation))


def test_only_image_and_proprio_are_read(model, observation):
    """What is for scoring may lie beside the observation, or be missing: the actions are the same."""
    beside = dict(observation, object_positions=np.ones((1, 3)), is_success=True, goal_image=None)
    agent = Agent(model, AgentConfig(**SMALL))
    agent.reset(observation["goal_image"], seed=3)
    np.testing.assert_array_equal([agent.act(beside) for _ in range(5)], actions(model, observation))


def test_the_plan_depends_on_the_goal(model, observation):
    other = dict(observation, goal_image=255 - observation["goal_image"])
    wide = dict(latent_weight=100.0, coarse_horizon=1)
    assert not np.array_equal(actions(model, observation, **wide), actions(model, other, **wide))


@pytest.mark.parametrize("coarse_dynamics", ["decoded", "macro"])
def test_trace_tells_of_the_last_plan(coarse_dynamics, model, observation):
    agent = Agent(model, AgentConfig(**SMALL, coarse_horizon=3, coarse_dynamics=coarse_dynamics))
    agent.reset(observation["goal_image"], seed=0)
    assert agent.trace is None
    first = agent.act(observation)
    trace = agent.trace
    np.testing.assert_array_equal(trace.actions[0], first)
    state = agent.observe(observation)
    assert trace.goal_energy == pytest.approx(agent.goal_energy(state).item())
    assert trace.coarse_states.shape == (3, 14) and trace.predicted_energy.shape == (3,)
    np.testing.assert_allclose(trace.subgoal, trace.coarse_states[0], rtol=1e-5)
    assert [len(c) for c in trace.candidate_costs] == [23, 23]  # 24 less the final mean, which is scored apart
    assert all(
        elite.min() == pytest.approx(c.min()) for elite, c in zip(trace.elite_costs, trace.candidate_costs, strict=True)
    )


def test_energy_floors_the_scene_at_the_models_own_error(model, observation):
    agent = Agent(model, AgentConfig(**SMALL, latent_weight=0.0, arm_weight=0.0))
    agent.reset(observation["goal_image"], seed=0)
    goal = agent.model.observe_goal(torch.from_numpy(observation["goal_image"])[None])[0]
    far = goal + 1.0
    distance = model.scene_distance(far, goal).item()
    model.scene_noise.fill_(distance / 2)
    try:
        agent.reset(observation["goal_image"], seed=0)
        assert agent.goal_energy(goal).item() == pytest.approx(0, abs=1e-6)
        assert agent.goal_energy(far).item() == pytest.approx(np.log(2), rel=1e-4)
    finally:
        model.scene_noise.zero_()


def test_a_goal_image_that_leaves_the_scene_open_is_not_pursued_beyond_that(model, observation, monkeypatch):
    agent = Agent(model, AgentConfig(**SMALL, latent_weight=0.0, arm_weight=0.0))
    agent.reset(observation["goal_image"], seed=0)
    far = agent.model.observe_goal(torch.from_numpy(observation["goal_image"])[None])[0] + 1.0
    distance = model.scene_distance(far, agent._goal[0]).item()
    assert agent.goal_energy(far).item() > 1
    monkeypatch.setattr(type(model.scene_distance), "spread", lambda self, state: torch.tensor(2 * distance))
    agent.reset(observation["goal_image"], seed=0)
    assert agent.goal_energy(far).item() == 0


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        (np.zeros((16, 16, 3), np.uint8), r"\(32, 32, 3\).*got \(16, 16, 3\)"),
        (np.zeros((32, 32), np.uint8), "H, W, 3"),
        (np.zeros((32, 32, 3), np.float32), "scale a float image"),
        (np.zeros((32, 32, 3), np.int64), "uint8"),
    ],
)
def test_bad_goal_images(goal, message, model):
    with pytest.raises(InvalidInputError, match=message):
        Agent(model, AgentConfig(**SMALL)).reset(goal)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"proprio": np.full(6, np.nan, np.float32)}, "NaN or inf at index"),
        ({"proprio": np.zeros(7, np.float32)}, "6 entries, got 7"),
        ({"proprio": np.zeros(6, np.int64)}, "float"),
        ({"image": np.zeros((64, 64, 3), np.uint8)}, r"\(32, 32, 3\)"),
    ],
)
def test_bad_observations(change, message, model, observation):
    agent = Agent(model, AgentConfig(**SMALL))
    agent.reset(observation["goal_image"], seed=0)
    before = agent.act(observation)
    with pytest.raises(InvalidInputError, match=message):
        agent.act({**observation, **change})
    assert before.shape == agent.act(observation).shape  # the episode goes on


def test_missing_keys_and_order_of_calls(model, observation):
    agent = Agent(model, AgentConfig(**SMALL))
    with pytest.raises(InvalidInputError, match="call reset"):
        agent.act(observation)
    agent.reset(observation["goal_image"], seed=0)
    with pytest.raises(InvalidInputError, match=r"lacks \['image'\]"):
        agent.act({"proprio": observation["proprio"]})


def test_load_agent_from_a_folder(tmp_path, model, observation):
    save_world_model(tmp_path, model, metrics={}, training={})
    agent = latent_mpc.load_agent(tmp_path, config=AgentConfig(**SMALL))
    agent.reset(observation["goal_image"], seed=3)
    np.testing.assert_array_equal([agent.act(observation) for _ in range(5)], actions(model, observation))


def test_load_agent_refuses(tmp_path, model):
    with pytest.raises(UnknownNameError, match="panda-tabletop"):
        latent_mpc.load_agent("panda-kitchen")
    with pytest.raises(InvalidInputError, match="lacks"):
        latent_mpc.load_agent(tmp_path)
    save_world_model(tmp_path, model, metrics={}, training={})
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidInputError, match="truncated or not a safetensors"):
        latent_mpc.load_agent(tmp_path)
    weights.write_bytes(b"GIF89a not weights")
    with pytest.raises(InvalidInputError, match="truncated or not a safetensors"):
        latent_mpc.load_agent(tmp_path)


@pytest.mark.parametrize(
    "make",
    [
        lambda: AgentConfig(planner="cma"),
        lambda: AgentConfig(arm_weight=-1.0),
        lambda: AgentConfig(execute_steps=0),
        lambda: AgentConfig(noise_margin=0.0),
        lambda: SearchConfig(10, 0),
        lambda: SearchConfig(10, 1, 0.0),
        lambda: GuardrailConfig(weight=-1.0),
        lambda: GuardrailConfig(tool_low_m=(0.7, 0.0, 0.0)),
    ],
)
def test_a_config_cannot_lie(make):
    with pytest.raises((InvalidInputError, UnknownNameError)):
        make()


def test_an_arranged_scene_is_planned_for_directly(model, observation):
    agent = Agent(model, AgentConfig(**SMALL))
    model.scene_noise.fill_(1e9)
    try:
        agent.reset(observation["goal_image"], seed=0)
        agent.act(observation)
    finally:
        model.scene_noise.zero_()
    assert agent.trace.subgoal is None and agent.trace.predicted_energy.shape == (5,)
