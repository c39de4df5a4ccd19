"""Methods × problems at equal numbers of evaluations, with paired seeds: `latent-mpc bench planners`.

    ratio = J(clip(plan)) / J(do nothing),   the same starts, goals and sampling seeds for every method

Every run is appended to `runs.jsonl` in the output folder as it ends; a second call skips what is there. From these
come `planners.md`, `planners.json` and plots of the ratio against evaluations and against wall time.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from latent_mpc.bench_methods import Contender, default_contenders
from latent_mpc.bench_peers import installed_peers
from latent_mpc.bench_problems import PROBLEMS
from latent_mpc.planner import make_planner
from latent_mpc.types import InvalidInputError, UnknownNameError


@dataclass(frozen=True)
class PlannerBenchConfig:
    """What to compare.

    Attributes:
        methods: labels of methods; None for all.
        problems: names of problems; None for all.
        seeds: paired seeds, 2 or more; 24 for a table to publish.
        evaluations: candidates that each method may score, 300 or more; a gradient step counts as three.
        reference: the method that the `wins` column is about.
        peers: add the installed methods of other libraries (latent_mpc/bench_peers.py).
    """

    methods: tuple[str, ...] | None = None
    problems: tuple[str, ...] | None = None
    seeds: int = 24
    evaluations: int = 3000
    reference: str = "more"
    peers: bool = False

    def __post_init__(self) -> None:
        if self.seeds < 2 or self.evaluations < 300:
            raise InvalidInputError(f"need seeds >= 2 and evaluations >= 300, got {self.seeds} and {self.evaluations}")
        methods = list(contenders(self.peers))
        _check_names("method", methods, self.methods)
        _check_names("problem", list(PROBLEMS), self.problems)
        _check_names("reference method", methods, (self.reference,))


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


def run_planner_bench(config: PlannerBenchConfig, *, out: str | Path, seed: int = 0, device: str = "cpu") -> str:
    """Run, or finish, a benchmark and write its table, JSON and plots into `out`.

    Args:
        config: what to compare.
        out: the folder; runs that it holds already are not repeated.
        seed: the first of the paired seeds; the others follow it.
        device: "cpu", where all problems and peers run.
    Returns:
        The table in Markdown, and where the files lie.
    Raises:
        InvalidInputError: another device.
    """
    if device != "cpu":
        raise InvalidInputError(f"the planner benchmark runs on the device 'cpu' only, got {device!r}")
    available = contenders(config.peers)
    methods = config.methods or tuple(available)
    problems = config.problems or tuple(PROBLEMS)
    seeds = range(seed, seed + config.seeds)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / "runs.jsonl"
    runs = [json.loads(line) for line in store.read_text().splitlines()] if store.exists() else []
    done = {(r["problem"], r["method"], r["seed"], r["budget"]) for r in runs}
    todo = [
        (problem, method, s)
        for s in seeds
        for problem in problems
        for method in methods
        if (problem, method, s, config.evaluations) not in done
    ]
    for problem, method, s in tqdm(todo, desc="planners", unit="plan"):
        run = {"problem": problem, "seed": s, **_measure(available[method], PROBLEMS[problem](s), s, config)}
        runs.append(run)
        with store.open("a") as file:
            file.write(json.dumps(run) + "\n")
    runs = [
        r
        for r in runs
        if r["method"] in methods
        and r["problem"] in problems
        and r["budget"] == config.evaluations
        and r["seed"] in seeds
    ]
    rows = summarise(runs, config.reference)
    table = markdown(rows, config.evaluations, config.reference)
    (folder / "planners.md").write_text(table)
    report = {"machine": machine(), "evaluations": config.evaluations, "rows": [asdict(row) for row in rows]}
    (folder / "planners.json").write_text(json.dumps(report, indent=1) + "\n")
    plots = [folder / f"planners_{axis}.png" for axis in ("evaluations", "seconds")]
    for axis, path in enumerate(plots):
        _plot(runs, axis, path)
    return f"{table}\nPlots: {plots[0]}, {plots[1]}"


def contenders(peers: bool) -> dict[str, Contender]:
    """Every method by its label; with `peers` those of the other libraries that are installed."""
    return {c.label: c for c in default_contenders() + (installed_peers() if peers else [])}


def _measure(contender: Contender, problem: Any, seed: int, config: PlannerBenchConfig) -> dict[str, Any]:
    outcome = contender.solve(problem, 10_000 + seed, config.evaluations)
    with torch.no_grad():
        cost = float(problem.cost(outcome.actions.detach().float().clamp(-1, 1)[None, None]))
    return {
        "method": contender.label,
        "gradients": contender.gradients,
        "budget": config.evaluations,
        "evaluations": outcome.evaluations,
        "ratio": cost / problem.idle_cost,
        "seconds": outcome.seconds,
        "curve": [(n, s, c / problem.idle_cost) for n, s, c in outcome.curve],
    }


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


def _check_names(kind: str, available: list[str], names: tuple[str, ...] | None) -> None:
    if names is not None and not names:
        raise InvalidInputError(f"need at least one {kind}, or null for all; available: {sorted(available)}")
    for name in names or ():
        if name not in available:
            raise UnknownNameError(kind, name, available)


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
