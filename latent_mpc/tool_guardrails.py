"""Guardrails on the tool: soft ones, added to the energy of predicted states, and hard ones where something stands.

A goal image says where things shall be, not how they get there. These say how: the tool stays where play has been, an
empty gripper does not shove things about, fingers close around the middle of the thing and near the table, as the model
forgives a grasp at an edge and a picture tells a thing's height less well than its place, and what is held is lifted
before it is carried, and put down, not dropped. They read the proprioception of the tabletop environments: the tool's
x, y, z in metres first, the fingers' opening last. A workspace's keep-outs are constraints g <= 0 on the tool's way,
which no energy outweighs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latent_mpc.planner.guardrails import Constraint, keep_outs
from latent_mpc.types import InvalidInputError, WorkspaceSpec
from latent_mpc.world_model.model import WorldModel

EMPTY_OPENING_M = 0.015  # fingers predicted closer than this hold nothing
WALL_M = 0.003  # fingers seen further apart than this hold something, be it the wall of a cup
OPEN_M = 0.06  # fingers further apart than this hold nothing either
WIDE_M = 0.068  # but for the widest things
FREE_HEIGHT_M = 0.09  # a hand this far up touches nothing when it goes elsewhere
UNIT_M = 0.05  # distances count in units of this
FREE_M = 0.01  # a sideways step that is no carrying
DROP_M = 0.05  # what is held may be let go below this height of the tool
OPENING_M = 0.01  # fingers that open this far in a step let go, and those that close this far take hold
LOW_M, MIDDLE_M = 0.018, 0.01  # of the tool: low enough to close on a plate; near enough to the middle of a thing
AMISS_M = 0.04  # higher above the one or farther from the other than this is no worse
DRAG_WEIGHT, DROP_WEIGHT, CLOSE_WEIGHT = 4.0, 3.0, 3.0
SHUT_WEIGHT = 3.0  # of fingers that are shut on nothing, not even a wall: a missed grasp is mended by opening them
SHUT_M, SHUT_BLUR_M = 0.0015, 0.0008  # fingers closer than the first are shut; softness of that
BLUR_M = 0.004  # softness of the openings' bounds: predictions are not exact
SAME_OPENING_M = 0.008  # a picture tells the fingers' opening to this; fingers that miss pass it by
CROWD_M = 0.035  # between a finger's middle and the middle of a thing beside it: half of each
CROWD_HEIGHT_M = 0.09  # of the tool: lower down, fingers and what they hold meet what stands there
CROWD_WEIGHT = 3.0
FINGER_M = 0.012  # from a pad to its finger's middle
HAND_M = 0.05  # of the tool's point from a keep-out: what a hand needs around it


@dataclass(frozen=True)
class GuardrailConfig:
    """Soft guardrails on the tool.

    Attributes:
        tool_low_m, tool_high_m: box that plans keep the tool in, where play has been; beyond it the model guesses.
        clearance_m: height above the table below which a gripper that is not open does not go sideways, and one that
            has closed on nothing does not go at all.
        weight: of the violations in the energy; 0 turns them off.
    """

    tool_low_m: tuple[float, float, float] = (0.34, -0.23, 0.0)
    tool_high_m: tuple[float, float, float] = (0.66, 0.23, 0.28)
    clearance_m: float = 0.07
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.weight < 0 or self.clearance_m <= 0:
            raise InvalidInputError(f"weight must be at least 0 and clearance_m positive, got {self}")
        if not all(a < b for a, b in zip(self.tool_low_m, self.tool_high_m, strict=True)):
            raise InvalidInputError(f"lower corner {self.tool_low_m} must lie below upper corner {self.tool_high_m}")

    def within(self, workspace: WorkspaceSpec) -> GuardrailConfig:
        """The same with its box cut down to a workspace's; the robot's safety gate reads the same description.

        Raises:
            InvalidInputError: nothing is left of the box.
        """
        low = (*workspace.low_m[:2], workspace.floor_m)
        return replace(
            self,
            tool_low_m=tuple(map(max, self.tool_low_m, low)),  # type: ignore[arg-type]
            tool_high_m=tuple(map(min, self.tool_high_m, workspace.high_m)),  # type: ignore[arg-type]
        )


def tool_keep_outs(model: WorldModel, workspace: WorkspaceSpec) -> tuple[Constraint, ...]:
    """Hard constraints: the tool's way stays out of what a workspace names, with room for the hand.

    The gate keeps the whole arm out of it, by the arm's geometry; a plan knows the tool's point alone.
    """
    return keep_outs(workspace, lambda states: tool_pose(model, states)[0], HAND_M)


def tool_violation(
    model: WorldModel, config: GuardrailConfig, states: Tensor, start: Tensor | None, others: Tensor | None = None
) -> Tensor:
    """Weighted violations of predicted states, 0 where the guardrails hold.

    Args:
        states: (..., D); a rollout (..., H, D) when `start` is given.
        start: state (D,) that the rollout begins at; None leaves out what needs two states in a row.
        others: places (J, 3), metres, of things that the fingers shall keep off; see `WorldModel.place`.
    Returns:
        (...), unitless.
    """
    position, opening = tool_pose(model, states)
    low, high = position.new_tensor(config.tool_low_m), position.new_tensor(config.tool_high_m)
    outside = (position - position.clamp(low, high)).abs().sum(-1) / UNIT_M
    empty = torch.sigmoid((EMPTY_OPENING_M - opening) / BLUR_M)
    shut = torch.sigmoid((SHUT_M - opening) / SHUT_BLUR_M)
    violation = outside + empty * _depth(position[..., 2], config.clearance_m) + SHUT_WEIGHT * shut
    if start is not None:
        first_position, first_opening = tool_pose(model, start)
        before = torch.cat([first_position.expand_as(position[..., :1, :]), position[..., :-1, :]], dim=-2)
        opening_before = torch.cat([first_opening.expand_as(opening[..., :1]), opening[..., :-1]], dim=-1)
        sideways = (position - before)[..., :2].norm(dim=-1)
        narrow = torch.sigmoid((WIDE_M - torch.maximum(opening, opening_before)) / BLUR_M)
        depth = _depth(torch.maximum(position[..., 2], before[..., 2]), config.clearance_m)
        # Exactly 0 for open and for empty fingers: at rest at the goal nothing else is left of the energy.
        room = torch.minimum(OPEN_M - opening_before, opening_before - EMPTY_OPENING_M)
        held = (room / BLUR_M).clamp(0.0, 1.0)
        let_go = ((opening - opening_before) / OPENING_M).clamp(0.0, 1.0)
        dropped = held * let_go * (position[..., 2] - DROP_M).clamp_min(0.0)
        dragged = narrow * (3.0 * depth).clamp_max(1.0) * (sideways - FREE_M).clamp_min(0.0)
        closes = ((opening_before.clamp_max(WIDE_M) - opening) / OPENING_M).clamp(0.0, 1.0)
        amiss = (position[..., 2] - LOW_M).clamp(0.0, AMISS_M)
        if model.config.grasps:
            beside = (position[..., :2] - model.place(start)[:2]).norm(dim=-1)
            amiss = amiss + (beside - MIDDLE_M).clamp(0.0, AMISS_M)
        way = DRAG_WEIGHT * dragged + DROP_WEIGHT * dropped + CLOSE_WEIGHT * closes * amiss
        violation = violation + way / UNIT_M
    if others is not None:
        violation = violation + _crowding(model, states, others)
    return config.weight * violation


def _crowding(model: WorldModel, states: Tensor, others: Tensor) -> Tensor:
    """How far fingers and tool of states (..., D), low down, intrude upon things at `others` (J, 3)."""
    proprio = model.split(states)[1] * model.proprio_std + model.proprio_mean
    position, opening = proprio[..., :3], proprio[..., -1:]
    across = torch.stack([-proprio[..., 3], proprio[..., 4]], -1) * (opening / 2 + FINGER_M)
    middle = position[..., :2]
    points = torch.stack([middle - across, middle, middle + across], -2)  # (..., 3, 2)
    gaps = torch.cdist(points.flatten(0, -2), others[:, :2]).unflatten(0, points.shape[:-1])  # (..., 3, J)
    intrusion = (CROWD_M - gaps).clamp_min(0.0).sum((-1, -2)) / UNIT_M
    return CROWD_WEIGHT * intrusion * (3.0 * _depth(position[..., 2], CROWD_HEIGHT_M)).clamp_max(1.0)


def hand_holds(model: WorldModel, state: Tensor) -> bool:
    """Whether the fingers of a state (D,) are neither open nor closed upon nothing."""
    return WALL_M < float(tool_pose(model, state)[1]) < WIDE_M


def hand_is_up(model: WorldModel, state: Tensor) -> bool:
    """Whether the hand of a state (D,) can go sideways and touch nothing."""
    return float(tool_pose(model, state)[0][2]) >= FREE_HEIGHT_M


def same_hand(model: WorldModel, state: Tensor, other: Tensor, distance_m: float, fingers: bool) -> bool:
    """Whether the tools of two states (D,) are that near to each other and, if asked, their fingers open as far."""
    (tool, opening), (other_tool, other_opening) = tool_pose(model, state), tool_pose(model, other)
    near = bool((tool - other_tool).norm() <= distance_m)
    return near and not (fingers and float((opening - other_opening).abs()) > SAME_OPENING_M)


def tool_pose(model: WorldModel, states: Tensor) -> tuple[Tensor, Tensor]:
    """Tool position (..., 3) and finger opening (...), metres, of states (..., D)."""
    proprio = model.split(states)[1] * model.proprio_std + model.proprio_mean
    return proprio[..., :3], proprio[..., -1]


def _depth(height: Tensor, clearance: float) -> Tensor:
    """How deep below the clearance, 0 to 1."""
    return (1.0 - height / clearance).clamp(0.0, 1.0)
