"""Other libraries' planners on our problems, and ours inside stable-worldmodel. Nothing is imported before it is used.

pip install stable-worldmodel opencv-python-headless pytorch-mppi
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from latent_mpc.bench_methods import Contender, Outcome
from latent_mpc.bench_problems import ACTION_DIM
from latent_mpc.planner import Planner, make_planner

SAMPLES = 300


@dataclass
class _Costable:
    """A problem as stable-worldmodel's `Costable`; counts what was scored."""

    cost: Callable[[Tensor], Tensor]
    evaluations: int = 0

    def get_cost(self, info_dict: dict[str, Any], action_candidates: Tensor) -> Tensor:
        self.evaluations += action_candidates.shape[1]
        return self.cost(action_candidates.clamp(-1, 1))  # its samples leave the box

    criterion = get_cost


@dataclass(frozen=True)
class _Config:
    horizon: int
    action_block: int = 1


def _stable_worldmodel(solver: str, **options: Any) -> Contender:
    """One of its solvers; options beyond its defaults are part of the label."""

    def solve(problem: Any, seed: int, evaluations: int) -> Outcome:
        import gymnasium as gym
        import stable_worldmodel.solver as solvers

        model = _Costable(problem.cost)
        steps = max(1, evaluations // SAMPLES)
        planner = getattr(solvers, solver)(model, num_samples=SAMPLES, n_steps=steps, seed=seed, **options)
        box = gym.spaces.Box(-1.0, 1.0, (1, ACTION_DIM))
        planner.configure(action_space=box, n_envs=1, config=_Config(problem.horizon))
        started = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its time
            found = planner.solve({"state": torch.zeros(1, 1)})
        return Outcome(found["actions"][0], model.evaluations, time.perf_counter() - started)

    tuned = "".join(f", {k} {v:g}" for k, v in options.items())
    return Contender(f"stable-worldmodel {solver.removesuffix('Solver')}{tuned}", solve)


def _pytorch_mppi(temperature: float, std: float) -> Contender:
    def solve(problem: Any, seed: int, evaluations: int) -> Outcome:
        from pytorch_mppi import MPPI

        scored = [0]

        def whole_cost(states: Tensor, actions: Tensor) -> Tensor:
            scored[0] += actions.shape[-3]
            return problem.cost(actions.reshape(1, -1, *actions.shape[-2:])) / problem.idle_cost

        with torch.random.fork_rng(devices=[]):  # it draws from torch's global generator
            torch.manual_seed(seed)
            planner = MPPI(
                lambda state, action: state,
                lambda state, action: torch.zeros(state.shape[:-1]),
                1,
                std**2 * torch.eye(ACTION_DIM),
                num_samples=SAMPLES,
                horizon=problem.horizon,
                lambda_=temperature,
                u_min=-torch.ones(ACTION_DIM),
                u_max=torch.ones(ACTION_DIM),
                terminal_state_cost=whole_cost,
                U_init=torch.zeros(problem.horizon, ACTION_DIM),
            )
            started = time.perf_counter()
            for _ in range(max(1, evaluations // SAMPLES)):
                planner.command(torch.zeros(1), shift_nominal_trajectory=False)
        return Outcome(planner.U, scored[0], time.perf_counter() - started)

    return Contender(f"pytorch-mppi, λ {temperature:g}, σ {std:g}", solve)


def installed_peers() -> list[Contender]:
    """A contender for each installed library and method."""
    found = []
    if importlib.util.find_spec("stable_worldmodel"):
        found += [_stable_worldmodel(name) for name in ("CEMSolver", "ICEMSolver", "MPPISolver")]
        found += [_stable_worldmodel(name, var_scale=0.5) for name in ("CEMSolver", "ICEMSolver")]
    if importlib.util.find_spec("pytorch_mppi"):
        found += [_pytorch_mppi(1.0, 1.0), _pytorch_mppi(0.01, 0.3)]
    return found


@dataclass
class StableWorldModelSolver:
    """One of our planners as a stable-worldmodel `Solver`.

    Attributes:
        model: a `Costable` of theirs.
        name, options: as for `make_planner`.
        seed: environment i plans with generator seed + i, whatever its place in a batch.
    """

    model: Any
    name: str = "more"
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    _planner: Planner | None = None
    _generators: Sequence[torch.Generator] = ()

    def configure(self, *, action_space: Any, n_envs: int, config: Any) -> None:
        """Called by stable-worldmodel before planning."""
        low, high = (
            torch.as_tensor(bound[0]).flatten().repeat(config.action_block).tolist()
            for bound in (action_space.low, action_space.high)
        )
        self._planner = make_planner(
            self.name, horizon=config.horizon, action_dim=len(low), low=low, high=high, **self.options
        )
        self._generators = [torch.Generator().manual_seed(self.seed + i) for i in range(n_envs)]

    @property
    def n_envs(self) -> int:
        return len(self._generators)

    @property
    def horizon(self) -> int:
        return self._configured.horizon

    @property
    def action_dim(self) -> int:
        return self._configured.action_dim

    @property
    def _configured(self) -> Planner:
        if self._planner is None:
            raise RuntimeError("call configure first")
        return self._planner

    def solve(self, info_dict: dict[str, Any], init_action: Tensor | None = None) -> dict[str, Any]:
        """Plan for every environment, one after the other."""
        plans = []
        for i, generator in enumerate(self._generators):
            one = {k: v[i : i + 1] for k, v in info_dict.items()}

            def cost(actions: Tensor, one: dict[str, Any] = one) -> Tensor:
                count = actions.shape[1]
                expanded = {
                    k: v[:, None].expand(1, count, *v.shape[1:]) if torch.is_tensor(v) else v[:, None].repeat(count, 1)
                    for k, v in one.items()
                }
                return self.model.get_cost(expanded, actions)

            start = None if init_action is None else self._padded(init_action[i : i + 1])
            plans.append(self._configured.plan(cost, generator=generator, warm_start=start))
        return {
            "actions": torch.cat([plan.actions for plan in plans]),
            "costs": [float(plan.cost[0]) for plan in plans],
        }

    __call__ = solve

    def _padded(self, actions: Tensor) -> Tensor:
        missing = self.horizon - actions.shape[1]
        return torch.cat([actions, actions.new_zeros(1, missing, self.action_dim)], 1)
