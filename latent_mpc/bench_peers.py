"""Other libraries' planners on our problems, and ours inside stable-worldmodel. Nothing is imported before it is used.

    pip install 'latent-mpc[peers]'                         stable-worldmodel, pytorch-mppi
    pip install --no-deps judo-rai mbrl
    pip install viser hydra-core tensorboard termcolor      what these two import

judo-rai asks for a MuJoCo below 3.7, mbrl for Gymnasium 0.26 and Hydra 1.0, which do not go with the environments
here; their optimisers run with current ones. Every adapter clips to the box what is scored, and counts it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latent_mpc.bench_methods import Contender, Outcome
from latent_mpc.bench_problems import Problem
from latent_mpc.planner import Planner, make_planner
from latent_mpc.types import InvalidInputError

SAMPLES = 300


@dataclass
class _Scorer:
    """A problem's cost for plans (S, H, A), clipped to the box; counts what was scored."""

    problem: Problem
    evaluations: int = 0

    def __call__(self, plans: Tensor) -> Tensor:
        self.evaluations += len(plans)
        return self.problem.cost(plans[None].clamp(-1, 1))[0]

    def get_cost(self, info_dict: dict[str, Any], action_candidates: Tensor) -> Tensor:
        """As stable-worldmodel's `Costable`, for one environment."""
        return self(action_candidates[0])[None]

    criterion = get_cost


@contextlib.contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    """For libraries that draw from the global generators, which are put back."""
    state = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002


def _imported(module: str) -> Any:
    """A peer's module.

    Raises:
        InvalidInputError: it is installed, but cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # torchvision of another build than torch raises the second
        raise InvalidInputError(f"{module} is installed but cannot be imported ({error}); leave out peers") from error


@dataclass(frozen=True)
class _Config:
    horizon: int
    action_block: int = 1


def _stable_worldmodel(solver: str, **options: Any) -> Contender:
    """One of its solvers; options beyond its defaults are part of the label."""

    def solve(problem: Problem, seed: int, evaluations: int) -> Outcome:
        import gymnasium as gym

        solvers = _imported("stable_worldmodel.solver")
        scorer = _Scorer(problem)
        steps = max(1, evaluations // SAMPLES)
        planner = getattr(solvers, solver)(scorer, num_samples=SAMPLES, n_steps=steps, seed=seed, **options)
        box = gym.spaces.Box(-1.0, 1.0, (1, problem.action_dim))
        planner.configure(action_space=box, n_envs=1, config=_Config(problem.horizon))
        started = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its time
            found = planner.solve({"state": torch.zeros(1, 1)})
        return Outcome(found["actions"][0], scorer.evaluations, time.perf_counter() - started)

    tuned = "".join(f", {k} {v:g}" for k, v in options.items())
    return Contender(f"stable-worldmodel {solver.removesuffix('Solver')}{tuned}", solve)


def _pytorch_mppi(temperature: float, std: float) -> Contender:
    def solve(problem: Problem, seed: int, evaluations: int) -> Outcome:
        MPPI = _imported("pytorch_mppi").MPPI
        scorer = _Scorer(problem)
        width = problem.action_dim

        def whole_cost(states: Tensor, actions: Tensor) -> Tensor:
            return scorer(actions.reshape(-1, *actions.shape[-2:])) / problem.idle_cost

        with _global_seed(seed):
            planner = MPPI(
                lambda state, action: state,
                lambda state, action: torch.zeros(state.shape[:-1]),
                1,
                std**2 * torch.eye(width),
                num_samples=SAMPLES,
                horizon=problem.horizon,
                lambda_=temperature,
                u_min=-torch.ones(width),
                u_max=torch.ones(width),
                terminal_state_cost=whole_cost,
                U_init=torch.zeros(problem.horizon, width),
            )
            started = time.perf_counter()
            for _ in range(max(1, evaluations // SAMPLES)):
                planner.command(torch.zeros(1), shift_nominal_trajectory=False)
        return Outcome(planner.U, scorer.evaluations, time.perf_counter() - started)

    return Contender(f"pytorch-mppi, λ {temperature:g}, σ {std:g}", solve)


def _judo(label: str, **options: Any) -> Contender:
    """Its CEM on its linear splines; options are fields of its config beyond the number of rollouts."""

    def solve(problem: Problem, seed: int, evaluations: int) -> Outcome:
        judo = _imported("judo.optimizers")
        config = judo.CrossEntropyMethodConfig(num_rollouts=SAMPLES, **options)
        planner = judo.CrossEntropyMethod(config, problem.action_dim)
        scorer = _Scorer(problem)
        nominal = np.zeros((config.num_nodes, problem.action_dim))
        at = np.linspace(0, config.num_nodes - 1, problem.horizon)[:, None]
        weights = np.maximum(0.0, 1 - np.abs(at - np.arange(config.num_nodes)))  # (H, knots)

        def plans(knots: Any) -> Tensor:
            return torch.as_tensor(weights @ knots, dtype=torch.float32)

        started = time.perf_counter()
        with _global_seed(seed), torch.no_grad():
            for _ in range(max(1, evaluations // SAMPLES)):
                knots = planner.sample_control_knots(nominal).clip(-1, 1)  # as its controller does
                nominal = planner.update_nominal_knots(knots, -scorer(plans(knots)).numpy())
        return Outcome(plans(nominal), scorer.evaluations, time.perf_counter() - started)

    return Contender(f"judo {label}", solve)


def _mbrl_icem(iterations: int) -> Contender:
    """Its iCEM with the settings of the example that it ships, and the population that the evaluations allow."""
    ratio, decay, keep = 0.1, 1.3, 0.3

    def total(population: int) -> int:
        elites = math.ceil(ratio * population)
        drawn = sum(math.ceil(max(population * decay**-i, 2 * elites)) for i in range(iterations))
        return drawn + (iterations - 2) * math.ceil(keep * elites) + 1  # elites kept, and the last mean

    def solve(problem: Problem, seed: int, evaluations: int) -> Outcome:
        scorer = _Scorer(problem)
        bound = np.ones((problem.horizon, problem.action_dim))
        planner = _imported("mbrl.planning.trajectory_opt").ICEMOptimizer(
            num_iterations=iterations,
            elite_ratio=ratio,
            population_size=next(n for n in range(evaluations, 0, -1) if total(n) <= evaluations),
            population_decay_factor=decay,
            colored_noise_exponent=2.0,
            lower_bound=-bound,
            upper_bound=bound,
            keep_elite_frac=keep,
            alpha=0.1,
            device=torch.device("cpu"),
        )
        started = time.perf_counter()
        with _global_seed(seed), torch.no_grad():
            plan = planner.optimize(lambda plans: -scorer(plans), x0=torch.zeros(bound.shape))
        return Outcome(plan, scorer.evaluations, time.perf_counter() - started)

    return Contender(f"mbrl-lib iCEM, {iterations} iterations", solve)


def installed_peers() -> list[Contender]:
    """A contender for each installed library and method."""
    found = []
    if importlib.util.find_spec("stable_worldmodel"):
        found += [_stable_worldmodel(name) for name in ("CEMSolver", "ICEMSolver", "MPPISolver")]
        found += [_stable_worldmodel(name, var_scale=0.5) for name in ("CEMSolver", "ICEMSolver")]
    if importlib.util.find_spec("pytorch_mppi"):
        found += [_pytorch_mppi(1.0, 1.0), _pytorch_mppi(0.01, 0.3)]
    if importlib.util.find_spec("judo") and importlib.util.find_spec("viser"):
        found += [_judo("CEM"), _judo("CEM, 5 knots, 30 elites, σ ≥ 0.01", num_nodes=5, num_elites=30, sigma_min=0.01)]
    if importlib.util.find_spec("mbrl") and importlib.util.find_spec("hydra"):
        found += [_mbrl_icem(5), _mbrl_icem(10)]
    return found


@dataclass
class StableWorldModelSolver:
    """One of our planners as a stable-worldmodel `Solver`.

    Every environment of a call plans with the same noise, so a plan depends on what its environment shows and on the
    number of the call, not on its place in the batch or on who else is in it.

    Attributes:
        model: a `Costable` of theirs.
        name, options: as for `make_planner`.
        seed: of the noise.
    """

    model: Any
    name: str = "more"
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    _planner: Planner | None = None
    _n_envs: int = 0
    _calls: int = 0

    def configure(self, *, action_space: Any, n_envs: int, config: Any) -> None:
        """Called by stable-worldmodel before planning."""
        low, high = (
            torch.as_tensor(bound[0]).flatten().repeat(config.action_block).tolist()
            for bound in (action_space.low, action_space.high)
        )
        self._planner = make_planner(
            self.name, horizon=config.horizon, action_dim=len(low), low=low, high=high, **self.options
        )
        self._n_envs, self._calls = n_envs, 0

    @property
    def n_envs(self) -> int:
        return self._n_envs

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
        """Plan for the environments in `info_dict`, those that need a plan, one after the other."""
        self._calls += 1
        plans = []
        for i in range(len(next(iter(info_dict.values())))):
            one = {k: v[i : i + 1] for k, v in info_dict.items()}

            def cost(actions: Tensor, one: dict[str, Any] = one) -> Tensor:
                return self.model.get_cost({k: _repeated(v, actions.shape[1]) for k, v in one.items()}, actions)

            start = None if init_action is None else self._padded(init_action[i : i + 1])
            noise = torch.Generator().manual_seed(self.seed + 1_000_003 * self._calls)
            plans.append(self._configured.plan(cost, generator=noise, warm_start=start))
        return {
            "actions": torch.cat([plan.actions for plan in plans]),
            "costs": [float(plan.cost[0]) for plan in plans],
        }

    __call__ = solve

    def _padded(self, actions: Tensor) -> Tensor:
        missing = self.horizon - actions.shape[1]
        return torch.cat([actions, actions.new_zeros(1, missing, self.action_dim)], 1)


def _repeated(value: Any, count: int) -> Any:
    """What an environment shows (1, ...) -> (1, count, ...), as their solvers hand it to a model; lists as they are."""
    if torch.is_tensor(value):
        return value[:, None].expand(1, count, *value.shape[1:])
    return np.repeat(value[:, None], count, 1) if isinstance(value, np.ndarray) else value
