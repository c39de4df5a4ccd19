"""The agent on a small random-weight model: determinism, what it may look at, its trace, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import latent_mpc
from latent_mpc.agent import Agent
from latent_mpc.agent_config import AgentConfig, SearchConfig
from latent_mpc.objective import SETTLED
from latent_mpc.permanence import DREAM_STEPS
from latent_mpc.planner.rollout import rollout
from latent_mpc.tool_guardrails import GuardrailConfig
from latent_mpc.types import InvalidInputError, UnknownNameError
from latent_mpc.world_model.attention import AttentionConfig
from latent_mpc.world_model.encoder import EncoderConfig
from latent_mpc.world_model.focus import find_hues
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


def test_a_waypoint_is_what_is_planned_for_until_it_is_taken_away(model, observation):
    agent = Agent(model, AgentConfig(**SMALL))
    agent.reset(observation["goal_image"], seed=3)
    states = torch.randn(4, model.state_dim)
    to_the_goal = agent.goal_energy(states)
    agent.show_waypoint(observation["image"])
    waypoint = model.observe_goal(torch.from_numpy(observation["image"])[None])[0]
    torch.testing.assert_close(agent.goal_energy(states), agent.subgoal_energy(states, waypoint))
    assert float(agent.goal_energy(waypoint)) == 0
    on_the_way = np.array([agent.act(observation) for _ in range(5)])
    assert not np.array_equal(on_the_way, actions(model, observation))
    agent.set_waypoint(None)
    torch.testing.assert_close(agent.goal_energy(states), to_the_goal)
    agent.show_waypoint(observation["image"])
    agent.reset(observation["goal_image"], seed=3)  # which forgets it
    np.testing.assert_array_equal([agent.act(observation) for _ in range(5)], actions(model, observation))


def test_a_direct_waypoint_takes_the_place_of_a_subgoal(model, observation):
    """Planned to as the fine level does: a chunk whose cost is that of a subgoal, better than its macro-action's."""
    agent = Agent(model, AgentConfig(**SMALL))
    agent.reset(observation["goal_image"], seed=3)
    waypoint = agent.observe(observation) + 0.1
    agent.set_waypoint(waypoint, direct=True)
    state = agent.observe(observation)[None]
    plan, execute = agent.plan(state)
    assert plan.actions.shape == (1, 5, 5) and execute == SMALL["execute_steps"]
    states = rollout(model.predictor, state, plan.actions[:, None])[0, 0]
    torch.testing.assert_close(plan.cost[0], agent.subgoal_energy(states, waypoint).sum())
    still = rollout(model.predictor, state, torch.zeros(1, 1, 5, 5))[0, 0]
    assert plan.cost[0] < agent.subgoal_energy(still, waypoint).sum()


def test_a_waypoint_is_reached_when_scene_tool_and_fingers_are_there(model, observation):
    agent = Agent(model, AgentConfig(**SMALL))
    agent.reset(observation["goal_image"])
    at = agent.observe(observation)
    agent.set_waypoint(at)
    assert agent.at_waypoint(observation)
    for entry, near, far in ((0, 0.024, 0.026), (2, -0.024, -0.026), (-1, 0.007, 0.009)):  # tool x, z, fingers, m
        moved = [dict(observation, proprio=observation["proprio"].copy()) for _ in range(2)]
        moved[0]["proprio"][entry] += near
        moved[1]["proprio"][entry] += far
        assert [agent.at_waypoint(each) for each in moved] == [True, False]
    agent.set_waypoint(at + torch.cat([100 * torch.ones(model.latent_dim), torch.zeros(6)]))  # another scene
    assert not agent.at_waypoint(observation)


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
    distance = model.scene_distance(far, agent._objective.goal).item()
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
        lambda: AgentConfig(spread_margin=0.0),
        lambda: AgentConfig(patience=0),
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
    agent = Agent(model, AgentConfig(**SMALL, settle_horizon=3))
    model.scene_noise.fill_(1e9)
    try:
        agent.reset(observation["goal_image"], seed=0)
        agent.act(observation)
    finally:
        model.scene_noise.zero_()
    assert agent.trace.subgoal is None and agent.trace.predicted_energy.shape == (3,)


def test_settling_the_arms_way_counts_to_its_last_centimetre(model, observation):
    """The energy of a pose near the goal's falls by its logarithm, of any other thing it does not ask."""
    agent = Agent(model, AgentConfig(**SMALL, latent_weight=0.0, arm_weight=0.0, settle_arm_weight=2.0))
    model.scene_noise.fill_(1e9)
    try:
        agent.reset(observation["goal_image"], seed=0)
        goal, step = agent._objective.goal, torch.cat([torch.zeros(8), torch.ones(6)])
        near, far = (agent.goal_energy(goal + by * step, settling=True).item() for by in (0.1, 1.0))
        assert near == pytest.approx(2 * np.log(1 + 0.01 / SETTLED), rel=1e-3)
        assert far == pytest.approx(2 * np.log(1 + 1 / SETTLED), rel=1e-3)
        assert agent.goal_energy(goal + step).item() == pytest.approx(0, abs=1e-6)
    finally:
        model.scene_noise.zero_()


# ---- one thing among many ----

FREE, HOLDING, LOW = ((0.4, 0.0, z, 0.0, 1.0, opening) for z, opening in ((0.2, 0.08), (0.2, 0.04), (0.02, 0.08)))
GOALS = torch.tensor([[0.0, 0.0], [100.0, 0.0], [200.0, 0.0]])
OFF = [torch.tensor([0.0, 9.0]), torch.tensor([0.0, 16.0]), torch.tensor([0.0, 4.0])]  # from their goals


class FlatDistance(torch.nn.Module):
    """Squared distance of the states' first two entries; 1 counts as arranged. The third says what is left open."""

    def forward(self, state, other):
        return (state - other)[..., :2].square().sum(-1)

    def spread(self, state):
        return state[..., 2]


def paint(count, hidden=()):
    """An image with squares of `count` colours, the first the largest, but for those that are hidden."""
    image = np.full((32, 32, 3), 160, np.uint8)
    for i, rgb in enumerate([(220, 20, 20), (20, 200, 20), (20, 20, 220)][:count]):
        if i not in hidden:
            image[10 * i : 10 * i + 9 - i, 10 * i : 10 * i + 9 - i] = rgb
    return image


class Table:
    """An agent that attends, in front of things in the plane of which it is told where each is."""

    def __init__(self, count=3, **settings):
        torch.manual_seed(0)
        attention = AttentionConfig(image_size=32, channels=(4, 4), num_keypoints=2, hidden=8, latent_dim=8)
        self.model = WorldModel(attention, ModelConfig(head_width=8, predictor_width=8, macro_dim=3, macro_width=8))
        self.model.requires_grad_(False).scene_distance = FlatDistance()
        self.model.scene_noise.fill_(1.0)
        self.model.observe_goal = lambda images, hues: self._states(GOALS, hues)
        self.model.observe = lambda images, proprio, hues: self._states(self.places, hues, proprio)
        self.model.place = lambda states: states[..., [0, 1, 3]]
        self.places, self.open = GOALS.clone(), torch.zeros(3)
        self.hand, self.hidden, self.count = FREE, (), count
        self.hues = find_hues(torch.from_numpy(paint(count))[None])
        assert len(self.hues) == count
        self.agent = Agent(self.model, AgentConfig(**(SMALL | settings)))
        self.agent.reset(paint(count), seed=0)

    def _states(self, places, hues, proprio=None):
        states = torch.zeros(len(hues), 14)
        index = [int((self.hues - hue).abs().argmin()) for hue in hues]
        states[:, :2] = places[index]
        states[:, 2] = 0.0 if proprio is None else self.open[index]
        if proprio is not None:
            states[:, 8:] = proprio
        return states

    @property
    def observation(self):
        return {"image": paint(self.count, self.hidden), "proprio": np.array(self.hand, np.float32)}

    def refocus(self):
        """Turn, and plan; whether it has turned."""
        turned = self.agent.refocus(self.observation)
        self.agent.trace = object()  # there is a plan now
        assert torch.equal(self.agent._objective.goal[:2], GOALS[self.agent.focus])
        return turned


@pytest.fixture
def table():
    return Table()


def test_it_begins_with_what_is_furthest_off(table):
    table.places += torch.stack(OFF)
    assert table.refocus() and table.agent.focus == 1
    table = Table()
    table.places[0, 1] = 9.0
    assert not table.refocus() and table.agent.focus == 0  # where it looks already


def test_with_all_in_place_the_focus_stays(table):
    table.places[1:] += 0.7  # as near as counts as arranged
    assert [table.refocus() for _ in range(9)] == [False] * 9 and table.agent.focus == 0


def test_turning_away_drops_the_plan(table):
    table.places += torch.stack(OFF)
    horizon, macro = table.agent._horizon, table.agent._macro
    table.refocus()
    assert table.agent._horizon is not horizon and table.agent._macro is not macro
    horizon = table.agent._horizon
    assert not table.refocus() and table.agent._horizon is horizon


def test_it_goes_from_one_thing_to_the_next_by_distance(table):
    table.places += torch.stack(OFF)
    order = []
    for _ in range(3):
        assert table.refocus()
        order.append(table.agent.focus)
        assert not table.refocus()  # not there yet
        table.places[table.agent.focus] = GOALS[table.agent.focus]
    assert order == [1, 0, 2]
    assert not table.refocus() and table.agent.focus == 2


@pytest.mark.parametrize("hand", [HOLDING, LOW])
def test_it_stays_while_the_hand_holds_or_is_low(hand, table):
    table.places += torch.stack(OFF)
    table.refocus()
    table.places[1], table.hand = GOALS[1], hand
    assert [table.refocus() for _ in range(20)] == [False] * 20 and table.agent.focus == 1
    table.hand = FREE
    assert table.refocus() and table.agent.focus == 0


def test_what_has_its_place_taken_waits(table):
    """The second thing is by far the furthest off, but the third one lies where it shall go."""
    table.places[1] += torch.tensor([0.0, 500.0])
    table.places[2] = GOALS[1] + 1.0
    assert table.refocus() and table.agent.focus == 2
    table.places[2] = GOALS[2]
    assert table.refocus() and table.agent.focus == 1


@pytest.mark.parametrize(("beside", "first"), [(1.9, 2), (2.1, 1)])
def test_a_place_is_taken_by_what_is_nearer_than_twice_what_counts_as_arranged(beside, first, table):
    table.places[1] += torch.tensor([0.0, 500.0])
    table.places[2] = GOALS[1] + torch.tensor([beside**0.5, 0.0])
    assert table.refocus() and table.agent.focus == first


def test_a_thing_does_not_block_itself(table):
    """1.5 off it is not arranged, and nearer to its place than what takes one; of the two it is not the furthest."""
    table.places[1, 1] += 1.5**0.5
    table.places[2, 1] += 3.0**0.5
    assert table.refocus() and table.agent.focus == 2
    table.places[2] = GOALS[2]
    assert table.refocus() and table.agent.focus == 1


def test_where_all_that_wait_block_each_other_one_goes_nevertheless(table):
    """Two things change places; the third is where it shall be."""
    table.places[0], table.places[1] = GOALS[1] + 0.5, GOALS[0]
    assert not table.refocus() and table.agent.focus == 0
    table = Table()
    table.places[0], table.places[1] = GOALS[1], GOALS[0] - 0.5
    assert table.refocus() and table.agent.focus == 1


def test_patience_gives_another_its_turn_and_the_first_one_later_again():
    table = Table(patience=3)
    table.places += torch.stack(OFF)
    table.places[2] = GOALS[2]
    foci = []
    for _ in range(12):
        table.refocus()
        foci.append(table.agent.focus)
    assert foci == [1] * 3 + [0] * 3 + [1] * 3 + [0] * 3


def test_patience_counts_for_the_thing_in_focus_from_the_start_as_well():
    table = Table(patience=3)
    table.places[:2] += torch.stack(OFF)[[1, 0]]
    foci = []
    for _ in range(6):
        table.refocus()
        foci.append(table.agent.focus)
    assert foci == [0] * 3 + [1] * 3


def test_patience_does_not_let_go():
    table = Table(patience=1)
    table.places += torch.stack(OFF)
    table.refocus()
    table.hand = HOLDING
    assert not any(table.refocus() for _ in range(10))
    table.hand = FREE
    assert table.refocus() and table.agent.focus == 0


def test_patience_ends_for_a_low_hand_too():
    """It may hover beside a thing that it fails to put right."""
    table = Table(patience=1)
    table.places += torch.stack(OFF)
    table.refocus()
    table.hand = LOW
    assert table.refocus() and table.agent.focus == 0


def test_patience_is_endless_where_nothing_else_waits():
    table = Table(patience=1)
    table.places[1] += 5.0
    table.refocus()
    assert not any(table.refocus() for _ in range(10)) and table.agent.focus == 1


def test_it_knows_where_the_others_are(table):
    table.places += torch.stack(OFF)
    for _ in range(3):
        table.refocus()
        others = [i for i in range(3) if i != table.agent.focus]
        assert torch.equal(table.agent._objective.others[:, :2], table.places[others])
        table.places[table.agent.focus] = GOALS[table.agent.focus]


def test_what_is_hidden_is_where_it_was_seen_last(table):
    table.places[1] += 50.0  # in focus all the time
    table.hidden = (2,)  # from the start: what the eye guesses is better than nothing
    table.refocus()
    assert torch.equal(table.agent._objective.others[:, :2], table.places[[0, 2]])
    table.hidden = ()
    table.places[2] += 2.0
    table.refocus()
    before, table.hidden = table.places.clone(), (2,)
    table.places[[0, 2]] += 1.0
    table.refocus()
    assert torch.equal(table.agent._objective.others[0, :2], table.places[0])
    assert torch.equal(table.agent._objective.others[1, :2], before[2])
    table.hidden = ()
    table.refocus()
    assert torch.equal(table.agent._objective.others[:, :2], table.places[[0, 2]]) and table.agent.focus == 1
    table.agent.reset(paint(3), seed=0)
    assert table.agent._objective.others is None


def test_what_is_hidden_in_focus_is_predicted_and_then_gone_back_for():
    table = Table(count=1, execute_steps=1, track=False)
    agent, model = table.agent, table.model
    torch.nn.init.normal_(model.predictor.net.leave[1].weight, std=0.3)
    table.places[0] += 5.0
    table.hand = LOW
    action = agent.act(table.observation)
    seen = torch.from_numpy(agent.trace.state)
    assert torch.equal(seen[:2], table.places[0])

    table.hidden, table.hand = (0,), (0.5, *LOW[1:])
    table.places[0] += 70.0  # a wild guess of the eye
    state = seen
    for _ in range(DREAM_STEPS):
        state = model.predictor.step(state[None], torch.from_numpy(action)[None])[0]
        state = torch.cat([state[:8], torch.tensor(table.hand)])
        action = agent.act(table.observation)
        torch.testing.assert_close(torch.from_numpy(agent.trace.state), state)
        assert agent.goal_energy(seen) > 1  # still on its way to the goal
    agent.act(table.observation)
    assert agent.goal_energy(seen) == 0  # back to where it was in sight

    table.hand = LOW  # there, and it is not
    agent.act(table.observation)
    assert agent.goal_energy(seen) > 1
    np.testing.assert_array_equal(agent.trace.state[:2], table.places[0])


def test_what_is_in_sight_again_or_in_the_hand_is_not_gone_back_for():
    table = Table(count=1, execute_steps=1)
    table.places[0] += 5.0
    table.agent.act(table.observation)
    seen = torch.from_numpy(table.agent.trace.state)
    table.hidden, table.hand = (0,), LOW
    for _ in range(DREAM_STEPS + 1):
        table.agent.act(table.observation)
    assert table.agent.goal_energy(seen) == 0
    table.hand = HOLDING
    table.agent.act(table.observation)
    assert table.agent.goal_energy(seen) > 1
    table.hand = LOW
    for _ in range(DREAM_STEPS + 1):
        table.agent.act(table.observation)
    assert table.agent.goal_energy(seen) == 0
    table.hidden = ()
    table.agent.act(table.observation)
    assert table.agent.goal_energy(seen) > 1


def test_it_plans_round_the_others():
    """Where a finger would come down upon another thing, both energies are higher by the guardrail's part."""
    table = Table(guardrails=GuardrailConfig())
    table.places[0] = torch.tensor([0.5, 0.052])
    table.places[1] += 50.0
    states = torch.zeros(2, 14)
    states[:, 8:] = torch.tensor(LOW)
    states[0, 8], states[1, 8] = 0.5, 0.6
    before = table.agent.goal_energy(states), table.agent.subgoal_energy(states, states[0])
    table.refocus()
    table.agent.focus = 0  # for the same goal as before
    table.agent._aim(table.agent._objective.others)
    after = table.agent.goal_energy(states), table.agent.subgoal_energy(states, states[0])
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(other - one, torch.tensor([2.1, 0.0]), atol=1e-3, rtol=0)


def test_one_thing_is_never_turned_away_from():
    table = Table(count=1, patience=1)
    table.places[0] += 5.0
    table.model.observe = None  # nor looked at for this
    assert not any(table.refocus() for _ in range(10)) and table.agent.focus == 0


def test_a_model_that_sees_all_at_once_has_one_focus(model, observation):
    agent = Agent(model, AgentConfig(**SMALL, patience=1))
    agent.reset(observation["goal_image"], seed=3)
    assert not any(agent.refocus(observation) for _ in range(3)) and agent.focus == 0


def test_each_plan_is_for_what_is_in_focus():
    """On random weights: `act` turns by itself, plans from the state of what is in focus, and repeats by its seed."""
    torch.manual_seed(0)
    attention = AttentionConfig(image_size=32, channels=(4, 4), num_keypoints=4, hidden=16, latent_dim=8)
    model = WorldModel(attention, ModelConfig(head_width=16, predictor_width=16, macro_dim=3, macro_width=16))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    for parameter in model.scene_distance.log_spread.parameters():  # nothing is left open: nothing is arranged
        torch.nn.init.zeros_(parameter)
    model.requires_grad_(False)
    seen = {"image": paint(3)[::-1].copy(), "proprio": np.array(FREE, np.float32)}
    agent, runs = Agent(model, AgentConfig(**SMALL, patience=1)), []
    for _ in range(2):
        agent.reset(paint(3), seed=3)
        actions, foci = [], []
        for _ in range(8):
            actions.append(agent.act(seen))
            foci.append(agent.focus)
            hue = agent._things.hues[agent.focus, None]
            state = model.observe(*(torch.from_numpy(seen[k])[None] for k in ("image", "proprio")), hue)[0]
            np.testing.assert_allclose(agent.trace.state, state.numpy(), rtol=1e-5, atol=1e-5)
        runs.append(np.array(actions))
    np.testing.assert_array_equal(*runs)
    assert len(set(foci)) > 1 and foci[::2] == foci[1::2]  # it turns between plans of two steps alone


def test_a_goal_without_anything_coloured_is_refused(table):
    with pytest.raises(InvalidInputError, match="shows nothing coloured"):
        table.agent.reset(paint(0))


def test_what_something_stands_on_comes_first_and_is_not_kept_off(table):
    table.agent._things.supports = [1, None, None]
    table.places += torch.tensor([[9.0, 0.0], [2.0, 0.0], [0.0, 0.0]])
    assert table.refocus() and table.agent.focus == 1 and table.agent._objective.stand is None
    table.places[1] = GOALS[1]
    assert table.refocus() and table.agent.focus == 0
    assert table.agent._objective.stand[:2].tolist() == pytest.approx(GOALS[1].tolist())
    assert table.agent._objective.others[:, :2].tolist() == [GOALS[2].tolist()]


def test_a_stack_is_where_it_looks_to_be_within_two_centimetres(table):
    """Of what covers another in the goal image the scene distance says little, be the two where they shall be."""
    states = torch.zeros(3, 14)
    states[:, :2] = table.places + torch.tensor([0.02, 0.0])
    table.agent._things.tolerance = lambda states: torch.full((len(states),), 1e-5)
    assert (table.agent._things.off(states) > 1).tolist() == [True, True, True]
    table.agent._things.supports = [1, None, None]
    assert (table.agent._things.off(states) > 1).tolist() == [False, False, True]
