"""Model-predictive path integral control: a mean weighted by exponentiated costs.

    w_s = exp(-(J_s - J_min) / T) / Σ,   μ ← Σ_s w_s x_s,   σ² ← Σ_s w_s (x_s - μ)²,   T = τ (J_(q) - J_min)

The temperature T is a share τ of the spread between the best cost and the quantile q of the batch, so that neither
a scaled nor a shifted cost changes the plan, and T falls as the search converges.
Source: Williams et al., Information-theoretic MPC (2017), eq. 24 and 26; the quantile is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from latent_mpc.planner.checks import check_budget, check_positive, check_unit
from latent_mpc.planner.search import Search


@dataclass(frozen=True)
class MPPI:
    """Configuration and method in one; stds are in half boxes.

    Attributes:
        temperature: τ, unitless.
        quantile: q, the share of the samples below J_(q).
        adapt_std: fit σ to the weighted samples; the original method keeps it.
        momentum: the share of the old mean and std that is kept.
        min_std: floor of σ.
    """

    num_samples: int = 300
    num_iterations: int = 10
    temperature: float = 0.3
    quantile: float = 0.1
    adapt_std: bool = True
    momentum: float = 0.1
    min_std: float = 0.0

    def __post_init__(self) -> None:
        check_budget(self.num_samples, self.num_iterations)
        check_positive(temperature=self.temperature, quantile=self.quantile)
        check_unit(momentum=self.momentum, quantile=self.quantile)

    def run(self, search: Search) -> None:
        """Search until the iterations or the time are used up."""
        mean, std = search.mean, search.std
        count = max(2, round(self.quantile * self.num_samples))
        for i in search.steps(self.num_iterations):
            last = i == self.num_iterations - 1
            knots = search.sample(mean, std, self.num_samples - last)
            score = search.score(knots)
            index = search.elites(score, count)
            sorted_ = score.gather(1, index)
            low, high = sorted_[:, :1], sorted_[:, -1:]
            scale = (self.temperature * (high - low)).clamp_min(torch.finfo(score.dtype).tiny)
            weight = torch.exp((low - score) / scale)
            feasible = search.feasible
            if feasible is not None:  # infeasible candidates weigh nothing where there is a feasible one
                weight = torch.where(feasible | ~feasible.any(1, keepdim=True), weight, 0.0)
            weight = (weight / weight.sum(1, keepdim=True)).to(knots.dtype)[..., None, None]
            fit = (weight * knots).sum(1)
            if self.adapt_std:
                spread = (weight * (knots - fit[:, None]).square_()).sum(1).sqrt_()
                std = spread.lerp_(std, self.momentum).clamp_min_(self.min_std)
            mean = fit.lerp_(mean, self.momentum)
            search.report(mean, std, index)
        if not search.cut_off:
            search.score(mean[:, None].clone())
