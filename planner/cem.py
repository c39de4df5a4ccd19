"""Cross-entropy method: fit a diagonal Gaussian to the elites, and sample again.

    min_a J(a),  a ∈ box;   x ~ N(μ, diag σ²),  (μ, σ) ← β (μ, σ) + (1 - β) (mean, std of the E best x)

Source: Rubinstein & Kroese, The Cross-Entropy Method (2004); smoothing β after de Boer et al. (2005), eq. 5.
"""

from __future__ import annotations

from dataclasses import dataclass

from latent_mpc.planner.checks import check_budget, check_elites, check_not_negative, check_unit
from latent_mpc.planner.search import Search, fit_gaussian


@dataclass(frozen=True)
class CEM:
    """Configuration and method in one; stds are in half boxes (1 is the distance from the centre to a bound).

    Attributes:
        num_samples, num_iterations: candidates an iteration, iterations.
        num_elites: E; None for `elite_fraction` of the samples, at least two.
        momentum: β, the share of the old mean and std that is kept.
        min_std: floor of σ; a plan for a noisy model or a sign-valued dimension needs one above 0.
        mean_candidate: score the mean itself, in every iteration and at the end.
    """

    num_samples: int = 300
    num_iterations: int = 10
    num_elites: int | None = None
    elite_fraction: float = 0.1
    momentum: float = 0.1
    min_std: float = 0.0
    mean_candidate: bool = True

    def __post_init__(self) -> None:
        check_budget(self.num_samples, self.num_iterations)
        check_unit(momentum=self.momentum, elite_fraction=self.elite_fraction)
        check_elites(self.elites, self.num_samples)
        check_not_negative(min_std=self.min_std)

    @property
    def elites(self) -> int:
        """E, the number of elites."""
        return max(2, round(self.elite_fraction * self.num_samples)) if self.num_elites is None else self.num_elites

    def run(self, search: Search) -> None:
        """Search until the iterations or the time are used up."""
        mean, std = search.mean, search.std
        last = self.num_iterations - 1
        for i in search.steps(self.num_iterations):
            # The final mean is scored apart; its evaluation comes out of the last iteration's.
            count = self.num_samples - (self.mean_candidate and i == last)
            knots = search.sample(mean, std, count, include_mean=self.mean_candidate)
            score = search.score(knots)
            index = search.elites(score, self.elites)
            elites = search.take(knots, index)  # (B, E, K, A)
            fit, fit_std = fit_gaussian(elites)
            mean = fit.lerp_(mean, self.momentum)
            std = fit_std.lerp_(std, self.momentum).clamp_min_(self.min_std)
            search.report(mean, std, index)
        if self.mean_candidate:
            search.score_mean(mean)
