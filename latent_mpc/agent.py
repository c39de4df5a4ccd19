"""The agent: encode, plan over subgoals, act. Wires the world model to the planner.

    E(s) = max(d(s, s_g), ε) + κ ‖z̃ − z̃_g‖² + λ ‖p̃ − p̃_g‖²

d is the learned distance between arrangements of the scene, z̃ and p̃ the standardised image latent and
proprioception (means of squares over dimensions); the goal's come from the goal image alone. ε is set by the model's
own prediction error: below it the scene counts as arranged, only details of the image and the arm's pose still matter,
and the fine level plans to the goal itself. Towards a subgoal, which was predicted in full, the last two terms are
enough.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latent_mpc import weights
from latent_mpc.planner.hierarchy import MACRO_BOX, CoarseLevel, Hierarchy, HierarchyPlan
from latent_mpc.planner.mpc import RecedingHorizon
from latent_mpc.planner.objective import RolloutCost
from latent_mpc.planner.planner import Planner, make_planner
from latent_mpc.planner.rollout import rollout
from latent_mpc.planner.search import Iteration
from latent_mpc.planner.shift import shift
from latent_mpc.types import InvalidInputError, Observation, Plan, UnknownNameError, check_image
from latent_mpc.world_model.macro import MacroActions
from latent_mpc.world_model.model import WorldModel, load_world_model

OPENING = 5  # entry of the tabletop environments' proprioception, after the tool's x, y, z and yaw
EMPTY_OPENING_M = 0.015  # a gripper opened less holds nothing
SHIPPED = Path(str(weights.__file__)).parent


@dataclass(frozen=True)
class AgentConfig:
    """How the agent plans.

    Attributes:
        planner: "hierarchy" or "flat" (CEM on actions, `flat_horizon` steps, for comparison).
        coarse_dynamics: what predicts where a macro-action leads: "decoded" (its actions, through the fine dynamics) or
            "macro" (the coarse dynamics, five times cheaper and easier to exploit).
        coarse_horizon: macro-actions looked ahead; coarse_samples, coarse_iterations: of its CEM.
        reduction: of the goal energy over the coarse steps. "sum" rewards to arrive early; with "min" a plan that
            arrives at its very end is as good, and replanning puts the arrival off for ever.
        fine_samples, fine_iterations: of the CEM on actions towards the first subgoal.
        flat_horizon, flat_samples, flat_iterations: of the flat planner.
        execute_steps: actions executed of each plan.
        noise_margin: ε in units of the model's median prediction error over a chunk.
        latent_weight, arm_weight: κ and λ, towards the goal.
        tool_low_m, tool_high_m: box that plans keep the tool in, where play has been; beyond it the model guesses.
        clearance_m: a gripper that has closed on nothing is kept this far above the table, so that it picks things up
            and does not shove them about.
        guardrail_weight: on leaving either.
        subgoal_arm_weight: λ towards a subgoal, where κ is 1 and d does not count.
        macro_penalty: on squared macro-actions, the log-likelihood under play's prior.
        fine_std: initial standard deviation of the fine search around the decoded macro-action.
        deadline_s: seconds a call of `act` may plan; None for no limit.
    """

    planner: str = "hierarchy"
    coarse_dynamics: str = "decoded"
    coarse_horizon: int = 5
    reduction: str = "sum"
    coarse_samples: int = 256
    coarse_iterations: int = 4
    fine_samples: int = 128
    fine_iterations: int = 4
    flat_horizon: int = 25
    flat_samples: int = 256
    flat_iterations: int = 5
    execute_steps: int = 2
    settle_steps: int = 1
    settle_samples: int = 128
    settle_iterations: int = 3
    noise_margin: float = 3.0
    log_energy: bool = False
    latent_weight: float = 0.03
    arm_weight: float = 0.1
    tool_low_m: tuple[float, float, float] = (0.34, -0.23, 0.0)
    tool_high_m: tuple[float, float, float] = (0.66, 0.23, 0.28)
    clearance_m: float = 0.06
    guardrail_weight: float = 1.0
    drag_weight: float = 1.0
    subgoal_arm_weight: float = 0.5
    macro_penalty: float = 0.0
    fine_std: float = 0.3
    fine_mean: bool = False
    coarse_mean: bool = False
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        if self.planner not in ("hierarchy", "flat"):
            raise UnknownNameError("planner", self.planner, ["hierarchy", "flat"])
        if self.coarse_dynamics not in ("decoded", "macro"):
            raise UnknownNameError("coarse dynamics", self.coarse_dynamics, ["decoded", "macro"])
        weights = [self.latent_weight, self.arm_weight, self.subgoal_arm_weight, self.macro_penalty]
        weights += [self.guardrail_weight, self.noise_margin]
        if min(weights) < 0 or self.fine_std <= 0:
            raise InvalidInputError("weights and noise_margin must be at least 0, fine_std positive")
        if self.execute_steps < 1 or self.coarse_horizon < 1:
            raise InvalidInputError("execute_steps and coarse_horizon must be at least 1")


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
    """

    def __init__(self, model: WorldModel, config: AgentConfig | None = None, device: str = "cpu") -> None:
        self.model, self.config, self.device = model.to(device), config or AgentConfig(), torch.device(device)
        c, m = self.config, model.config
        self._coarse = make_planner(
            "cem",
            horizon=c.coarse_horizon,
            action_dim=m.macro_dim,
            num_samples=c.coarse_samples,
            num_iterations=c.coarse_iterations,
            low=-MACRO_BOX,
            high=MACRO_BOX,
            init_std=1.0,
            return_mean=c.coarse_mean,
            device=device,
        )
        self._fine = make_planner(
            "cem",
            horizon=m.chunk_length,
            action_dim=m.action_dim,
            num_samples=c.fine_samples,
            num_iterations=c.fine_iterations,
            init_std=c.fine_std,
            return_mean=c.fine_mean,
            device=device,
        )
        self._settle = make_planner(
            "cem",
            horizon=m.chunk_length,
            action_dim=m.action_dim,
            num_samples=c.settle_samples,
            num_iterations=c.settle_iterations,
            device=device,
        )
        self._flat = make_planner(
            "cem",
            horizon=c.flat_horizon,
            action_dim=m.action_dim,
            num_samples=c.flat_samples,
            num_iterations=c.flat_iterations,
            device=device,
        )
        self._goal: Tensor | None = None

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
            self._goal = self.model.observe_goal(torch.from_numpy(image.copy())[None].to(self.device))  # (1, D)
        c = self.config
        self._macro = MacroActions(
            self.model.macro, self._goal[0], self.model.predictor if c.coarse_dynamics == "decoded" else None
        )
        self._hierarchy = Hierarchy(
            coarse=[CoarseLevel(self._coarse, self._macro, reduction=c.reduction, macro_penalty=c.macro_penalty)],
            fine=self._fine,
            predictor=self.model.predictor,
            fine_reduction="sum",  # straight to the subgoal: only the first steps of a chunk are executed
        )
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)
        self._horizon: RecedingHorizon[Plan | HierarchyPlan] = RecedingHorizon(
            self.config.execute_steps, self.config.deadline_s
        )
        self.trace: Trace | None = None

    def act(self, observation: Mapping[str, Any]) -> NDArray[np.float32]:
        """The next action (A,) in [-1, 1]; reads only `image` and `proprio` of the observation.

        Raises:
            InvalidInputError: `reset` was not called, or the observation is malformed.
            PlanningFailed: no candidate had a finite cost and nothing is left of the last plan.
        """
        if self._goal is None:
            raise InvalidInputError("call reset(goal_image) before act(observation)")
        state = self.observe(observation)[None]
        self._horizon.execute_steps = self.config.execute_steps
        if self.config.planner == "flat":
            plan: Callable[..., Plan | HierarchyPlan] = partial(self._plan_directly, self._flat, "min")
        elif self._arranged(state):
            plan = partial(self._plan_directly, self._settle, "sum")
            self._horizon.execute_steps = self.config.settle_steps
        else:
            plan = self._plan_hierarchy
        with torch.no_grad():
            action = self._horizon.act(lambda *last: plan(state, *last))
        return action[0].cpu().numpy().astype(np.float32)

    @torch.no_grad()
    def observe(self, observation: Mapping[str, Any]) -> Tensor:
        """The state (D,) that the model sees in an observation.

        Raises:
            InvalidInputError: the observation is malformed, or does not fit the model.
        """
        seen = Observation.from_mapping(observation)
        image = self._checked_image(seen.image, "image")
        if seen.proprio.shape != (self.model.config.proprio_dim,):
            raise InvalidInputError(
                f"proprio must have {self.model.config.proprio_dim} entries, got {seen.proprio.shape[0]}"
            )
        return self.model.observe(
            torch.from_numpy(image.copy())[None].to(self.device), torch.from_numpy(seen.proprio)[None].to(self.device)
        )[0]

    def _arranged(self, state: Tensor) -> bool:
        """Whether the scene is as the goal shows it, as far as the model can tell: state (1, D)."""
        assert self._goal is not None
        distance = self.model.scene_distance(state[0], self._goal[0])
        return bool(distance <= self.config.noise_margin * self.model.scene_noise)

    def goal_energy(self, states: Tensor, start: Tensor | None = None) -> Tensor:
        """Energy to the goal: states (..., D) -> (...), unitless. With `start` (D,), of a rollout (..., H, D) from it."""
        assert self._goal is not None
        goal, c = self._goal[0], self.config
        noise = c.noise_margin * self.model.scene_noise
        scene = self.model.scene_distance(states, goal).clamp_min(noise)
        if c.log_energy:
            scene = (scene / noise).log()
        energy = scene + self._difference(states, goal, c.latent_weight, c.arm_weight)
        return energy + c.guardrail_weight * self._violation(states, start)

    def subgoal_energy(self, states: Tensor, subgoal: Tensor, start: Tensor | None = None) -> Tensor:
        """Energy to a predicted subgoal (..., D), otherwise as `goal_energy`."""
        c = self.config
        difference = self._difference(states, subgoal, 1.0, c.subgoal_arm_weight)
        return difference + c.guardrail_weight * self._violation(states, start)

    def _violation(self, states: Tensor, start: Tensor | None) -> Tensor:
        """Guardrails, 0 when they hold: states (..., D) -> (...).

        How far the tool is out of its box, in units of 5 cm; an empty closed gripper below its clearance; how far the
        tool goes sideways below the clearance without opening the gripper, in units of 5 cm.
        """
        c = self.config
        proprio = self.model.split(states)[1] * self.model.proprio_std + self.model.proprio_mean
        position_m, opening_m = proprio[..., :3], proprio[..., OPENING]
        low, high = position_m.new_tensor(c.tool_low_m), position_m.new_tensor(c.tool_high_m)
        outside = (position_m - position_m.clamp(low, high)).abs().sum(-1) / 0.05
        closed = torch.sigmoid((EMPTY_OPENING_M - opening_m) / (0.2 * EMPTY_OPENING_M))
        violation = outside + closed * (1.0 - position_m[..., 2] / c.clearance_m).clamp(0.0, 1.0)
        if start is not None and c.drag_weight > 0:
            first = (self.model.split(start)[1] * self.model.proprio_std + self.model.proprio_mean).expand_as(proprio[..., :1, :])
            before = torch.cat([first, proprio[..., :-1, :]], dim=-2)
            sideways_m = (position_m - before[..., :3])[..., :2].norm(dim=-1)
            low = (1.0 - torch.maximum(position_m[..., 2], before[..., 2]) / c.clearance_m).clamp(0.0, 1.0)
            shut = torch.sigmoid((0.06 - torch.maximum(opening_m, before[..., OPENING])) / 0.005)
            violation = violation + c.drag_weight * shut * (3 * low).clamp_max(1.0) * (sideways_m - 0.01).clamp_min(0.0) / 0.05
        return violation

    def _difference(self, states: Tensor, target: Tensor, latent_weight: float, arm_weight: float) -> Tensor:
        latent, arm = self.model.split((states - target).square())
        return latent_weight * latent.mean(-1) + arm_weight * arm.mean(-1)

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
        coarse = rollout(self._macro, state, plan.plans[0].actions[:, None])[0, 0]  # (K, D)
        self._record(plan, state, coarse, plan.subgoals[0], last, started)
        return plan

    def _plan_directly(
        self,
        planner: Planner,
        reduction: str,
        state: Tensor,
        previous: Plan | HierarchyPlan | None,
        executed: int,
        deadline_s: float | None,
    ) -> Plan:
        """Plan actions to the goal itself, without subgoals."""
        started = time.perf_counter()
        last: list[Iteration | None] = [None]
        plan = planner.plan(
            RolloutCost(self.model.predictor, state, partial(self.goal_energy, start=state[0]), reduction),
            generator=self._generator,
            warm_start=shift(previous.actions, executed) if isinstance(previous, Plan) else None,
            deadline_s=deadline_s,
            callback=lambda it: last.__setitem__(0, it),
        )
        states = rollout(self.model.predictor, state, plan.actions[:, None])[0, 0]  # (H, D)
        self._record(plan, state, states, None, last, started)
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


def weights_folder(name: str | Path) -> Path:
    """Folder of a shipped model's name, or of a path.

    Raises:
        UnknownNameError: neither a folder nor a shipped name.
    """
    for folder in (Path(name), SHIPPED / str(name)):
        if folder.is_dir() and str(name):
            return folder
    shipped = [p.name for p in SHIPPED.iterdir() if p.is_dir() and not p.name.startswith("_")]
    raise UnknownNameError("weights", str(name), shipped)


def load_agent(name: str | Path, *, device: str = "cpu", **settings: Any) -> Agent:
    """Load a shipped model (`"panda-tabletop"`) or the folder that `latent-mpc train` wrote.

    Args:
        settings: fields of `AgentConfig`.
    Raises:
        UnknownNameError: no such weights. InvalidInputError: files or settings are wrong.
    """
    model, _ = load_world_model(weights_folder(name))
    try:
        config = replace(AgentConfig(), **settings)
    except TypeError as error:
        raise InvalidInputError(f"{error}; available: {sorted(AgentConfig.__dataclass_fields__)}") from error
    return Agent(model, config, device)
