"""`latent-mpc failures`: the failed episodes of an evaluation run again and watched, sorted, counted and pictured.

Episodes repeat to the bit on one machine with as many threads of arithmetic, which is one here, as it is in an
evaluation of several workers. Elsewhere some may end otherwise: those that succeed now are counted and left out.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from latent_mpc.config import load_config
from latent_mpc.envs.make import env_id_of, is_tabletop
from latent_mpc.envs.tabletop import TabletopEnv
from latent_mpc.evaluation import EvalConfig, Job, prepare, read_log, scene_of, weights_digest
from latent_mpc.failure_kinds import Failure, Kind, sort_failures
from latent_mpc.failure_strip import draw_moments, key_moments, small_png, strip
from latent_mpc.failure_trace import FailureTrace, TraceRecorder
from latent_mpc.loop import run_episode
from latent_mpc.types import InvalidInputError, UnknownNameError
from latent_mpc.workers import run_in_processes
from latent_mpc.world_model.dataset import write_whole

PICTURED = 10  # kinds, the commonest
EVIDENCE = (  # heading, field of `Failure`, unit, form
    ("off at the end", "off_m", 100, "{:.1f} cm"),
    ("seen off by, in sight", "seen_off_m", 100, "{:.1f} cm"),
    ("and hidden", "hidden_off_m", 100, "{:.1f} cm"),
    ("its goal", "goal_off_m", 100, "{:.1f} cm"),
    ("share hidden", "hidden", 100, "{:.0f} %"),
    ("taken for arranged", "satisfied", 100, "{:.0f} %"),
    ("in focus", "in_focus", 100, "{:.0f} %"),
    ("tries", "tries", 1, "{:.0f}"),
    ("on top", "on_top", 1, "{:.0f}"),
    ("closed beside it by", "beside_m", 100, "{:.1f} cm"),
    ("beside where it was seen", "aimed_m", 100, "{:.1f} cm"),
)


@dataclass(frozen=True)
class Case:
    """One thing that was not placed: the episode, what it was, what happened, and the strip as a PNG."""

    job: Job
    shape: str
    failure: Failure
    png: bytes


@dataclass(frozen=True)
class Gallery:
    """All failures of one agent.

    Attributes:
        tasks: labels, in the evaluation's order. episodes: of each task. cases: all, in the order of the episodes.
        changed: episodes that failed in the evaluation and succeed now.
        source: what was evaluated, for the heading.
    """

    tasks: tuple[str, ...]
    episodes: dict[str, int]
    cases: tuple[Case, ...]
    changed: tuple[Job, ...]
    source: str

    def kinds(self) -> list[tuple[Kind, list[Case]]]:
        """The kinds that occur with their cases, the commonest first."""
        of = {kind: [case for case in self.cases if case.failure.kind == kind] for kind in Kind}
        return sorted(((kind, cases) for kind, cases in of.items() if cases), key=lambda pair: -len(pair[1]))

    def __str__(self) -> str:
        failed = len({case.job for case in self.cases})
        lines = [
            f"{self.source}: {failed} of {sum(self.episodes.values())} episodes failed, "
            f"in which {len(self.cases)} things were not placed."
        ]
        if self.changed:
            lines.append(f"{len(self.changed)} more had failed in the evaluation and succeed now; they are left out.")
        lines += ["", _counts(self), "", _evidence(self)]
        return "\n".join(lines)


def find_failures(
    results: Path, *, out: Path, agent: str | None = None, workers: int = 1, progress: bool = True
) -> Gallery:
    """Sort the failures of a finished evaluation; write `table.md`, `failures.json` and the strips into `out`.

    Args:
        results: folder that `latent-mpc eval` wrote to its end.
        out: made when missing; strips of kinds that are no longer among the commonest are removed.
        agent: whose failures; None for the evaluation's first.
        workers: parallel processes.
    Raises:
        InvalidInputError: no such folder, not finished, no failures, none of our tasks, or other weights by now.
        UnknownNameError: the evaluation has no such agent, or its weights are gone.
    """
    config, report, device = _read(results)
    agent = agent or config.agents[0]
    if agent not in config.agents:
        raise UnknownNameError("agent of this evaluation", agent, list(config.agents))
    tasks = tuple(task for task in config.tasks if _moves_things(task, config))
    if not tasks:
        raise InvalidInputError(
            f"{results} evaluates {list(config.tasks)}; only tasks of ours that move things have failures to sort"
        )
    jobs = {
        job: r for job, r in read_log(results / "episodes.jsonl").items() if job.agent == agent and job.task in tasks
    }
    failed = [job for job, result in jobs.items() if not result.success]
    if not failed:
        raise InvalidInputError(f"none of the {len(jobs)} episodes of {agent!r} in {results} failed")
    torch.set_num_threads(1)
    watch = functools.partial(watch_again, config, report["weights"], device)
    cases: dict[int, list[Case]] = {}
    finished = run_in_processes(watch, failed, workers)
    with tqdm(total=len(failed), desc="watching again", unit="episode", disable=not progress) as bar:
        with contextlib.closing(finished):
            for index, found in finished:
                cases[index] = found
                bar.update()
    gallery = Gallery(
        tasks=tasks,
        episodes={task: sum(job.task == task for job in jobs) for task in tasks},
        cases=tuple(case for index in range(len(failed)) for case in cases[index]),
        changed=tuple(job for index, job in enumerate(failed) if not cases[index]),
        source=f"`{agent}` on `{Path(report['weights']).name}`, seed {report['seed']}",
    )
    _write(gallery, out)
    return gallery


def watch_again(config: EvalConfig, weights: str, device: str, job: Job) -> list[Case]:
    """Run an episode again, with a strip for each thing that is not placed in the end; none if it succeeds."""
    env, agent = prepare(config, weights, device, job)
    tabletop = env.unwrapped
    assert isinstance(tabletop, TabletopEnv)
    recorder = TraceRecorder(tabletop, agent)
    run_episode(env, agent, seed=job.seed, callbacks=[recorder])
    return picture_failures(tabletop, recorder.finish(), job)


def picture_failures(env: TabletopEnv, trace: FailureTrace, job: Job) -> list[Case]:
    """Sort the failures of an episode whose scene the environment still has, and draw a strip of each."""
    cases = []
    for failure in sort_failures(trace):
        thing = trace.things[failure.thing]
        moments = key_moments(failure.moment, trace.steps)
        pictures, goal = draw_moments(env, trace, moments)
        title = f"{thing.shape}: {failure.kind} ({job.task}, seed {job.seed}; {100 * failure.off_m:.1f} cm off)"
        picture = strip(title, thing.rgb, pictures, moments, failure.moment, goal)
        cases.append(Case(job, thing.shape, failure, small_png(picture)))
    return cases


def typical(cases: list[Case]) -> Case:
    """The case whose moment is nearest to the median of all, the first of several."""
    middle = median(case.failure.moment for case in cases)
    return min(cases, key=lambda case: abs(case.failure.moment - middle))


def picture_name(kind: Kind) -> str:
    """File name of a kind's strip."""
    return f"{kind.name.lower().replace('_', '-')}.png"


def _read(results: Path) -> tuple[EvalConfig, dict[str, Any], str]:
    """What was evaluated, `results.json`, and on what device."""
    if not results.is_dir():
        raise InvalidInputError(f"no folder {results}; give one that `latent-mpc eval --out` wrote")
    missing = [name for name in ("results.json", "settings.json", "episodes.jsonl") if not (results / name).is_file()]
    if missing:
        raise InvalidInputError(
            f"{results} holds no finished evaluation: {missing} missing; `latent-mpc eval` finishes it"
        )
    config = load_config(EvalConfig, results / "results.json", [], section="settings")
    report = json.loads((results / "results.json").read_text())
    settings = json.loads((results / "settings.json").read_text())
    known = settings.get("weights_sha256")
    if known is not None and weights_digest(report["weights"]) != known:
        raise InvalidInputError(f"the weights {report['weights']!r} are not those of {results} any more: evaluate anew")
    return config, report, settings.get("device", "cpu")


def _moves_things(task: str, config: EvalConfig) -> bool:
    env_id = env_id_of(scene_of(task, config).task)
    return is_tabletop(env_id) and env_id != env_id_of("Reach")


def _counts(gallery: Gallery) -> str:
    """Kinds by tasks, as Markdown."""
    lines = [
        f"| how a thing failed | {' | '.join(gallery.tasks)} | all |",
        f"|---|{'---|' * (len(gallery.tasks) + 1)}",
    ]
    for kind, cases in gallery.kinds():
        counts = [sum(case.job.task == task for case in cases) for task in gallery.tasks]
        lines.append(f"| {kind} | {' | '.join(str(count or '') for count in counts)} | **{len(cases)}** |")
    totals = [sum(case.job.task == task for case in gallery.cases) for task in gallery.tasks]
    failed = [len({case.job for case in gallery.cases if case.job.task == task}) for task in gallery.tasks]
    lines.append(f"| things not placed | {' | '.join(map(str, totals))} | {len(gallery.cases)} |")
    episodes = [f"{count} of {gallery.episodes[task]}" for count, task in zip(failed, gallery.tasks, strict=True)]
    lines.append(f"| episodes failed | {' | '.join(episodes)} | {sum(failed)} of {sum(gallery.episodes.values())} |")
    return "\n".join(lines)


def _evidence(gallery: Gallery) -> str:
    """Medians over each kind's cases that speak for a cause, as Markdown."""
    lines = [f"| medians | {' | '.join(name for name, *_ in EVIDENCE)} |", f"|---|{'---|' * len(EVIDENCE)}"]
    for kind, cases in gallery.kinds():
        columns = []
        for _, key, scale, form in EVIDENCE:
            values = [scale * value for case in cases if math.isfinite(value := getattr(case.failure, key))]
            columns.append(form.format(median(values)) if values else "–")
        lines.append(f"| {kind} | {' | '.join(columns)} |")
    return "\n".join(lines)


def _write(gallery: Gallery, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    pictured = {kind: typical(cases) for kind, cases in gallery.kinds()[:PICTURED]}
    for kind in Kind:
        if kind in pictured:
            write_whole(out / picture_name(kind), pictured[kind].png)
        else:
            (out / picture_name(kind)).unlink(missing_ok=True)
    rows = [
        {**asdict(case.job), "shape": case.shape}
        | {key: None if value != value else value for key, value in asdict(case.failure).items()}
        for case in gallery.cases
    ]
    report = {
        "source": gallery.source,
        "episodes": gallery.episodes,
        "succeed_now": [asdict(job) for job in gallery.changed],
        "failures": rows,
    }
    write_whole(out / "failures.json", json.dumps(report, indent=1).encode())
    write_whole(out / "table.md", f"{gallery}\n".encode())
