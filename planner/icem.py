"""Improved CEM: coloured noise, a shrinking population, elites kept from one iteration to the next.

    noise ε has the power spectrum |ε̂(f)|² ∝ f^-β:  β = 0 white, 1 pink, 2 Brownian
    N_i ∝ γ^-i samples in iteration i, Σ N_i = num_samples · num_iterations

Elites pass on from step to step of a receding horizon as `proposals`, shifted: `shift(plan.elites, executed)`.
Source: Pinneri et al., Sample-efficient cross-entropy method (arXiv 2008.06389), algorithm 1; noise after Timmer &
König, On generating power law noise (1995). There γ shrinks the total too; here the budget stays what was asked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from latent_mpc.planner.checks import check_budget, check_elites, check_not_negative, check_unit
from latent_mpc.planner.search import Search, drawn, fit_gaussian
from latent_mpc.types import InvalidInputError


@lru_cache(maxsize=32)
def coloured(length: int, exponent: float) -> Tensor:
    """The linear map from white to coloured noise over time, (length, length) float32; rows have norm one.

    The covariance of stationary noise with spectrum f^-β on `length` steps; the zero frequency gets the power of
    the lowest one. The period is twice the length, so that the ends of a plan are not tied together.
    """
    period = 2 * length
    frequency = torch.arange(length + 1, dtype=torch.float64)
    power = frequency.clamp_min(1.0) ** -exponent
    lag = torch.arange(length, dtype=torch.float64)
    weight = torch.full_like(power, 2.0)
    weight[0] = weight[-1] = 1.0
    covariance = (torch.cos(2 * math.pi * lag[:, None] * frequency / period) * (weight * power)).sum(1)
    covariance = covariance / covariance[0]
    toeplitz = covariance[(lag[:, None] - lag).abs().long()]
    return torch.linalg.cholesky(toeplitz + 1e-9 * torch.eye(length)).float()


@dataclass(frozen=True)
class ICEM:
    """Configuration and method in one; stds are in half boxes.

    Attributes:
        num_samples: mean number of candidates an iteration; num_iterations: iterations.
        num_elites: E; None for `elite_fraction` of `num_samples`, at least two.
        colour: β of the noise over the knots.
        decay: γ, at least 1.
        keep_fraction: share of the elites that joins the next iteration's samples.
        momentum: share of the old mean and std that is kept.
        min_std: floor of σ.
    """

    num_samples: int = 300
    num_iterations: int = 10
    num_elites: int | None = None
    elite_fraction: float = 0.1
    colour: float = 1.0
    decay: float = 1.25
    keep_fraction: float = 0.3
    momentum: float = 0.1
    min_std: float = 0.0

    def __post_init__(self) -> None:
        check_budget(self.num_samples, self.num_iterations)
        check_unit(momentum=self.momentum, elite_fraction=self.elite_fraction, keep_fraction=self.keep_fraction)
        check_not_negative(colour=self.colour, min_std=self.min_std)
        if not 1 <= self.decay < math.inf:
            raise InvalidInputError(f"decay must be at least 1, got {self.decay}")
        check_elites(self.elites, min(self.populations) - 1)

    @property
    def elites(self) -> int:
        """E, the number of elites."""
        return max(2, round(self.elite_fraction * self.num_samples)) if self.num_elites is None else self.num_elites

    @property
    def populations(self) -> list[int]:
        """Candidates in each iteration, twice the elites or more; they sum to num_samples · num_iterations."""
        floor, count = min(self.num_samples, 2 * self.elites), self.num_iterations
        weight = [self.decay**-i for i in range(count)]
        spare = (self.num_samples - floor) * count
        ends = [round(spare * sum(weight[: i + 1]) / sum(weight)) for i in range(count)]
        return [floor + end - start for start, end in zip([0, *ends], ends, strict=False)]

    def run(self, search: Search) -> None:
        """Search until the iterations or the time are used up."""
        mean, std = search.mean, search.std
        knots_count, width = mean.shape[1:]
        colour = coloured(knots_count, self.colour).to(mean.device)
        keep = round(self.keep_fraction * self.elites)
        kept: Tensor | None = None
        last = self.num_iterations - 1
        for i in search.steps(self.num_iterations):
            count = self.populations[i] - (i == last)
            pairs = drawn(count - 1)
            white = search.noise(knots_count, pairs * width)
            noise = torch.stack([colour @ w for w in white]).view(-1, knots_count, pairs, width)
            knots = search.mirrored(mean, noise.transpose(1, 2) * std.unsqueeze(1), count)
            if kept is not None:
                knots[:, count - keep :] = kept
            score = search.score(knots)
            index = search.elites(score, self.elites)
            elites = search.take(knots, index)
            kept = elites[:, :keep] if keep else None
            fit, fit_std = fit_gaussian(elites)
            mean = fit.lerp_(mean, self.momentum)
            std = fit_std.lerp_(std, self.momentum).clamp_min_(self.min_std)
            search.report(mean, std, index)
        search.score_mean(mean)
