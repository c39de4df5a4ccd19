"""Receding horizon: plan, execute a few steps, plan again from the shifted plan. The only state of the package.

A call that plans takes the old plan and the number of its steps that were executed:

    def replan(previous, executed, deadline_s):
        start = None if previous is None else shift(previous.actions, executed)
        return planner.plan(cost, generator=generator, warm_start=start, deadline_s=deadline_s)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from latent_mpc.planner.checks import check_deadline
from latent_mpc.types import InvalidInputError, PlanningFailed


class HasActions(Protocol):
    """A `Plan` or a `HierarchyPlan`."""

    @property
    def actions(self) -> Tensor:
        """(B, H, A)."""
        ...


P = TypeVar("P", bound=HasActions)


class Replan(Protocol[P]):
    """Plans anew; builds its own warm start, with `shift`, from the old plan."""

    def __call__(self, previous: P | None, executed: int, deadline_s: float | None, /) -> P:
        """The last plan (None at first), the steps of it that were executed, the seconds allowed -> a plan."""
        ...


class RecedingHorizon(Generic[P]):
    """Executes `execute_steps` of each plan before it plans again.

    When planning fails, the rest of the old plan goes on, and planning is tried again at every step; once nothing
    is left of the old plan the failure is raised.

    Attributes:
        plan: the plan in use, None before the first step.
        executed: steps of it that were handed out.
        failures: consecutive failed attempts to plan, 0 when the last one succeeded.
    """

    def __init__(self, execute_steps: int = 1, deadline_s: float | None = None) -> None:
        if execute_steps < 1:
            raise InvalidInputError(f"execute_steps must be at least 1, got {execute_steps}")
        check_deadline(deadline_s)
        self.execute_steps, self.deadline_s = execute_steps, deadline_s
        self.reset()

    def reset(self) -> None:
        """Forget the plan, as at the start of an episode."""
        self.plan: P | None = None
        self.executed = 0
        self.failures = 0

    def act(self, replan: Replan[P]) -> Tensor:
        """The next action (B, A); calls `replan` when it is time to.

        Raises:
            PlanningFailed: planning failed and nothing is left of the old plan.
            InvalidInputError: the plan is shorter than `execute_steps`.
        """
        if self.plan is None or self.executed >= self.execute_steps:
            try:
                plan = replan(self.plan, self.executed, self.deadline_s)
            except PlanningFailed:
                if self.plan is None or self.executed >= self.plan.actions.shape[1]:
                    raise
                self.failures += 1
            else:
                if plan.actions.shape[1] < self.execute_steps:
                    raise InvalidInputError(
                        f"a plan of {plan.actions.shape[1]} steps is shorter than execute_steps={self.execute_steps}"
                    )
                self.plan, self.executed, self.failures = plan, 0, 0
        assert self.plan is not None
        action = self.plan.actions[:, self.executed]
        self.executed += 1
        return action


class GoalTracker:
    """Walks through a sequence of goals: the next one comes up once the energy to the current one is low enough.

    Attributes:
        index: which goal is current; the last one stays.
    """

    def __init__(self, goals: Tensor, threshold: float, patience: int | None = None) -> None:
        """goals: (G, D). threshold: the energy at which a goal counts as reached. patience: steps after which the
        next goal comes up anyway, None for never.
        """
        if goals.ndim != 2 or goals.shape[0] < 1:
            raise InvalidInputError(f"goals must have shape (G, D) with G >= 1, got {tuple(goals.shape)}")
        if not 0 < threshold < math.inf or (patience is not None and patience < 1):
            raise InvalidInputError(f"threshold and patience must be positive, got {threshold} and {patience}")
        self.goals, self.threshold, self.patience = goals, threshold, patience
        self.index = self.waited = 0

    @property
    def goal(self) -> Tensor:
        """The current goal, (D,)."""
        return self.goals[self.index]

    def update(self, energy: Callable[[Tensor], float]) -> Tensor:
        """Switch where the current goal is reached, past several if they are; `energy` takes a goal (D,)."""
        self.waited += 1
        late = self.patience is not None and self.waited > self.patience
        while self.index + 1 < len(self.goals) and (late or energy(self.goal) < self.threshold):
            self.index, self.waited, late = self.index + 1, 0, False
        return self.goal
