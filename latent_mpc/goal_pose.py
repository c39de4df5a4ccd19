"""The pose that a goal image asks for, told the better the nearer the arm gets to it.

    p_g ≈ Σ_t w_t (p_t + h(z_g) − h(z_t)) / Σ_t w_t,      w_t = γ^(T − t) / (σ² + (ρ ‖h(z_g) − h(z_t)‖)²)

What a head h says of an image is off; of two images that look alike it is off by as much. So the difference of what it
says, added to the pose p_t that the arm feels, is right where the arm is at its goal, and wrong by a share of the way
that is left before. Each step tells it once; what was told is averaged by its variance, and slowly forgotten.
"""

from __future__ import annotations

import torch
from torch import Tensor

ERROR = 0.1  # σ, in standard deviations of play
SHARE = 0.2  # ρ
KEEP = 0.8  # γ


class GoalPose:
    """A weighted mean of what was told."""

    def __init__(self) -> None:
        self._sum: Tensor | float = 0.0
        self._weight: Tensor | float = 0.0

    def told(self, pose: Tensor, away: Tensor) -> Tensor:
        """Add what a step tells, and return what all of them say.

        Args:
            pose: of the arm, standardised, (B, P). away: how far from the goal's it looks, (B, P).
        Returns:
            The goal's pose, (B, P).
        """
        weight = 1 / (ERROR**2 + SHARE**2 * away.square().sum(-1, keepdim=True))
        self._sum = KEEP * self._sum + weight * (pose + away)
        self._weight = KEEP * self._weight + weight
        return torch.as_tensor(self._sum / self._weight)
