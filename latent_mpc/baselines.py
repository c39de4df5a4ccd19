"""What an agent must beat: doing nothing, acting at random or as play did; and a script that knows all, the ceiling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latent_mpc.agent import Agent
from latent_mpc.envs.play import ScriptedExpert
from latent_mpc.envs.tabletop import TabletopEnv
from latent_mpc.envs.trial import expert_ahead
from latent_mpc.types import InvalidInputError, Observation, check_image
from latent_mpc.world_model.inverse_dynamics import InverseDynamics
from latent_mpc.world_model.model import WorldModel


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


class InverseDynamicsAgent:
    """Does what play did in such a state on its way to such a goal (inverse_dynamics.py); plans nothing."""

    def __init__(self, model: WorldModel, network: InverseDynamics, device: str = "cpu") -> None:
        self._model, self._network, self._device = model.to(device), network.to(device), device
        self._goal: Tensor | None = None

    @torch.no_grad()
    def reset(self, goal_image: NDArray[np.uint8], *, seed: int | None = None) -> None:
        """Set the goal; nothing is drawn."""
        image = check_image(goal_image, "goal_image")
        self._goal = self._model.observe_goal(torch.from_numpy(image.copy())[None].to(self._device))  # (1, D)

    @torch.no_grad()
    def act(self, observation: Mapping[str, Any]) -> NDArray[np.float32]:
        """The next action (A,), of the observation's `image` and `proprio` alone."""
        if self._goal is None:
            raise InvalidInputError("call reset(goal_image) before act(observation)")
        seen = Observation.from_mapping(observation)
        image, proprio = (torch.from_numpy(part.copy())[None].to(self._device) for part in (seen.image, seen.proprio))
        action = self._network(self._model.observe(image, proprio), self._goal)[0]
        return action.cpu().numpy().astype(np.float32)


class OracleSubgoalsAgent:
    """The agent with the simulator in place of its coarse level. Reads the simulator, so it is no competitor.

    Its subgoal is always where the scripted expert would be a chunk of actions from now, tried out in the simulator
    and seen by the agent's own encoder. Actions are planned to it as to a subgoal of its own, around the macro-action
    that comes nearest to it by the agent's own model.
    """

    def __init__(self, agent: Agent, env: TabletopEnv) -> None:
        self._agent, self._env = agent, env

    def reset(self, goal_image: NDArray[np.uint8], *, seed: int | None = None) -> None:
        """As `Agent.reset`."""
        self._agent.reset(goal_image, seed=seed)

    def act(self, observation: Mapping[str, Any]) -> NDArray[np.float32]:
        """The first action (A,) of a plan to where the expert would be."""
        ahead = expert_ahead(self._env, self._agent.model.config.chunk_length)
        self._agent.set_waypoint(self._agent.observe(ahead), direct=True)
        return self._agent.act(observation)


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
