"""Hard constraints on the rollout, g(s, a) <= 0, enforced while planning.

    min_a J(a)  s.t.  max_i max_t g_i(s_t, a_t) <= 0

The largest g of a candidate is its margin. Every method ranks feasible candidates first and the others by their
violation; the plan says whether it is feasible, and is the least violating one where nothing is. A `probe` reads
positions in metres from states: (..., D) -> (..., 3) or whatever width the constraint's bounds have.
Guardrails judge the predicted rollout: they are as right as the model, and no replacement for a robot's own limits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from latent_mpc.planner.checks import check_positive
from latent_mpc.types import InvalidInputError, WorkspaceSpec

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
    """The largest g over constraints and steps, (B, S); NaN where one of them is."""
    return torch.stack([g(rollout).amax(-1) for g in constraints]).amax(0)


def _like(positions: Tensor, bound: tuple[float, ...]) -> Tensor:
    """A bound as a tensor beside positions (..., 3).

    Raises:
        InvalidInputError: the bound has another width than what the probe reads.
    """
    if len(bound) != positions.shape[-1]:
        raise InvalidInputError(
            f"the probe reads {positions.shape[-1]} coordinates, the bound {bound} has {len(bound)}"
        )
    return positions.new_tensor(bound)


@dataclass(frozen=True)
class Workspace:
    """Positions stay in a box, metres."""

    probe: Probe
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.low) != len(self.high) or not all(a < b for a, b in zip(self.low, self.high, strict=True)):
            raise InvalidInputError(f"low must be below high, got {self.low} and {self.high}")

    def __call__(self, rollout: Rollout) -> Tensor:
        """The distance outside the box along its worst axis, (B, S, H)."""
        p = self.probe(rollout.states)
        low, high = _like(p, self.low), _like(p, self.high)
        return torch.maximum(low - p, p - high).amax(-1)


@dataclass(frozen=True)
class KeepOut:
    """Positions stay out of a ball, metres; the straight way between two steps counts, so nothing tunnels."""

    probe: Probe
    centre: tuple[float, ...]
    radius: float

    def __post_init__(self) -> None:
        check_positive(radius=self.radius)
        if not all(map(math.isfinite, self.centre)):
            raise InvalidInputError(f"centre must be finite, got {self.centre}")

    def __call__(self, rollout: Rollout) -> Tensor:
        """Radius minus the distance of each segment from the centre, (B, S, H)."""
        path = rollout.path(self.probe)
        start, move = path[:, :, :-1], path[:, :, 1:] - path[:, :, :-1]
        centre = _like(path, self.centre)
        to_centre = centre - start
        share = (to_centre * move).sum(-1) / move.square().sum(-1).clamp_min(1e-12)
        nearest = start + share.clamp(0, 1)[..., None] * move
        return self.radius - (nearest - centre).norm(dim=-1)


@dataclass(frozen=True)
class KeepOutBox:
    """Positions stay out of a box, metres; the straight way between two steps counts, as for `KeepOut`."""

    probe: Probe
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.low) != len(self.high) or any(not a < b for a, b in zip(self.low, self.high, strict=True)):
            raise InvalidInputError(f"low must be below high, got {self.low} and {self.high}")

    def __call__(self, rollout: Rollout) -> Tensor:
        """The largest depth on each segment below the nearest face; outside, minus the worst axis' gap; (B, S, H).

        The depth below a face is linear along a segment, so the least of them is largest at an end or where two meet.
        """
        path = rollout.path(self.probe)
        low, high = path.new_tensor(self.low), path.new_tensor(self.high)
        depth = torch.cat([path - low, high - path], -1)  # (B, S, H + 1, faces)
        start, slope = depth[:, :, :-1], depth.diff(dim=2)
        i, j = torch.triu_indices(depth.shape[-1], depth.shape[-1], 1, device=path.device)
        meet = (start[..., j] - start[..., i]) / (slope[..., i] - slope[..., j])
        share = torch.cat([meet.nan_to_num(0.0).clamp(0, 1), torch.ones_like(start[..., :1])], -1)  # parallel: an end
        share = torch.cat([share, torch.zeros_like(start[..., :1])], -1)
        return (start[..., None, :] + share[..., None] * slope[..., None, :]).amin(-1).amax(-1)


@dataclass(frozen=True)
class SpeedLimit:
    """Positions move at most `max_speed` m/s; `control_dt_s` is the time of a step."""

    probe: Probe
    max_speed: float
    control_dt_s: float

    def __post_init__(self) -> None:
        check_positive(max_speed=self.max_speed, control_dt_s=self.control_dt_s)

    def __call__(self, rollout: Rollout) -> Tensor:
        """Speed above the limit, m/s, (B, S, H)."""
        return rollout.path(self.probe).diff(dim=2).norm(dim=-1) / self.control_dt_s - self.max_speed


@dataclass(frozen=True)
class Hazard:
    """A learned hazard: `score` (states (..., D) -> (...)) stays at or below `threshold`."""

    score: Callable[[Tensor], Tensor]
    threshold: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.threshold):
            raise InvalidInputError(f"threshold must be finite, got {self.threshold}")

    def __call__(self, rollout: Rollout) -> Tensor:
        """Score above the threshold, (B, S, H)."""
        return self.score(rollout.states) - self.threshold


def keep_outs(spec: WorkspaceSpec, probe: Probe, clearance_m: float = 0.0) -> tuple[Constraint, ...]:
    """The constraints of a workspace's balls and boxes alone, each grown by `clearance_m` on all sides."""
    c = clearance_m
    return (
        *(KeepOut(probe, ball[:3], ball[3] + c) for ball in spec.keep_out_balls_m),
        *(
            KeepOutBox(probe, tuple(x - c for x in box[:3]), tuple(x + c for x in box[3:]))
            for box in spec.keep_out_boxes_m
        ),
    )


def workspace_constraints(spec: WorkspaceSpec, probe: Probe, control_dt_s: float) -> tuple[Constraint, ...]:
    """The constraints that the description of a workspace puts on the tool's point.

    Args:
        probe: reads the tool's position in the spec's frame, metres, (..., D) -> (..., 3).
        control_dt_s: time of a step.
    """
    return (
        Workspace(probe, (*spec.low_m[:2], spec.floor_m), spec.high_m),
        SpeedLimit(probe, spec.speed_m_s, control_dt_s),
        *keep_outs(spec, probe),
    )
