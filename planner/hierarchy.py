"""Coarse levels choose subgoals for finer ones.

    m* = argmin_m min_i E_goal(s_i),        s_{i+1} = F(s_i, m_i),   m ∈ [-2.5, 2.5]   (macro-actions)
    a* = argmin_a E_sub(s_C; F(s_0, m*_0)), s_{t+1} = f(s_t, a_t),   started from decode(s_0, m*_0)

The first predicted state of a level is the subgoal of the next one, which plans the `chunk_length` steps of one
macro-action. Macro-actions are whitened by a state-conditional prior, so the box of ±2.5 keeps the coarse search
inside what the model has seen. Two levels are usual; a macro model over macro-actions makes three.
Source: Hierarchical planning with latent world models (arXiv 2604.03208).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latent_mpc.planner.checks import check_deadline, check_not_negative
from latent_mpc.planner.guardrails import Constraint, Rollout
from latent_mpc.planner.objective import REDUCTIONS, Energy, RolloutCost
from latent_mpc.planner.planner import Planner
from latent_mpc.planner.search import Callback
from latent_mpc.planner.shift import shift
from latent_mpc.types import InvalidInputError, MacroModel, Plan, Predictor, UnknownNameError

MACRO_BOX = 2.5
SubgoalEnergy = Callable[[Tensor, Tensor], Tensor]  # states (B, S, H, D), subgoal (B, 1, 1, D) -> (B, S, H)


@dataclass(frozen=True)
class CoarseLevel:
    """A planner over macro-actions.

    Attributes:
        planner: its action_dim is the macro width; its box ±`MACRO_BOX`, its init_std 1.
        model: the dynamics and the decoder of the macro-actions.
        reduction: over the predicted states; "min" lets a plan arrive early and stay.
        time_share: the share of the remaining deadline that this level may use.
        uncertainty, uncertainty_weight, constraints: as in `RolloutCost`, over the model's N states a macro-action. So
            a step of theirs takes chunk_length / N control steps, which counts for a `SpeedLimit`'s `control_dt_s`.
    """

    planner: Planner
    model: MacroModel
    reduction: str = "min"
    time_share: float = 0.6
    uncertainty: Callable[[Rollout], Tensor] | None = None
    uncertainty_weight: float = 1.0
    constraints: tuple[Constraint, ...] = ()

    def __post_init__(self) -> None:
        if self.planner.action_dim != self.model.macro_dim:
            raise InvalidInputError(
                f"the coarse planner's action_dim is {self.planner.action_dim}, the model's macro_dim "
                f"{self.model.macro_dim}; they must agree"
            )
        if not 0 < self.time_share < 1:
            raise InvalidInputError(f"time_share must lie in (0, 1), got {self.time_share}")
        if self.reduction not in REDUCTIONS:
            raise UnknownNameError("reduction", self.reduction, list(REDUCTIONS))
        check_not_negative(uncertainty_weight=self.uncertainty_weight)


@dataclass(frozen=True)
class HierarchyPlan:
    """Plans, top level first, and the subgoals (B, D) that the coarse ones handed down."""

    plans: tuple[Plan, ...]
    subgoals: tuple[Tensor, ...]

    @property
    def actions(self) -> Tensor:
        """The finest plan's actions, (B, H, A)."""
        return self.plans[-1].actions

    @property
    def cost(self) -> Tensor:
        """The finest plan's cost, towards its subgoal, (B,)."""
        return self.plans[-1].cost

    @property
    def feasible(self) -> Tensor:
        """Whether the finest plan satisfies its hard constraints, (B,) bool."""
        return self.plans[-1].feasible

    @property
    def margin(self) -> Tensor:
        """The finest plan's margin, (B,)."""
        return self.plans[-1].margin

    @property
    def cut_off(self) -> bool:
        """Whether the deadline ended the search of any level early."""
        return any(plan.cut_off for plan in self.plans)


@dataclass(frozen=True)
class Hierarchy:
    """Coarse levels, top first, over one fine planner.

    Attributes:
        coarse: one or two levels.
        fine: its horizon is the chunk length of the level above.
        predictor: the fine dynamics.
        fine_reduction, action_penalty: of the fine cost; the states count in `fine_reduction` over the chunk.
        uncertainty, uncertainty_weight, constraints: of the fine level, as in `RolloutCost`.
    """

    coarse: Sequence[CoarseLevel]
    fine: Planner
    predictor: Predictor
    fine_reduction: str = "last"
    action_penalty: float = 0.0
    uncertainty: Callable[[Rollout], Tensor] | None = None
    uncertainty_weight: float = 1.0
    constraints: tuple[Constraint, ...] = ()

    def __post_init__(self) -> None:
        if not self.coarse:
            raise InvalidInputError("a hierarchy needs at least one coarse level")
        if self.fine_reduction not in REDUCTIONS:
            raise UnknownNameError("reduction", self.fine_reduction, list(REDUCTIONS))
        check_not_negative(action_penalty=self.action_penalty, uncertainty_weight=self.uncertainty_weight)
        below = [*[level.planner for level in self.coarse[1:]], self.fine]
        for level, planner in zip(self.coarse, below, strict=True):
            if planner.horizon != level.model.chunk_length:
                raise InvalidInputError(
                    f"a planner of horizon {planner.horizon} is below a level of chunk_length "
                    f"{level.model.chunk_length}; they must agree"
                )

    def plan(
        self,
        state: Tensor,
        energy: Energy,
        subgoal_energy: SubgoalEnergy,
        *,
        generator: torch.Generator | Sequence[torch.Generator],
        previous: HierarchyPlan | None = None,
        executed: int = 0,
        deadline_s: float | None = None,
        callbacks: Sequence[Callback | None] | None = None,
    ) -> HierarchyPlan:
        """Plan from `state` (B, D) with every level, top first.

        Args:
            energy: states (B, S, H, D) -> (B, S, H), to the goal; the top level's.
            subgoal_energy: states, subgoal (B, 1, 1, D) -> (B, S, H); of the levels below.
            generator: as in `Planner.plan`.
            previous: the last plan; its sequences, as they are and shifted, are proposals at every level.
            executed: control steps executed since `previous`.
            deadline_s: seconds for all levels together.
            callbacks: one a level, top first.
        Raises:
            PlanningFailed, InvalidInputError: as `Planner.plan`.
        """
        check_deadline(deadline_s)
        started = time.perf_counter()
        watch = list(callbacks or [None] * (len(self.coarse) + 1))
        plans: list[Plan] = []
        subgoals: list[Tensor] = []
        target, start = energy, None
        for i, level in enumerate(self.coarse):
            cost = RolloutCost(
                level.model,
                state,
                target,
                level.reduction,
                uncertainty=level.uncertainty,
                uncertainty_weight=level.uncertainty_weight,
                constraints=level.constraints,
            )
            plan = level.planner.plan(
                cost,
                generator=generator,
                warm_start=start,
                proposals=None if previous is None else _proposals(previous.plans[i].actions, 1),
                deadline_s=_remaining(deadline_s, started, level.time_share),
                callback=watch[i],
            )
            macro = plan.actions[:, 0]
            with torch.no_grad():
                subgoal = level.model.steps(state, macro)[..., -1, :]
                start = level.model.decode(state, macro)
            plans.append(plan)
            subgoals.append(subgoal)
            target = _towards(subgoal_energy, subgoal)
        plan = self.fine.plan(
            RolloutCost(
                self.predictor,
                state,
                target,
                self.fine_reduction,
                self.action_penalty,
                self.uncertainty,
                self.uncertainty_weight,
                self.constraints,
            ),
            generator=generator,
            warm_start=start,
            proposals=None if previous is None else _proposals(previous.actions, executed),
            deadline_s=_remaining(deadline_s, started, 1.0),
            callback=watch[-1],
        )
        return HierarchyPlan((*plans, plan), tuple(subgoals))


def _towards(energy: SubgoalEnergy, subgoal: Tensor) -> Energy:
    target = subgoal[:, None, None]
    return lambda states: energy(states, target)


def _proposals(actions: Tensor, steps: int) -> Tensor:
    """The old sequence, and the old sequence `steps` later: (B, H, A) -> (B, 2, H, A)."""
    return torch.stack([actions, shift(actions, steps)], 1)


def _remaining(deadline_s: float | None, started: float, share: float) -> float | None:
    """The share of what is left of the deadline; a millisecond at least, so that every level has an iteration."""
    if deadline_s is None:
        return None
    return max(1e-3, share * (deadline_s - (time.perf_counter() - started)))
