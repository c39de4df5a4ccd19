"""The methods of the planner benchmark: this package's, with the settings that docs/planners.md recommends."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latent_mpc.bench_problems import Problem
from latent_mpc.planner import Iteration, make_planner

Solve = Callable[[Problem, int, int], "Outcome"]  # problem, sampling seed, evaluations


@dataclass(frozen=True)
class Outcome:
    """One plan: its actions (H, A), what it took, and the best cost after each iteration."""

    actions: Tensor
    evaluations: int
    seconds: float
    curve: tuple[tuple[int, float, float], ...] = ()  # evaluations, seconds, best cost so far


@dataclass(frozen=True)
class Contender:
    """A method with its settings; `gradients` says that it needs a differentiable cost."""

    label: str
    solve: Solve
    gradients: bool = False


def ours(name: str, settings: Callable[[int], dict[str, Any]], label: str | None = None) -> Contender:
    """One of this package's methods; `settings` turns a number of evaluations into options of `make_planner`."""

    def solve(problem: Problem, seed: int, evaluations: int) -> Outcome:
        planner = make_planner(name, horizon=problem.horizon, action_dim=problem.action_dim, **settings(evaluations))
        curve: list[tuple[int, float, float]] = []

        def watch(iteration: Iteration) -> None:
            curve.append((iteration.evaluations, iteration.elapsed_s, float(iteration.best_cost[0])))

        started = time.perf_counter()
        plan = planner.plan(problem.cost, generator=torch.Generator().manual_seed(seed), callback=watch)
        seconds = time.perf_counter() - started
        curve.append((plan.evaluations, seconds, float(plan.cost[0])))
        return Outcome(plan.actions[0], plan.evaluations, seconds, tuple(curve))

    return Contender(label or name, solve, gradients=name in ("gradient", "polish"))


def _batches(samples: int, **options: Any) -> Callable[[int], dict[str, Any]]:
    return lambda n: {"num_samples": samples, "num_iterations": max(1, n // samples), **options}


def _polish(evaluations: int) -> dict[str, Any]:
    """Half of the evaluations for CEM, half for up to five descents; a gradient step counts as three."""
    samples = evaluations // 20
    starts = max(1, min(5, samples // 10))
    half = {"num_samples": samples, "num_iterations": 10}
    return {**half, "polish_starts": starts, "polish_steps": evaluations // (6 * starts)}


def default_contenders() -> list[Contender]:
    """Every method with the settings that the documentation recommends; `cma` where its package is installed."""
    spline = {"basis": "cubic", "num_knots": 5}
    found = [
        ours("random_shooting", _batches(300)),
        ours("predictive_sampling", _batches(300, **spline, init_std=0.3)),
        ours("cem", _batches(300)),
        ours("cem", _batches(300, **spline), "cem, 5 knots"),
        ours("icem", _batches(300)),
        ours("icem", _batches(100, **spline), "icem, 5 knots, 100 x 30"),
        ours("mppi", _batches(300)),
        ours("more", _batches(300)),
        ours("more", _batches(100, trust=0.15), "more, 100 x 30"),
        ours("gradient", lambda n: {"num_samples": 10, "num_iterations": n // 30}),
        ours("polish", _polish),
    ]
    if importlib.util.find_spec("cma"):
        found.append(ours("cma", _batches(30, **spline)))
    return found
