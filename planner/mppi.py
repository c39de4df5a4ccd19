"""Model-predictive path integral control: a mean weighted by exponentiated costs.

    w_s = exp(-(J_s - J_min) / T) / Σ,   μ ← Σ_s w_s x_s,   σ² ← Σ_s w_s (x_s - μ)²,   T = τ ∛I (J_(E) - J_min)

The temperature T is a share τ of the spread between the best cost and the E-th best of the batch, so that neither
a scaled nor a shifted cost changes the plan, and T falls as the search converges. E is a number, not a share: so the
weights rest on about as many candidates in a batch of 100 as in one of 1,000. The more iterations I there are, the
more slowly the search may contract.
Source: Williams et al., Information-theoretic MPC (2017), eq. 24 and 26; the spread is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from latent_mpc.planner.checks import check_budget, check_not_negative, check_positive, check_unit
from latent_mpc.planner.search import Search
from latent_mpc.types import InvalidInputError


@dataclass(frozen=True)
class MPPI:
    """Configuration and method in one; stds are in half boxes.

    Attributes:
        temperature: τ, unitless.
        num_elites: E; at most half of the samples count.
        adapt_std: fit σ to the weighted samples; the original method keeps it.
        momentum: the share of the old mean and std that is kept.
        min_std: floor of σ.
    """

    num_samples: int = 300
    num_iterations: int = 10
    temperature: float = 0.07
    num_elites: int = 60
    adapt_std: bool = True
    momentum: float = 0.1
    min_std: float = 0.0

    def __post_init__(self) -> None:
        check_budget(self.num_samples, self.num_iterations, 3)
        check_positive(temperature=self.temperature)
        check_unit(momentum=self.momentum)
        check_not_negative(min_std=self.min_std)
        if not self.num_elites >= 2:
            raise InvalidInputError(f"num_elites must be at least 2, got {self.num_elites}")

    def run(self, search: Search) -> None:
        """Search until the iterations or the time are used up."""
        mean, std = search.mean, search.std
        count = max(2, min(self.num_elites, self.num_samples // 2))
        temperature = self.temperature * self.num_iterations ** (1 / 3)
        for i in search.steps(self.num_iterations):
            last = i == self.num_iterations - 1
            knots = search.sample(mean, std, self.num_samples - last)
            score = search.score(knots)
            index = search.elites(score, count)
            feasible = search.feasible
            if feasible is not None:  # infeasible candidates weigh nothing where there is a feasible one
                costs = torch.where(feasible, search.last.cost, torch.inf)
                score = torch.where(feasible.any(1, keepdim=True), costs, score)
            best = score.gather(1, index)
            low, high = best[:, :1], best[:, -1:]
            if feasible is not None:
                high = torch.where(best.isfinite(), best, low).amax(1, keepdim=True)
            scale = (temperature * (high - low)).clamp_min(torch.finfo(score.dtype).tiny)
            weight = torch.exp((low - score) / scale)
            weight = (weight / weight.sum(1, keepdim=True)).to(knots.dtype)[..., None, None]
            fit = (weight * knots).sum(1)
            if self.adapt_std:
                spread = (weight * (knots - fit[:, None]).square_()).sum(1).sqrt_()
                std = spread.lerp_(std, self.momentum).clamp_min_(self.min_std)
            mean = fit.lerp_(mean, self.momentum)
            search.report(mean, std, index)
        search.score_mean(mean)
