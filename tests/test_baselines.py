"""Agents that ask the simulator: they learn what would come, and leave it as it was."""

from __future__ import annotations

import gymnasium
import mujoco
import numpy as np
import pytest

import latent_mpc  # noqa: F401  (registers the environments)
from latent_mpc.baselines import OracleSubgoalsAgent
from latent_mpc.envs.play import ScriptedExpert
from latent_mpc.envs.tabletop import TabletopConfig
from latent_mpc.envs.trial import rollout
from latent_mpc.simulator_agent import SimulatorAgent, SimulatorConfig, way_left_m
from latent_mpc.types import Observation
from latent_mpc.world_model.model import ModelConfig

STATE = mujoco.mjtState.mjSTATE_INTEGRATION


@pytest.fixture
def make():
    made = []

    def build(seed):
        made.append(gymnasium.make("latent_mpc/PickPlace-v0", config=TabletopConfig(image_size=16, supersample=1)))
        return made[-1].unwrapped, made[-1].reset(seed=seed)[0]

    yield build
    for env in made:
        env.close()


def state(env):
    values = np.empty(mujoco.mj_stateSize(env.model, STATE))
    mujoco.mj_getState(env.model, env.data, values, STATE)
    return values


class Follower:
    """An agent that acts as it was told to, and notes its waypoints."""

    class model:
        config = ModelConfig()

    def __init__(self, actions):
        self.actions, self.waypoints = iter(actions), []

    def reset(self, goal_image, *, seed=None):
        self.waypoints = []

    def observe(self, observation):
        return Observation.from_mapping(observation)

    def set_waypoint(self, waypoint, *, direct):
        assert direct
        self.waypoints.append(waypoint)

    def act(self, observation):
        return next(self.actions)


def test_a_subgoal_is_where_the_expert_will_be_a_chunk_later(make):
    """The agent does what the expert does; what it was told five steps before is then what it sees."""
    plain, observation = make(seed=1)
    expert, actions, seen = ScriptedExpert(plain), [], [observation]
    for _ in range(8):  # on the way down: later a new expert may come from another side
        actions.append(expert.act())
        seen.append(plain.step(actions[-1])[0])
    env, observation = make(seed=1)
    follower = Follower(actions)
    agent = OracleSubgoalsAgent(follower, env)
    agent.reset(observation["goal_image"], seed=0)
    for action in actions:
        np.testing.assert_array_equal(agent.act(observation), action)
        observation = env.step(action)[0]
    first, then = follower.waypoints[0], seen[ModelConfig().chunk_length]
    np.testing.assert_array_equal(first.image, then["image"])
    np.testing.assert_array_equal(first.proprio, then["proprio"])
    np.testing.assert_array_equal(state(env), state(plain))  # asked eight times, and nothing has changed


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_expert_goes_on_from_the_middle_of_it(make, seed):
    """One that has just come, every few steps: it neither lets go of what is held nor begins anew."""
    env, _ = make(seed=seed)
    for step in range(45):
        if step % 4 == 0:
            expert = ScriptedExpert(env)
        if env.step(expert.act())[2]:
            break
    assert step < 35


# ---- the simulator as the model ----


def test_a_rollout_is_what_then_happens(make):
    env, _ = make(seed=4)
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 4, 5)).astype(np.float32)
    before = state(env)
    objects, tool = rollout(env, actions)
    assert objects.shape == (3, 4, 1, 3) and tool.shape == (3, 4, 3)
    np.testing.assert_array_equal(state(env), before)
    for t in range(4):
        observation, *_, info = env.step(actions[1, t])
        np.testing.assert_array_equal(objects[1, t], info["object_positions"])
        np.testing.assert_array_equal(tool[1, t].astype(np.float32), observation["proprio"][:3])


@pytest.mark.parametrize(
    ("thing", "tool", "lifted", "left"),
    [
        ((0.0, 0.0, 0.02), (0.0, 0.0, 0.02), False, 0.20 + 0.06),  # grasped: lift, and carry 20 cm
        ((0.0, 0.0, 0.02), (0.1, 0.0, 0.02), False, 0.20 + 0.06 + 0.3 * 0.10),  # to be grasped
        ((0.0, 0.1, 0.08), (0.0, 0.1, 0.08), True, 0.10),  # lifted, half way
        ((0.0, 0.2, 0.08), (0.0, 0.2, 0.08), True, 0.06 + 0.3 * 0.20),  # above the goal: down, and home
        ((0.0, 0.2, 0.02), (0.0, 0.0, 0.08), True, 0.0),  # placed, and at home
        ((0.0, 0.2, 0.02), (0.0, 0.2, 0.02), False, 0.06),  # pushed there: lift it all the same
    ],
)
def test_what_is_left_to_do(thing, tool, lifted, left):
    goals, home = np.array([[0.0, 0.2, 0.02]]), np.array([0.0, 0.0, 0.08])
    found = way_left_m(
        np.array(thing)[None, None, None], np.array(tool)[None, None], goals, home, np.array([[[lifted]]])
    )
    assert found.shape == (1, 1) and found[0, 0] == pytest.approx(left)


def test_with_several_things_the_nearest_that_is_away_counts():
    goals = np.array([[0.0, 0.0, 0.02], [0.5, 0.0, 0.02]])
    things = np.array([[0.0, 0.0, 0.02], [0.4, 0.0, 0.08]])  # the first is at its goal
    found = way_left_m(things[None, None], np.array([[[0.0, 0.0, 0.08]]]), goals, np.zeros(3), np.ones((1, 1, 2), bool))
    assert found[0, 0] == pytest.approx(0.10 + 0.3 * 0.40)


def test_the_simulator_plans_towards_the_object_and_leaves_no_trace(make):
    env, observation = make(seed=4)
    agent = SimulatorAgent(env, SimulatorConfig(12, 3, horizon=6, num_knots=2))
    agent.reset(observation["goal_image"], seed=0)
    before, start = state(env), np.linalg.norm(env.object_positions()[0] - observation["proprio"][:3])
    action = agent.act(observation)
    np.testing.assert_array_equal(state(env), before)
    assert action.shape == (5,) and action.dtype == np.float32 and abs(action[4]) == 1
    agent.reset(observation["goal_image"], seed=0)
    np.testing.assert_array_equal(agent.act(observation), action)
    for _ in range(6):
        observation = env.step(agent.act(observation))[0]
    assert np.linalg.norm(env.object_positions()[0] - observation["proprio"][:3]) < 0.6 * start
