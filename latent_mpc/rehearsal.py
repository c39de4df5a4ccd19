"""The whole loop in simulated time: world, camera with latency, pilot that takes time to think, controller, gate.

    one clock for all:  physics and controller every tick, a frame every 1/frame_hz, seen `latency` later,
                        a plan offered `thinking_s` after the frame it came from was seen

It repeats to the bit on any machine, however slow, and shows what latencies cost; drive.py is the same in real time.
"""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from latent_mpc.agent import Agent
from latent_mpc.envs.tabletop import TabletopEnv
from latent_mpc.pilot import Pilot, PilotConfig
from latent_mpc.robots.channels import Phase
from latent_mpc.robots.controller import LIVE, Controller, ControllerConfig
from latent_mpc.robots.parts import standard_parts
from latent_mpc.robots.robot import TimedPlan
from latent_mpc.robots.world import World
from latent_mpc.robots.world_driver import WorldDriver
from latent_mpc.sight import Sight
from latent_mpc.simulated_panda import SERVO_LAG_S, TABLETOP, simulation_config
from latent_mpc.types import InvalidInputError, PlanningFailed, WorkspaceSpec


@dataclass(frozen=True)
class RehearsalConfig:
    """What the loop is to put up with.

    Attributes:
        frame_hz: frames a second. latency_s: (shortest, longest) until a frame is seen.
        thinking_s: (shortest, longest) that a plan takes.
        seconds: of an episode at most.
    """

    frame_hz: float = 20.0
    latency_s: tuple[float, float] = (0.03, 0.06)
    thinking_s: tuple[float, float] = (0.04, 0.16)
    seconds: float = 20.0

    def __post_init__(self) -> None:
        if not (self.frame_hz > 0 and self.seconds > 0):
            raise InvalidInputError(f"frame_hz and seconds must be positive, got {self.frame_hz} and {self.seconds}")
        for low, high in (self.latency_s, self.thinking_s):
            if not 0 <= low <= high:
                raise InvalidInputError(f"latencies are ranges from 0 up, got {self.latency_s}, {self.thinking_s}")


@dataclass(frozen=True)
class Outcome:
    """Of an episode: success and its time, plans sent, changes of phase, setpoints that must not be."""

    success: bool
    seconds: float
    plans: int
    events: tuple[str, ...]
    violations: int


def rehearse(
    agent: Agent,
    env: TabletopEnv,
    *,
    seed: int,
    config: RehearsalConfig | None = None,
    pilot_config: PilotConfig | None = None,
    workspace: WorkspaceSpec = TABLETOP,
) -> Outcome:
    """One episode of `env`'s task, driven through the controller.

    Args:
        agent: plans; `reset` is called. env: gives the scene and judges the outcome. seed: of scene and latencies.
        workspace: that the gate keeps the arm in; the agent is to know it too.
    """
    c = config or RehearsalConfig()
    observation, _ = env.reset(seed=seed)
    agent.reset(observation["goal_image"], seed=seed)
    pilot, rng = Pilot(agent, pilot_config), np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        world = World(simulation_config(env, Path(folder), seed))
    driver = WorldDriver(world)
    events: list[str] = []
    parts = standard_parts(driver.spec, workspace)
    controller = Controller(
        driver,
        parts,
        ControllerConfig(latency_s=SERVO_LAG_S),
        on_event=lambda now_s, kind, text: events.append(f"{now_s:.2f} {kind}: {text}"),
    )
    controller.connect(0.0)
    sights: list[tuple[float, Sight]] = []  # when each is seen
    offers: list[tuple[float, TimedPlan]] = []  # when each plan is ready
    ticks, frames, free_s, plans, done = 0, 0, 0.0, 0, False
    judge_every = round(env.config.control_dt_s * driver.spec.control_hz)
    frame_every = round(driver.spec.control_hz / c.frame_hz)
    try:
        while driver.now_s < c.seconds and not done:
            now = driver.now_s
            controller.beat(now)
            if controller.phase is Phase.CALIBRATED:
                controller.arm(now)
            if ticks % frame_every == 0:
                frames += 1
                pose = parts.forward(world.q_rad)
                width = world.gripper * driver.spec.gripper_width_m
                sight = Sight(world.render(), frames, controller.splice.motion_s, pose.position_m, pose.yaw_rad, width)
                sights.append((now + rng.uniform(*c.latency_s), sight))
            if now >= free_s and sights and sights[0][0] <= now and controller.phase in LIVE:
                seen = [sight for at, sight in sights if at <= now][-1]
                sights = [(at, sight) for at, sight in sights if at > now]
                if controller.phase is not Phase.RUNNING:
                    pilot.forget()
                thinking_s = rng.uniform(*c.thinking_s)
                free_s, moving = now + thinking_s, controller.phase is Phase.RUNNING
                ready = controller.splice.motion_s + moving * thinking_s
                with contextlib.suppress(PlanningFailed):  # it looks again
                    if (plan := pilot.plan(seen, free_s, partial(float, ready))) is not None:
                        offers.append((free_s, plan))
            while offers and offers[0][0] <= now:
                plans += not controller.offer(offers.pop(0)[1], now)
            controller.tick(now)
            driver.advance()
            ticks += 1
            if ticks % judge_every == 0:
                done = env.judge(world.data.qpos, world.data.qvel)
    finally:
        world.close()
    return Outcome(done, driver.now_s, plans, tuple(events), sum(vars(world.check.counts).values()))
