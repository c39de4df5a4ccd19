"""Scripted behaviour on the tabletop: task-agnostic play to learn from, and an expert as a baseline.

Both use the simulator's object poses, which no agent sees. Play knows no goal: it reaches, wiggles, pushes, picks
and places at random, is interrupted at random, and misses on purpose some of the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latent_mpc.envs.arm import FINGER_RANGE_M
from latent_mpc.envs.tabletop import ACTION_DIM, TabletopEnv
from latent_mpc.types import InvalidInputError

OPEN, CLOSED = -1.0, 1.0
PALM_M = 0.033  # the palm is so far above the tool centre point, less 4 mm
FINGER_M = 0.012  # a finger's reach beyond the face of its pad
MAX_OPENING_M = 2 * FINGER_RANGE_M
ROUND_SHAPES = ("cylinder", "sphere", "cup", "plate")  # to be held at any yaw
OVER_M = 0.015  # across the table: who is that near stands above it
LET_GO_M = 0.02  # what lies so near its goal was brought there
TIP_M = 0.011  # the fingertips are so far below the tool centre point
# A behaviour yields, each control step: target position in W (3,), target yaw, gripper command.
Setpoint = tuple[NDArray[np.float64], float, float]
Behaviour = Iterator[Setpoint]


@dataclass(frozen=True)
class PlayConfig:
    """How play mixes its behaviours.

    Attributes:
        reach, wiggle, push, pick: relative frequency of each behaviour; a held object is mostly placed instead.
        interrupt: chance, each step, that the behaviour is dropped for another.
        action_noise: standard deviation of the noise on every action.
        grasp_noise_m: standard deviation of where a grasp is aimed at, in the plane.
        miss: share of grasps that are aimed up to 5 cm beside the object.
        onto: share of placements that are aimed at the top of another object.
    """

    reach: float = 0.15
    wiggle: float = 0.07
    push: float = 0.13
    pick: float = 0.65
    interrupt: float = 0.02
    action_noise: float = 0.15
    grasp_noise_m: float = 0.006
    miss: float = 0.25
    onto: float = 0.0

    def __post_init__(self) -> None:
        if (
            min(self.reach, self.wiggle, self.push, self.pick) < 0
            or self.reach + self.wiggle + self.push + self.pick <= 0
        ):
            raise InvalidInputError("reach, wiggle, push and pick must be at least 0 and not all 0")
        chances = 0 <= self.interrupt < 1 and 0 <= self.miss <= 1 and 0 <= self.onto <= 1
        if not (chances and min(self.action_noise, self.grasp_noise_m) >= 0):
            raise InvalidInputError("interrupt, miss and onto are chances; noises are standard deviations, at least 0")


class _Hands:
    """Turns setpoints into actions for one environment."""

    def __init__(self, env: TabletopEnv) -> None:
        self.env = env

    def action(self, setpoint: Setpoint, speed: float) -> NDArray[np.float64]:
        """Action (5,) towards a setpoint, at most `speed` of the largest step."""
        target, yaw, grip = setpoint
        position, now = self.env.arm.pose(self.env.data)
        move = (target - position) / self.env.config.step_m
        move *= min(1.0, speed / max(float(np.linalg.norm(move)), 1e-9))
        turn = np.clip((yaw - now) / self.env.config.step_yaw_rad, -1, 1)
        return np.array([*move, turn, grip])

    def near(self, target: NDArray[np.float64], tolerance_m: float) -> bool:
        return bool(np.linalg.norm(self.env.arm.pose(self.env.data)[0] - target) < tolerance_m)

    def go(self, target: NDArray[np.float64], yaw: float, grip: float, tolerance_m: float = 0.01) -> Behaviour:
        """Move until within the tolerance, 12 steps at most."""
        for _ in range(12):
            yield target, yaw, grip
            if self.near(target, tolerance_m):
                return

    def hold(self, target: NDArray[np.float64], yaw: float, grip: float, steps: int) -> Behaviour:
        for _ in range(steps):
            yield target, yaw, grip

    def grasp_yaw(self, i: int) -> float:
        """The yaw, of those that a box's symmetry offers, nearest to the gripper's."""
        yaw = self.env.object_yaws()[i]
        quarter = np.pi / 2
        return float((yaw + quarter / 2) % quarter - quarter / 2)

    def grasp_height(self, i: int) -> float:
        """Where to hold object `i`, metres above its centre: below it, but with the palm clear of its top."""
        half, low = self.env.objects[i].half_size_m[2], self.env.config.tcp_low_m[2]
        return max(0.01 - 0.5 * half, half - PALM_M, low - half)

    def top(self, i: int) -> float:
        """Height of object `i`'s upper side, metres."""
        return float(self.env.object_positions()[i, 2]) + self.env.objects[i].half_size_m[2]

    def floor_under(self, i: int) -> float:
        """Height of what object `i` lies on, metres: the table, or the top of another object."""
        positions = self.env.object_positions()
        bottom = positions[i, 2] - self.env.objects[i].half_size_m[2]
        near = np.linalg.norm(positions[:, :2] - positions[i, :2], axis=1) < self.env.objects[i].half_size_m[0] + 0.02
        tops = [self.top(j) for j in range(len(near)) if near[j] and j != i]
        return max((top for top in tops if abs(top - bottom) < 0.01), default=0.0)

    def pick(self, i: int, aim: NDArray[np.float64], yaw: float, lift_m: float, hover_m: float = 0.07) -> Behaviour:
        """Grasp object `i`, aimed `aim` (2,) metres beside its centre, and lift it."""
        over = self.env.object_positions()[i] + [*aim, hover_m]
        yield from self.go(over, yaw, OPEN, 0.015)
        place = self.env.object_positions()[i] + [*aim, 0]
        floor, half = self.floor_under(i), self.env.objects[i].half_size_m[2]
        place[2] = floor + max(0.5 * (place[2] - floor) + 0.01, 2 * half - PALM_M, self.env.config.tcp_low_m[2])
        yield from self.go(place, yaw, OPEN, 0.008)
        yield from self.hold(place, yaw, CLOSED, 2)
        yield from self.go(place + [0, 0, lift_m], yaw, CLOSED, 0.02)

    def place(self, target: NDArray[np.float64], yaw: float, travel_z: float, rise_m: float) -> Behaviour:
        """Carry what is held to `target` (3,) at height `travel_z`, let go and rise."""
        yield from self.go(np.array([*target[:2], travel_z]), yaw, CLOSED, 0.015)
        yield from self.go(target, yaw, CLOSED, 0.008)
        yield from self.hold(target, yaw, OPEN, 2)
        yield from self.go(target + [0, 0, rise_m], yaw, OPEN, 0.02)


class PlayPolicy:
    """Task-agnostic play. Call `reset` after each reset of the environment; `act` gives an action (5,) float32."""

    def __init__(self, env: TabletopEnv, rng: np.random.Generator, config: PlayConfig | None = None) -> None:
        self._hands, self._env, self._rng, self._config = _Hands(env), env, rng, config or PlayConfig()
        self.reset()

    def reset(self) -> None:
        self._behaviour: Behaviour = iter(())
        self._speed = 1.0

    def act(self) -> NDArray[np.float32]:
        if self._rng.random() < self._config.interrupt:
            self._behaviour = iter(())
        setpoint = next(self._behaviour, None)
        while setpoint is None:
            self._behaviour = self._draw()
            setpoint = next(self._behaviour, None)
        action = self._hands.action(setpoint, self._speed)
        action += self._config.action_noise * self._rng.standard_normal(ACTION_DIM)
        return np.clip(action, -1, 1).astype(np.float32)

    def _draw(self) -> Behaviour:
        rng, c, env = self._rng, self._config, self._env
        self._speed = float(rng.choice([1.0, 1.0, rng.uniform(0.3, 1.0)]))
        held = env.grasped()
        if held.any() and rng.random() < 0.85:
            return self._place_somewhere(int(np.argmax(held)))
        weights = np.array([c.reach, c.wiggle, c.push, c.pick])
        i = int(rng.integers(env.config.num_objects))
        behaviours = (self._reach, self._wiggle, self._push, self._pick)
        return behaviours[int(rng.choice(4, p=weights / weights.sum()))](i)

    def _point(self, low_z: float, high_z: float) -> NDArray[np.float64]:
        low, high = self._env.config.object_low_m, self._env.config.object_high_m
        return self._rng.uniform([low[0] - 0.02, low[1] - 0.02, low_z], [high[0] + 0.02, high[1] + 0.02, high_z])

    def _grip_now(self) -> float:
        return CLOSED if self._env.grasped().any() else float(self._rng.choice([OPEN, OPEN, CLOSED]))

    def _reach(self, i: int) -> Behaviour:
        point = self._point(0.02, 0.28)
        if self._rng.random() < 0.3:  # home is where goal images show the arm
            point = np.array(self._env.config.home_m)
        yaw = self._rng.choice([0.0, self._rng.uniform(-0.8, 0.8)])
        yield from self._hands.go(point, yaw, self._grip_now(), 0.02)

    def _wiggle(self, i: int) -> Behaviour:
        position, yaw = self._env.arm.pose(self._env.data)
        grip = self._grip_now()
        for _ in range(int(self._rng.integers(3, 8))):
            position = position + self._rng.normal(0, 0.03, 3)
            position[2] = max(position[2], 0.02)
            yield position, yaw + self._rng.normal(0, 0.1), grip

    def _push(self, i: int) -> Behaviour:
        rng = self._rng
        centre = self._env.object_positions()[i]
        angle = rng.uniform(0, 2 * np.pi)
        direction = np.array([np.cos(angle), np.sin(angle), 0.0])
        height = np.array([0, 0, rng.uniform(0.02, 0.04) - centre[2]])
        grip, yaw = float(rng.choice([OPEN, CLOSED])), rng.uniform(-0.8, 0.8)
        start = centre - 0.08 * direction + height
        yield from self._hands.go(start + [0, 0, 0.08], yaw, grip, 0.02)
        yield from self._hands.go(start, yaw, grip, 0.015)
        yield from self._hands.go(centre + rng.uniform(-0.03, 0.12) * direction + height, yaw, grip, 0.015)
        if rng.random() < 0.7:
            position = self._env.arm.pose(self._env.data)[0]
            yield from self._hands.go(position + [0, 0, rng.uniform(0.05, 0.15)], yaw, grip, 0.02)

    def _pick(self, i: int) -> Behaviour:
        rng, c = self._rng, self._config
        aim = rng.normal(0, c.grasp_noise_m, 2)
        if rng.random() < c.miss:
            aim = rng.uniform(-0.05, 0.05, 2)
        yaw = self._hands.grasp_yaw(i) + rng.normal(0, 0.1)
        if rng.random() < 0.2:
            yaw = rng.uniform(-0.8, 0.8)
        yield from self._hands.pick(i, aim, yaw, rng.uniform(0.03, 0.22), hover_m=rng.uniform(0.05, 0.12))

    def _place_somewhere(self, i: int) -> Behaviour:
        rng = self._rng
        target = self._point(0.0, 0.0)
        if rng.random() < 0.3:  # small corrections
            near = self._env.object_positions()[i, :2] + rng.uniform(-0.08, 0.08, 2)
            target[:2] = np.clip(near, self._env.config.object_low_m, self._env.config.object_high_m)
        half = self._env.objects[i].half_size_m[2]
        drop = 0.0 if rng.random() < 0.6 else rng.uniform(0, 0.05)
        target[2] = max(half + drop, self._env.config.tcp_low_m[2])
        others = [j for j in range(self._env.config.num_objects) if j != i]
        if self._config.onto > 0 and others and rng.random() < self._config.onto:
            j = int(rng.choice(others))
            target[:2] = self._env.object_positions()[j, :2] + rng.normal(0, self._config.grasp_noise_m, 2)
            target[2] += self._hands.top(j)
        yaw = float(np.clip(self._env.arm.pose(self._env.data)[1] + rng.normal(0, 0.3), -0.8, 0.8))
        yield from self._hands.place(target, yaw, rng.uniform(0.05, 0.25), rng.uniform(0.05, 0.2))
        if rng.random() < 0.3:
            yield from self._hands.go(np.array(self._env.config.home_m), 0.0, OPEN, 0.02)


class ScriptedExpert:
    """Picks the objects that move and places them at their goals, with the simulator's knowledge. A baseline only."""

    def __init__(self, env: TabletopEnv) -> None:
        self._hands, self._env = _Hands(env), env
        self.reset()

    def reset(self) -> None:
        self._behaviour: Behaviour = iter(())

    def act(self) -> NDArray[np.float32]:
        setpoint = next(self._behaviour, None)
        while setpoint is None:
            self._behaviour = self._attempt(self._next())
            setpoint = next(self._behaviour, None)
        return np.clip(self._hands.action(setpoint, 1.0), -1, 1).astype(np.float32)

    def _next(self) -> int:
        """The first object that is not placed yet and whose goal is free."""
        env, layout = self._env, self._env.layout
        waiting = [i for i in layout.movers if not env.task.placed[i]] or list(layout.movers)
        places = env.object_positions()[:, :2]
        for i in waiting:
            others = [j for j in waiting if j != i]
            gaps = np.linalg.norm(places[others] - layout.goal_poses[i, :2], axis=1)
            if all(gap > self._radius(i) + self._radius(j) for j, gap in zip(others, gaps, strict=True)):
                return i
        return waiting[0]

    def _radius(self, i: int) -> float:
        return max(self._env.objects[i].half_size_m[:2])

    def _clearest(self, i: int, xy: NDArray[np.float64], yaws: list[float]) -> float:
        """The yaw at which the fingers around object `i` at `xy` (2,) keep furthest from the other objects."""
        others = [j for j in range(self._env.config.num_objects) if j != i]
        if not others:
            return yaws[0]
        places, radii = self._env.object_positions()[others, :2], [self._radius(j) for j in others]

        def room(yaw: float) -> float:
            finger = (self._radius(i) + FINGER_M) * np.array([-np.sin(yaw), np.cos(yaw)])
            gaps = [np.linalg.norm(places - (xy + side * finger), axis=1) - radii for side in (-1, 1)]
            return min(float(np.min(gaps)), 0.02)  # two centimetres are plenty: then the first yaw

        return max(yaws, key=room)

    def _attempt(self, i: int) -> Behaviour:
        """Down from above all that stands around, grasp, up, over, down, let go and up; or from the middle of it."""
        env, hands = self._env, self._hands
        goal = env.layout.goal_poses[i, :3]
        tops = [hands.top(j) for j in range(env.config.num_objects) if j != i]
        grip = hands.grasp_height(i)
        below = grip + env.objects[i].half_size_m[2]  # the held object reaches so far below the tool
        high = min(max(tops, default=0.0) + max(below, TIP_M) + 0.025, env.config.tcp_high_m[2])
        high = max(high, 0.10)
        opening = min(2 * (self._radius(i) + 0.008) / MAX_OPENING_M, 1.0)
        ajar = 0.5 - opening  # as a command

        place, held = env.object_positions()[i], env.grasped()[i]
        lifted_m = max(high, place[2] + grip + (0.0 if held else 0.05))
        if not held:
            tool, yaw = env.arm.pose(env.data)
            if np.linalg.norm(place - goal) < LET_GO_M and tool[2] < high - 0.02:
                yield from hands.go(np.array([*tool[:2], high]), yaw, ajar, 0.02)
            yield from self._take(i, high, lifted_m, ajar)
        if not env.grasped()[i]:
            return  # try again
        yield from self._bring(i, high, lifted_m, ajar)

    def _take(self, i: int, high: float, lifted_m: float, ajar: float) -> Behaviour:
        """Grasp object `i` from a tool height `high` and lift it to `lifted_m`; `ajar` opens the fingers."""
        env, hands = self._env, self._hands
        start = env.object_positions()[i]
        yaw = hands.grasp_yaw(i)
        turned = [yaw] + [y for y in (yaw - np.pi / 2, yaw + np.pi / 2) if abs(y) <= env.config.max_yaw_rad]
        round_yaws = [0.0, 0.4, -0.4, 0.8, -0.8]
        yaw = self._clearest(i, start[:2], round_yaws if env.objects[i].shape in ROUND_SHAPES else turned)
        if np.linalg.norm(env.arm.pose(env.data)[0][:2] - start[:2]) > OVER_M:
            yield from hands.go(np.array([*start[:2], high]), yaw, ajar, 0.02)
        place = env.object_positions()[i] + [0, 0, hands.grasp_height(i)]
        yield from hands.go(place, yaw, ajar, 0.004)
        yield from hands.hold(place, yaw, CLOSED, 2)
        yield from hands.go(np.array([*place[:2], lifted_m]), yaw, CLOSED, 0.02)

    def _bring(self, i: int, high: float, lifted_m: float, ajar: float) -> Behaviour:
        """Carry object `i`, which is held, to its goal at a tool height `lifted_m`, let go and rise to `high`."""
        env, hands = self._env, self._hands
        goal = env.layout.goal_poses[i, :3]
        yaw = self._clearest(i, goal[:2], [0.0, 0.4, -0.4, 0.8, -0.8])
        if np.linalg.norm(env.object_positions()[i, :2] - goal[:2]) > OVER_M:
            yield from hands.go(np.array([*goal[:2], lifted_m]), yaw, CLOSED, 0.01)
        held = env.arm.pose(env.data)[0] - env.object_positions()[i]
        target = goal + held + [0, 0, 0.002]
        yield from hands.go(target, yaw, CLOSED, 0.004)
        yield from hands.hold(target, yaw, ajar, 2)
        yield from hands.go(np.array([*target[:2], max(high, target[2] + 0.06)]), yaw, ajar, 0.02)
