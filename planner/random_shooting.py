"""Two baselines without a fitted distribution.

Random shooting:      x ~ U(box), independent of what was found.
Predictive sampling:  x ~ N(x_best, σ²), x_best ← the best x so far; the mean jumps to the incumbent.
Source: Howell et al., Predictive Sampling (arXiv 2212.00541), algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from latent_mpc.planner.checks import check_budget
from latent_mpc.planner.search import Search
from latent_mpc.types import InvalidInputError


@dataclass(frozen=True)
class RandomShooting:
    """Uniform candidates, `num_samples` in each of `num_iterations` rounds; the floor of every comparison."""

    num_samples: int = 300
    num_iterations: int = 10

    def __post_init__(self) -> None:
        check_budget(self.num_samples, self.num_iterations)

    def run(self, search: Search) -> None:
        """Search until the iterations or the time are used up."""
        shape = (self.num_samples, *search.mean.shape[1:])
        for _ in search.steps(self.num_iterations):
            knots = torch.erf(search.noise(*shape) * 0.5**0.5)  # normal -> uniform on (-1, 1)
            index = search.elites(search.score(knots), 1)
            search.report(search.mean, search.std, index)


@dataclass(frozen=True)
class PredictiveSampling:
    """Gaussian noise around the best candidate so far.

    Attributes:
        decay: factor on the standard deviation after each iteration; the original method has 1.
    """

    num_samples: int = 300
    num_iterations: int = 10
    decay: float = 1.0

    def __post_init__(self) -> None:
        check_budget(self.num_samples, self.num_iterations)
        if not 0 < self.decay <= 1:
            raise InvalidInputError(f"decay must lie in (0, 1], got {self.decay}")

    def run(self, search: Search) -> None:
        """Search until the iterations or the time are used up."""
        best, std = search.mean, search.std
        for _ in search.steps(self.num_iterations):
            knots = search.sample(best, std, self.num_samples)  # the incumbent among them
            index = search.elites(search.score(knots), 1)
            best = search.take(knots, index)[:, 0]
            search.report(best, std, index)
            std = std * self.decay
