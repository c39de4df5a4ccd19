"""The agent at a real arm's pace: it plans from where the arm will be when the plan can begin.

    m: the controller's motion clock;  step i of the plan lasts from m_i to m_i + dt
    frame at m, m_i <= m < m_i + dt:   s' = f(s, (m_i + dt − m)/dt · a_i)      a_i is under way and cannot be changed
    plan from s' at m_i + dt:          the rest of the steps towards the old subgoal (track), or a new plan (two steps
                                       ahead, for that takes longer)
    waypoints:                         the tool where the model expects it after each step

So a plan never waits for the planner, and what is sent continues what is being executed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latent_mpc.agent import Agent
from latent_mpc.planner.hierarchy import HierarchyPlan
from latent_mpc.planner.rollout import rollout
from latent_mpc.robots.robot import TimedPlan
from latent_mpc.types import InvalidInputError, Plan

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PilotConfig:
    """How actions become motion; the defaults are those of the tabletop environment and its model.

    Attributes:
        step_s: seconds of one action of the model.
        tool_low_m, tool_high_m: box that waypoints are kept in.
        max_yaw_rad: waypoints' yaw is kept within plus and minus this.
        grace_s: a plan may be followed so much longer than it lasts; then the controller stops the arm.
        deadline_s: seconds that one search may take.
        surprise: how often its usual size the error of the prediction must be for the plan to be dropped at once.
    """

    step_s: float = 0.2
    tool_low_m: tuple[float, float, float] = (0.30, -0.28, 0.015)
    tool_high_m: tuple[float, float, float] = (0.70, 0.28, 0.30)
    max_yaw_rad: float = 1.0
    grace_s: float = 0.3
    deadline_s: float | None = 0.25
    surprise: float = 8.0

    def __post_init__(self) -> None:
        if not (self.step_s > 0 and self.grace_s > 0 and self.surprise > 1 and self.max_yaw_rad > 0):
            raise InvalidInputError(
                f"step_s, grace_s and max_yaw_rad must be positive and surprise above 1, got {self}"
            )
        if self.deadline_s is not None and not self.deadline_s > 0:
            raise InvalidInputError(f"deadline_s must be positive, got {self.deadline_s}")


@dataclass(frozen=True)
class Sight:
    """What the pilot is told: an image, and the arm as of the image.

    Attributes:
        image: uint8 (H, W, 3). sequence: of the image.
        motion_s: the controller's motion clock when the image was taken.
        position_m, yaw_rad, width_m: the tool's position (3,) and yaw in the base's frame, and the fingers' distance.
    """

    image: NDArray[np.uint8]
    sequence: int
    motion_s: float
    position_m: Array
    yaw_rad: float
    width_m: float

    def observation(self) -> dict[str, NDArray[np.uint8] | NDArray[np.float32]]:
        """For the agent."""
        yaw = self.yaw_rad
        proprio = np.array([*self.position_m, math.sin(yaw), math.cos(yaw), self.width_m], np.float32)
        return {"image": self.image, "proprio": proprio}


class Pilot:
    """Turns sights into timed plans. Knows no process, no camera and no clock but the motion clock.

    Attributes:
        surprise: the last prediction error, in multiples of the usual; 0 before there is one.
    """

    def __init__(self, agent: Agent, config: PilotConfig | None = None) -> None:
        """agent: after its `reset(goal_image)`."""
        self.agent, self.config = agent, config or PilotConfig()
        self._sequence = 0
        self._usual = _RunningMedian()
        self.surprise = 0.0
        self.forget()

    def forget(self) -> None:
        """The arm stands, or was stopped: the next plan begins where it is."""
        self._plan: Plan | HierarchyPlan | None = None
        self._begin_s = 0.0  # motion clock at step 0
        self._actions = torch.zeros(0)  # (N, A), of the steps
        self._states = torch.zeros(0)  # (N + 1, D), what the model expects at the beginning of each, and at the end
        self._plan_at = self._replan_at = self._end = 0  # steps: where `_plan` begins, is to be replaced, and ends

    @torch.no_grad()
    def plan(self, sight: Sight, now_s: float) -> TimedPlan | None:
        """The plan to follow from now on; None if the one in force stands.

        Args:
            sight: newer than the last one. now_s: monotonic clock, from which the plan's expiry is counted.
        Raises:
            PlanningFailed: no candidate had a finite cost.
        """
        state = self.agent.observe(sight.observation())[None]
        elapsed = (sight.motion_s - self._begin_s) / self.config.step_s + 1e-6
        step = math.floor(elapsed)
        if self._plan is None or not 0 <= step < len(self._actions) - 1:
            self.forget()
            self._begin_s = sight.motion_s
            return self._replace(sight, 0, state, now_s)
        surprised = self._surprised(state, step, elapsed - step)
        left = _share(self._actions[step], step + 1 - elapsed)
        ahead = self.agent.model.predictor.step(state, left[None])  # at the beginning of the next step
        if surprised:
            return self._replace(sight, step + 1, ahead, now_s)
        return self._continue(sight, step + 1, ahead, now_s)

    def _continue(self, sight: Sight, step: int, state: Tensor, now_s: float) -> TimedPlan | None:
        """Go on from `step`, where the arm will be in `state` (1, D)."""
        if not isinstance(self._plan, HierarchyPlan):
            return self._replace(sight, step, state, now_s) if step >= self._replan_at else None
        if step + 1 >= self._replan_at:  # a new plan takes longer, and begins a step later
            state = self.agent.model.predictor.step(state, self._actions[step][None])
            return self._replace(sight, step + 1, state, now_s)
        if step < self._plan_at:
            return None  # the plan was made for what comes first
        self._plan = self.agent.track(state, self._plan, step - self._plan_at, self.config.deadline_s)
        self._plan_at = step
        return self._timed(sight, state, now_s)

    def _replace(self, sight: Sight, step: int, state: Tensor, now_s: float) -> TimedPlan:
        """A new plan from `step` on, where the arm will be in `state` (1, D)."""
        executed = max(step - self._plan_at, 0)
        self._plan, steps = self.agent.plan(state, self._plan, executed, self.config.deadline_s)
        self._plan_at, self._replan_at = step, step + steps
        self._end = step + self._plan.actions.shape[1]
        return self._timed(sight, state, now_s)

    def _timed(self, sight: Sight, state: Tensor, now_s: float) -> TimedPlan:
        """Waypoints of `_plan`, begun in `state` (1, D): where the model expects the tool, what the gripper is told."""
        assert self._plan is not None
        c, model, step = self.config, self.agent.model, self._plan_at
        actions = self._plan.actions[0, : self._end - step]  # (N, A)
        states = torch.cat([state, rollout(model.predictor, state, actions[None, None])[0, 0]])  # (N + 1, D)
        self._actions = torch.cat([self._actions[:step], actions]) if step else actions
        self._states = torch.cat([self._states[:step], states]) if step else states
        proprio = (model.split(states)[1] * model.proprio_std + model.proprio_mean).double().cpu().numpy()
        opening = np.clip(0.5 - actions[:, -1].double().cpu().numpy(), 0, 1)  # as the environment reads it
        times = self._begin_s + c.step_s * (step + np.arange(len(states), dtype=np.float64))
        self._sequence += 1
        return TimedPlan(
            sequence=self._sequence,
            observation=sight.sequence,
            times_s=times,
            position_m=np.clip(proprio[:, :3], c.tool_low_m, c.tool_high_m),
            yaw_rad=np.clip(np.arctan2(proprio[:, 3], proprio[:, 4]), -c.max_yaw_rad, c.max_yaw_rad),
            gripper=np.append(opening, opening[-1]),
            expires_s=now_s + float(times[-1]) - sight.motion_s + c.grace_s,
        )

    def _surprised(self, state: Tensor, step: int, share: float) -> bool:
        """Whether the world is not where the model expected it; errors that surprise nobody set what is usual."""
        expected = torch.lerp(self._states[step], self._states[step + 1], share)
        error = float(self.agent.model.split((state[0] - expected).square())[0].mean())
        self.surprise = error / self._usual.value if self._usual.value else 0.0
        if self.surprise > self.config.surprise:
            return True
        self._usual.add(error)
        return False


class _RunningMedian:
    """Of the last values; 0 until there are some."""

    def __init__(self, size: int = 50, least: int = 5) -> None:
        self._values: list[float] = []
        self._size, self._least = size, least

    def add(self, value: float) -> None:
        self._values = [*self._values, value][-self._size :]

    @property
    def value(self) -> float:
        return float(np.median(self._values)) if len(self._values) >= self._least else 0.0


def _share(action: Tensor, left: float) -> Tensor:
    """What is left of an action (A,): of its displacements a share; the gripper's command stands."""
    return torch.cat([left * action[:-1], action[-1:]])
