"""One thing on another: what a model of single things cannot know, said at inference time.

Two things cannot be in one place. Where the goal image shows two nearer to each other than things lie side by side, the
upper one in the picture stands on the other; to a model that knows things on a table it looks like one further back.
Such a thing is carried above what it shall stand on, by its place in place of the scene distance,

    E(s) = ln max(‖x(s) − x*‖² / ε², 1) + guardrails,    x* over the lower thing, as high as that seems to be

and let go there, whatever the model predicts then: a goal image in which no hand holds it shows that it stays.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latent_mpc.tool_guardrails import LOW_M, WIDE_M, hand_holds, tool_pose
from latent_mpc.world_model.focus import attend
from latent_mpc.world_model.model import WorldModel

ONE_PLACE_M = 0.055  # things side by side are further apart
SAME_PLACE_M = 0.025  # in the plane: so near to where the goal shows it a thing of a stack is where it belongs
OVER_M = 0.008  # in the plane, of the tool from where it lets go
ASIDE_M = 0.025  # the same of an open hand that has just let go
LEVEL_M = 0.01  # the same in height
ABOVE_M = 0.02  # higher than that until it is over it
RISE_M = 0.12  # of the empty hand
NEAR_M = 0.06  # of the tool that holds the thing, from where it lets go: from here on the arm's pose is planned
CARRIED_M = 0.01  # ε
PADS_M = 0.03  # further from the middle of the pads nothing is held
CLEAR_M = 0.06  # of the tool: higher up the hand does not change what is seen of a thing
GRIP_M = 0.01  # fingers told to close that much more than they can keep their grip


def find_supports(model: WorldModel, goals: Tensor, goal_image: Tensor, hues: Tensor) -> list[int | None]:
    """What each of Q things stands on in the goal image: the number of another one, or None for the table.

    Args:
        goals: their states there, (Q, D). goal_image: uint8 (1, H, W, 3). hues: (Q,), rad.
    """
    places = model.place(goals)[:, :2]
    focus = attend(goal_image.expand(len(hues), *goal_image.shape[1:]), hues)[:, 1]  # (Q, H, W)
    rows = torch.arange(focus.shape[1], device=focus.device, dtype=focus.dtype)
    height = -(focus.sum(2) * rows).sum(1) / focus.sum((1, 2)).clamp_min(1e-6)  # in the picture, (Q,)
    gaps = torch.cdist(places, places)
    supports: list[int | None] = []
    for i in range(len(hues)):
        below = (height < height[i]) & (gaps[i] < ONE_PLACE_M)
        supports.append(int(gaps[i].where(below, torch.inf).argmin()) if below.any() else None)
    return supports


def place_above(model: WorldModel, now: Tensor, in_goal: Tensor) -> Tensor:
    """Where the tool lets go of what shall stand on a thing of state `now` (D,), `in_goal` in the goal image: (3,), m.

    Seen in both images its errors partly cancel. Things are held at about half their height.
    """
    x, y, half = model.place(torch.stack([now, in_goal])).mean(0)
    return torch.stack([x, y, LOW_M + 2 * half])


def carrying_energy(model: WorldModel, states: Tensor, stand: Tensor) -> Tensor:
    """Energy of states (..., D) to bring the thing to `stand` (3,), without guardrails: (...)."""
    gap = (model.place(states) - stand).square().sum(-1)
    return (gap / CARRIED_M**2).clamp_min(1.0).log()


class Placing:
    """How one thing is put onto another: the poses to take, one after the other.

    The place of the thing in the hand is not read off the image, which takes it to be where the tool is: along the pads
    it is where it lay before the hand came down to it, across them in the middle.
    """

    def __init__(self) -> None:
        self._lay: Tensor | None = None  # where the thing was seen to lie, (2,), metres; None while it is held
        self._offset: Tensor | float = 0.0  # of what is or was held from the tool, (2,), metres
        self._lets_go = False

    def feel(self, model: WorldModel, state: Tensor) -> None:
        """Tell it the state (D,) of each step."""
        tool, _ = tool_pose(model, state)
        if not hand_holds(model, state):
            self._lets_go = False
            if tool[2] >= CLEAR_M:
                self._lay = model.place(state)[:2]
        elif self._lay is not None:
            proprio = model.split(state)[1] * model.proprio_std + model.proprio_mean
            along = proprio[[4, 3]]  # cosine and sine of the yaw: the pads are parallel to that
            gap = (self._lay - tool[:2]) @ along
            self._offset = gap * along if abs(float(gap)) <= PADS_M else 0.0
            self._lay = None

    def pose(self, model: WorldModel, state: Tensor, stand: Tensor) -> Tensor | None:
        """The pose to take next for putting a thing down at `stand` (3,): up, over it, down, fingers open, up again.

        Returns:
            (P,), standardised; None where the hand of the state (D,) neither holds a thing near it nor has just let go.
        """
        tool, opening = tool_pose(model, state)
        over = stand[:2] - self._offset
        aside, above = float((tool[:2] - over).norm()), float(tool[2] - stand[2])
        pose = model.split(state)[1] * model.proprio_std + model.proprio_mean
        if hand_holds(model, state):
            if math.hypot(aside, above) > NEAR_M:
                return None
            self._lets_go |= aside <= OVER_M and abs(above) <= LEVEL_M
            if self._lets_go:
                pose[-1] = WIDE_M + GRIP_M
            else:
                if aside <= OVER_M or above > -LEVEL_M:  # lower down it would push what it shall stand on
                    pose[:2] = over
                pose[2] = stand[2] + (0.0 if aside <= OVER_M else ABOVE_M)
                pose[-1] = opening - GRIP_M
        elif opening >= WIDE_M and aside <= ASIDE_M and -LEVEL_M <= above < RISE_M:
            pose[2] = stand[2] + RISE_M
        else:
            return None
        return (pose - model.proprio_mean) / model.proprio_std
