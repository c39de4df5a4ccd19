"""Random motion of a tool in its workspace, to learn from: it knows no object and no goal.

    step n:  the tool's place at n dt, and the opening from there on;      leg: straight and even, in whole steps
    reach    somewhere                         push   down, sideways above the table, up
    wiggle   to and fro on the spot            grasp  down, close, up, elsewhere, down, open, up

Every leg stays in the box and clear of the keep-outs; a behaviour that cannot is dropped for another. The arm's safety
gate has the last word all the same: it knows the whole arm, this the tool's point alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from latent_mpc.robots.robot import Array
from latent_mpc.robots.splice import Waypoint
from latent_mpc.types import InvalidInputError, WorkspaceSpec

OPEN, CLOSED = 1.0, 0.0
ATTEMPTS = 200  # behaviours in a row of which none has a first leg
CHECK_M = 0.01  # between the places of a leg that are looked at


@dataclass(frozen=True)
class WanderConfig:
    """How behaviours are mixed, and where they go.

    Attributes:
        reach, wiggle, push, grasp: relative frequency.
        low_m: (least, most) height above the floor at which it pushes and grasps.
        lift_m: (least, most) by which it rises after that.
        inset_m: from the faces of the workspace's box. clearance_m: of the tool's point from keep-outs.
        max_yaw_rad: the yaw is kept within plus and minus this.
        slowest: speed of the slowest leg, as a share of the fastest.
    """

    reach: float = 0.25
    wiggle: float = 0.1
    push: float = 0.3
    grasp: float = 0.35
    low_m: tuple[float, float] = (0.01, 0.03)
    lift_m: tuple[float, float] = (0.05, 0.15)
    inset_m: float = 0.01
    clearance_m: float = 0.05
    max_yaw_rad: float = 0.8
    slowest: float = 0.4

    def __post_init__(self) -> None:
        mix = (self.reach, self.wiggle, self.push, self.grasp)
        if min(mix) < 0 or not sum(mix) > 0:
            raise InvalidInputError(f"reach, wiggle, push and grasp must be at least 0 and not all 0, got {mix}")
        for name in ("low_m", "lift_m"):
            if not 0 <= getattr(self, name)[0] <= getattr(self, name)[1]:
                raise InvalidInputError(f"{name} must be a range from 0 up, got {getattr(self, name)}")
        if min(self.inset_m, self.clearance_m, self.max_yaw_rad) < 0 or not 0 < self.slowest <= 1:
            raise InvalidInputError(f"distances and yaw must be at least 0, slowest in (0, 1], got {self}")


class Leg(NamedTuple):
    """Where to go next, (3,), yaw and opening, and for how many steps at least."""

    position_m: Array
    yaw_rad: float
    gripper: float
    steps: int = 1


class Wander:
    """A way without end, by steps; `begin` before anything else."""

    def __init__(self, workspace: WorkspaceSpec, step_m: float, step_yaw_rad: float, config: WanderConfig) -> None:
        """
        Args:
            step_m, step_yaw_rad: how far the tool may go and turn in a step.
        Raises:
            InvalidInputError: the box is too small for this.
        """
        self._workspace, self._config = workspace, config
        self._step_m, self._step_yaw_rad = step_m, step_yaw_rad
        self._low = np.array((*workspace.low_m[:2], workspace.floor_m)) + config.inset_m
        self._high = np.array(workspace.high_m) - config.inset_m
        if not (self._low < self._high).all():
            raise InvalidInputError(f"nothing is left of the workspace's box {config.inset_m} m from its faces")
        self._rng = np.random.default_rng(0)
        self._first = 0
        self._way: list[Waypoint] = []
        self._behaviour: Iterator[Leg] = iter(())

    def seed(self, rng: np.random.Generator) -> None:
        """Whatever is drawn from now on comes from `rng`."""
        self._rng = rng

    def begin(self, step: int, here: Waypoint) -> None:
        """Go on from `here` at `step`; what was before it stays as it was, what was to come is dropped."""
        if not self._first <= step <= self._first + len(self._way):
            self._first, self._way = step, []
        self._way[step - self._first :] = [here]
        self._behaviour = iter(())

    def at(self, step: int) -> Waypoint:
        """Place and opening at a step, not before the one of the first `begin`.

        Raises:
            InvalidInputError: the workspace has no room to go anywhere.
        """
        while step - self._first >= len(self._way):
            self._extend()
        return self._way[max(0, step - self._first)]

    def _extend(self) -> None:
        """Append a leg."""
        here = self._way[-1]
        for _ in range(ATTEMPTS):
            if (leg := next(self._behaviour, None)) is not None and self._clear(here.position_m, leg.position_m):
                break
            self._behaviour = self._draw()
        else:
            raise InvalidInputError(f"the workspace leaves no room to go anywhere from {here.position_m.round(3)}")
        move, turn = leg.position_m - here.position_m, leg.yaw_rad - here.yaw_rad
        far = max(float(np.linalg.norm(move)) / self._step_m, abs(turn) / self._step_yaw_rad)
        count = max(leg.steps, int(np.ceil(far / self._rng.uniform(self._config.slowest, 1.0))))
        self._way[-1] = here._replace(gripper=leg.gripper)  # as the leg begins
        for share in np.arange(1, count + 1) / count:
            self._way.append(Waypoint(here.position_m + share * move, here.yaw_rad + float(share) * turn, leg.gripper))

    def _clear(self, begin: Array, end: Array) -> bool:
        """Whether a straight leg keeps clear of the keep-outs, or leads out of the one that it begins in."""
        count = 2 + int(np.linalg.norm(end - begin) / CHECK_M)
        inside = self._inside(begin + np.linspace(0, 1, count)[:, None] * (end - begin))
        return not inside.any() or bool(inside[0] and not inside[-1] and (np.diff(inside.astype(int)) <= 0).all())

    def _inside(self, places: Array) -> Array:
        """Whether places (N, 3) are in a keep-out or too near to it, (N,)."""
        near, c = np.zeros(len(places), bool), self._config.clearance_m
        for x, y, z, radius in self._workspace.keep_out_balls_m:
            near |= np.linalg.norm(places - (x, y, z), axis=1) < radius + c
        for box in self._workspace.keep_out_boxes_m:
            near |= ((places > np.array(box[:3]) - c) & (places < np.array(box[3:]) + c)).all(1)
        return near

    # ---- behaviours ----

    def _draw(self) -> Iterator[Leg]:
        c = self._config
        weights = np.array([c.reach, c.wiggle, c.push, c.grasp])
        behaviours = (self._reach, self._wiggle, self._push, self._grasp)
        return behaviours[int(self._rng.choice(4, p=weights / weights.sum()))]()

    def _reach(self) -> Iterator[Leg]:
        yield Leg(self._place(), self._yaw(), self._opening())

    def _wiggle(self) -> Iterator[Leg]:
        here, opening = self._way[-1], self._opening()
        for _ in range(int(self._rng.integers(3, 8))):
            place = np.clip(here.position_m + self._rng.normal(0, 0.03, 3), self._low, self._high)
            yield Leg(place, self._near(here.yaw_rad), opening)

    def _push(self) -> Iterator[Leg]:
        opening, yaw, place = self._opening(), self._yaw(), self._low_place()
        angle, far = self._rng.uniform(0, 2 * np.pi), self._rng.uniform(0.05, 0.2)
        end = np.clip(place + far * np.array([np.cos(angle), np.sin(angle), 0.0]), self._low, self._high)
        yield Leg(self._above(place), yaw, opening)
        yield Leg(place, yaw, opening)
        yield Leg(end, yaw, opening)
        yield Leg(self._above(end), yaw, opening)

    def _grasp(self) -> Iterator[Leg]:
        place, yaw = self._low_place(), self._yaw()
        yield Leg(self._above(place), yaw, OPEN)
        yield Leg(place, yaw, OPEN)
        yield Leg(place, yaw, CLOSED, 3)
        yield Leg(self._above(place), yaw, CLOSED)
        there, yaw = self._low_place(), self._near(yaw)
        yield Leg(self._above(there), yaw, CLOSED)
        yield Leg(there, yaw, CLOSED)
        yield Leg(there, yaw, OPEN, 2)
        yield Leg(self._above(there), yaw, OPEN)

    def _place(self) -> Array:
        return self._rng.uniform(self._low, self._high)

    def _low_place(self) -> Array:
        place = self._place()
        place[2] = self._workspace.floor_m + self._rng.uniform(*self._config.low_m)
        return np.clip(place, self._low, self._high)

    def _above(self, place: Array) -> Array:
        return np.clip(place + [0, 0, self._rng.uniform(*self._config.lift_m)], self._low, self._high)

    def _yaw(self) -> float:
        return float(self._rng.choice([0.0, self._rng.uniform(-1, 1) * self._config.max_yaw_rad]))

    def _near(self, yaw_rad: float) -> float:
        most = self._config.max_yaw_rad
        return float(np.clip(yaw_rad + self._rng.normal(0, 0.1), -most, most))

    def _opening(self) -> float:
        return float(self._rng.choice([OPEN, OPEN, CLOSED]))
