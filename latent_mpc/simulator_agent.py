"""CEM with the simulator itself as the model: how far planning by search comes when no prediction ever errs.

    min_a Σ_t Σ_i (‖Δxy_i,t‖ + |Δz_i,t|) + w ‖tool_t − tool*_t‖,      a held for a few steps, fingers open or closed

Δ is what an object still has to go to its goal, or while it is away from it to 6 cm above it; one that the task wants
lifted is away until it was. tool* is an object that is away, or else where the goal image shows the arm. Reads the
simulator and costs seconds a plan, so it is no competitor. Actions that are held, and fingers that know two commands,
keep the search small: 20 numbers. Nothing of play or of the world model proposes anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latent_mpc.envs.tabletop import ACTION_DIM, TabletopEnv
from latent_mpc.envs.tasks import GOAL_RADIUS_M, LIFT_M
from latent_mpc.envs.trial import rollout
from latent_mpc.planner.mpc import RecedingHorizon
from latent_mpc.planner.planner import make_planner
from latent_mpc.planner.shift import shift
from latent_mpc.types import InvalidInputError, Plan

CARRY_M = 0.06  # above its goal: where an object goes that is away from it
TOOL_WEIGHT = 0.3  # w
FINGERS = ACTION_DIM - 1


@dataclass(frozen=True)
class SimulatorConfig:
    """The search: `num_samples` × `num_iterations` sequences of `horizon` steps, in `num_knots` held actions.

    `execute_steps` of a plan are executed.
    """

    num_samples: int = 32
    num_iterations: int = 4
    horizon: int = 12
    num_knots: int = 4
    execute_steps: int = 3


class SimulatorAgent:
    """Plans in the simulator; see above."""

    def __init__(self, env: TabletopEnv, config: SimulatorConfig | None = None) -> None:
        config = config or SimulatorConfig()
        self._env = env
        self._planner = make_planner(
            "cem",
            horizon=config.horizon,
            action_dim=ACTION_DIM,
            num_samples=config.num_samples,
            num_iterations=config.num_iterations,
            basis="constant",
            num_knots=config.num_knots,
            sign_dims=(FINGERS,),
            init_std=0.7,
        )
        self._horizon: RecedingHorizon[Plan] = RecedingHorizon(config.execute_steps)
        self._generator: torch.Generator | None = None

    def reset(self, goal_image: NDArray[np.uint8], *, seed: int | None = None) -> None:
        """Forget the plan; the goal is the simulator's own. `seed`: of the sampling, None for one of the system's."""
        self._horizon.reset()
        self._generator = torch.Generator()
        self._generator.seed() if seed is None else self._generator.manual_seed(seed)
        movers = list(self._env.layout.movers)
        self._lift_m = self._env.object_positions()[movers, 2] + LIFT_M  # height at which each was lifted
        self._lifted = np.full(len(movers), not getattr(self._env.task, "must_lift", False))

    def act(self, observation: Mapping[str, Any]) -> NDArray[np.float32]:
        """The next action (A,) of the plan, made anew when its turn has come.

        Raises:
            InvalidInputError: `reset` was not called.
        """
        if self._generator is None:
            raise InvalidInputError("call reset(goal_image) before act(observation)")
        self._lifted |= self._env.object_positions()[list(self._env.layout.movers), 2] >= self._lift_m
        return self._horizon.act(self._plan)[0].numpy().astype(np.float32)

    def _plan(self, previous: Plan | None, executed: int, deadline_s: float | None) -> Plan:
        assert self._generator is not None
        return self._planner.plan(
            self._cost,
            generator=self._generator,
            warm_start=None if previous is None else shift(previous.actions, executed),
            deadline_s=deadline_s,
        )

    def _cost(self, actions: Tensor) -> Tensor:
        """actions (1, S, H, A) -> cost (1, S), metres summed over the steps."""
        layout = self._env.layout
        movers = list(layout.movers)
        everything, tool = rollout(self._env, actions[0].numpy())
        objects, goals = everything[:, :, movers], layout.goal_poses[movers, :3]
        lifted = self._lifted | np.maximum.accumulate(objects[..., 2] >= self._lift_m, axis=1)
        left = way_left_m(objects, tool, goals, layout.goal_arm_pose[:3], lifted)
        return torch.from_numpy(left.sum(1)).float()[None]


def way_left_m(
    objects: NDArray[np.float64],
    tool: NDArray[np.float64],
    goals: NDArray[np.float64],
    home: NDArray[np.float64],
    lifted: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """What is left to do in each state, metres (S, H).

    Args:
        objects: positions of those that move, (S, H, N, 3). tool: (S, H, 3).
        goals: (N, 3). home: where the goal image shows the tool, (3,).
        lifted: which were lifted by then, or need not be, (S, H, N).
    """
    across = np.linalg.norm((objects - goals)[..., :2], axis=-1)  # (S, H, N)
    away = (across > GOAL_RADIUS_M) | ~lifted
    height = np.abs(objects[..., 2] - goals[:, 2] - CARRY_M * away)
    reach = np.linalg.norm(objects - tool[..., None, :], axis=-1)
    nearest = np.where(away, reach, np.inf).min(-1)  # of those that are away, (S, H)
    tool_way = np.where(away.any(-1), nearest, np.linalg.norm(tool - home, axis=-1))
    return (across + height).sum(-1) + TOOL_WEIGHT * tool_way
