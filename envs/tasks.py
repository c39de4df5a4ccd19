"""What each task asks: where things start, what the goal image shows, and when it is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from latent_mpc.types import UnknownNameError

if TYPE_CHECKING:
    from latent_mpc.envs.tabletop import TabletopConfig

GOAL_RADIUS_M = 0.03
LIFT_M = 0.03
REST_SPEED_M_S = 0.02
REST_STEPS = 2
REACH_HEIGHT_M = 0.22  # higher up, the default camera's picture cuts the hand off
REACH_RADIUS_M = 0.02
OBJECT_GAP_M = 0.08


@dataclass(frozen=True)
class Layout:
    """Start and goal of an episode. Poses are x, y, z (m) and yaw (rad) in the world frame.

    `target` is the index of the object that moves: the goal image shows the others where they start.
    """

    object_poses: NDArray[np.float64]  # (N, 4)
    goal_poses: NDArray[np.float64]  # (N, 4)
    arm_pose: NDArray[np.float64]  # (4,)
    goal_arm_pose: NDArray[np.float64]  # (4,)
    target: int


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
    """Samples episodes and judges them; `begin` forgets the last episode."""

    moves_object: bool

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
    air_low = np.array([low[0], low[1], 0.15])
    air_high = np.array([high[0], high[1], config.tcp_high_m[2]])
    home = np.array([*config.home_m, 0.0])
    arm_pose = np.append(rng.uniform(air_low, air_high), 0.0)
    reach_pose = np.append(rng.uniform([low[0], low[1], 0.06], [*high, REACH_HEIGHT_M]), 0.0)
    return Layout(
        object_poses=object_poses,
        goal_poses=goal_poses,
        arm_pose=given.get("arm_pose", arm_pose),
        goal_arm_pose=given.get("goal_arm_pose", home if move_object else reach_pose),
        target=target,
    )


class Reach:
    """Bring the tool within 2 cm of where the goal image shows it, 6 to 22 cm above the table.

    The tool's box reaches up to 30 cm, but from 25 cm on the default camera's picture cuts the hand off.
    """

    moves_object = False

    def sample(self, rng, config, rest_heights_m, given) -> Layout:  # type: ignore[no-untyped-def]
        while True:
            layout = sample_layout(rng, config, rest_heights_m, given, move_object=False)
            far = np.linalg.norm(layout.arm_pose[:3] - layout.goal_arm_pose[:3]) >= 0.10
            if far or {"arm_pose", "goal_arm_pose"} <= set(given):
                return layout

    def begin(self, situation: Situation) -> None:
        pass

    def update(self, situation: Situation) -> bool:
        gap = np.linalg.norm(situation.tool_position - situation.layout.goal_arm_pose[:3])
        return bool(gap <= REACH_RADIUS_M)


class _Rearrangement:
    """The target has rested at its goal, out of the gripper's touch, for two steps (and was lifted, if asked)."""

    moves_object = True

    def __init__(self, must_lift: bool) -> None:
        self._must_lift = must_lift

    def sample(self, rng, config, rest_heights_m, given) -> Layout:  # type: ignore[no-untyped-def]
        return sample_layout(rng, config, rest_heights_m, given, move_object=True)

    def begin(self, situation: Situation) -> None:
        self._start_height = situation.object_positions[situation.layout.target, 2]
        self._lifted = not self._must_lift
        self._resting = 0

    def update(self, situation: Situation) -> bool:
        i = situation.layout.target
        position = situation.object_positions[i]
        if situation.grasped[i] and position[2] - self._start_height >= LIFT_M:
            self._lifted = True
        at_goal = np.linalg.norm(position - situation.layout.goal_poses[i, :3]) <= GOAL_RADIUS_M
        released = not situation.touched[i]
        still = situation.object_speeds[i] <= REST_SPEED_M_S
        self._resting = self._resting + 1 if self._lifted and at_goal and released and still else 0
        return self._resting >= REST_STEPS


class Push(_Rearrangement):
    """Bring the object to its goal by any means, and let go of it."""

    def __init__(self) -> None:
        super().__init__(must_lift=False)


class PickPlace(_Rearrangement):
    """Lift the object at least 3 cm, release it, and let it rest within 3 cm of its goal for two steps."""

    def __init__(self) -> None:
        super().__init__(must_lift=True)


TASKS: dict[str, Callable[[], Task]] = {"Reach": Reach, "Push": Push, "PickPlace": PickPlace}


def make_task(name: str) -> Task:
    """Raises UnknownNameError when no task has this name."""
    if name not in TASKS:
        raise UnknownNameError("task", name, list(TASKS))
    return TASKS[name]()
