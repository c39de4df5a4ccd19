"""Success of the agent with another method in the place of its planners, at as many predictions.

Each method plans coarse, fine and settling with the evaluations that the agent's CEM has there; a gradient step counts
as three. Every method starts from the same episodes, which no evaluation uses.
"""

from __future__ import annotations

import atexit
import functools
import statistics
from collections.abc import Mapping
from typing import Any

import gymnasium

from latent_mpc.agent import Agent
from latent_mpc.agent_config import AgentConfig, SearchConfig
from latent_mpc.bench_problems import shipped_model
from latent_mpc.envs import register_envs
from latent_mpc.envs.tasks import GOAL_RADIUS_M, REACH_RADIUS_M
from latent_mpc.loop import Step, position_error_m, run_episode
from latent_mpc.planner import Planner, make_planner

TASKS = {"closed_loop_pick_place": "PickPlace", "closed_loop_reach": "Reach"}
METHODS = ("random_shooting", "predictive_sampling", "cem", "icem", "mppi", "more", "gradient", "polish")
RADIUS_M = {"PickPlace": GOAL_RADIUS_M, "Reach": REACH_RADIUS_M}
FIRST_SEED = 5_900_000
STARTS = 3  # of the methods that descend


def evaluations_a_plan(config: AgentConfig) -> int:
    """Candidates that the agent scores for one plan over subgoals."""
    return sum(search.num_samples * search.num_iterations for search in (config.coarse, config.fine))


def budget(method: str, search: SearchConfig) -> dict[str, int]:
    """Options of `make_planner` that spend at most the evaluations of `search`; half of `polish`'s go to its CEM."""
    samples, iterations = search.num_samples, search.num_iterations
    gradients = samples * iterations // (3 * STARTS)
    if method == "gradient":
        return {"num_samples": STARTS, "num_iterations": gradients}
    if method == "polish":
        half = {"num_samples": samples // 2, "num_iterations": iterations}
        return {**half, "polish_starts": STARTS, "polish_steps": gradients // 2}
    return {"num_samples": samples, "num_iterations": iterations}


def agent_with(method: str) -> Agent:
    """The shipped agent, planning with another method on every level."""
    agent = Agent(shipped_model())

    def swapped(planner: Planner, search: SearchConfig) -> Planner:
        return make_planner(
            method,
            horizon=planner.horizon,
            action_dim=planner.action_dim,
            low=planner.space.low,
            high=planner.space.high,
            init_std=search.init_std,
            **budget(method, search),
        )

    agent._coarse = swapped(agent._coarse, agent.config.coarse)
    agent._fine = swapped(agent._fine, agent.config.fine)
    agent._settle = swapped(agent._settle, agent.config.settle)
    return agent


def run_closed_loop(problem: str, method: str, seed: int) -> dict[str, Any]:
    """One episode of a task in `TASKS`, as a line of runs.jsonl.

    `solved_at_start`: what moves is within the task's radius of its goal before anything is done.
    """
    task = TASKS[problem]
    env = _environment(task)
    start = _Start(env)
    agent = agent_with(method)
    episode = run_episode(env, agent, seed=FIRST_SEED + seed, callbacks=[start])
    return {
        "gradients": method in ("gradient", "polish"),
        "evaluations": evaluations_a_plan(agent.config),
        "solved_at_start": start.error_m <= RADIUS_M[task],
        "success": episode.success,
        "steps": episode.steps,
        "seconds": statistics.fmean(episode.act_times_s),
    }


class _Start:
    """Notes how far from its goal an episode begins."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        self._env = env
        self.error_m = float("nan")

    def begin(self, observation: Mapping[str, Any], info: Mapping[str, Any]) -> None:
        self.error_m = position_error_m(self._env, observation, info)

    def step(self, step: Step) -> None:
        pass


@functools.cache
def _environment(task: str) -> gymnasium.Env[Any, Any]:
    """This process's environment of a task, closed at exit."""
    register_envs()
    env = gymnasium.make(f"latent_mpc/{task}-v0", disable_env_checker=True)
    env.reset(seed=0)  # loads OpenGL, whose own exit handler must come after ours
    atexit.register(env.close)
    return env
