"""The loop: the agent is given the goal and observations only, callbacks see every step, the clock is the agent's."""

import time
from dataclasses import dataclass
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest

from latent_mpc.baselines import NoOpAgent, RandomAgent
from latent_mpc.loop import position_error_m, run_episode


class Line(gymnasium.Env):
    """A point on a line; done at 3 or after `limit` steps. The object follows the point, its goal is x = 3."""

    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    observation_space = gymnasium.spaces.Dict(proprio=gymnasium.spaces.Box(-9, 9, (3,), np.float32))

    def __init__(self, limit=10, moves_object=True):
        self.limit = limit
        self.task = SimpleNamespace(moves_object=moves_object)
        self.layout = SimpleNamespace(movers=(1,), goal_arm_pose=np.array([3.0, 0, 4.0, 0]))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = float((options or {}).get("x", 0)), 0
        return self._observation(), self._info()

    def step(self, action):
        self.x += float(action[0])
        self.t += 1
        done = self.x >= 3
        return self._observation(), 0.0, done, not done and self.t >= self.limit, self._info()

    def _observation(self):
        image = np.full((2, 2, 3), int(self.x), np.uint8)
        return {"image": image, "proprio": np.array([self.x, 0, 0], np.float32), "goal_image": image + 3}

    def _info(self):
        positions = np.array([[9.0, 9, 9], [self.x, 0, 0]])
        goals = np.array([[0.0, 0, 0], [3, 0, 0]])
        success = self.x >= 3
        return {
            "object_positions": positions,
            "goal_positions": goals,
            "is_success": success,
            "is_grasped": self.x == 1,
            "share_placed": float(success),
        }


class Forward:
    def __init__(self, sleep_s=0.0):
        self.sleep_s, self.seen = sleep_s, []

    def reset(self, goal_image, *, seed=None):
        self.goal, self.seed = goal_image, seed

    def act(self, observation):
        time.sleep(self.sleep_s)
        self.seen.append(observation)
        return np.ones(1, np.float32)


@dataclass
class Log:
    events: list

    def begin(self, observation, info):
        self.events.append(("begin", float(observation["proprio"][0])))

    def step(self, step):
        before, after = step.observation["proprio"][0], step.next_observation["proprio"][0]
        self.events.append((step.index, float(before), float(after), float(step.info["object_positions"][1, 0])))


def test_the_agent_gets_goal_seed_and_observations_in_order():
    agent = Forward()
    result = run_episode(Line(), agent, seed=7)
    assert agent.seed == 7 and (agent.goal == 3).all()
    assert [float(o["proprio"][0]) for o in agent.seen] == [0, 1, 2]
    assert all(set(o) == {"image", "proprio", "goal_image"} for o in agent.seen)
    assert (result.seed, result.success, result.steps, result.grasped) == (7, True, 3, True)
    assert result.position_error_m == 0


def test_callbacks_see_the_start_and_both_sides_of_each_step():
    first, second = Log([]), Log([])
    run_episode(Line(), Forward(), seed=0, options={"x": 1}, callbacks=[first, second])
    assert first.events == [("begin", 1.0), (0, 1.0, 2.0, 2.0), (1, 2.0, 3.0, 3.0)] == second.events


def test_truncation_ends_a_failed_episode():
    result = run_episode(Line(limit=4), NoOpAgent(1), seed=0)
    assert (result.success, result.steps, result.grasped) == (False, 4, False)
    assert result.position_error_m == 3


def test_act_times_are_the_agents_alone():
    class Slow(Line):
        def step(self, action):
            time.sleep(0.2)
            return super().step(action)

    result = run_episode(Slow(), Forward(sleep_s=0.02), seed=0)
    assert len(result.act_times_s) == 3
    assert all(0.02 <= t < 0.2 for t in result.act_times_s)


@pytest.mark.parametrize("moves_object, expected", [(True, 2.0), (False, np.hypot(2, 4))])
def test_position_error_is_of_the_moved_object_or_of_the_tool(moves_object, expected):
    env = Line(moves_object=moves_object)
    observation, info = env.reset(options={"x": 1})
    assert position_error_m(env, observation, info) == pytest.approx(expected)


def test_random_agent_repeats_by_seed_and_fills_the_box():
    def actions(seed):
        agent = RandomAgent(5)
        agent.reset(np.zeros((2, 2, 3), np.uint8), seed=seed)
        return np.stack([agent.act({}) for _ in range(500)])

    a = actions(1)
    np.testing.assert_array_equal(a, actions(1))
    assert not np.array_equal(a, actions(2))
    assert a.dtype == np.float32 and np.abs(a).max() <= 1
    np.testing.assert_allclose(a.mean(0), 0, atol=0.1)
    np.testing.assert_allclose(a.std(0), 3**-0.5, atol=0.05)


def test_no_op_agent_does_nothing():
    np.testing.assert_array_equal(NoOpAgent(4).act({}), np.zeros(4, np.float32))
