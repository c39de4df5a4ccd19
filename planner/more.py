"""Model-based relative-entropy search: a quadratic fitted to the costs seen, minimised inside a trust region.

    q(y) = c + gᵀy + ½ yᵀHy ≈ J,   x = m + L y     (ridge regression on the last candidates, whitened by N(m, LLᵀ))
    N' = argmin_N' E_N'[q]  s.t.  KL(N' ‖ N) <= ε·K·A
    ⇒  Λ = I + H₊/η,   y* = -Λ⁻¹ g/η,   m ← m + L y*,   LLᵀ ← L Λ⁻¹ Lᵀ

Where CEM learns from the ranks of the elites of one iteration, this learns from every cost of several: on a smooth
cost it needs a fraction of the evaluations. The fit of iteration i is the prior of iteration i + 1, so fewer
candidates than the (K·A)²/2 coefficients of H are enough. H₊ drops negative curvature: the search only contracts.
Source: Abdolmaleki et al., Model-based relative entropy stochastic search (NeurIPS 2015), eq. 3-6, without its
entropy bound; the ridge regression in kernel form and its prior are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from torch import Tensor

from latent_mpc.planner.checks import check_budget, check_not_negative, check_positive
from latent_mpc.planner.search import Search
from latent_mpc.types import Scores

Array = NDArray[np.float64]
T = TypeVar("T")
ENOUGH = 60  # candidates to fit a quadratic to, with the last one as a prior
FAR = 30.0  # squared whitened distance a dimension, beyond which a candidate is left out of the fit


@dataclass(frozen=True)
class MORE:
    """Configuration and method in one.

    Attributes:
        trust: ε, the bound on the KL divergence between successive Gaussians, in nats a dimension.
        memory: how many of the last candidates the quadratic is fitted to.
        ridge: noise of the regression, relative to the spread of the costs.
        min_std: floor of the standard deviation in every direction, in half boxes.
    """

    num_samples: int = 300
    num_iterations: int = 10
    trust: float = 0.3
    memory: int = 600
    ridge: float = 1e-2
    min_std: float = 0.0

    def __post_init__(self) -> None:
        check_budget(self.num_samples, self.num_iterations, 3)
        check_not_negative(min_std=self.min_std)
        check_positive(trust=self.trust, memory=self.memory, ridge=self.ridge)

    def run(self, search: Search) -> None:
        """Search until the iterations or the time are used up."""
        batch, knots, width = search.mean.shape
        limit = search.space.limit
        start, spread = (t.flatten(1).double().cpu().numpy() for t in (search.mean, search.std))
        models = [_Quadratic(start[b], spread[b]) for b in range(batch)]
        points: list[Tensor] = []
        scored: list[Scores] = []
        for i in search.steps(self.num_iterations):
            count = self.num_samples - (i == self.num_iterations - 1)
            noise = search.noise(count, knots * width).double().cpu().numpy()
            drawn = np.stack([q.mean + z @ q.factor.T for q, z in zip(models, noise, strict=True)])
            x = torch.as_tensor(drawn, dtype=torch.float32, device=search.device)
            x = x.view(batch, count, knots, width).clamp_(-limit, limit)
            x[:, 0] = _means(models, search)
            index = search.elites(search.score(x), 2)
            points, scored = self._remember(points, x), self._remember(scored, search.last)
            seen = torch.cat([p.flatten(2) for p in points], 1).double().cpu().numpy()
            known = Scores.cat(scored)
            cost = known.cost.double().cpu().numpy()
            margin = None if known.margin is None else known.margin.double().cpu().numpy()
            for b, q in enumerate(models):
                kept, target = (..., cost[b]) if margin is None else _smooth(cost[b], margin[b])
                q.fit(seen[b][kept], target[kept], self.ridge)
                q.contract(self.trust * knots * width, self.min_std, limit)
            deviation = np.stack([np.sqrt((q.factor**2).sum(1)) for q in models])
            std = torch.as_tensor(deviation, dtype=torch.float32, device=search.device).view(search.mean.shape)
            search.report(_means(models, search), std, index)
        search.score_mean(_means(models, search))

    def _remember(self, history: list[T], newest: T) -> list[T]:
        """The newest batches, as many as `memory` holds, at least one."""
        return [newest, *history][: max(1, self.memory // self.num_samples)]


def _means(models: list[_Quadratic], search: Search) -> Tensor:
    mean = torch.as_tensor(np.stack([q.mean for q in models]), dtype=torch.float32, device=search.device)
    return mean.view(search.mean.shape)


def _smooth(cost: Array, margin: Array) -> tuple[NDArray[np.bool_], Array]:
    """What one problem's quadratic is fitted to where there are hard constraints: which candidates (S,), and J' (S,).

    The edge of the feasible set is a jump, which no quadratic follows. So the least violating candidates, once there
    are enough of them, are fitted alone, by their cost. Until then all are, by J' = J + μ max(g, 0) with
    μ = k std(J) / std(max(g, 0)); k is 10 until something is feasible, 1 from then on.
    """
    violation = margin.clip(0.0)
    usable = np.isfinite(cost) & np.isfinite(violation)
    if not usable.any():
        return np.isfinite(cost), cost
    least = violation[usable].min()
    at_least = usable & (violation <= least)
    if at_least.sum() >= min(ENOUGH, usable.sum()):
        return at_least, cost
    weight = (1 if least == 0 else 10) * cost[usable].std() / violation[usable].std()
    return usable, cost + weight * violation


class _Quadratic:
    """The Gaussian N(mean, factor factorᵀ) of one problem, and the quadratic q(y) over its whitened coordinates."""

    def __init__(self, mean: Array, std: Array) -> None:
        n = len(mean)
        self.mean, self.factor = mean, np.diag(std)  # m (n,), L (n, n)
        self.gradient, self.hessian = np.zeros(n), np.zeros((n, n))

    def fit(self, points: Array, scores: Array, ridge: float) -> None:
        """Correct q by kernel ridge regression of what it leaves unexplained: k(y, y') = 10 + yᵀy' + w (yᵀy')².

        Args:
            points: (S, n). scores: (S,), not all of them finite; those count as the worst finite one.
        """
        n = points.shape[1]
        finite = np.isfinite(scores)
        scores = np.where(finite, scores, scores[finite].max())
        y = solve_triangular(self.factor, (points - self.mean).T, lower=True).T
        near = (y**2).sum(1) <= FAR * n  # a quadratic is a local model, and the kernel grows with the fourth power
        y, scores = y[near], scores[near]
        residual = scores - y @ self.gradient - 0.5 * ((y @ self.hessian) * y).sum(1)
        residual -= residual.mean()
        weight = np.float32(0.15 / n)
        y = y.astype(np.float32)  # enough for a correction, and twice as fast
        kernel = y @ y.T
        kernel *= 1 + weight * kernel
        kernel += 10.0
        kernel.flat[:: len(y) + 1] += ridge * n + 1e-5 * kernel.max(initial=0.0)
        scale = max(np.abs(residual).max(), np.finfo(float).tiny)
        target = (residual / scale).astype(np.float32)
        factor = cho_factor(kernel, lower=True, overwrite_a=True, check_finite=False)
        dual = cho_solve(factor, target, check_finite=False) * scale
        self.gradient = self.gradient + y.T @ dual
        self.hessian = self.hessian + 2 * weight * (y.T * dual) @ y

    def contract(self, bound: float, min_std: float, limit: float) -> None:
        """Minimise E[q] with at most `bound` nats of KL divergence, and move q into the new coordinates.

        The mean stays within ±`limit`, where the candidates are.
        """
        curvature, axes = np.linalg.eigh((self.hessian + self.hessian.T) / 2)
        curvature = curvature.clip(0.0)
        slope = axes.T @ self.gradient
        scale = max(np.abs(slope).max(), curvature.max(), np.finfo(float).tiny)
        low, high = -30.0, 30.0  # log η, relative to the scale of q
        for _ in range(40):
            eta = scale * np.exp((low + high) / 2)
            precision = 1 + curvature / eta
            move = -(slope / eta) / precision
            if 0.5 * (1 / precision - 1 + np.log(precision) + move**2).sum() > bound:
                low = np.log(eta / scale)
            else:
                high = np.log(eta / scale)
        mean = (self.mean + self.factor @ (axes @ move)).clip(-limit, limit)
        step = solve_triangular(self.factor, mean - self.mean, lower=True)
        spread = self.factor @ (axes / np.sqrt(precision))
        covariance = spread @ spread.T
        covariance.flat[:: len(step) + 1] += max(min_std**2, 1e-12 * np.trace(covariance) / len(step))
        factor = np.linalg.cholesky(covariance)
        turn = solve_triangular(self.factor, factor, lower=True)  # y = step + turn y'
        self.gradient = turn.T @ (self.gradient + self.hessian @ step)
        self.hessian = turn.T @ self.hessian @ turn
        self.mean, self.factor = mean, factor
