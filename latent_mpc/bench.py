"""Methods × problems at equal numbers of evaluations, with paired seeds: `latent-mpc bench planners`.

    ratio = J(clip(plan)) / J(do nothing),   the same starts, goals and sampling seeds for every method

Every run is appended to `runs.jsonl` in the output folder as it ends; a second call skips what is there. From these
come `planners.md`, `planners.json` and plots of the ratio against evaluations and against wall time. The problems
and the peers' adapters live in the repository's benchmarks/ folder, so this runs from a clone.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from latent_mpc.planner import Iteration, make_planner
from latent_mpc.types import InvalidInputError, UnknownNameError

Solve = Callable[[Any, int, int], "Outcome"]  # problem, sampling seed, evaluations


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


@dataclass(frozen=True)
class Row:
    """One line of the table: the mean ratio over the seeds with a 95 % bootstrap interval of the mean.

    `wins` is the share of the seeds on which the reference method's plan is better than this one.
    """

    problem: str
    method: str
    gradients: bool
    seeds: int
    evaluations: int
    ratio: float
    low: float
    high: float
    worst: float
    seconds: float
    wins: float | None


def ours(name: str, settings: Callable[[int], dict[str, Any]], label: str | None = None) -> Contender:
    """One of this package's methods; `settings` turns a number of evaluations into options of `make_planner`."""

    def solve(problem: Any, seed: int, evaluations: int) -> Outcome:
        planner = make_planner(name, horizon=problem.horizon, action_dim=7, **settings(evaluations))
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
    """Half of the evaluations for CEM, half for five descents; a gradient step counts as three."""
    samples = evaluations // 20
    return {"num_samples": samples, "num_iterations": 10, "polish_starts": 5, "polish_steps": evaluations // 30}


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


def run_planner_bench(
    output: str | Path,
    *,
    methods: Sequence[str] | None = None,
    problems: Sequence[str] | None = None,
    seeds: int = 24,
    evaluations: int = 3000,
    reference: str = "more",
    peers: bool = False,
    progress: bool = True,
) -> list[Row]:
    """Run, or finish, a benchmark and write its table, JSON and plots into `output`.

    Args:
        methods: labels of contenders, None for all. problems: names, None for all.
        seeds: paired seeds, 2 or more; 24 for a table to publish.
        evaluations: candidates that each method may score; a gradient step counts as three.
        reference: the contender that the `wins` column is about.
        peers: add the installed ones of other libraries (benchmarks/peers.py).
    Raises:
        UnknownNameError: a method or a problem does not exist. InvalidInputError: not run from a clone.
    """
    if seeds < 2 or evaluations < 300:
        raise InvalidInputError(f"need seeds >= 2 and evaluations >= 300, got {seeds} and {evaluations}")
    available = benchmark_module("problems").PROBLEMS
    contenders = default_contenders() + (benchmark_module("peers").installed_peers() if peers else [])
    chosen = _choose("method", methods, {c.label: c for c in contenders})
    wanted = _choose("problem", problems, available)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / "runs.jsonl"
    runs = [json.loads(line) for line in store.read_text().splitlines()] if store.exists() else []
    done = {(r["problem"], r["method"], r["seed"], r["budget"]) for r in runs}
    todo = [
        (problem, c, seed)
        for seed in range(seeds)
        for problem in wanted
        for c in chosen.values()
        if (problem, c.label, seed, evaluations) not in done
    ]
    for problem, contender, seed in tqdm(todo, desc="planners", disable=not progress):
        instance = available[problem](seed)
        outcome = contender.solve(instance, 10_000 + seed, evaluations)
        with torch.no_grad():
            cost = float(instance.cost(outcome.actions.detach().float().clamp(-1, 1)[None, None]))
        run = {
            "problem": problem,
            "method": contender.label,
            "gradients": contender.gradients,
            "seed": seed,
            "budget": evaluations,
            "evaluations": outcome.evaluations,
            "ratio": cost / instance.idle_cost,
            "seconds": outcome.seconds,
            "curve": [(n, s, c / instance.idle_cost) for n, s, c in outcome.curve],
        }
        runs.append(run)
        with store.open("a") as file:
            file.write(json.dumps(run) + "\n")
    labels = set(chosen)
    runs = [
        r
        for r in runs
        if r["method"] in labels and r["problem"] in wanted and r["budget"] == evaluations and r["seed"] < seeds
    ]
    rows = summarise(runs, reference)
    (folder / "planners.md").write_text(markdown(rows, evaluations, reference))
    report = {"machine": machine(), "evaluations": evaluations, "rows": [asdict(row) for row in rows]}
    (folder / "planners.json").write_text(json.dumps(report, indent=1) + "\n")
    for axis, name in ((0, "evaluations"), (1, "seconds")):
        _plot(runs, axis, folder / f"planners_{name}.png")
    return rows


def bootstrap_mean(values: Sequence[float], resamples: int = 10_000) -> tuple[float, float]:
    """95 % percentile interval of the mean (Efron & Tibshirani 1993, section 13.3); the draw is fixed."""
    draw = np.random.default_rng(0).integers(0, len(values), (resamples, len(values)))
    low, high = np.quantile(np.asarray(values)[draw].mean(1), [0.025, 0.975])
    return float(low), float(high)


def summarise(runs: Sequence[dict[str, Any]], reference: str) -> list[Row]:
    """One row for each problem and method, best first; pairs with `reference` by seed."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault((run["problem"], run["method"]), []).append(run)
    rows = []
    for (problem, method), group in groups.items():
        rival = {r["seed"]: r["ratio"] for r in groups.get((problem, reference), [])}
        pairs = [rival[r["seed"]] < r["ratio"] for r in group if r["seed"] in rival and method != reference]
        ratios = [r["ratio"] for r in group]
        low, high = bootstrap_mean(ratios)
        rows.append(
            Row(
                problem=problem,
                method=method,
                gradients=group[0]["gradients"],
                seeds=len(group),
                evaluations=max(r["evaluations"] for r in group),
                ratio=statistics.fmean(ratios),
                low=low,
                high=high,
                worst=max(ratios),
                seconds=statistics.median(r["seconds"] for r in group),
                wins=statistics.fmean(pairs) if pairs else None,
            )
        )
    return sorted(rows, key=lambda row: (row.problem, row.ratio))


def markdown(rows: Sequence[Row], evaluations: int, reference: str) -> str:
    """The table of a report."""
    lines = [
        f"Cost of the plan ÷ cost of doing nothing at {evaluations} evaluations; mean over the seeds, 95 % bootstrap "
        f"interval, worst seed, median seconds a plan, and the share of the seeds that `{reference}` wins against "
        f"the method. Machine: {machine()}.",
        "",
        f"| problem | method | gradients | seeds | mean | 95 % | worst | s a plan | {reference} wins |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        wins = "–" if r.wins is None else f"{100 * r.wins:.0f} %"
        lines.append(
            f"| {r.problem} | {r.method} | {'yes' if r.gradients else 'no'} | {r.seeds} | {r.ratio:.4f} "
            f"| {r.low:.4f}–{r.high:.4f} | {r.worst:.4f} | {r.seconds:.2f} | {wins} |"
        )
    return "\n".join(lines) + "\n"


def measure_overhead(name: str, *, batch: int = 1, repeats: int = 30, **options: Any) -> float:
    """Median milliseconds of planning 10 iterations × 300 samples × H 10 × A 7 with a cost that costs nothing."""
    planner = make_planner(name, horizon=10, action_dim=7, num_samples=300, num_iterations=10, **options)
    generators = [torch.Generator().manual_seed(b) for b in range(batch)]
    times = []
    for _ in range(repeats + 3):
        started = time.perf_counter()
        planner.plan(lambda actions: actions[:, :, 0, 0], generator=generators)
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times[3:])


def machine() -> str:
    """Processor, threads and torch, in words."""
    return (
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"
    )


def benchmark_module(name: str) -> ModuleType:
    """A file of the repository's benchmarks/ folder.

    Raises:
        InvalidInputError: the package does not run from a clone.
    """
    path = Path(__file__).resolve().parents[1] / "benchmarks" / f"{name}.py"
    if not path.exists():
        raise InvalidInputError(f"{path} does not exist: the benchmarks run from a clone of the repository")
    key = f"latent_mpc_benchmarks_{name}"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[key] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
    return sys.modules[key]


def _choose(kind: str, names: Sequence[str] | None, available: dict[str, Any]) -> dict[str, Any]:
    for name in names or []:
        if name not in available:
            raise UnknownNameError(kind, name, list(available))
    return {name: available[name] for name in (names or available)}


def _plot(runs: Sequence[dict[str, Any]], axis: int, path: Path) -> None:
    """Median ratio against evaluations (axis 0) or seconds (axis 1), one panel a problem."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    problems = sorted({r["problem"] for r in runs})
    figure = Figure(figsize=(6 * len(problems), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    for panel, problem in zip(figure.subplots(1, len(problems), squeeze=False)[0], problems, strict=True):
        for method in sorted({r["method"] for r in runs}):
            curves = [r["curve"] for r in runs if r["method"] == method and r["problem"] == problem]
            curves = [c for c in curves if c]
            if not curves:
                continue
            shortest = min(map(len, curves))
            points = np.median(np.array([c[:shortest] for c in curves]), 0)
            panel.plot(points[:, axis], points[:, 2], marker=".", label=method)
        panel.set(yscale="log", title=problem, ylabel="cost ÷ doing nothing")
        panel.set_xlabel("evaluations" if axis == 0 else "seconds")
        panel.grid(alpha=0.3)
    figure.axes[-1].legend(fontsize=7)
    figure.savefig(path, dpi=110)
