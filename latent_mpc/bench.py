"""Methods × problems at equal numbers of evaluations, with paired seeds: `latent-mpc bench planners`.

    ratio = J(clip(plan)) / J(do nothing),   the same starts, goals and sampling seeds for every method

Where J is a logarithm it is e^J that is compared (latent_mpc/bench_problems.py). In the closed loop it is success that
counts, of whole episodes, with the method in the place of the agent's planners.
Every run is appended to `runs.jsonl` in the output folder as it ends; a second call skips what is there. From these
come `planners.md`, `planners.json` and plots of the ratio against evaluations and against wall time.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from latent_mpc.agent_config import AgentConfig
from latent_mpc.bench_closed_loop import METHODS, TASKS, evaluations_a_plan, run_closed_loop
from latent_mpc.bench_methods import Contender, default_contenders
from latent_mpc.bench_peers import installed_peers
from latent_mpc.bench_problems import PROBLEMS
from latent_mpc.bench_report import Run, machine, markdown, plot, success_markdown, summarise, summarise_successes
from latent_mpc.shipped import weights_folder
from latent_mpc.types import InvalidInputError, UnknownNameError


@dataclass(frozen=True)
class PlannerBenchConfig:
    """What to compare.

    Attributes:
        methods: labels of methods; None for all.
        problems: names of problems. `closed_loop_pick_place` and `closed_loop_reach` are left out by default, as they
            take hours: there a seed is an episode, and only the methods take part that need no settings of their own.
        seeds: paired seeds, 2 or more; 24 for a table to publish.
        evaluations: candidates that each method may score, 300 or more; a gradient step counts as three. In the closed
            loop it is as many as the agent's own planners score.
        reference: the method that the `wins` column is about.
        peers: add the installed methods of other libraries (latent_mpc/bench_peers.py).
    """

    methods: tuple[str, ...] | None = None
    problems: tuple[str, ...] = tuple(PROBLEMS)
    seeds: int = 24
    evaluations: int = 3000
    reference: str = "more"
    peers: bool = False

    def __post_init__(self) -> None:
        if self.seeds < 2 or self.evaluations < 300:
            raise InvalidInputError(f"need seeds >= 2 and evaluations >= 300, got {self.seeds} and {self.evaluations}")
        methods = list(contenders(self.peers))
        if self.methods is not None:
            _check_names("method", methods, self.methods)
        _check_names("problem", [*PROBLEMS, *TASKS], self.problems)
        _check_names("reference method", methods, (self.reference,))
        if set(self.problems) <= set(TASKS) and not set(self.methods or METHODS) & set(METHODS):
            raise InvalidInputError(
                f"no method of {list(self.methods or ())} runs in the closed loop; {list(METHODS)} do"
            )


@dataclass(frozen=True)
class Key:
    """What a run is of: two runs with the same key have the same result.

    `budget` is the evaluations that were allowed; `model` names the weights, where the problem has any.
    """

    problem: str
    method: str
    seed: int
    budget: int
    model: str | None


def run_planner_bench(config: PlannerBenchConfig, *, out: str | Path, seed: int = 0, device: str = "cpu") -> str:
    """Run, or finish, a benchmark and write its tables, JSON and plots into `out`.

    Args:
        config: what to compare.
        out: the folder; runs that it holds already are not repeated.
        seed: the first of the paired seeds; the others follow it.
        device: "cpu", where all problems and peers run.
    Returns:
        The tables in Markdown, and where the plots lie.
    Raises:
        InvalidInputError: another device.
    """
    if device != "cpu":
        raise InvalidInputError(f"the planner benchmark runs on the device 'cpu' only, got {device!r}")
    available = contenders(config.peers)
    keys = [
        _key(problem, method, s, config)
        for s in range(seed, seed + config.seeds)
        for problem in config.problems
        for method in config.methods or available
        if problem in PROBLEMS or method in METHODS
    ]
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    done = _read_runs(folder / "runs.jsonl")
    missing = [key for key in keys if key not in done]
    with open(folder / "runs.jsonl", "a") as log:
        for key in tqdm(missing, desc="planners", unit="run"):
            if key.problem in TASKS:
                measured = run_closed_loop(key.problem, key.method, key.seed)
            else:
                measured = _measure(available[key.method], key)
            done[key] = {**asdict(key), **measured}
            log.write(json.dumps(done[key]) + "\n")
            log.flush()
    return _report([done[key] for key in keys], config, folder)


def contenders(peers: bool) -> dict[str, Contender]:
    """Every method by its label; with `peers` those of the other libraries that are installed."""
    return {c.label: c for c in default_contenders() + (installed_peers() if peers else [])}


def _key(problem: str, method: str, seed: int, config: PlannerBenchConfig) -> Key:
    budget = evaluations_a_plan(AgentConfig()) if problem in TASKS else config.evaluations
    return Key(problem, method, seed, budget, _weights() if problem in ("pick_and_place", *TASKS) else None)


@functools.cache
def _weights() -> str:
    """A name of the shipped weights that changes with them."""
    return hashlib.sha256((weights_folder("panda-tabletop") / "model.safetensors").read_bytes()).hexdigest()[:12]


def _read_runs(path: Path) -> dict[Key, Run]:
    """Finished runs; a line that was cut off by a kill is left out, and ended where it is the last."""
    runs = {}
    text = path.read_text() if path.exists() else ""
    for line in text.splitlines():
        try:
            run = json.loads(line)
        except json.JSONDecodeError:
            continue
        runs[Key(run["problem"], run["method"], run["seed"], run["budget"], run.get("model"))] = run
    if text and not text.endswith("\n"):
        with open(path, "a") as log:
            log.write("\n")
    return runs


def _measure(contender: Contender, key: Key) -> dict[str, Any]:
    problem = PROBLEMS[key.problem](key.seed)
    outcome = contender.solve(problem, 10_000 + key.seed, key.budget)
    with torch.no_grad():
        cost = float(problem.cost(outcome.actions.detach().float().clamp(-1, 1)[None, None]))
    return {
        "gradients": contender.gradients,
        "evaluations": outcome.evaluations,
        "ratio": problem.ratio(cost),
        "seconds": outcome.seconds,
        "curve": [(n, s, problem.ratio(c)) for n, s, c in outcome.curve],
    }


def _report(runs: Sequence[Run], config: PlannerBenchConfig, folder: Path) -> str:
    """Write tables, JSON and plots of `runs`; returns the tables, and where the plots lie."""
    planned = [run for run in runs if run["problem"] in PROBLEMS]
    rows, tables, plots = summarise(planned, config.reference), [], []
    if rows:
        tables.append(markdown(rows, config.evaluations, config.reference))
        plots = [folder / f"planners_{axis}.png" for axis in ("evaluations", "seconds")]
        for axis, path in enumerate(plots):
            plot(planned, axis, config.reference, path)
    episodes = summarise_successes([run for run in runs if run["problem"] in TASKS])
    if episodes:
        tables.append(success_markdown(episodes, evaluations_a_plan(AgentConfig())))
    (folder / "planners.md").write_text("\n".join(tables))
    report = {
        "machine": machine(),
        "evaluations": config.evaluations,
        "rows": [asdict(row) for row in rows],
        "closed_loop": [asdict(row) for row in episodes],
    }
    (folder / "planners.json").write_text(json.dumps(report, indent=1) + "\n")
    if plots:
        tables.append(f"Plots: {', '.join(map(str, plots))}")
    return "\n".join(tables)


def _check_names(kind: str, available: list[str], names: tuple[str, ...]) -> None:
    if not names:
        raise InvalidInputError(f"need at least one {kind}; available: {sorted(available)}")
    for name in names:
        if name not in available:
            raise UnknownNameError(kind, name, available)
