"""The agent: encode, plan over subgoals, act. Wires the world model to the planner.

observation ─► state of the thing in focus ─► coarse plan to its goal ─► fine plan to the first subgoal ─► action

Once the scene is as the goal image shows it, it settles: it plans actions to the goal itself.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latent_mpc.agent_config import AgentConfig, SearchConfig
from latent_mpc.goal_pose import GoalPose
from latent_mpc.objective import Objective, subgoal_energy
from latent_mpc.permanence import DREAM_STEPS
from latent_mpc.planner.guardrails import Rollout, margin
from latent_mpc.planner.hierarchy import MACRO_BOX, CoarseLevel, Hierarchy, HierarchyPlan
from latent_mpc.planner.mpc import RecedingHorizon
from latent_mpc.planner.objective import RolloutCost
from latent_mpc.planner.planner import Planner, make_planner
from latent_mpc.planner.rollout import rollout, rollout_macros
from latent_mpc.planner.search import Iteration
from latent_mpc.planner.shift import shift
from latent_mpc.shipped import weights_folder
from latent_mpc.stacking import Placing, place_above
from latent_mpc.things import Things
from latent_mpc.tool_guardrails import hand_holds, hand_is_up, same_hand, tool_keep_outs
from latent_mpc.types import (
    InvalidInputError,
    Observation,
    Plan,
    PlanningFailed,
    WorkspaceSpec,
    check_image,
)
from latent_mpc.world_model.macro import MacroActions
from latent_mpc.world_model.model import WorldModel, load_world_model

NEAR_M, THERE_M = 0.05, 0.025  # of the tool from a waypoint: no subgoals are needed any more; it is reached
NO_DEEPER_M = 0.001  # into a keep-out that the tool is in already: predictions are not exact


@dataclass(frozen=True)
class Trace:
    """The last plan, for people to look at.

    Attributes:
        actions: planned actions, (H, A).
        state: the state planned from, (D,).
        goal_energy: energy of `state` to the goal.
        predicted_energy: energies to the goal along the plan, the coarse one where there is one, one a step.
        subgoal: the first coarse latent, (D,); None when planned to the goal itself.
        coarse_states: states along the coarse plan, (K, D); None when planned to the goal itself.
        subgoal_energy: energy of `state` to the subgoal; None when planned to the goal itself.
        candidate_costs, elite_costs: of the last iteration of each level, coarse first.
        plan_s: seconds spent planning.
    """

    actions: NDArray[np.float32]
    state: NDArray[np.float32]
    goal_energy: float
    predicted_energy: NDArray[np.float32]
    subgoal: NDArray[np.float32] | None
    coarse_states: NDArray[np.float32] | None
    subgoal_energy: float | None
    candidate_costs: tuple[NDArray[np.float32], ...]
    elite_costs: tuple[NDArray[np.float32], ...]
    plan_s: float


class Agent:
    """Plans towards a goal image. Call `reset` with the goal, then `act` at each control step.

    Attributes:
        trace: the last plan; None before the first `act`.
        focus: number of the thing that it attends to; 0 where the model sees all at once.
    """

    def __init__(
        self,
        model: WorldModel,
        config: AgentConfig | None = None,
        device: str = "cpu",
        *,
        workspace: WorkspaceSpec | None = None,
    ) -> None:
        """
        Args:
            workspace: of the place where it acts: cuts the guardrails' box down, and no plan enters its keep-outs.
        """
        config = config or AgentConfig()
        if workspace is not None:
            config = replace(config, guardrails=config.guardrails.within(workspace))
        self.model, self.config, self.device = model.to(device), config, torch.device(device)
        self._constraints = () if workspace is None else tool_keep_outs(self.model, workspace)
        c, m = self.config, model.config

        def cem(search: SearchConfig, horizon: int, width: int, box: float = 1.0) -> Planner:
            return make_planner(
                "cem",
                horizon=horizon,
                action_dim=width,
                num_samples=search.num_samples,
                num_iterations=search.num_iterations,
                low=-box,
                high=box,
                init_std=search.init_std,
                device=device,
            )

        self._coarse = cem(c.coarse, c.coarse_horizon, m.macro_dim, MACRO_BOX)
        self._single = cem(c.coarse, 1, m.macro_dim, MACRO_BOX)
        self._fine = cem(c.fine, m.chunk_length, m.action_dim)
        self._settle = cem(c.settle, c.settle_horizon, m.action_dim)
        self._approach = cem(c.settle, m.chunk_length, m.action_dim)
        self._place = cem(c.place, c.settle_horizon, m.action_dim)
        self._flat = cem(c.flat, c.flat_horizon, m.action_dim)
        self._objective: Objective | None = None

    def reset(self, goal_image: NDArray[np.uint8], *, seed: int | None = None) -> None:
        """Set the goal and forget the plan.

        Args:
            goal_image: uint8 (H, W, 3), from the camera and at the size that the model was trained on.
            seed: of the sampling; None draws one from the system.
        Raises:
            InvalidInputError: wrong shape or dtype.
        """
        image = self._checked_image(goal_image, "goal_image")
        with torch.no_grad():
            self._things = Things(self.model, self.config, torch.from_numpy(image.copy())[None].to(self.device))
        self.focus = 0
        self._waypoint: Tensor | None = None  # (D,)
        self._aim()
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)
        self.trace: Trace | None = None

    @property
    def goal(self) -> Tensor:
        """The goal's state (D,), of what is in focus."""
        return self._things.goals[self.focus]

    @property
    def hue(self) -> float | None:
        """Hue of what is in focus, rad; None where the model sees all at once."""
        hues = self._things.hues
        return None if hues is None else float(hues[self.focus])

    def _aim(self, others: Tensor | None = None, stand: Tensor | None = None) -> None:
        """Plan from now on to bring what is in focus to its goal; `others` and `stand` are as in `Objective`."""
        tolerance = float(self._things.tolerance(self.goal[None]))
        self._objective = Objective(self.model, self.config, self.goal, tolerance, others, stand)
        self._goal_pose, self._placing = GoalPose(), Placing()
        self._plans_in_focus = 0
        self._expected: Tensor | None = None  # the state (D,) that the last action was to lead to
        self._dreamt = 0  # steps for which what is in focus was hidden, one after the other
        self._retreat: Tensor | None = None  # the state (D,) to go back to, where it was in sight
        dynamics = self.model.predictor if self.config.coarse_dynamics == "decoded" else None
        view = partial(self.model.view, goal_place=self.model.place(self.goal) if stand is None else stand)
        self._macro = MacroActions(self.model.macro, view, dynamics)
        self._hierarchy = Hierarchy(
            # Summed over the steps: with the least of them a plan that arrives at its very end is as good as one that
            # arrives at once, and replanning puts the arrival off for ever.
            coarse=[CoarseLevel(self._coarse, self._macro, reduction="sum", constraints=self._constraints)],
            fine=self._fine,
            predictor=self.model.predictor,
            fine_reduction="sum",  # straight to the subgoal: only the first steps of a chunk are executed
            constraints=self._constraints,
        )
        self._horizon: RecedingHorizon[Plan | HierarchyPlan] = RecedingHorizon(
            self.config.execute_steps, self.config.deadline_s
        )

    @torch.no_grad()
    def show_waypoint(self, image: NDArray[np.uint8]) -> None:
        """Reach first what an image shows on the way to the goal, the arm's pose and the fingers included."""
        seen = torch.from_numpy(self._checked_image(image, "waypoint").copy())[None].to(self.device)
        hues = None if self._things.hues is None else self._things.hues[self._in_focus]
        self.set_waypoint(self.model.observe_goal(seen, hues)[0])

    def set_waypoint(self, waypoint: Tensor | None, *, direct: bool = False) -> None:
        """From the next plan on, plan to a state (D,) on the way to the goal; None: to the goal itself.

        It is asked for as a subgoal is; macro-actions are still proposed on the way to the goal.

        Args:
            direct: it lies a chunk of actions ahead and takes the place of a subgoal.
        """
        self._waypoint, self._direct = waypoint, direct

    @torch.no_grad()
    def at_waypoint(self, observation: Mapping[str, Any]) -> bool:
        """Whether scene, tool and fingers are as the waypoint has them, as far as the model can tell."""
        return self._near_waypoint(self.observe(observation), THERE_M, fingers=True)

    def _near_waypoint(self, state: Tensor, distance_m: float, fingers: bool = False) -> bool:
        assert self._waypoint is not None and self._objective is not None
        tolerance = self._objective.tolerance  # of the goal: a hand hides less there
        same = self.model.scene_distance(state, self._waypoint) <= tolerance
        return bool(same) and same_hand(self.model, state, self._waypoint, distance_m, fingers)

    @property
    def _in_focus(self) -> slice:
        return slice(self.focus, self.focus + 1)

    def act(self, observation: Mapping[str, Any]) -> NDArray[np.float32]:
        """The next action (A,) in [-1, 1]; reads only `image` and `proprio` of the observation.

        Raises:
            InvalidInputError: `reset` was not called, or the observation is malformed.
            PlanningFailed: no candidate had a finite cost and nothing is left of the last plan.
        """
        if self._objective is None:
            raise InvalidInputError("call reset(goal_image) before act(observation)")
        if self._horizon.plan is None or self._horizon.executed >= self._horizon.execute_steps:
            self.refocus(observation)
        horizon = self._horizon
        with torch.no_grad():
            state = self._believe(observation)[None]
            left = horizon.execute_steps - horizon.executed
            if self.config.track and left and horizon.executed and isinstance(horizon.plan, HierarchyPlan):
                tracked = self.track(state, horizon.plan, horizon.executed, self.config.deadline_s)
                horizon.plan, horizon.executed, horizon.execute_steps = tracked, 0, left
            action = horizon.act(lambda *last: self._plan(state, *last))
            self._expected = self.model.predictor.step(state, action)[0]
        return action[0].cpu().numpy().astype(np.float32)

    def _believe(self, observation: Mapping[str, Any]) -> Tensor:
        """The state (D,) to plan from: what is observed, or predicted while the hand hides what is in focus."""
        assert self._objective is not None
        image, proprio = self._checked(observation)
        states = self._things.look(image, proprio, self._in_focus)
        (hidden,), (state,) = self._things.see(image, states, self._in_focus), states
        lost, self._dreamt = False, self._dreamt + 1
        if not hidden or hand_holds(self.model, state):
            self._dreamt = 0
        elif self._expected is not None and self._dreamt <= DREAM_STEPS:
            state = torch.cat([self.model.split(self._expected)[0], self.model.split(state)[1]])
        elif same_hand(self.model, state, self._things.last_seen(self.focus), THERE_M, fingers=False):
            self._things.forget(self.focus)  # the hand is back, and it is not where it was
        else:
            lost = self._waypoint is None and not self._objective.arranged(self._things.last_seen(self.focus))
        if lost != (self._retreat is not None):
            self._retreat = self._things.last_seen(self.focus).clone() if lost else None
            self._horizon.reset()
        if self._objective.stand is not None:
            self._placing.feel(self.model, state)
        return state

    def _plan(
        self, state: Tensor, previous: Plan | HierarchyPlan | None, executed: int, deadline_s: float | None
    ) -> Plan | HierarchyPlan:
        if self.config.planner == "flat":
            return self._plan_directly(self._flat, state, _rest(previous, executed, self._flat), deadline_s)
        if self.config.planner == "prior":
            return self._follow_prior(state)
        plan, self._horizon.execute_steps = self.plan(state, previous, executed, deadline_s)
        return plan

    @torch.no_grad()
    def observe(self, observation: Mapping[str, Any]) -> Tensor:
        """The state (D,) that the model sees in an observation, of what is in focus.

        Raises:
            InvalidInputError: the observation is malformed, or does not fit the model.
        """
        return self._things.look(*self._checked(observation), self._in_focus)[0]

    @torch.no_grad()
    def refocus(self, observation: Mapping[str, Any]) -> bool:
        """Turn to another thing, if the one in focus is where the goal image shows it and the hand has left it.

        Call it before planning anew. The next is the one that is furthest off and whose place is not taken by another.
        With all in place the focus stays. After `patience` plans for one thing another that waits has its turn.

        Returns:
            Whether it has changed: the last plan is then of no use.
        """
        if len(self._things) == 1:
            return False
        image, proprio = self._checked(observation)
        seen = self._things.look(image, proprio)
        hidden = self._things.see(image, seen)
        states = torch.stack([self._things.last_seen(i) if hidden[i] else each for i, each in enumerate(seen)])
        self._plans_in_focus += 1
        chosen = self._choose(states, seen[0])
        support = self._things.supports[chosen]
        others = self.model.place(states[[i for i in range(len(states)) if i not in (chosen, support)]])
        assert self._objective is not None
        changed = chosen != self.focus
        if changed or (support is not None and self._objective.stand is None):
            goals, self.focus = self._things.goals, chosen
            stand = None if support is None else place_above(self.model, states[support], goals[support])
            self._aim(others, stand)
            self._plans_in_focus = 1
        self._objective.others = others
        return changed

    def _choose(self, states: Tensor, hand: Tensor) -> int:
        """What to attend to, given the states (Q, D) of all things and one (D,) that shows the hand."""
        turn_over = self.trace is not None
        if turn_over:
            arranged = bool(self._things.off(states)[self.focus] <= 1)
            done = hand_is_up(self.model, hand) if arranged else self._plans_in_focus > self.config.patience
            if not done or hand_holds(self.model, hand):
                return self.focus
        chosen = self._things.furthest(states, but=self.focus if turn_over else None)
        return self.focus if chosen is None else chosen

    def _checked(self, observation: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Image (1, H, W, 3) and proprioception (1, P) of an observation."""
        seen = Observation.from_mapping(observation)
        image = self._checked_image(seen.image, "image")
        if seen.proprio.shape != (self.model.config.proprio_dim,):
            raise InvalidInputError(
                f"proprio must have {self.model.config.proprio_dim} entries, got {seen.proprio.shape[0]}"
            )
        return (
            torch.from_numpy(image.copy())[None].to(self.device),
            torch.from_numpy(seen.proprio)[None].to(self.device),
        )

    def _read_pose(self, state: Tensor) -> Tensor:
        """The goal (D,) with its pose as far as the arm's way to a state (1, D) has told it."""
        latent, arm = self.model.split(state)
        goal_latent, _ = self.model.split(self.goal[None])
        away = self.model.pose(goal_latent) - self.model.pose(latent)
        return torch.cat([goal_latent, self._goal_pose.told(arm, away)], dim=-1)[0]

    def goal_energy(self, states: Tensor, start: Tensor | None = None, *, settling: bool = False) -> Tensor:
        """Energy to the goal, or to what is to be reached before it; see `Objective`."""
        assert self._objective is not None
        stop = self._waypoint if self._retreat is None else self._retreat
        if stop is not None:
            return self.subgoal_energy(states, stop, start)
        return self._objective.goal_energy(states, start, settling=settling)

    def subgoal_energy(self, states: Tensor, subgoal: Tensor, start: Tensor | None = None) -> Tensor:
        """Energy to a predicted subgoal (..., D); it takes no goal, and so no `reset`."""
        others = None if self._objective is None else self._objective.others
        return subgoal_energy(self.model, self.config, states, subgoal, start, others)

    def plan(
        self,
        state: Tensor,
        previous: Plan | HierarchyPlan | None = None,
        executed: int = 0,
        deadline_s: float | None = None,
    ) -> tuple[Plan | HierarchyPlan, int]:
        """Plan from a state, without acting: straight to the goal once the scene is arranged, else over subgoals.

        Args:
            state: (1, D), from `observe` or predicted.
            previous: the last plan, to start from, and how many of its steps were executed since.
            deadline_s: seconds it may take.
        Returns:
            The plan, and how many of its actions to execute before planning again.
        Raises:
            PlanningFailed: no candidate had a finite cost.
        """
        assert self._objective is not None
        if self._retreat is not None:
            start = _rest(previous, executed, self._approach)
            return self._plan_directly(self._approach, state, start, deadline_s), self.config.settle_steps
        stand = self._objective.stand
        self._objective.pose = None if stand is None else self._placing.pose(self.model, state[0], stand)
        if self._objective.pose is not None:
            return self._plan_directly(self._place, state, None, deadline_s), self.config.settle_steps
        if self._waypoint is not None:
            if self._direct:
                return self._plan_chunk(state, self._waypoint, deadline_s), self.config.execute_steps
            if self._near_waypoint(state[0], NEAR_M):
                start = _rest(previous, executed, self._approach)
                return self._plan_directly(self._approach, state, start, deadline_s), self.config.settle_steps
        elif self._objective.arranged(state[0]):
            if self.model.config.grasps:  # elsewhere proprioception may be of speeds, which no image tells
                self._objective.goal = self._read_pose(state)
            free = not (self.model.config.grasps and hand_holds(self.model, state[0]))  # else it is put down first
            planner = self._settle if free else self._approach
            start = _rest(previous, executed, planner)
            direct = self._plan_directly(planner, state, start, deadline_s, settling=free)
            return direct, self.config.settle_steps
        return self._plan_hierarchy(state, previous, executed, deadline_s), self.config.execute_steps

    def track(
        self, state: Tensor, plan: HierarchyPlan, executed: int, deadline_s: float | None = None
    ) -> HierarchyPlan:
        """What is left of a plan after `executed` steps, its actions searched again from `state` (1, D).

        The subgoal stays, so the search is short, and corrects what did not go as predicted. The old actions come back
        when no candidate has a finite cost. As with `shift`, the last action is repeated to the old length; the cost
        is that of the steps that were left.
        """
        rest = plan.actions[:, executed:]
        fine = replace(self._fine, space=replace(self._fine.space, horizon=rest.shape[1]))
        subgoal = plan.subgoals[-1][:, None, None]
        energy = partial(self.subgoal_energy, subgoal=subgoal, start=state[0])
        try:
            found = fine.plan(
                RolloutCost(self.model.predictor, state, energy, "sum", constraints=self._constraints),
                generator=self._generator,
                warm_start=rest,
                deadline_s=deadline_s,
            )
        except PlanningFailed:
            found = replace(plan.plans[-1], actions=rest)
        actions = shift(torch.cat([plan.actions[:, :executed], found.actions], 1), executed)
        return replace(plan, plans=(*plan.plans[:-1], replace(found, actions=actions)))

    def enters_keep_out(self, state: Tensor, plan: Plan | HierarchyPlan) -> bool:
        """Whether a plan from `state` (1, D) goes into a keep-out, or further into the one that the tool is in."""
        if not self._constraints:
            return False
        still = Rollout(state, state[:, None, None], torch.zeros(1, 1, 1, plan.actions.shape[-1], device=self.device))
        return bool(plan.margin > margin(self._constraints, still)[:, 0].clamp_min(0) + NO_DEEPER_M)

    def _plan_hierarchy(
        self, state: Tensor, previous: Plan | HierarchyPlan | None, executed: int, deadline_s: float | None
    ) -> HierarchyPlan:
        started = time.perf_counter()
        last: list[Iteration | None] = [None, None]
        plan = self._hierarchy.plan(
            state,
            partial(self.goal_energy, start=state[0]),
            partial(self.subgoal_energy, start=state[0]),
            generator=self._generator,
            previous=previous if isinstance(previous, HierarchyPlan) else None,
            executed=executed,
            deadline_s=deadline_s,
            callbacks=[lambda it: last.__setitem__(0, it), lambda it: last.__setitem__(1, it)],
        )
        on_the_way = rollout_macros(self._macro, state, plan.plans[0].actions[:, None])[0, 0]
        coarse = on_the_way.unflatten(0, (self.config.coarse_horizon, -1))[:, -1]  # (K, D)
        self._record(plan, state, coarse, plan.subgoals[0], last, started)
        return plan

    def _plan_chunk(self, state: Tensor, waypoint: Tensor, deadline_s: float | None) -> Plan:
        """Plan a chunk of actions to a waypoint as to a subgoal, around the macro-action that comes nearest to it."""
        energy = partial(self.subgoal_energy, subgoal=waypoint)
        nearest = self._single.plan(
            RolloutCost(self._macro, state, energy, "last"), generator=self._generator, deadline_s=deadline_s
        )
        start = self._macro.decode(state, nearest.actions[:, 0])
        return self._plan_directly(self._fine, state, start, deadline_s)

    def _plan_directly(
        self,
        planner: Planner,
        state: Tensor,
        start: Tensor | None,
        deadline_s: float | None,
        settling: bool = False,
    ) -> Plan:
        """Plan actions to the goal itself, without subgoals, from `start` (1, H, A)."""
        started = time.perf_counter()
        last: list[Iteration | None] = [None]
        plan = planner.plan(
            RolloutCost(
                self.model.predictor,
                state,
                partial(self.goal_energy, start=state[0], settling=settling),
                "sum",
                constraints=self._constraints,
            ),
            generator=self._generator,
            warm_start=start,
            deadline_s=deadline_s,
            callback=lambda it: last.__setitem__(0, it),
        )
        states = rollout(self.model.predictor, state, plan.actions[:, None])[0, 0]  # (H, D)
        self._record(plan, state, states, None, last, started)
        return plan

    def _follow_prior(self, state: Tensor) -> Plan:
        """The likeliest chunk of play on the way to the goal, whatever the model says of it."""
        started = time.perf_counter()
        actions = self._macro.decode(state, torch.zeros(1, self._macro.macro_dim, device=self.device))
        states = rollout(self.model.predictor, state, actions[:, None])[0, 0]  # (C, D)
        cost = self.goal_energy(states).sum()[None]
        margin = torch.full_like(cost, -torch.inf)
        plan = Plan(actions, cost, margin <= 0, margin, iterations=0, evaluations=0, cut_off=False, elites=None)
        self._record(plan, state, states, None, [], started)
        return plan

    def _record(
        self,
        plan: Plan | HierarchyPlan,
        state: Tensor,
        states: Tensor,
        subgoal: Tensor | None,
        last: list[Iteration | None],
        started: float,
    ) -> None:
        def array(tensor: Tensor) -> NDArray[np.float32]:
            return tensor.detach().cpu().numpy().astype(np.float32)

        self.trace = Trace(
            actions=array(plan.actions[0]),
            state=array(state[0]),
            goal_energy=self.goal_energy(state[0]).item(),
            predicted_energy=array(self.goal_energy(states)),
            subgoal=None if subgoal is None else array(subgoal[0]),
            coarse_states=None if subgoal is None else array(states),
            subgoal_energy=None if subgoal is None else self.subgoal_energy(state[0], subgoal[0]).item(),
            candidate_costs=tuple(array(it.costs[0]) for it in last if it is not None),
            elite_costs=tuple(array(it.elite_costs[0]) for it in last if it is not None),
            plan_s=time.perf_counter() - started,
        )

    def _checked_image(self, image: Any, name: str) -> NDArray[np.uint8]:
        array = check_image(image, name)
        size = self.model.encoder.config.image_size
        if array.shape != (size, size, 3):
            raise InvalidInputError(f"{name} must have shape {(size, size, 3)} for this model, got {array.shape}")
        return array


def _rest(previous: Plan | HierarchyPlan | None, executed: int, planner: Planner) -> Tensor | None:
    """What is left of the last plan to the goal itself, (1, H, A), if it was as long as those of this planner."""
    if not isinstance(previous, Plan) or previous.actions.shape[1] != planner.space.horizon:
        return None
    return shift(previous.actions, executed)


def load_agent(
    name: str | Path,
    *,
    config: AgentConfig | None = None,
    device: str = "cpu",
    workspace: WorkspaceSpec | None = None,
) -> Agent:
    """Load a shipped model (`"panda-tabletop"`) or the folder that `latent-mpc train` wrote; see `Agent`.

    Raises:
        UnknownNameError: no such weights. InvalidInputError: files are wrong.
    """
    model, _ = load_world_model(weights_folder(name))
    return Agent(model, config, device, workspace=workspace)
