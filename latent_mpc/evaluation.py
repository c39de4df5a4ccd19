"""Success rates with their intervals: every agent on every task from the same starts, as one table.

An episode is kept in `episodes.jsonl` as soon as it is over, so whoever runs the same evaluation again runs only
what is missing.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import json
import math
import os
import platform
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import gymnasium
import numpy as np
import torch
from tqdm import tqdm

from latent_mpc.agent_config import AgentConfig
from latent_mpc.agents import AGENTS, LEARNED, ORACLES, PLANNING, SCRIPTED, AgentSource, make_agent
from latent_mpc.envs import FOREIGN, MAX_EPISODE_STEPS, splits
from latent_mpc.envs.make import env_id_of, is_tabletop, make_env
from latent_mpc.envs.tabletop import DEFAULTS, TabletopConfig
from latent_mpc.envs.tasks import check_objects
from latent_mpc.loop import EpisodeResult, run_episode
from latent_mpc.shipped import weights_folder
from latent_mpc.types import AgentLike, InvalidInputError, UnknownNameError
from latent_mpc.workers import run_in_processes
from latent_mpc.world_model.dataset import plain, write_whole

LABEL = re.compile(r"(?P<task>\w+)(:(?P<objects>\d+))?(#(?P<images>\d+))?(@(?P<split>[\w-]+))?")
FIRST_SEED = 1_000_000  # play draws its seeds from all 32-bit numbers: these are 100 of 4 billion


@dataclass(frozen=True)
class EvalConfig:
    """What to evaluate.

    Attributes:
        tasks: of Reach, Push, PickPlace, Rearrange, Stack, ClearTable, Reacher, FetchPush, or Gymnasium ids of your own
            (docs/tasks.md). One of ours may say with how many objects and in what looks: "PickPlace:4@light".
            "PickPlace#3" shows the planning agents three goal images, one after the other (goal_sequence.py).
        agents: names in agents.py. "hierarchy", "flat" and "flat-x10" (ten times the samples) plan on the weights;
            "prior", which is goal-conditioned behaviour cloning, and "inverse-dynamics" act on them without a plan;
            "no-op" and "random" are the floor; "oracle-subgoals", "simulator" and "expert" read the simulator.
        episodes: of each agent on each task.
        workers: parallel processes; 0 for one a core.
        agent: of the planning agents; its `planner` is set by their name.
        baseline_weights: of "inverse-dynamics", the folder that `latent-mpc baseline` wrote.
        env: must be what the weights were trained on; left as it is, each task has its own.
        split: a name in envs/splits.py, of all tasks that name none: looks that no training has seen.
    """

    tasks: tuple[str, ...] = ("Reach", "PickPlace")
    agents: tuple[str, ...] = ("hierarchy", "flat", "prior", "no-op", "random")
    episodes: int = 100
    workers: int = 2
    agent: AgentConfig = field(default_factory=AgentConfig)
    baseline_weights: str | None = None
    env: TabletopConfig = field(default_factory=TabletopConfig)
    split: str | None = None

    def __post_init__(self) -> None:
        tasks = (*MAX_EPISODE_STEPS, *FOREIGN)
        for kind, names, known in (("task", self.tasks, tasks), ("agent", self.agents, AGENTS)):
            if not names:
                raise InvalidInputError(f"name at least one {kind} of {sorted(known)}")
            for name in names:
                plain_name = scene_of(name, self).task if kind == "task" else name
                if plain_name not in known and not (kind == "task" and _is_id(name)):
                    raise UnknownNameError(kind, name, list(known))
        if self.episodes < 1 or self.workers < 0:
            raise InvalidInputError(
                f"episodes must be at least 1 and workers at least 0, got {self.episodes}, {self.workers}"
            )
        scenes = [scene_of(task, self) for task in self.tasks]
        ours = [scene for scene in scenes if scene.task in MAX_EPISODE_STEPS]
        for scene in ours:
            check_objects(scene.task, scene.env)
            if scene.goal_images != 1 and (scene.goal_images, scene.task, scene.env.num_objects) != (3, "PickPlace", 1):
                raise InvalidInputError(
                    f"only PickPlace of one object has more goal images, and it has three (#3); asked for "
                    f"{scene.goal_images} of {scene.task} with {scene.env.num_objects}"
                )
            splits.check_name(scene.split)
        self._check_agents(scenes)

    def _check_agents(self, scenes: list[Scene]) -> None:
        """Refuse agents that know nothing to do in one of the scenes."""
        names = set(self.agents)
        tasks = {scene.task for scene in scenes}
        if oracles := sorted(names & set(ORACLES)):
            if tasks - set(MAX_EPISODE_STEPS):
                raise InvalidInputError(f"{oracles} know only {sorted(MAX_EPISODE_STEPS)}")
        if "Reach" in tasks and (scripted := sorted(names & set(SCRIPTED))):
            raise InvalidInputError(f"the expert only moves objects: leave out Reach, or {scripted}")
        if "oracle-subgoals" in names and any(scene.env.num_objects > 1 for scene in scenes):
            raise InvalidInputError("oracle-subgoals is for tasks with one object: leave out the others, or it")
        if "inverse-dynamics" in names and self.baseline_weights is None:
            raise InvalidInputError(
                "inverse-dynamics needs baseline_weights=DIR, a folder that `latent-mpc baseline` wrote"
            )
        unfit = sorted(names & set(LEARNED) - set(PLANNING))
        if unfit and any(scene.goal_images > 1 for scene in scenes):
            raise InvalidInputError(f"{unfit} take one goal image: leave out the tasks with #3, or them")


@dataclass(frozen=True)
class Scene:
    """What a task's label says: "PickPlace:4@light" is PickPlace with four objects in the looks of a split.

    "PickPlace#3" is PickPlace with three goal images.
    """

    task: str
    env: TabletopConfig
    split: str | None
    goal_images: int = 1


def scene_of(label: str, config: EvalConfig) -> Scene:
    """Read a label; an id that is not ours is a task with nothing to say beside."""
    found = LABEL.fullmatch(label)
    if found is None or found["task"] not in MAX_EPISODE_STEPS:
        return Scene(label, config.env, config.split)
    env = DEFAULTS.get(found["task"], config.env) if config.env == TabletopConfig() else config.env
    if found["objects"]:
        env = replace(env, num_objects=int(found["objects"]))
    return Scene(found["task"], env, found["split"] or config.split, int(found["images"] or 1))


@dataclass(frozen=True)
class Job:
    """One episode to run."""

    task: str
    agent: str
    seed: int


@dataclass(frozen=True)
class Row:
    """One agent on one task; `success_low`, `success_high` is the 95 % Wilson interval.

    `placed` is the mean share of the objects that are to move, `success` the share of episodes with all of them.
    """

    task: str
    agent: str
    episodes: int
    successes: int
    success_low: float
    success_high: float
    placed: float
    grasped: float
    median_error_m: float
    mean_steps: float
    mean_act_s: float
    slowest_act_s: float


@dataclass(frozen=True)
class Evaluation:
    """The table; prints as Markdown."""

    rows: tuple[Row, ...]

    def __str__(self) -> str:
        head = (
            "| task | agent | success | 95 % interval | placed | grasped | median error | steps | `act` mean | "
            "slowest |\n|---|---|---|---|---|---|---|---|---|---|"
        )
        return "\n".join([head, *map(_markdown, self.rows)])


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval for a success rate: all p with |p̂ − p| ≤ z √(p (1 − p) / n).

    Raises:
        InvalidInputError: no trials, or more successes than trials.
    Source: Wilson 1927, Probable inference, the law of succession, and statistical inference (JASA 22).
    """
    if not 0 <= successes <= trials or trials < 1:
        raise InvalidInputError(f"need 0 <= successes <= trials and a trial, got {successes} of {trials}")
    z2 = NormalDist().inv_cdf(0.5 + confidence / 2) ** 2
    rate = successes / trials
    centre = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = math.sqrt(z2 * (rate * (1 - rate) + z2 / (4 * trials)) / trials) / (1 + z2 / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


def evaluate(
    config: EvalConfig,
    *,
    weights: Path | str,
    out: Path | str,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = True,
) -> Evaluation:
    """Run what is missing of the evaluation, and write `table.md`, `results.json` and `episodes.jsonl` into `out`.

    Every agent starts from the same states: episode i is seeded with 1,000,000 + 10,000 `seed` + i.

    Args:
        weights: a shipped name or a folder; read only when a planning agent is asked for.
        out: made when missing.
        seed: another one gives other episodes.
        device: of the planning agents.
    Raises:
        InvalidInputError: `out` holds episodes of other settings or weights.
        UnknownNameError: no such weights.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, config, weights, device)
    first = FIRST_SEED + 10_000 * seed
    jobs = [
        Job(task, agent, first + i) for task in config.tasks for agent in config.agents for i in range(config.episodes)
    ]
    results = read_log(out / "episodes.jsonl")
    missing = [job for job in jobs if job not in results]
    run = functools.partial(_run, config, str(weights), device)
    finished = run_in_processes(run, missing, config.workers)
    bar = tqdm(
        total=len(jobs), initial=len(jobs) - len(missing), desc="evaluating", unit="episode", disable=not progress
    )
    with bar, contextlib.closing(finished), open(out / "episodes.jsonl", "a") as log:
        log.write("\n" if log.tell() else "")  # a killed run may have left half a line
        try:
            for index, result in finished:
                results[missing[index]] = result
                log.write(json.dumps({**asdict(missing[index]), **asdict(result)}) + "\n")
                log.flush()
                bar.update()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"finished episodes are kept in {out}; the same command resumes") from None
    rows = [
        _summarise(task, agent, [results[j] for j in jobs if (j.task, j.agent) == (task, agent)])
        for task in config.tasks
        for agent in config.agents
    ]
    evaluation = Evaluation(tuple(rows))
    report = {
        "weights": str(weights),
        "seed": seed,
        "settings": plain(config),
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "device": device},
        "torch": torch.__version__,
        "rows": [asdict(row) for row in rows],
    }
    write_whole(out / "results.json", json.dumps(report, indent=1).encode())
    write_whole(out / "table.md", f"{evaluation}\n".encode())
    return evaluation


@functools.cache
def _process_env(task: str, config: TabletopConfig, split: str | None) -> gymnasium.Env[Any, Any]:
    """This process's environment of a task, closed at exit."""
    env = make_env(env_id_of(task), config, split)
    env.reset(seed=0)  # loads OpenGL, whose own exit handler must come after ours
    atexit.register(env.close)
    return env


def prepare(config: EvalConfig, weights: str, device: str, job: Job) -> tuple[gymnasium.Env[Any, Any], AgentLike]:
    """The environment and the agent of an episode, for `run_episode` with the job's seed; kept in this process."""
    scene = scene_of(job.task, config)
    env = _process_env(scene.task, scene.env, scene.split)
    source = AgentSource(weights, config.baseline_weights, config.agent, device)
    return env, make_agent(job.agent, env, source, scene.goal_images)


def _run(config: EvalConfig, weights: str, device: str, job: Job) -> EpisodeResult:
    env, agent = prepare(config, weights, device, job)
    return run_episode(env, agent, seed=job.seed)


def _claim(out: Path, config: EvalConfig, weights: Path | str, device: str) -> None:
    """Note in `out` what its episodes depend on; refuse when it holds episodes of something else."""
    settings = {"agent": plain(config.agent), "env": plain(config.env), "split": config.split, "device": device}
    if set(LEARNED) & set(config.agents):
        settings["weights_sha256"] = weights_digest(weights)
    if "inverse-dynamics" in config.agents and config.baseline_weights is not None:
        settings["baseline_sha256"] = _digest(Path(config.baseline_weights))
    path = out / "settings.json"
    if path.exists():
        old = {"split": None} | json.loads(path.read_text())  # which folders of before there were splits lack
        changed = sorted(key for key in settings if old.get(key, settings[key]) != settings[key])
        if changed:
            raise InvalidInputError(
                f"{out} holds episodes with another {' and '.join(changed)}; give another folder, or empty this one"
            )
        settings = {**old, **settings}
    write_whole(path, json.dumps(settings, indent=1).encode())


def weights_digest(weights: Path | str) -> str:
    """SHA-256 of the tensors in a folder of weights. Raises UnknownNameError when there is no such folder."""
    return _digest(weights_folder(weights))


def _digest(folder: Path) -> str:
    """SHA-256 of the tensors in a folder."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def read_log(path: Path) -> dict[Job, EpisodeResult]:
    """Finished episodes; a line cut off by a kill is left out."""
    results = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            values = json.loads(line)
        except json.JSONDecodeError:
            continue
        values.setdefault("share_placed", float(values["success"]))  # logs of before several objects moved lack it
        job = Job(values.pop("task"), values.pop("agent"), values["seed"])
        results[job] = EpisodeResult(**{**values, "act_times_s": tuple(values["act_times_s"])})
    return results


def _summarise(task: str, agent: str, results: list[EpisodeResult]) -> Row:
    times = np.concatenate([r.act_times_s for r in results])
    successes = sum(r.success for r in results)
    low, high = wilson_interval(successes, len(results))
    return Row(
        task=task,
        agent=agent,
        episodes=len(results),
        successes=successes,
        success_low=low,
        success_high=high,
        placed=float(np.mean([r.share_placed for r in results])),
        grasped=float(np.mean([r.grasped for r in results])),
        median_error_m=float(np.median([r.position_error_m for r in results])),
        mean_steps=float(np.mean([r.steps for r in results])),
        mean_act_s=float(times.mean()),
        slowest_act_s=float(times.max()),
    )


def _is_id(task: str) -> bool:
    """Whether it is a Gymnasium id, as against a name of ours."""
    return "/" in task or "-v" in task or (":" in task and not LABEL.fullmatch(task))


def _markdown(row: Row) -> str:
    found = LABEL.fullmatch(row.task)
    env_id = env_id_of(found["task"] if found else row.task)
    scores_objects = is_tabletop(env_id) and env_id != env_id_of("Reach")
    placed, grasped = ("–", "–") if not scores_objects else (f"{row.placed:.0%}", f"{row.grasped:.0%}")
    return (
        f"| {row.task} | {row.agent} | {row.successes} of {row.episodes} | "
        f"{100 * row.success_low:.0f}–{100 * row.success_high:.0f} % | {placed} | {grasped} | "
        f"{100 * row.median_error_m:.1f} cm | {row.mean_steps:.0f} | {1000 * row.mean_act_s:.0f} ms | "
        f"{1000 * row.slowest_act_s:.0f} ms |"
    )
