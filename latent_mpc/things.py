"""The things that a goal image shows: their goals, where each of them is now or was seen last, and whose turn it is.

A model that attends looks for them by their hues; to another one all that the image shows is one thing, which is in
sight while its largest hue is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from latent_mpc.agent_config import AgentConfig
from latent_mpc.permanence import Memory
from latent_mpc.stacking import SAME_PLACE_M, find_supports
from latent_mpc.types import InvalidInputError
from latent_mpc.world_model.focus import area_in_focus, find_hues
from latent_mpc.world_model.model import WorldModel

TAKEN = 2.0  # a place is taken by what is nearer to it than this, in units of what counts as arranged
ALL = slice(None)


class Things:
    """Q things; `which` of them are looked at, J, is a slice.

    Attributes:
        hues: (Q,), rad; None where the model sees all at once.
        goals: their states in the goal image, (Q, D).
        supports: the number of what each stands on there, Q of them; None for the table.
    """

    def __init__(self, model: WorldModel, config: AgentConfig, goal_image: Tensor) -> None:
        """
        Args:
            goal_image: uint8 (1, H, W, 3), on the model's device.
        Raises:
            InvalidInputError: there is nothing in it that the model could attend to.
        """
        self._model, self._config = model, config
        hues = find_hues(goal_image).to(goal_image.device)
        self.hues = hues if model.attends else None
        if model.attends and not len(hues):
            raise InvalidInputError("the goal image shows nothing coloured, which is all that this model attends to")
        self.goals = model.observe_goal(self._for_each(goal_image, ALL), self.hues)
        self._seen_by = hues[: len(self.goals)]
        stacks = model.attends and model.config.grasps
        self.supports = find_supports(model, self.goals, goal_image, hues) if stacks else [None] * len(self.goals)
        remembers = len(hues) > 0 and (model.attends or model.config.grasps)  # what a hand may hide
        self._memory = Memory(self.goals, self._areas(goal_image, ALL)) if remembers else None

    def __len__(self) -> int:
        return len(self.goals)

    def look(self, image: Tensor, proprio: Tensor, which: slice = ALL) -> Tensor:
        """States (J, D) as the eye says, of an image (1, H, W, 3) and proprioception (1, P)."""
        hues = None if self.hues is None else self.hues[which]
        return self._model.observe(self._for_each(image, which), self._for_each(proprio, which), hues)

    def see(self, image: Tensor, states: Tensor, which: slice = ALL) -> Tensor:
        """Remember the states (J, D) of what is in sight; which of them are hidden and were seen before, (J,)."""
        if self._memory is None:
            return torch.zeros(len(states), dtype=torch.bool, device=states.device)
        return self._memory.see(which, states, self._areas(image, which))

    def last_seen(self, thing: int) -> Tensor:
        """The state (D,) in which a thing was in sight last, once `see` was called."""
        assert self._memory is not None
        return self._memory.states[thing]

    def forget(self, thing: int) -> None:
        """A thing is not where it was seen last."""
        if self._memory is not None:
            self._memory.forget(thing)

    def tolerance(self, states: Tensor) -> Tensor:
        """How far states (N, D) that count as the same may be apart, as a scene distance (N,)."""
        spread = self._model.scene_distance.spread(states)
        noise = float(self._model.scene_noise.clamp_min(1e-6))
        return self._config.noise_margin * (self._config.spread_margin * spread).clamp_min(noise)

    def off(self, states: Tensor) -> Tensor:
        """How far each is from its goal, (Q,), given their states (Q, D): up to 1 it is arranged."""
        tolerance = torch.maximum(self.tolerance(states), self.tolerance(self.goals))
        off = self._model.scene_distance(states, self.goals) / tolerance
        # In the goal image one thing of a stack covers part of the other: there it is the place that counts.
        stacked = [lower is not None or i in self.supports for i, lower in enumerate(self.supports)]
        gap = (self._model.place(states) - self._model.place(self.goals))[:, :2].norm(dim=-1)
        there = torch.tensor(stacked, device=off.device) & (gap <= SAME_PLACE_M)
        return torch.where(there, off.clamp_max(1.0), off)

    def furthest(self, states: Tensor, but: int | None = None) -> int | None:
        """The one that is furthest off, and whose place is not taken by another; None where all are arranged.

        Args:
            states: (Q, D). but: one that has had its turn.
        """
        off = self.off(states)
        if but is not None:
            off[but] = 1.0
        distance = self._model.scene_distance(self.goals[:, None], states)  # (Q, Q): of i's place from j
        taken = distance <= TAKEN * self.tolerance(self.goals)[:, None]
        for upper, lower in enumerate(self.supports):
            if lower is not None:
                taken[upper, lower] = bool(off[lower] > 1)  # it comes first
        blocked = (taken & ~torch.eye(len(self), dtype=torch.bool, device=taken.device)).any(1)
        for waits in (off > 1) & ~blocked, off > 1:
            if waits.any():
                return int(off.where(waits, torch.zeros_like(off)).argmax())
        return None

    def _for_each(self, row: Tensor, which: slice) -> Tensor:
        """A row (1, …), once for each thing: (J, …)."""
        count = len(self.hues[which]) if self.hues is not None else 1
        return row.expand(count, *row.shape[1:])

    def _areas(self, image: Tensor, which: slice) -> Tensor:
        """How much an image (1, H, W, 3) shows of each thing, (J,), pixels."""
        return area_in_focus(self._for_each(image, which), self._seen_by[which])
