"""What a plan is judged by: the energy of the predicted states, and the size of the actions.

J(a) = R_t E(s_t) + λ Σ_t ‖a_t‖²,   R ∈ {last, sum, min} over the steps,   s = rollout(f, s_0, a)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from latent_mpc.planner.checks import check_not_negative
from latent_mpc.planner.guardrails import Constraint, Rollout, margin
from latent_mpc.planner.rollout import rollout, rollout_macros
from latent_mpc.types import MacroModel, Predictor, Scores, UnknownNameError

Energy = Callable[[Tensor], Tensor]  # states (..., D) -> energy (...)
REDUCTIONS = ("last", "sum", "min")


def goal_energy(states: Tensor, goal: Tensor, weights: Tensor | None = None) -> Tensor:
    """Weighted mean squared distance of states from the goal.

    Args:
        states: (..., D). goal: broadcastable to it. weights: (D,), None for ones; zeros ignore dimensions, so that
            image latent and proprioception are weighted apart.
    Returns:
        Energy (...), unitless; lower is better.
    Source: V-JEPA 2 (arXiv 2506.09985), eq. 5; squared instead of L1, after JEPA-WMs (arXiv 2512.24497).
    """
    error = (states - goal).square()
    if weights is not None:
        error = error * weights
    return error.mean(-1)


def nearest_goal_energy(states: Tensor, goals: Tensor, weights: Tensor | None = None) -> Tensor:
    """Energy to the nearest of a set of goals: states (B, S, H, D), goals (B, G, D) -> (B, S, H)."""
    each = [goal_energy(states, goals[:, g, None, None], weights) for g in range(goals.shape[1])]
    return torch.stack(each).amin(0)


def reduce_steps(energy: Tensor, reduction: str) -> Tensor:
    """Reduce energies (..., H) over the steps: the last one, their sum, or their minimum."""
    if reduction == "last":
        return energy[..., -1]
    if reduction == "sum":
        return energy.sum(-1)
    if reduction == "min":
        return energy.amin(-1)
    raise UnknownNameError("reduction", reduction, list(REDUCTIONS))


@dataclass(frozen=True)
class RolloutCost:
    """The cost of action sequences through a predictor, as a `CostFunction`.

    Attributes:
        predictor: s' = f(s, a); or over macro-actions, whose states on the way then count as well.
        state: (B, D), now.
        energy: states (..., D) -> (...); called on (B, S, H, D), or on (B, S, 1, D) when only the last step counts.
        reduction: one of `REDUCTIONS`.
        action_penalty: λ, on the summed squares of the actions.
        uncertainty: u, a `Rollout` -> (B, S, H), and its weight μ.
        constraints: hard ones; with any, the cost comes as `Scores`.
    """

    predictor: Predictor | MacroModel
    state: Tensor
    energy: Energy
    reduction: str = "last"
    action_penalty: float = 0.0
    uncertainty: Callable[[Rollout], Tensor] | None = None
    uncertainty_weight: float = 1.0
    constraints: tuple[Constraint, ...] = ()

    def __post_init__(self) -> None:
        if self.reduction not in REDUCTIONS:
            raise UnknownNameError("reduction", self.reduction, list(REDUCTIONS))
        check_not_negative(action_penalty=self.action_penalty, uncertainty_weight=self.uncertainty_weight)

    def __call__(self, actions: Tensor) -> Tensor | Scores:
        """actions (B, S, H, A) -> cost (B, S), with margins (B, S) where there are constraints."""
        if isinstance(self.predictor, Predictor):
            states = rollout(self.predictor, self.state, actions)
        else:
            states = rollout_macros(self.predictor, self.state, actions)
        judged = states[:, :, -1:] if self.reduction == "last" else states
        cost = reduce_steps(self.energy(judged), self.reduction)
        if self.action_penalty:
            cost = cost + self.action_penalty * actions.square().sum((-1, -2))
        seen = Rollout(self.state, states, actions)
        if self.uncertainty is not None:
            cost = cost + self.uncertainty_weight * self.uncertainty(seen).sum(-1)
        return Scores(cost, margin(self.constraints, seen)) if self.constraints else cost
