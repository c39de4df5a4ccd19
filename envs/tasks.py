"""What each task asks: where things start, what the goal image shows, and when it is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from latent_mpc.envs import scene
from latent_mpc.types import InvalidInputError, UnknownNameError

if TYPE_CHECKING:
    from latent_mpc.envs.tabletop import TabletopConfig

GOAL_RADIUS_M = 0.03
LIFT_M = 0.03
REST_SPEED_M_S = 0.02
REST_STEPS = 2
REACH_HEIGHT_M = 0.22  # higher up, the default camera's picture cuts the hand off
REACH_RADIUS_M = 0.01
OBJECT_GAP_M = 0.08
ROOM_M = 0.10  # between objects where fingers must fit beside each of them
CHAIN_SHARE = 0.5  # of Rearrange's episodes: one object goes where another one stood
STACK_HEIGHT_M = 0.01
STEPS_PER_OBJECT = 45
# Places in the tray, from its middle; neighbours are far enough apart for the fingers if these open along y.
TRAY_PLACES_M = np.array([[-0.09, -0.033], [0.0, -0.033], [0.09, -0.033], [-0.045, 0.033], [0.045, 0.033]])


@dataclass(frozen=True)
class Layout:
    """Start and goal of an episode. Poses are x, y, z (m) and yaw (rad) in the world frame.

    `movers` are the indices of the objects that move: the goal image shows the others where they start.
    """

    object_poses: NDArray[np.float64]  # (N, 4)
    goal_poses: NDArray[np.float64]  # (N, 4)
    arm_pose: NDArray[np.float64]  # (4,)
    goal_arm_pose: NDArray[np.float64]  # (4,)
    movers: tuple[int, ...]


@dataclass(frozen=True)
class Situation:
    """What a task may look at to decide on success."""

    tool_position: NDArray[np.float64]  # (3,), m
    object_positions: NDArray[np.float64]  # (N, 3), m
    object_speeds: NDArray[np.float64]  # (N,), m/s
    grasped: NDArray[np.bool_]  # (N,), touches both pads
    touched: NDArray[np.bool_]  # (N,), touches any pad
    layout: Layout


class Task(Protocol):
    """Samples episodes and judges them; `begin` forgets the last episode.

    Attributes:
        moves_object: False where only the arm moves.
        tray: whether there is a tray on the table.
        num_objects: the fewest and the most that the task can have. shapes: that it can be done with.
        steps_per_object: time limit for each object that moves; None where Gymnasium's registry has the limit.
        play_at_goal: chance that an object that moves starts at its goal in an episode without one (play).
        placed: after `begin` and `update`, (N,): which objects lie where the task wants them, released and at rest,
            those that are to move lifted before.
    """

    moves_object: bool
    tray: bool
    num_objects: tuple[int, int]
    shapes: tuple[str, ...]
    steps_per_object: int | None
    play_at_goal: float
    placed: NDArray[np.bool_]

    def sample(
        self,
        rng: np.random.Generator,
        config: TabletopConfig,
        rest_heights_m: list[float],
        given: Mapping[str, NDArray[np.float64]],
    ) -> Layout:
        """Draw a layout; entries of `given` (the names of Layout's poses) replace what would be drawn."""
        ...

    def begin(self, situation: Situation) -> None: ...

    def update(self, situation: Situation) -> bool:
        """Whether the task is done after this control step."""
        ...


def sample_layout(
    rng: np.random.Generator,
    config: TabletopConfig,
    rest_heights_m: list[float],
    given: Mapping[str, NDArray[np.float64]],
    *,
    move_object: bool,
    min_distance_m: float = 0.10,
) -> Layout:
    """Objects apart from each other at random, one of them with a goal at least `min_distance_m` away.

    The arm starts anywhere above the table; the goal image shows it at home, or with `move_object` False
    at a random pose, the objects staying where they are.
    """
    n = len(rest_heights_m)
    low, high = np.array(config.object_low_m), np.array(config.object_high_m)

    def free_place(taken: list[NDArray[np.float64]], start: NDArray[np.float64] | None) -> NDArray[np.float64]:
        for _ in range(1000):
            xy = rng.uniform(low, high)
            apart = all(np.linalg.norm(xy - t) >= OBJECT_GAP_M for t in taken)
            if apart and (start is None or np.linalg.norm(xy - start) >= min_distance_m + 0.01):
                return xy
        raise RuntimeError(f"no free place for {n} objects between {low} and {high}")

    places: list[NDArray[np.float64]] = []
    for _ in range(n):
        places.append(free_place(places, None))
    yaws = rng.uniform(-config.object_yaw_rad, config.object_yaw_rad, n + 1)
    target = int(rng.integers(n))
    object_poses = np.column_stack([np.array(places), rest_heights_m, yaws[:n]])
    object_poses = given.get("object_poses", object_poses)
    goal_poses = object_poses.copy()
    if move_object:
        others = [p[:2] for i, p in enumerate(object_poses) if i != target]
        goal_poses[target, :2] = free_place(others, object_poses[target, :2])
        goal_poses[target, 2:] = rest_heights_m[target], yaws[n]
    if "goal_poses" in given:
        goal_poses = given["goal_poses"]
        target = int(np.argmax(np.linalg.norm(goal_poses[:, :3] - object_poses[:, :3], axis=1)))
    return _with_arm(rng, config, given, object_poses, goal_poses, (target,), goal_at_home=move_object)


def _with_arm(
    rng: np.random.Generator,
    config: TabletopConfig,
    given: Mapping[str, NDArray[np.float64]],
    object_poses: NDArray[np.float64],
    goal_poses: NDArray[np.float64],
    movers: tuple[int, ...],
    *,
    goal_at_home: bool = True,
) -> Layout:
    """Add the arm: anywhere above the table; in the goal image at home, or else at a random pose."""
    low, high = config.object_low_m, config.object_high_m
    air_low = np.array([low[0], low[1], 0.15])
    air_high = np.array([high[0], high[1], config.tcp_high_m[2]])
    home = np.array([*config.home_m, 0.0])
    arm_pose = np.append(rng.uniform(air_low, air_high), 0.0)
    reach_pose = np.append(rng.uniform([low[0], low[1], 0.06], [*high, REACH_HEIGHT_M]), 0.0)
    return Layout(
        object_poses=object_poses,
        goal_poses=goal_poses,
        arm_pose=given.get("arm_pose", arm_pose),
        goal_arm_pose=given.get("goal_arm_pose", home if goal_at_home else reach_pose),
        movers=movers,
    )


def for_play(rng: np.random.Generator, layout: Layout, at_goal: float) -> Layout:
    """The layout with each object that moves at its goal with chance `at_goal`; nothing is drawn where that is 0."""
    if not at_goal:
        return layout
    poses = layout.object_poses.copy()
    there = [i for i in layout.movers if rng.random() < at_goal]
    poses[there] = layout.goal_poses[there]
    return replace(layout, object_poses=poses)


def scatter(
    rng: np.random.Generator,
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    count: int,
    taken: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Places (count, 2) in a rectangle, `ROOM_M` and more from each other and from those in `taken` (K, 2).

    Raises:
        InvalidInputError: the rectangle is too small for so many.
    """
    for _ in range(300):  # a start that leaves no room for the rest is given up
        places = np.empty((0, 2)) if taken is None else taken
        for _ in range(40 * count):
            xy = rng.uniform(low, high)
            if (np.linalg.norm(places - xy, axis=1) >= ROOM_M).all():
                places = np.vstack([places, xy])
            if len(places) == count + (0 if taken is None else len(taken)):
                return places[len(places) - count :]
    raise InvalidInputError(
        f"no room for {count} objects {100 * ROOM_M:.0f} cm apart between {low} and {high}: "
        "fewer objects, or a larger rectangle from object_low_m to object_high_m"
    )


def _poses(
    rng: np.random.Generator, config: TabletopConfig, places: NDArray[np.float64], heights_m: list[float]
) -> NDArray[np.float64]:
    """Poses (N, 4) of objects that lie at `places` (N, 2), turned at random."""
    yaws = rng.uniform(-config.object_yaw_rad, config.object_yaw_rad, len(places))
    return np.column_stack([places, heights_m, yaws])


class Reach:
    """Bring the tool within 1 cm of where the goal image shows it, 6 to 22 cm above the table.

    The tool's box reaches up to 30 cm, but from 25 cm on the default camera's picture cuts the hand off.
    """

    moves_object = False
    tray = False
    num_objects = (1, 8)
    shapes: tuple[str, ...] = scene.SHAPES
    steps_per_object: int | None = None
    play_at_goal = 0.0
    placed: NDArray[np.bool_]

    def sample(self, rng, config, rest_heights_m, given) -> Layout:  # type: ignore[no-untyped-def]
        while True:
            layout = sample_layout(rng, config, rest_heights_m, given, move_object=False)
            far = np.linalg.norm(layout.arm_pose[:3] - layout.goal_arm_pose[:3]) >= 0.10
            if far or {"arm_pose", "goal_arm_pose"} <= set(given):
                return layout

    def begin(self, situation: Situation) -> None:
        self.placed = np.zeros(len(situation.object_positions), bool)

    def update(self, situation: Situation) -> bool:
        gap = np.linalg.norm(situation.tool_position - situation.layout.goal_arm_pose[:3])
        return bool(gap <= REACH_RADIUS_M)


class _Moving:
    """Objects are placed that have rested where they belong, out of the gripper's touch, for two steps.

    With `must_lift`, those that move must have been lifted before. Done when all that move are placed.
    """

    moves_object = True
    tray = False
    num_objects = (1, 8)
    shapes: tuple[str, ...] = scene.SHAPES
    steps_per_object: int | None = None
    play_at_goal = 0.0
    must_lift = True
    placed: NDArray[np.bool_]

    def begin(self, situation: Situation) -> None:
        n = len(situation.object_positions)
        self._start_heights = situation.object_positions[:, 2].copy()
        self._lifted = np.full(n, not self.must_lift)
        self._lifted[[i for i in range(n) if i not in situation.layout.movers]] = True
        self._resting = np.zeros(n, int)
        self.placed = np.zeros(n, bool)

    def update(self, situation: Situation) -> bool:
        self._lifted |= situation.grasped & (situation.object_positions[:, 2] - self._start_heights >= LIFT_M)
        still = situation.object_speeds <= REST_SPEED_M_S
        resting = self._lifted & self._belongs(situation) & ~situation.touched & still
        self._resting = np.where(resting, self._resting + 1, 0)
        self.placed = self._resting >= REST_STEPS
        return bool(self.placed[list(situation.layout.movers)].all())

    def _belongs(self, situation: Situation) -> NDArray[np.bool_]:
        """Which objects (N,) are where the task wants them, released or not: within 3 cm of the goal's pose."""
        gaps = np.linalg.norm(situation.object_positions - situation.layout.goal_poses[:, :3], axis=1)
        return np.asarray(gaps <= GOAL_RADIUS_M)


class PickPlace(_Moving):
    """Lift the object at least 3 cm, release it, and let it rest within 3 cm of its goal for two steps."""

    def sample(self, rng, config, rest_heights_m, given) -> Layout:  # type: ignore[no-untyped-def]
        return sample_layout(rng, config, rest_heights_m, given, move_object=True)


class Push(PickPlace):
    """Bring the object to its goal by any means, and let go of it."""

    must_lift = False


class Rearrange(_Moving):
    """Pick and place every object; the order is free, but for who goes where another one stood.

    That is one object in half of the episodes; no two wait for each other.
    """

    num_objects = (2, 4)
    steps_per_object: int | None = STEPS_PER_OBJECT

    def sample(self, rng, config, rest_heights_m, given) -> Layout:  # type: ignore[no-untyped-def]
        n = len(rest_heights_m)
        low, high = np.array(config.object_low_m), np.array(config.object_high_m)
        places = scatter(rng, low, high, 2 * n)  # the goals are as far from all starts as from each other
        starts, goals = places[:n], places[n:].copy()
        if rng.random() < CHAIN_SHARE:
            follower, first = rng.choice(n, 2, replace=False)
            goals[follower] = starts[first]
        object_poses = given.get("object_poses", _poses(rng, config, starts, rest_heights_m))
        goal_poses = given.get("goal_poses", _poses(rng, config, goals, rest_heights_m))
        return _with_arm(rng, config, given, object_poses, goal_poses, tuple(range(n)))


class Stack(_Moving):
    """Put one object onto another, which stays within 3 cm of its place; its height must be right to 1 cm."""

    num_objects = (2, 4)
    shapes: tuple[str, ...] = ("cube", "box", "cylinder")  # what another object can rest on
    play_at_goal = 0.5

    def sample(self, rng, config, rest_heights_m, given) -> Layout:  # type: ignore[no-untyped-def]
        n = len(rest_heights_m)
        starts = scatter(rng, np.array(config.object_low_m), np.array(config.object_high_m), n)
        object_poses = given.get("object_poses", _poses(rng, config, starts, rest_heights_m))
        mover, base = (int(i) for i in rng.choice(n, 2, replace=False))
        goal_poses = object_poses.copy()
        goal_poses[mover, :2] = object_poses[base, :2]
        goal_poses[mover, 2] = object_poses[base, 2] + rest_heights_m[base] + rest_heights_m[mover]
        goal_poses[mover, 3] = rng.uniform(-config.object_yaw_rad, config.object_yaw_rad)
        if "goal_poses" in given:
            goal_poses = given["goal_poses"]
            mover = int(np.argmax(np.linalg.norm(goal_poses[:, :3] - object_poses[:, :3], axis=1)))
        return _with_arm(rng, config, given, object_poses, goal_poses, (mover,))

    def _belongs(self, situation: Situation) -> NDArray[np.bool_]:
        layout, belongs = situation.layout, super()._belongs(situation)
        (mover,) = layout.movers
        below = layout.goal_poses[:, 2] < layout.goal_poses[mover, 2]
        below &= np.linalg.norm(layout.goal_poses[:, :2] - layout.goal_poses[mover, :2], axis=1) <= GOAL_RADIUS_M
        high = abs(situation.object_positions[mover, 2] - layout.goal_poses[mover, 2]) <= STACK_HEIGHT_M
        belongs[mover] &= high and belongs[below].all()
        return belongs


class ClearTable(_Moving):
    """Lift every object into the tray, at whatever place in it; the goal image shows them there."""

    tray = True
    num_objects = (3, 5)
    steps_per_object: int | None = STEPS_PER_OBJECT
    play_at_goal = 0.5

    def sample(self, rng, config, rest_heights_m, given) -> Layout:  # type: ignore[no-untyped-def]
        n = len(rest_heights_m)
        low, high = np.array(config.object_low_m), np.array(config.object_high_m)
        high[1] = min(high[1], scene.TRAY_LOW_M[1] - 0.055)  # no object leans on the rim
        if low[1] >= high[1]:
            raise InvalidInputError(f"no room beside the tray for objects between {low} and {high} (object_low_m, y)")
        object_poses = given.get("object_poses", _poses(rng, config, scatter(rng, low, high, n), rest_heights_m))
        if in_tray(object_poses[:, :3]).any():
            raise InvalidInputError("an object starts in the tray; starts must not be successes")
        middle = (np.array(scene.TRAY_LOW_M) + scene.TRAY_HIGH_M) / 2
        places = middle + rng.permutation(TRAY_PLACES_M)[:n]
        goal_poses = given.get("goal_poses", np.column_stack([places, rest_heights_m, np.zeros(n)]))
        return _with_arm(rng, config, given, object_poses, goal_poses, tuple(range(n)))

    def _belongs(self, situation: Situation) -> NDArray[np.bool_]:
        return in_tray(situation.object_positions)


def in_tray(positions: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which centres (N, 3), metres, are above the inside of the tray, (N,)."""
    inside = (positions[:, :2] >= scene.TRAY_LOW_M) & (positions[:, :2] <= scene.TRAY_HIGH_M)
    return np.asarray(inside.all(axis=1))


TASKS: dict[str, Callable[[], Task]] = {
    "Reach": Reach,
    "Push": Push,
    "PickPlace": PickPlace,
    "Rearrange": Rearrange,
    "Stack": Stack,
    "ClearTable": ClearTable,
}


def make_task(name: str) -> Task:
    """Raises UnknownNameError when no task has this name."""
    if name not in TASKS:
        raise UnknownNameError("task", name, list(TASKS))
    return TASKS[name]()


def check_objects(name: str, config: TabletopConfig) -> None:
    """Raises InvalidInputError when a task cannot be done with so many objects, or of these shapes."""
    task = make_task(name)
    fewest, most = task.num_objects
    if not fewest <= config.num_objects <= most:
        raise InvalidInputError(f"{name} takes {fewest} to {most} objects, got num_objects {config.num_objects}")
    if unfit := sorted(set(config.shapes) - set(task.shapes)):
        raise InvalidInputError(f"{name} cannot be done with {unfit}; its shapes are {sorted(task.shapes)}")
