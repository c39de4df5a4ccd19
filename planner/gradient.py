"""Gradient descent on the knots, through the predictor.

    x ← clip(x - Adam(∂J/∂x)),   several starts at once, the best visited point is the plan

One forward and backward pass of one sequence counts as three evaluations. The cost must be differentiable; sign
dimensions get the gradient of the identity (straight through).
Source: Kingma & Ba, Adam (arXiv 1412.6980), algorithm 1; the step size falls along a cosine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from latent_mpc.planner.checks import check_budget, check_positive
from latent_mpc.planner.search import Search
from latent_mpc.types import InvalidInputError, Scores

EVALUATIONS_PER_GRADIENT = 3


def descend(search: Search, knots: Tensor, steps: int, learning_rate: float) -> None:
    """Adam from `knots` (B, S, K, A); every visited point is scored on `search`.

    A start that steps to a non-finite cost goes back to where it was and halves its step size. With hard constraints
    a start descends its cost where it is feasible and its margin elsewhere, both by gradients of length one.

    Raises:
        InvalidInputError: the cost has no gradient.
    """
    if torch.is_inference_mode_enabled():
        raise InvalidInputError("there are no gradients under torch.inference_mode; plan under torch.no_grad instead")
    first, second = torch.zeros_like(knots), torch.zeros_like(knots)
    safe, rate = knots, torch.full((*knots.shape[:2], 1, 1), learning_rate, device=knots.device)
    limit = search.space.limit
    for i in search.steps(steps):
        with torch.enable_grad():
            x = knots.detach().requires_grad_()
            actions = search.space.decode(x)
            with search.cost_threads(actions):
                scores = search.evaluate(actions)
                finite, grad = _gradient(scores, x)
        search.evaluations += (EVALUATIONS_PER_GRADIENT - 1) * knots.shape[1]
        if i == 0 and not finite.any():
            return  # nowhere to start from
        ok = finite[..., None, None]
        first = torch.where(ok, first.lerp(grad, 0.1), 0.5 * first)
        second = second.lerp(grad.square(), 0.01)
        step = (first / (1 - 0.9 ** (i + 1))) / ((second / (1 - 0.99 ** (i + 1))).sqrt() + 1e-12)
        safe, rate = torch.where(ok, knots, safe), torch.where(ok, rate, 0.5 * rate)
        knots = (safe - rate * 0.5 * (1 + math.cos(math.pi * i / steps)) * step).clamp(-limit, limit)
        search.report(x.detach()[:, 0], search.std, search.last.ranking().argmin(1, keepdim=True))


def _gradient(scores: Scores, x: Tensor) -> tuple[Tensor, Tensor]:
    """Which candidates are finite (B, S), and the gradient of what each descends by its knots x (B, S, K, A)."""
    cost, margin = scores
    goal = cost if margin is None else torch.where(margin <= 0, cost, margin)
    finite = cost.isfinite() & goal.isfinite()
    total = torch.where(finite, goal, 0.0).sum()
    grad = torch.autograd.grad(total, x, allow_unused=True)[0] if total.requires_grad else None
    if grad is None:
        raise InvalidInputError(
            "the cost has no gradient with respect to the actions; 'gradient' and 'polish' need a differentiable one"
        )
    grad = torch.nan_to_num(grad, nan=0.0, posinf=0.0, neginf=0.0)
    return finite, grad if margin is None else torch.nn.functional.normalize(grad.flatten(2), dim=2).view_as(grad)


@dataclass(frozen=True)
class Gradient:
    """Configuration and method in one.

    Attributes:
        num_samples: starts; the first is the warm start or zero, the others are drawn around it. The best of the
            warm start and the proposals take the first places.
        num_iterations: Adam steps.
        learning_rate: first step size, in half boxes.
    """

    num_samples: int = 10
    num_iterations: int = 100
    learning_rate: float = 0.1

    def __post_init__(self) -> None:
        check_budget(self.num_samples, self.num_iterations, 1)
        check_positive(learning_rate=self.learning_rate)

    def run(self, search: Search) -> None:
        """Search until the iterations or the time are used up."""
        knots = search.sample(search.mean, search.std, self.num_samples)
        given = search.score_given()
        if given is not None:
            given = given[:, : self.num_samples]
            knots[:, : given.shape[1]] = given
        descend(search, knots, self.num_iterations, self.learning_rate)
