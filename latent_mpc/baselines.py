"""What an agent must beat: doing nothing, acting at random; and a script that knows everything, as the ceiling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latent_mpc.envs.play import ScriptedExpert
from latent_mpc.envs.tabletop import TabletopEnv


class NoOpAgent:
    """Always the zero action."""

    def __init__(self, action_dim: int) -> None:
        self._action_dim = action_dim

    def reset(self, goal_image: NDArray[np.uint8], *, seed: int | None = None) -> None:
        """Nothing to set."""

    def act(self, observation: Mapping[str, Any]) -> NDArray[np.float32]:
        """Zeros (A,)."""
        return np.zeros(self._action_dim, np.float32)


class RandomAgent:
    """Actions drawn evenly from the box."""

    def __init__(self, action_dim: int) -> None:
        self._action_dim = action_dim
        self._rng = np.random.default_rng()

    def reset(self, goal_image: NDArray[np.uint8], *, seed: int | None = None) -> None:
        """Start the draws anew; same seed, same actions."""
        self._rng = np.random.default_rng(seed)

    def act(self, observation: Mapping[str, Any]) -> NDArray[np.float32]:
        """Uniform in [-1, 1], (A,)."""
        return self._rng.uniform(-1, 1, self._action_dim).astype(np.float32)


class ExpertAgent:
    """The scripted expert: reads positions out of the simulator, so it is no competitor but the task's ceiling."""

    def __init__(self, env: TabletopEnv) -> None:
        self._expert = ScriptedExpert(env)

    def reset(self, goal_image: NDArray[np.uint8], *, seed: int | None = None) -> None:
        """Forget the last attempt."""
        self._expert.reset()

    def act(self, observation: Mapping[str, Any]) -> NDArray[np.float32]:
        """The next action of the script, (A,)."""
        return self._expert.act()
