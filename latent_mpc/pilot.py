"""The agent at a real arm's pace: look at rest, plan, move four steps, correcting each of them on the way.

    m: the controller's motion clock;  step i lasts from m_0 + i dt to m_0 + (i + 1) dt
    at rest, frame s:                  a = plan(s),  m_0 = the motion clock when the plan is ready
    under way, frame at m in step i:   s' = f(s, what is left of a_i), … to step j;  a_{j…} = track(s'), same subgoal
    waypoints:                         the tool where the model expects it after each step

A step that is under way is not changed any more, so what is sent continues what is being executed, whatever camera and
planner took. Only a frame that is far from what was expected halts the arm at once: it looks, and plans anew. Plans
keep to the workspace: what would be too fast takes longer, and what would enter a keep-out is not sent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from latent_mpc.agent import Agent
from latent_mpc.planner.hierarchy import HierarchyPlan
from latent_mpc.planner.rollout import rollout
from latent_mpc.robots.robot import Array, TimedPlan
from latent_mpc.sight import Sight
from latent_mpc.types import InvalidInputError, Plan, PlanningFailed

SPEED_SHARE = 0.95  # of the allowed speed: the gate, which measures each tick, then has nothing to hold back


@dataclass(frozen=True)
class PilotConfig:
    """How actions become motion; the defaults are those of the tabletop environment and its model.

    Attributes:
        step_s: seconds of one action of the model; longer in a plan that would be faster than `speed_m_s`.
        speed_m_s: of the tool, as the workspace has it.
        longest_s: that a plan lasts, in whole steps.
        max_yaw_rad: waypoints' yaw is kept within plus and minus this.
        lead_s: a correction begins with the first step that is so far ahead of its frame.
        halt_s: the way that is left to the arm to halt in. rest_s: it has come to rest so long after the last step.
        grace_s: a plan may be followed so much longer than it lasts; then the controller holds the arm.
        deadline_s: seconds that one search may take.
        surprise: how often its usual size the error of the prediction must be for the plan to be dropped at once.
    """

    step_s: float = 0.2
    speed_m_s: float = math.inf
    longest_s: float = 1.0
    max_yaw_rad: float = 1.0
    lead_s: float = 0.12
    halt_s: float = 0.05
    rest_s: float = 0.05
    grace_s: float = 0.6
    deadline_s: float | None = 0.25
    surprise: float = 25.0

    def __post_init__(self) -> None:
        times_s = (self.step_s, self.lead_s, self.halt_s, self.rest_s, self.grace_s)
        if min(*times_s, self.max_yaw_rad, self.speed_m_s) <= 0 or self.surprise <= 1:
            raise InvalidInputError(f"times, speed, max_yaw_rad must be positive and surprise above 1, got {self}")
        if self.longest_s < self.step_s:
            raise InvalidInputError(f"longest_s must be a step of {self.step_s} s at least, got {self.longest_s}")
        if self.deadline_s is not None and not self.deadline_s > 0:
            raise InvalidInputError(f"deadline_s must be positive, got {self.deadline_s}")


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
        self._rest_s = -math.inf  # motion clock when a halt will be over
        self._begin_s = 0.0  # motion clock at step 0
        self._steps = 0  # to execute
        self._step_s = self.config.step_s  # that each takes
        self._at = 0  # step at which `_plan` begins: past 0 once tracked
        self._actions = torch.zeros(0)  # (N, A), of each step
        self._states = torch.zeros(0)  # (N + 1, D), what the model expects before each step, and at the end

    @torch.no_grad()
    def plan(self, sight: Sight, now_s: float, ready: Callable[[], float]) -> TimedPlan | None:
        """The plan to follow from now on; None if the one in force stands.

        Args:
            sight: newer than the last one.
            now_s: monotonic clock, from which the plan's expiry is counted.
            ready: the motion clock when the plan can be taken; called once it is made.
        Raises:
            PlanningFailed: no candidate had a finite cost, or each enters a keep-out.
            InvalidInputError: at the speed that is allowed, one step of the plan would last longer than a plan may.
        """
        c = self.config
        state = self.agent.observe(sight.observation())[None]
        if sight.motion_s < self._rest_s:
            return None  # halting
        elapsed = (sight.motion_s - self._begin_s) / self._step_s + 1e-6
        if self._plan is None or elapsed >= self._steps + c.rest_s / self._step_s:
            if self.agent.refocus(sight.observation()):
                self._plan, state = None, self.agent.observe(sight.observation())[None]
            plan, steps = self.agent.plan(state, self._plan, self._steps - self._at, c.deadline_s)
            if self.agent.enters_keep_out(state, plan):
                raise PlanningFailed("no plan that was found keeps the tool out of the workspace's keep-outs")
            self._plan, self._begin_s = plan, ready()
            self._expect(state, 0)
            self._pace(steps)
            return self._timed(sight, 0, now_s)
        step, start = math.floor(elapsed), math.ceil(elapsed + c.lead_s / self._step_s)
        if not 0 <= step < self._steps:
            return None  # seen before the plan began, or while coming to rest
        if self._surprised(state, step, elapsed - step):
            return self._halt(sight, now_s, ready())
        if start >= self._steps or start < self._at or not isinstance(self._plan, HierarchyPlan):
            return None
        left = _share(self._actions[step], step + 1 - elapsed)
        for action in (left, *self._actions[step + 1 : start]):
            state = self.agent.model.predictor.step(state, action[None])
        tracked = self.agent.track(state, self._plan, start - self._at, c.deadline_s)
        if self.agent.enters_keep_out(state, tracked):
            return self._halt(sight, now_s, ready())
        if ready() > self._begin_s + start * self._step_s:
            return None  # too late: that step is under way
        self._plan = tracked
        self._expect(state, start)
        return self._timed(sight, start, now_s)

    def _expect(self, state: Tensor, step: int) -> None:
        """`_plan` begins at `step`, in `state` (1, D)."""
        assert self._plan is not None
        self._at, actions = step, self._plan.actions[0]
        states = torch.cat([state, rollout(self.agent.model.predictor, state, actions[None, None])[0, 0]])
        self._actions = torch.cat([self._actions[:step], actions]) if step else actions
        self._states = torch.cat([self._states[:step], states]) if step else states

    def _pace(self, steps: int) -> None:
        """How long each step of a new plan lasts, and how many of its `steps` are executed."""
        c = self.config
        furthest_m = np.linalg.norm(np.diff(self._proprio(self._states[: steps + 1])[:, :3], axis=0), axis=1).max()
        self._step_s = max(c.step_s, float(furthest_m) / (SPEED_SHARE * c.speed_m_s))
        if self._step_s > c.longest_s:
            self.forget()
            raise InvalidInputError(
                f"a step of {furthest_m:.3f} m at {c.speed_m_s} m/s would last longer than {c.longest_s} s; "
                "raise the workspace's speed_m_s, or train on slower play"
            )
        self._steps = max(1, min(steps, int(c.longest_s / self._step_s)))

    def _timed(self, sight: Sight, step: int, now_s: float) -> TimedPlan:
        """Waypoints from the beginning of `step` on: where the model expects the tool, what the gripper is told."""
        states, actions = self._states[step : self._steps + 1], self._actions[step : self._steps]
        times = self._begin_s + self._step_s * (step + np.arange(len(states), dtype=np.float64))
        return self._sent(sight, now_s, times, states, actions)

    def _halt(self, sight: Sight, now_s: float, ready_s: float) -> TimedPlan:
        """Waypoints a little along the plan, to rest at, from the motion clock `ready_s` on."""
        c = self.config
        steps = np.clip((np.array([ready_s, ready_s + c.halt_s]) - self._begin_s) / self._step_s, 0, self._steps - 1e-6)
        before = [min(int(s), len(self._states) - 2) for s in steps]
        pairs = [(self._states[i], self._states[i + 1], float(s - i)) for i, s in zip(before, steps, strict=True)]
        states = torch.stack([torch.lerp(a, b, share) for a, b, share in pairs])
        action = self._actions[int(steps[0])]
        self.forget()
        self._rest_s = ready_s + c.halt_s + c.rest_s
        return self._sent(sight, now_s, np.array([ready_s, ready_s + c.halt_s]), states, action[None])

    def _sent(self, sight: Sight, now_s: float, times: Array, states: Tensor, actions: Tensor) -> TimedPlan:
        """A plan through the tool's places in `states` (N + 1, D), with the gripper of `actions` (N, A)."""
        c, proprio = self.config, self._proprio(states)
        opening = np.clip(0.5 - actions[:, -1].double().cpu().numpy(), 0, 1)  # as the environment reads it
        self._sequence += 1
        return TimedPlan(
            sequence=self._sequence,
            observation=sight.sequence,
            times_s=times,
            position_m=proprio[:, :3],
            yaw_rad=np.clip(np.arctan2(proprio[:, 3], proprio[:, 4]), -c.max_yaw_rad, c.max_yaw_rad),
            gripper=np.append(opening, opening[-1]),
            expires_s=now_s + float(times[-1]) - sight.motion_s + c.grace_s,
        )

    def _proprio(self, states: Tensor) -> Array:
        """Proprioception (N, P) of states (N, D)."""
        model = self.agent.model
        return (model.split(states)[1] * model.proprio_std + model.proprio_mean).double().cpu().numpy()

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
