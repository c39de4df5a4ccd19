"""Hard constraints on the rollout, g(s, a) <= 0, enforced while planning.

    min_a J(a)  s.t.  max_i max_t g_i(s_t, a_t) <= 0

The largest g of a candidate is its margin. Every method ranks feasible candidates first and the others by their
violation; the plan says whether it is feasible, and is the least violating one where nothing is. A `probe` reads
positions in metres from states: (..., D) -> (..., 3) or whatever width the constraint's bounds have.
Guardrails judge the predicted rollout: they are as right as the model, and no replacement for a robot's own limits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from latent_mpc.types import InvalidInputError

Probe = Callable[[Tensor], Tensor]


class Rollout(NamedTuple):
    """What constraints and uncertainties see: start (B, D), states (B, S, H, D), actions (B, S, H, A)."""

    start: Tensor
    states: Tensor
    actions: Tensor

    def path(self, probe: Probe) -> Tensor:
        """Positions from the start on, (B, S, H + 1, 3)."""
        after = probe(self.states)
        before = probe(self.start)[:, None, None].expand(*after.shape[:2], 1, -1)
        return torch.cat([before, after], 2)


class Constraint(Protocol):
    """g(s, a): satisfied where at most 0; in metres, or whatever the constraint measures."""

    def __call__(self, rollout: Rollout, /) -> Tensor:
        """-> g (B, S, H)."""
        ...


def margin(constraints: tuple[Constraint, ...], rollout: Rollout) -> Tensor:
    """The largest g over constraints and steps, (B, S)."""
    return torch.stack([g(rollout).amax(-1) for g in constraints]).amax(0)


@dataclass(frozen=True)
class Workspace:
    """Positions stay in a box, metres."""

    probe: Probe
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.low) != len(self.high) or any(a >= b for a, b in zip(self.low, self.high, strict=True)):
            raise InvalidInputError(f"low must be below high, got {self.low} and {self.high}")

    def __call__(self, rollout: Rollout) -> Tensor:
        """The distance outside the box along its worst axis, (B, S, H)."""
        p = self.probe(rollout.states)
        low, high = p.new_tensor(self.low), p.new_tensor(self.high)
        return torch.maximum(low - p, p - high).amax(-1)


@dataclass(frozen=True)
class KeepOut:
    """Positions stay out of a ball, metres; the straight way between two steps counts, so nothing tunnels."""

    probe: Probe
    centre: tuple[float, ...]
    radius: float

    def __post_init__(self) -> None:
        if self.radius <= 0:
            raise InvalidInputError(f"radius must be positive, got {self.radius}")

    def __call__(self, rollout: Rollout) -> Tensor:
        """Radius minus the distance of each segment from the centre, (B, S, H)."""
        path = rollout.path(self.probe)
        start, move = path[:, :, :-1], path[:, :, 1:] - path[:, :, :-1]
        to_centre = path.new_tensor(self.centre) - start
        share = (to_centre * move).sum(-1) / move.square().sum(-1).clamp_min(1e-12)
        nearest = start + share.clamp(0, 1)[..., None] * move
        return self.radius - (nearest - path.new_tensor(self.centre)).norm(dim=-1)


@dataclass(frozen=True)
class SpeedLimit:
    """Positions move at most `max_speed` m/s; `control_dt_s` is the time of a step."""

    probe: Probe
    max_speed: float
    control_dt_s: float

    def __post_init__(self) -> None:
        if self.max_speed <= 0 or self.control_dt_s <= 0:
            raise InvalidInputError("max_speed and control_dt_s must be positive")

    def __call__(self, rollout: Rollout) -> Tensor:
        """Speed above the limit, m/s, (B, S, H)."""
        return rollout.path(self.probe).diff(dim=2).norm(dim=-1) / self.control_dt_s - self.max_speed


@dataclass(frozen=True)
class Hazard:
    """A learned hazard: `score` (states (..., D) -> (...)) stays at or below `threshold`."""

    score: Callable[[Tensor], Tensor]
    threshold: float

    def __call__(self, rollout: Rollout) -> Tensor:
        """Score above the threshold, (B, S, H)."""
        return self.score(rollout.states) - self.threshold
