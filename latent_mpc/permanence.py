"""Object permanence: what the hand hides is where it was seen last.

Of each thing the last state is kept in which it was in sight; when the agent chooses what to attend to, what is hidden
counts as it was then. On the way to it the model's own prediction stands in for the eye for a few steps, and then the
hand goes back to where it could see.
"""

from __future__ import annotations

import torch
from torch import Tensor

HIDDEN = 0.12  # of the largest area that a thing has shown: with less it is not seen
DREAM_STEPS = 3  # predicted states that may stand in for what is seen, one after the other


class Memory:
    """The last states in sight of Q things, and how large they look.

    Attributes:
        states: (Q, D); of a thing that was never in sight a guess, NaN before the first.
    """

    def __init__(self, goals: Tensor, areas: Tensor) -> None:
        """
        Args:
            goals: states of the things in the goal image, (Q, D), for their sizes alone. areas: there, (Q,), px.
        """
        self.states = torch.full_like(goals, torch.nan)
        self._known = torch.zeros_like(areas, dtype=torch.bool)
        self._largest = areas.clone()

    def see(self, things: slice, states: Tensor, areas: Tensor) -> Tensor:
        """Remember what is in sight.

        Args:
            things: which are looked at. states: as the eye says, (J, D). areas: that they show, (J,), px.
        Returns:
            Which of them are hidden now and were in sight before, (J,).
        """
        self._largest[things] = torch.maximum(self._largest[things], areas)
        seen = areas >= HIDDEN * self._largest[things]
        hidden = ~seen & self._known[things]
        self.states[things] = torch.where(hidden[:, None], self.states[things], states)
        self._known[things] |= seen
        return hidden

    def forget(self, thing: int) -> None:
        """It is not where it was: until it is in sight again, what the eye says is as good as anything."""
        self._known[thing] = False
