"""One episode: observe, act, tell the callbacks.

observation ─► agent.act ─► action ─► env.step ─► callbacks
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

from latent_mpc.types import AgentLike


@dataclass(frozen=True)
class Step:
    """One control step.

    Attributes:
        index: 0 for the first.
        observation: what the agent acted on.
        action: what it did, (A,).
        act_s: how long it thought, seconds.
        next_observation: what came of it.
        info: the environment's, after the action; for scoring only.
    """

    index: int
    observation: Mapping[str, Any]
    action: NDArray[np.float32]
    act_s: float
    next_observation: Mapping[str, Any]
    info: Mapping[str, Any]


class Callback(Protocol):
    """Watches an episode."""

    def begin(self, observation: Mapping[str, Any], info: Mapping[str, Any]) -> None:
        """After the resets of environment and agent."""
        ...

    def step(self, step: Step) -> None:
        """After each step."""
        ...


@dataclass(frozen=True)
class EpisodeResult:
    """How an episode went.

    Attributes:
        seed: of environment and agent.
        success: as the task judges.
        steps: actions taken.
        position_error_m: at the end, the largest of an object that moves from its goal (Reach: of the tool).
        share_placed: of the objects that are to move, how many were placed at the end, 0 to 1.
        grasped: whether an object that is to move was held at any step.
        act_times_s: time of each call of `act`.
    """

    seed: int
    success: bool
    steps: int
    position_error_m: float
    share_placed: float
    grasped: bool
    act_times_s: tuple[float, ...]


def run_episode(
    env: gymnasium.Env[Any, Any],
    agent: AgentLike,
    *,
    seed: int,
    options: dict[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
) -> EpisodeResult:
    """Run one episode until the environment terminates or truncates it.

    Args:
        env: with goal images and a time limit, as `gymnasium.make` gives it.
        agent: sees only observations; its goal is the first observation's `goal_image`.
        seed: of the environment's reset and of the agent.
        options: of the environment's reset.
        callbacks: told of the start and of each step.
    """
    observation, info = env.reset(seed=seed, options=options)
    agent.reset(observation["goal_image"], seed=seed)
    for callback in callbacks:
        callback.begin(observation, info)
    act_times_s: list[float] = []
    grasped = bool(info["is_grasped"])
    done = False
    while not done:
        started = time.perf_counter()
        action = agent.act(observation)
        act_times_s.append(time.perf_counter() - started)
        before = observation
        observation, _, terminated, truncated, info = env.step(action)
        grasped |= bool(info["is_grasped"])
        done = terminated or truncated
        step = Step(len(act_times_s) - 1, before, action, act_times_s[-1], observation, info)
        for callback in callbacks:
            callback.step(step)
    return EpisodeResult(
        seed=seed,
        success=bool(info["is_success"]),
        steps=len(act_times_s),
        position_error_m=position_error_m(env, observation, info),
        share_placed=float(info["share_placed"]),
        grasped=grasped,
        act_times_s=tuple(act_times_s),
    )


def position_error_m(env: gymnasium.Env[Any, Any], observation: Mapping[str, Any], info: Mapping[str, Any]) -> float:
    """Largest distance of an object that moves from its goal, metres; where none does (Reach), of the tool.

    An environment that is not ours says it itself, in `info`.
    """
    if "position_error_m" in info:
        return float(info["position_error_m"])
    tabletop: Any = env.unwrapped
    layout = tabletop.layout
    if tabletop.task.moves_object:
        movers = list(layout.movers)
        gap = info["object_positions"][movers] - info["goal_positions"][movers]
    else:
        gap = observation["proprio"][:3] - layout.goal_arm_pose[:3]
    return float(np.linalg.norm(gap, axis=-1).max())
