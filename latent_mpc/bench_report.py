"""The planner benchmark's statistics, table and plots."""

from __future__ import annotations

import itertools
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latent_mpc.evaluation import wilson_interval

Run = dict[str, Any]  # one line of runs.jsonl


@dataclass(frozen=True)
class Row:
    """One line of the table of ratios: their mean over the seeds with a 95 % bootstrap interval of the mean.

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


@dataclass(frozen=True)
class SuccessRow:
    """One line of the closed-loop table; `low`, `high` is the 95 % Wilson interval.

    `solved_at_start` episodes were left out: they are in none of the other numbers.
    """

    problem: str
    method: str
    gradients: bool
    episodes: int
    solved_at_start: int
    successes: int
    low: float
    high: float
    steps: float
    seconds: float


def bootstrap_mean(values: Sequence[float], resamples: int = 10_000) -> tuple[float, float]:
    """95 % percentile interval of the mean (Efron & Tibshirani 1993, section 13.3); the draw is fixed."""
    draw = np.random.default_rng(0).integers(0, len(values), (resamples, len(values)))
    low, high = np.quantile(np.asarray(values)[draw].mean(1), [0.025, 0.975])
    return float(low), float(high)


def summarise(runs: Sequence[Run], reference: str) -> list[Row]:
    """One row for each problem and method, best first; pairs with `reference` by seed."""
    groups = _grouped(runs)
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


def summarise_successes(runs: Sequence[Run]) -> list[SuccessRow]:
    """One row for each task and method, best first; none where every episode was solved at its start."""
    rows = []
    for (problem, method), group in _grouped(runs).items():
        counted = [r for r in group if not r["solved_at_start"]]
        if not counted:
            continue
        successes = sum(r["success"] for r in counted)
        low, high = wilson_interval(successes, len(counted))
        rows.append(
            SuccessRow(
                problem=problem,
                method=method,
                gradients=group[0]["gradients"],
                episodes=len(counted),
                solved_at_start=len(group) - len(counted),
                successes=successes,
                low=low,
                high=high,
                steps=statistics.fmean(r["steps"] for r in counted),
                seconds=statistics.median(r["seconds"] for r in counted),
            )
        )
    return sorted(rows, key=lambda row: (row.problem, -row.successes / row.episodes, row.steps))


def markdown(rows: Sequence[Row], evaluations: int, reference: str) -> str:
    """The table of ratios."""
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
            f"| {r.problem} | {r.method} | {_yes(r.gradients)} | {r.seeds} | {r.ratio:.4f} "
            f"| {r.low:.4f}–{r.high:.4f} | {r.worst:.4f} | {r.seconds:.2f} | {wins} |"
        )
    return "\n".join(lines) + "\n"


def success_markdown(rows: Sequence[SuccessRow], evaluations: int) -> str:
    """The closed-loop table."""
    lines = [
        f"Success of the agent with each method in the place of its planners, {evaluations} evaluations a plan over "
        f"subgoals; 95 % Wilson interval, mean steps, median seconds of an `act`. Episodes that are solved at their "
        f"start are left out. Machine: {machine()}.",
        "",
        "| task | method | gradients | success | 95 % | left out | steps | s an act |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.problem} | {r.method} | {_yes(r.gradients)} | {r.successes} of {r.episodes} "
        f"| {100 * r.low:.0f}–{100 * r.high:.0f} % | {r.solved_at_start} | {r.steps:.0f} | {r.seconds:.3f} |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


def machine() -> str:
    """Processor, threads and torch, in words."""
    return (
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"
    )


def plot(runs: Sequence[Run], axis: int, reference: str, path: Path) -> None:
    """Median ratio against evaluations (axis 0) or seconds (axis 1), one panel a problem.

    Best methods first in the legend; the reference black, gradients dashed. A method that does not say what it has on
    the way is a grey marker.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = {key: _median_curve(group) for key, group in _grouped(runs).items()}
    problems = sorted({problem for problem, _ in curves})
    ends: dict[str, list[float]] = {}
    for (_, method), points in curves.items():
        ends.setdefault(method, []).append(np.log(points[-1, 2]))
    methods = sorted(ends, key=lambda method: statistics.fmean(ends[method]))
    styles = _styles(methods, {method for (_, method), points in curves.items() if len(points) > 1}, reference)
    dashed = {run["method"] for run in runs if run["gradients"]}
    figure = Figure(figsize=(3.6 * len(problems) + 2.8, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    handles = {}
    panels = figure.subplots(1, len(problems), squeeze=False)[0]
    for panel, problem in zip(panels, problems, strict=True):
        for method in methods:
            if (problem, method) in curves:
                points = curves[problem, method]
                (handles[method],) = panel.plot(points[:, axis], points[:, 2], **styles[method])
                handles[method].set_linestyle("--" if method in dashed else "-")
        panel.set(title=problem, xscale="log", yscale="log", xlabel=("evaluations", "seconds")[axis])
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("cost ÷ doing nothing")
    figure.legend([handles[m] for m in methods], methods, loc="outside right center", fontsize=8, frameon=False)
    figure.savefig(path, dpi=80)


def _styles(methods: Sequence[str], lines: set[str], reference: str) -> dict[str, dict[str, Any]]:
    """How to draw each method: a colour for those with lines, a marker for the others."""
    colours, markers = itertools.cycle(f"C{i}" for i in range(10)), itertools.cycle("osD^vP*X<>p")
    styles: dict[str, dict[str, Any]] = {}
    for method in methods:
        if method == reference:
            styles[method] = {"color": "black", "linewidth": 2.5, "zorder": 3}
        elif method in lines:
            styles[method] = {"color": next(colours), "linewidth": 1.3}
        else:
            styles[method] = {"color": "0.35", "linewidth": 0, "marker": next(markers), "markersize": 5}
    return styles


def _median_curve(group: Sequence[Run]) -> Any:
    """(N, 3): evaluations, seconds, ratio; the end alone where the runs have no curve."""
    curves = [r["curve"] or [(r["evaluations"], r["seconds"], r["ratio"])] for r in group]
    shortest = min(map(len, curves))
    return np.median(np.array([c[:shortest] for c in curves]), 0)


def _grouped(runs: Sequence[Run]) -> dict[tuple[str, str], list[Run]]:
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run["problem"], run["method"]), []).append(run)
    return groups


def _yes(gradients: bool) -> str:
    return "yes" if gradients else "no"
