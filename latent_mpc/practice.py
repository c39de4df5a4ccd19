"""Practice: the agent pursues goal images in earnest, then plays, so that the model meets what its own plans lead to.

A planner finds the actions that its model is wrong about; play by chance hardly ever does. No reward and no success is
read: when to stop is for the agent's own energy to say.
Source: data aggregation for model-based control, Ross & Bagnell (arXiv 1203.1007).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from latent_mpc.agent import Agent

THERE = 0.05  # energy to the goal at which the agent takes itself to be done


class Play(Protocol):
    """Task-agnostic play in one environment."""

    def reset(self) -> None:
        """To be called after each reset of the environment."""
        ...

    def act(self) -> NDArray[np.float32]:
        """The next action (A,), in [-1, 1]."""
        ...


class PracticePolicy:
    """Pursues one goal image until the agent takes itself to be done; from there on it plays. Begin with `reset`.

    Args:
        agent: of the weights that shall improve.
        play: goes on after the agent.
        rng: of the exploration noise.
        action_noise: upper end of the standard deviation of the noise on the agent's actions; each episode draws one.
    """

    def __init__(self, agent: Agent, play: Play, rng: np.random.Generator, action_noise: float) -> None:
        self._agent, self._play, self._rng, self._action_noise = agent, play, rng, action_noise

    def reset(self, goal_image: NDArray[np.uint8]) -> None:
        self._play.reset()
        self._agent.reset(goal_image, seed=int(self._rng.integers(2**31)))
        self._noise = float(self._rng.choice([0.0, self._rng.uniform(0.0, self._action_noise)]))
        self._done = False

    def act(self, observation: Mapping[str, Any]) -> NDArray[np.float32]:
        if not self._done:
            action = self._agent.act(observation)
            assert self._agent.trace is not None
            self._done = self._agent.trace.goal_energy < THERE
        if self._done:
            return self._play.act()
        noise = self._noise * self._rng.standard_normal(action.shape)
        return np.clip(action + noise, -1, 1).astype(np.float32)
