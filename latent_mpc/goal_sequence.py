"""A pick and place from three goal images, one after the other: grasped, held above the goal, placed.

The agent turns to the next image when it sees what the last one shows, or after `patience` steps. It sees nothing but
the images; they come from the simulator, which is what makes this an easier task than one with a single final image.
Source: V-JEPA 2-AC (arXiv 2506.09985), section 4, where the images change after 4, 10 and 4 steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latent_mpc.agent import Agent
from latent_mpc.types import InvalidInputError

PATIENCE = 12  # the scripted expert needs about 8 steps from one image to the next


class GoalSequence:
    """Shows an agent the images of an episode in turn. The last one is the goal image itself.

    Attributes:
        agent: which plans and acts.
        steps: that were taken towards each image so far.
    """

    def __init__(self, agent: Agent, images: Callable[[], NDArray[np.uint8]], patience: int = PATIENCE) -> None:
        """
        Args:
            images: of the episode that has just been reset, uint8 (G, H, W, 3), the goal image last.
            patience: steps after which the next image's turn has come.
        """
        if patience < 1:
            raise InvalidInputError(f"patience must be at least 1, got {patience}")
        self.agent, self._images, self._patience = agent, images, patience

    def reset(self, goal_image: NDArray[np.uint8], *, seed: int | None = None) -> None:
        """Begin with the first image; `seed` as in `Agent.reset`."""
        self.agent.reset(goal_image, seed=seed)
        self._waypoints = list(self._images()[:-1])
        self.steps: list[int] = []
        self._next()

    def act(self, observation: Mapping[str, Any]) -> NDArray[np.float32]:
        """The agent's next action (A,), towards the image whose turn it is."""
        if self._on_the_way and (self.steps[-1] >= self._patience or self.agent.at_waypoint(observation)):
            self._next()
        self.steps[-1] += 1
        return self.agent.act(observation)

    def _next(self) -> None:
        self._on_the_way = bool(self._waypoints)
        self.steps.append(0)
        if self._on_the_way:
            self.agent.show_waypoint(self._waypoints.pop(0))
        else:
            self.agent.set_waypoint(None)
