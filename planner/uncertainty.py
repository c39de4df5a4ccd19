"""How far a rollout leaves what the model was trained on: optimisers find and exploit the model's errors there.

J(a) ← J(a) + λ Σ_t u(s_t, a_t),   u: disagreement of an ensemble, or distance to the latents seen
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latent_mpc.planner.guardrails import Rollout
from latent_mpc.types import InvalidInputError, Predictor


@dataclass(frozen=True)
class Disagreement:
    """Variance between the members of an ensemble, one step ahead along the rollout; there must be a state an action.

    Source: Pathak et al., Self-supervised exploration via disagreement (arXiv 1906.04161), eq. 1.
    """

    members: Sequence[Predictor]

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise InvalidInputError(f"an ensemble needs two members or more, got {len(self.members)}")

    def __call__(self, rollout: Rollout) -> Tensor:
        """Variance, mean over the latent's dimensions, (B, S, H)."""
        b, s, h, width = rollout.states.shape
        if rollout.actions.shape[2] != h:
            raise InvalidInputError(
                f"disagreement needs one state an action, got {h} and {rollout.actions.shape[2]}; over macro-actions "
                "take SupportDistance"
            )
        start = rollout.start[:, None, None].expand(b, s, 1, width)
        before = torch.cat([start, rollout.states[:, :, :-1]], 2).flatten(0, 2)
        actions = rollout.actions.flatten(0, 2)
        after = torch.stack([member.step(before, actions) for member in self.members])
        return after.var(0).mean(-1).view(b, s, h)


class SupportDistance:
    """Distance to the nearest latent seen, above what is usual between the latents seen themselves.

    u(s) = max(0, min_i ‖s - s_i‖ / d - 1),   d = the `quantile` of the distances to the nearest other latent
    """

    def __init__(self, seen: Tensor, quantile: float = 0.95) -> None:
        """seen: (N, D) latents of the training data, a few thousand of them; repeated ones count once."""
        if seen.ndim != 2 or seen.shape[0] < 2:
            raise InvalidInputError(f"seen must be (N, D) with N >= 2, got {tuple(seen.shape)}")
        if not 0 < quantile <= 1:
            raise InvalidInputError(f"quantile must lie in (0, 1], got {quantile}")
        self.seen = seen.unique(dim=0)  # a latent that is repeated has no distance to itself
        between = _distances(self.seen, self.seen).fill_diagonal_(torch.inf).amin(1)
        self.scale = float(between.quantile(quantile))
        if not 0 < self.scale < math.inf:
            raise InvalidInputError(f"seen must hold two different latents or more, all finite; got {seen}")

    def __call__(self, rollout: Rollout) -> Tensor:
        """-> u (B, S, H); 0 inside the support."""
        nearest = _distances(rollout.states.flatten(0, 2), self.seen).amin(1)
        return (nearest / self.scale - 1).clamp_min(0).view(rollout.states.shape[:3])


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """(N, D), (M, D) -> (N, M), by differences: through a matrix product nothing is left of small ones far from 0."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
