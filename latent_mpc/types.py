"""The types in which planner, world_model, envs and robots meet. Imports nothing of ours.

Letters (docs/notation.md): B batch, S samples, H horizon, T time, D latent width, P proprioception width,
A action width, M macro-action width, K constraints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # a robot's processes start without torch, which takes seconds to load
    from torch import Tensor


class LatentMPCError(Exception):
    """Base of the errors that a user can mend; its message says what was wrong and what would be right."""


class UnknownNameError(LatentMPCError, KeyError):
    """A name that nothing is registered under; the message lists the names that exist."""

    def __init__(self, kind: str, name: str, available: list[str]) -> None:
        super().__init__(f"unknown {kind} {name!r}; available: {sorted(available)}")

    def __str__(self) -> str:  # KeyError would print the message's repr
        return str(self.args[0])


class InvalidInputError(LatentMPCError, ValueError):
    """An argument or a file of the wrong shape, dtype, range or content."""


class PlanningFailed(LatentMPCError, RuntimeError):
    """Too few candidates had a finite cost for the optimiser to choose from."""


@dataclass(frozen=True)
class Observation:
    """What an agent sees at one control step.

    Attributes:
        image: camera image, uint8 (H, W, 3), RGB.
        proprio: proprioception, float32 (P,), in the units of the environment or robot that made it.
    """

    image: NDArray[np.uint8]
    proprio: NDArray[np.float32]

    @classmethod
    def from_mapping(cls, observation: Mapping[str, Any]) -> Observation:
        """Read a Gymnasium dict observation; keys other than `image` and `proprio` are ignored.

        Raises:
            InvalidInputError: a key is missing, a shape or dtype is wrong, or proprio is not finite.
        """
        missing = [k for k in ("image", "proprio") if k not in observation]
        if missing:
            raise InvalidInputError(
                f"observation lacks {missing}; it has {sorted(observation)}, and needs 'image' and 'proprio'"
            )
        proprio = np.asarray(observation["proprio"])
        if proprio.ndim != 1 or not np.issubdtype(proprio.dtype, np.floating):
            raise InvalidInputError(f"proprio must be a float (P,) array, got {proprio.dtype} {proprio.shape}")
        if not np.isfinite(proprio).all():
            bad = np.flatnonzero(~np.isfinite(proprio)).tolist()
            raise InvalidInputError(f"proprio has NaN or inf at index {bad}; every entry must be finite")
        return cls(check_image(observation["image"], "image"), proprio.astype(np.float32))


def check_image(image: Any, name: str) -> NDArray[np.uint8]:
    """Return `image` as a uint8 (H, W, 3) array.

    Raises:
        InvalidInputError: the dtype or the shape differs; a float image is told to be scaled to 0..255.
    """
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[-1] != 3:
        raise InvalidInputError(f"{name} must have shape (H, W, 3), RGB, got {array.shape}")
    if array.dtype != np.uint8:
        hint = "; scale a float image to 0..255 and cast it" if np.issubdtype(array.dtype, np.floating) else ""
        raise InvalidInputError(f"{name} must be uint8 in 0..255, got {array.dtype}{hint}")
    return array


class Scores(NamedTuple):
    """What a cost with hard constraints returns: cost (B, S), and margin (B, S), feasible where margin <= 0."""

    cost: Tensor
    margin: Tensor | None

    @classmethod
    def cat(cls, parts: Sequence[Scores]) -> Scores:
        """Join batches of candidates along S; all of them with margins, or none."""
        import torch

        margins = [part.margin for part in parts if part.margin is not None]
        return cls(torch.cat([part.cost for part in parts], 1), torch.cat(margins, 1) if margins else None)

    def take(self, index: Tensor) -> Scores:
        """The candidates `index` (B, E) alone, (B, E)."""
        return Scores(self.cost.gather(1, index), None if self.margin is None else self.margin.gather(1, index))

    def ranking(self) -> Tensor:
        """One score (B, S) that orders the candidates by Deb's rules: feasible by cost, infeasible by violation.

        Without margins it is the cost. With them it is the place in that order, from 0 for the best, in float64.
        The cost settles ties between violations: from a state that is itself on the wrong side of a constraint, all
        ways out are equal. A NaN margin is the largest violation; a candidate without a finite cost gets inf.

        Source: Deb, An efficient constraint handling method for genetic algorithms (2000), section 3.
        """
        import torch

        if self.margin is None:
            return self.cost
        finite = self.cost.isfinite()
        violation = torch.where(self.margin <= 0, 0.0, torch.where(self.margin.isnan(), torch.inf, self.margin))
        order = torch.where(finite, self.cost, torch.inf).argsort(dim=1, stable=True)
        order = order.gather(1, violation.gather(1, order).argsort(dim=1, stable=True))
        place = torch.arange(order.shape[1], dtype=torch.float64, device=order.device).expand(order.shape)
        return torch.where(finite, torch.empty_like(place).scatter_(1, order, place), torch.inf)


class CostFunction(Protocol):
    """Scores candidate action sequences; lower is better, NaN and inf lose."""

    def __call__(self, actions: Tensor, /) -> Tensor | Scores:
        """actions (B, S, H, A) -> cost (B, S), or `Scores` where there are hard constraints."""
        ...


@runtime_checkable
class Predictor(Protocol):
    """One step of latent dynamics, s' = f(s, a)."""

    def step(self, state: Tensor, action: Tensor) -> Tensor:
        """state (..., D), action (..., A) -> next state (..., D)."""
        ...


class MacroModel(Protocol):
    """Dynamics over macro-actions m, each standing for `chunk_length` actions.

    A macro-action is whitened by its prior: m ~ N(0, 1) is what play would do here on its way to the goal, if any.
    """

    chunk_length: int
    macro_dim: int

    def steps(self, state: Tensor, macro: Tensor) -> Tensor:
        """state (..., D), macro (..., M) -> the states on the way that it knows (..., N, D).

        The last one lies `chunk_length` steps ahead; a model that predicts nothing between has N = 1.
        """
        ...

    def decode(self, state: Tensor, macro: Tensor) -> Tensor:
        """state (..., D), macro (..., M) -> actions (..., chunk_length, A) in [-1, 1]."""
        ...


@dataclass(frozen=True)
class Plan:
    """What a planner returns for B problems.

    Attributes:
        actions: (B, H, A), inside the action box.
        cost: (B,), the cost of exactly these actions as the cost function gave it.
        feasible: (B,) bool, whether the plan satisfies every hard constraint.
        margin: (B,), the largest constraint value g of the plan; at most 0 when feasible, -inf without any.
        iterations: iterations completed.
        evaluations: candidate sequences scored for each problem.
        cut_off: whether the deadline ended the search early.
        elites: (B, E, H, A), the last iteration's best candidates, best first; proposals for the next plan.
    """

    actions: Tensor
    cost: Tensor
    feasible: Tensor
    margin: Tensor
    iterations: int
    evaluations: int
    cut_off: bool = False
    elites: Tensor | None = None


@runtime_checkable
class AgentLike(Protocol):
    """Anything that can be evaluated in an environment."""

    def reset(self, goal_image: NDArray[np.uint8], *, seed: int | None = None) -> None: ...

    def act(self, observation: Mapping[str, Any]) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class WorkspaceSpec:
    """Where a tool may go, in the frame B of the robot's base: one description for planner, environment and robot.

    Attributes:
        low_m, high_m: corners (x, y, z) of the box that the tool's point stays in.
        table_m: height of a table, a floor for the tool's point and an obstacle for the whole arm; None without one.
        keep_out_balls_m: (x, y, z, radius) of each ball that nothing may enter.
        keep_out_boxes_m: (x, y, z, x, y, z) of each box that nothing may enter, low corner, then high corner.
        speed_m_s: largest speed of the tool's point.
    """

    low_m: tuple[float, float, float]
    high_m: tuple[float, float, float]
    table_m: float | None = 0.0
    keep_out_balls_m: tuple[tuple[float, float, float, float], ...] = ()
    keep_out_boxes_m: tuple[tuple[float, float, float, float, float, float], ...] = ()
    speed_m_s: float = 0.6

    def __post_init__(self) -> None:
        corners = [(self.low_m, self.high_m), *((box[:3], box[3:]) for box in self.keep_out_boxes_m)]
        for low, high in corners:
            if len(low) != 3 or len(high) != 3 or not all(a < b for a, b in zip(low, high, strict=True)):
                raise InvalidInputError(f"lower corner {low} must lie below upper corner {high}, 3 numbers each")
        for ball in self.keep_out_balls_m:
            if len(ball) != 4 or not ball[3] > 0:
                raise InvalidInputError(f"a keep-out ball is (x, y, z, radius) with a positive radius, got {ball}")
        if not self.speed_m_s > 0:
            raise InvalidInputError(f"speed_m_s must be positive, got {self.speed_m_s}")
        numbers = [self.speed_m_s, self.table_m or 0.0, *(x for pair in corners for corner in pair for x in corner)]
        if not np.isfinite([*numbers, *(x for ball in self.keep_out_balls_m for x in ball)]).all():
            raise InvalidInputError(f"a workspace's numbers must be finite, got {self}")
        if self.table_m is not None and self.table_m >= self.high_m[2]:
            raise InvalidInputError(f"the table at {self.table_m} m leaves nothing of the box below {self.high_m[2]} m")

    @property
    def floor_m(self) -> float:
        """The lowest height of the tool's point: the box's, or the table's where that is higher."""
        return self.low_m[2] if self.table_m is None else max(self.low_m[2], self.table_m)
