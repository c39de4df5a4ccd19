"""What really happened in an episode, by the simulator's truth, and what the agent took for it; for finding out why.

Frames and units: world frame W at the robot's base, metres. T actions give T+1 moments, of which 0 is the start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
import torch
from numpy.typing import NDArray

from latent_mpc.agent import Agent
from latent_mpc.envs.rendering import make_renderer
from latent_mpc.envs.scene import TRAY_HIGH_M, TRAY_LOW_M, ObjectSpec
from latent_mpc.envs.tabletop import TabletopEnv
from latent_mpc.envs.tasks import GOAL_RADIUS_M
from latent_mpc.loop import Step
from latent_mpc.types import AgentLike
from latent_mpc.world_model.focus import hue_of

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
PADS = ("left_pad", "right_pad")
HAND = ("hand", "left_finger", "right_finger")
FLAT = 0.7  # a contact whose normal is steeper than this, as the cosine to the vertical, presses from above


@dataclass(frozen=True)
class FailureTrace:
    """N things in T steps.

    Attributes:
        tool_m: the tool's centre point, (T+1, 3). opening_m: between the finger pads, (T+1,).
        grip: the gripper's command, (T,): -0.5 and below open, 0.5 and above closed.
        thing_m: centres of the things, (T+1, N, 3).
        upright: cosine of each thing's axis to the vertical, (T+1, N).
        off_m: how far each thing's centre is from where it belongs, (T+1, N): from its goal, or from above the tray.
        goal_m: where the goal image shows each thing, (N, 3).
        radius_m: as far from there it still counts.
        held: touches both pads, touched: any, pressed: hand or fingers stand on it; (T+1, N).
        placed: as the task judges, (T+1, N).
        area: the share of the observed picture that shows each thing, (T+1, N); a cube in sight 0.5 %.
        movers: which things are to move.
        things: their shapes, sizes and colours, N.
        qpos: the simulation's state, (T+1, nq), to draw a moment again.
        focus: the thing that the agent attends to, (T,); -1 where it does not say.
        seen_m: where the agent sees that thing, (T, 2), x and y; NaN where it does not say.
        goal_seen_m: where it takes that thing's goal to be, (T, 2).
        satisfied: whether the agent takes that thing for arranged, (T,).
    """

    tool_m: Floats
    opening_m: Floats
    grip: Floats
    thing_m: Floats
    upright: Floats
    off_m: Floats
    goal_m: Floats
    radius_m: float
    held: Flags
    touched: Flags
    pressed: Flags
    placed: Flags
    area: Floats
    movers: tuple[int, ...]
    things: tuple[ObjectSpec, ...]
    qpos: Floats
    focus: NDArray[np.int_]
    seen_m: Floats
    goal_seen_m: Floats
    satisfied: Flags

    @property
    def steps(self) -> int:
        """T."""
        return len(self.grip)


class TraceRecorder:
    """Records a `FailureTrace`; a callback of `run_episode`, which changes nothing."""

    def __init__(self, env: TabletopEnv, agent: AgentLike) -> None:
        self._env, self._agent = env, agent if isinstance(agent, Agent) else None
        self._moments: list[dict[str, Any]] = []
        self._steps: list[dict[str, Any]] = []

    def begin(self, observation: Mapping[str, Any], info: Mapping[str, Any]) -> None:
        size = self._env.config.image_size
        self._renderer = make_renderer(self._env.model, size, size)
        self._renderer.enable_segmentation_rendering()
        self._moments, self._steps = [self._moment(info)], []

    def step(self, step: Step) -> None:
        self._steps.append({"grip": float(step.action[-1]), **self._belief(step.observation)})
        self._moments.append(self._moment(step.info))

    def finish(self) -> FailureTrace:
        """Of the episode, once it is over."""
        self._renderer.close()
        env = self._env
        rows = {key: np.array([moment[key] for moment in self._moments]) for key in self._moments[0]}
        steps = {key: np.array([step[key] for step in self._steps]) for key in self._steps[0]}
        return FailureTrace(
            **rows,
            **steps,
            goal_m=env.layout.goal_poses[:, :3].copy(),
            radius_m=0.0 if env.task.tray else GOAL_RADIUS_M,
            movers=tuple(env.layout.movers),
            things=env.objects,
        )

    def _moment(self, info: Mapping[str, Any]) -> dict[str, Any]:
        env = self._env
        places = info["object_positions"]
        if env.task.tray:
            outside = places[:, :2] - places[:, :2].clip(TRAY_LOW_M, TRAY_HIGH_M)
            off = np.linalg.norm(outside, axis=1)
        else:
            off = np.linalg.norm(places - info["goal_positions"], axis=1)
        touched, pressed = hand_contacts(env.model, env.data, len(places))
        w, x, y, z = env.object_poses()[:, 3:].T
        return {
            "tool_m": env.arm.pose(env.data)[0],
            "opening_m": env.arm.finger_opening_m(env.data),
            "thing_m": places,
            "upright": w * w - x * x - y * y + z * z,
            "off_m": off,
            "held": touched.all(axis=1),
            "touched": touched.any(axis=1),
            "pressed": pressed,
            "placed": info["placed"],
            "area": self._areas(len(places)),
            "qpos": env.data.qpos.copy(),
        }

    def _areas(self, count: int) -> Floats:
        """The share of the observation camera's picture that shows each thing, (N,)."""
        env = self._env
        self._renderer.update_scene(env.data, camera=env.config.camera)
        ids, types = self._renderer.render().transpose(2, 0, 1)
        bodies = env.model.geom_bodyid[ids[types == mujoco.mjtObj.mjOBJ_GEOM]] - env.model.body("object0").id
        return np.bincount(bodies[bodies >= 0], minlength=count)[:count] / ids.size

    def _belief(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """What the agent takes the scene for, if it is one that says so."""
        agent = self._agent
        nowhere = np.full(2, np.nan)
        belief = {"focus": -1, "seen_m": nowhere, "goal_seen_m": nowhere, "satisfied": False}
        if agent is None or agent.trace is None:
            return belief
        belief["satisfied"] = agent.config.planner == "hierarchy" and agent.trace.subgoal is None
        if agent.model.locator is None:
            return belief
        with torch.no_grad():
            belief["seen_m"] = agent.model.place(agent.observe(observation))[:2].cpu().numpy().astype(float)
            belief["goal_seen_m"] = agent.model.place(agent.goal)[:2].cpu().numpy().astype(float)
        belief["focus"] = self._attended(observation["image"])
        return belief

    def _attended(self, image: NDArray[np.uint8]) -> int:
        """The thing whose hue is nearest to the one in focus; without hues, and with one thing, that one."""
        assert self._agent is not None
        things = self._env.objects
        if self._agent.hue is None:
            return 0 if len(things) == 1 else -1
        colours = torch.tensor([thing.rgb for thing in things], dtype=torch.float32)
        hues = hue_of(colours, torch.from_numpy(image.copy())[None].expand(len(things), *image.shape))
        return int((hues - self._agent.hue).cos().argmax())


def hand_contacts(model: mujoco.MjModel, data: mujoco.MjData, count: int) -> tuple[NDArray[np.bool_], Flags]:
    """Which of the things 0 to `count` - 1 each pad touches, (N, 2), and which the hand or a finger stands on, (N,)."""
    first = model.body("object0").id
    pads = [model.geom(name).id for name in PADS]
    hand = {model.body(name).id for name in HAND}
    touched, pressed = np.zeros((count, 2), bool), np.zeros(count, bool)
    for contact in data.contact[: data.ncon]:
        for thing_geom, other in (contact.geom, contact.geom[::-1]):
            thing = int(model.geom_bodyid[thing_geom]) - first
            if not 0 <= thing < count:
                continue
            if other in pads:
                touched[thing, pads.index(other)] = True
            if int(model.geom_bodyid[other]) in hand and abs(contact.frame[2]) > FLAT:
                pressed[thing] = True
    return touched, pressed
