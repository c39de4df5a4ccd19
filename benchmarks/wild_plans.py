"""Do plans that no sound planner makes ever bring the arm too near to something? Controller and arm on one clock.

    nearest = min_k clearance(true joints at tick k)        IK, gate and retiming lie between a plan and the arm

Targets lie outside the box, in the table, in a keep-out, in the arm itself and out of reach, with jumps, wild yaw and
wild speed; plans begin elsewhere, or run out on the way. Nothing but the controller holds the arm back: the scene's
keep-outs are not there to touch.

python benchmarks/wild_plans.py --plans 1000
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from clearance import Clearance
from numpy.typing import NDArray
from soak import simulated_panda
from tqdm import tqdm

from latent_mpc.robots.channels import Phase
from latent_mpc.robots.controller import LIVE, Controller, ControllerConfig
from latent_mpc.robots.parts import standard_parts
from latent_mpc.robots.robot import RobotState, Setpoint, TimedPlan
from latent_mpc.robots.safety import Verdict
from latent_mpc.robots.setpoint_check import Violations
from latent_mpc.robots.workspace import Distances, Room
from latent_mpc.robots.world import World
from latent_mpc.robots.world_driver import WorldDriver
from latent_mpc.types import WorkspaceSpec

WORKSPACE = WorkspaceSpec(
    low_m=(-0.5, -0.6, -0.05),
    high_m=(0.75, 0.6, 0.9),
    table_m=0.0,
    keep_out_balls_m=((0.45, 0.4, 0.25, 0.12),),
    keep_out_boxes_m=((0.3, -0.6, 0.0, 0.5, -0.35, 0.3),),
    speed_m_s=1.0,
)
ANEW = 8  # plans from one place
SETTLE_S = 0.6  # to rest, and until it can be armed
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Found:
    """What became of the plans.

    Attributes:
        followed, refused: plans. nearest_m: smallest clearances of the arm, and of the tool to the scene, (2,).
        outside_m: how far the tool's point ever was outside its box. gone_m: the way that it went.
        checks: what the gate said, how often. violations: the arm's own count of bad setpoints.
    """

    followed: int
    refused: int
    nearest_m: Array
    outside_m: float
    gone_m: float
    checks: dict[str, int]
    violations: Violations

    def __str__(self) -> str:
        arm, tool = 1e3 * self.nearest_m
        return (
            f"{self.followed} plans followed, {self.refused} refused; the tool went {self.gone_m:.0f} m\n"
            f"nearest: the arm {arm:.1f} mm, the tool to the scene {tool:.1f} mm; "
            f"outside its box at most {1e3 * self.outside_m:.1f} mm\n"
            f"violations: {asdict(self.violations)}\nthe gate: {self.checks}"
        )


def targets(rng: np.random.Generator) -> Iterator[Array]:
    """Where no plan should lead, (3,)."""
    while True:
        angle = rng.uniform(-np.pi, np.pi)
        yield rng.uniform((-1, -1, 0.1), (1, 1, 1.2))
        yield rng.uniform((-0.6, -0.6, -0.4), (0.8, 0.6, -0.05))
        yield np.array([0.1 * np.cos(angle), 0.1 * np.sin(angle), rng.uniform(0.0, 0.7)])
        yield np.array([0.9 * np.cos(angle), 0.9 * np.sin(angle), rng.uniform(0.0, 0.6)])
        yield np.array([0.45, 0.4, 0.25]) if rng.uniform() < 0.5 else np.array([0.4, -0.45, 0.15])


class Ride:
    """An arm over its table, and a controller without a gate's mercy.

    Attributes:
        nearest_m, outside_m, gone_m, checks: see `Found`.
    """

    def __init__(self, seed: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.driver = WorldDriver(World(simulated_panda(Path(folder))))
        spec = self.driver.spec
        self.rng, self.checks = np.random.default_rng(seed), Counter[str]()
        self.nearest_m, self.outside_m, self.gone_m = np.full(2, np.inf), 0.0, 0.0
        self._clearance, self._room = Clearance(WORKSPACE), Room(spec, WORKSPACE, Distances())
        self._targets, self._sequence = targets(self.rng), 0
        parts = standard_parts(spec, WORKSPACE)
        self._gate, self.forward = parts.gate, parts.forward
        self._parts = parts._replace(gate=self._judged)
        self._low = np.array((*WORKSPACE.low_m[:2], WORKSPACE.floor_m))

    def _judged(self, wanted: Setpoint, last: Setpoint, state: RobotState, now_s: float, *, sent_rad: Array) -> Verdict:
        verdict = self._gate(wanted, last, state, now_s, sent_rad=sent_rad)
        self.checks.update(verdict.checks)
        return verdict

    def begin(self) -> None:
        """Armed at a random place with room around it."""
        qpos = np.full(self.driver.world.model.nq, np.nan)
        low, high = np.array(self.driver.spec.q_low_rad), np.array(self.driver.spec.q_high_rad)
        while np.isnan(qpos[:7]).any():
            q_rad = self.rng.uniform(low + 0.1, high - 0.1)
            if (self._room(q_rad)[0] > self._room.slow).all():
                qpos[:7] = q_rad
        self.driver.world.place(qpos)
        self._tool_m = self.forward(q_rad).position_m
        self.controller = Controller(self.driver, self._parts, ControllerConfig(arm_after_s=0.05))
        self.controller.connect(self.driver.now_s)
        self.run(0.1)
        assert self.controller.arm(self.driver.now_s) == ""

    def run(self, seconds: float) -> None:
        """Tick, and measure what is true."""
        for _ in range(round(seconds / self.controller.dt_s)):
            self.controller.beat(self.driver.now_s)
            self.controller.tick(self.driver.now_s)
            self.driver.advance()
            q_rad, world = self.driver.world.q_rad, self.driver.world
            self.nearest_m = np.minimum(self.nearest_m, self._clearance(q_rad, 0.04 * world.gripper))
            tool_m = self.forward(q_rad).position_m
            outside = np.concatenate([self._low - tool_m, tool_m - WORKSPACE.high_m])
            self.outside_m = max(self.outside_m, float(outside.max()))
            self.gone_m += float(np.linalg.norm(tool_m - self._tool_m))
            self._tool_m = tool_m

    def plan(self) -> TimedPlan:
        """A wild one: mostly from where the tool is told to be, at a wild speed, by up to four targets."""
        rng, now_s = self.rng, self.driver.now_s
        pose = self.forward(self.controller.setpoint.q_rad)
        way = [pose.position_m, *(next(self._targets) for _ in range(rng.integers(1, 5)))]
        if rng.random() < 0.05:
            way = way[1:]  # it begins elsewhere
        position_m = np.array(way)  # (N, 3)
        legs = np.linalg.norm(np.diff(position_m, axis=0), axis=1) / rng.uniform(0.2, 3.0)
        legs = np.where(rng.random(len(legs)) < 0.2, 0.001, np.maximum(legs, 0.001))  # some are jumps
        times_s = self.controller.splice.motion_s + np.concatenate([[0.0], np.cumsum(legs)])
        yaw = pose.yaw_rad + np.cumsum(rng.uniform(-3, 3, len(way)) * (rng.random(len(way)) < 0.7))
        self._sequence += 1
        valid_s = rng.uniform(0.1, 1.5)
        return TimedPlan(self._sequence, 0, times_s, position_m, yaw, rng.random(len(way)), now_s + valid_s)


def ride(plans: int, seed: int, show: Callable[[int], object] = lambda _: None) -> Found:
    """Offer so many plans, one after the other; `show` is told of each."""
    wild, followed = Ride(seed), 0
    for index in range(plans):
        if index % ANEW == 0 or wild.controller.phase not in LIVE:
            wild.begin()
        followed += not wild.controller.offer(wild.plan(), wild.driver.now_s)
        wild.run(wild.rng.uniform(0.1, 0.8))
        if index % ANEW == ANEW - 1:
            wild.controller.stop(wild.driver.now_s)
            wild.run(SETTLE_S)
            assert wild.controller.phase is Phase.STOPPED and wild.controller.quiet
        show(1)
    violations = wild.driver.world.check.counts
    return Found(followed, plans - followed, wild.nearest_m, wild.outside_m, wild.gone_m, dict(wild.checks), violations)


def main() -> None:
    parser = argparse.ArgumentParser(description="wild plans through the controller, clearance by ground truth")
    parser.add_argument("--plans", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tqdm(total=arguments.plans, unit="plan") as bar:
        print(ride(arguments.plans, arguments.seed, bar.update))


if __name__ == "__main__":
    main()
