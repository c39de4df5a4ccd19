"""Collect play: a pool of processes, each with its own environment, fills a play dataset (world_model/dataset.py).

Episode i depends only on the settings, the seed and i, so neither the number of workers nor an interruption changes
what is collected, and whoever runs the same command again makes only what is missing. Practice (practice.py) depends
on the weights too, and as torch rounds with the number of its threads, on whether there is more than one worker.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from tqdm import tqdm

from latent_mpc.agent import Agent, load_agent
from latent_mpc.agent_config import AgentConfig
from latent_mpc.coverage import PlayStatistics, Rectangle, save_coverage
from latent_mpc.envs.goal_image import GoalImageEnv
from latent_mpc.envs.make import is_tabletop, make_env
from latent_mpc.envs.play import PlayConfig, PlayPolicy
from latent_mpc.envs.solo import SoloView
from latent_mpc.envs.tabletop import TabletopConfig, TabletopEnv
from latent_mpc.practice import Play, PracticePolicy
from latent_mpc.preview import write_preview
from latent_mpc.types import InvalidInputError, LatentMPCError
from latent_mpc.workers import run_in_processes
from latent_mpc.world_model.dataset import (
    DatasetHeader,
    Episode,
    begin_dataset,
    episode_path,
    plain,
    write_episode,
)


@dataclass(frozen=True)
class CollectConfig:
    """What to collect.

    Attributes:
        env_id: Gymnasium id of a tabletop environment, or of a `GoalImageEnv`, which plays as its task says.
        env: the tabletop environment's configuration.
        play: its play policy's configuration; of another one, only `action_noise` matters, to practice.
        weights: a shipped name or a folder: their agent pursues the environment's goal images before it plays
            (practice.py). None: play alone.
        agent: how that agent plans.
        num_episodes: episodes that the dataset shall hold in the end.
        episode_length: actions an episode.
        solo: also record each object as it would look alone, for `latent-mpc attend`; a tabletop environment's only.
    """

    env_id: str = "latent_mpc/PickPlace-v0"
    env: TabletopConfig = field(default_factory=TabletopConfig)
    play: PlayConfig = field(default_factory=PlayConfig)
    weights: str | None = None
    agent: AgentConfig = field(default_factory=AgentConfig)
    num_episodes: int = 3000
    episode_length: int = 50
    solo: bool = False

    def __post_init__(self) -> None:
        if self.num_episodes < 1 or self.episode_length < 1:
            raise InvalidInputError(
                f"num_episodes and episode_length must be at least 1, got {self.num_episodes}, {self.episode_length}"
            )
        if self.solo and not is_tabletop(self.env_id):
            raise InvalidInputError(f"solo needs a tabletop environment, {self.env_id!r} is none")


def collect(
    config: CollectConfig, *, out: Path | str, seed: int = 0, workers: int = 0, progress: bool = True
) -> PlayStatistics:
    """Run play until `out` holds `num_episodes` episodes, then write statistics and a preview.

    Leaves `dataset.yaml`, `episode_*.h5`, `statistics.json`, `coverage.png` and `preview.mp4`. Ctrl-C drops
    the episodes under way and raises KeyboardInterrupt; the same call resumes.

    Args:
        config: what to collect. More episodes than `out` holds are added to it.
        out: the dataset's folder; made when missing.
        seed: base seed.
        workers: processes; 0 for one a core, 1 for this process.
        progress: show a progress bar.
    Raises:
        InvalidInputError: `out` holds a dataset made with other settings, or the environment does not exist.
        LatentMPCError: the disk is full, or a worker was killed; finished episodes are kept.
    """
    out = Path(out)
    header, region_m = _prepare(out, config, seed)
    missing = [i for i in range(config.num_episodes) if not episode_path(out, i).exists()]
    work = functools.partial(_make_episode, config, out, seed)
    episodes = run_in_processes(work, missing, workers)
    bar = tqdm(
        total=config.num_episodes,
        initial=config.num_episodes - len(missing),
        desc="collecting",
        unit="episode",
        disable=not progress,
    )
    with bar, contextlib.closing(episodes):
        try:
            for _ in episodes:
                bar.update()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"finished episodes are kept in {out}; the same command resumes") from None
        except OSError as error:
            raise LatentMPCError(
                f"could not write to {out}: {error.strerror or error}; its finished episodes are kept: make room, "
                "then run the same command again"
            ) from error
    statistics = save_coverage(out, region_m)
    write_preview(out, header.control_dt_s)
    return statistics


def collect_episode(env: gymnasium.Env[Any, Any], config: CollectConfig, seed: int, index: int) -> Episode:
    """Play episode `index` of base seed `seed`; the task's success does not end it."""
    sequence = np.random.SeedSequence(seed, spawn_key=(index,))
    env_seed = int(sequence.generate_state(1)[0])
    observation, info = env.reset(seed=env_seed, options={"goal_image": config.weights is not None})
    rng = np.random.default_rng(sequence)
    play = _play(env, config, rng)
    practice = None
    if config.weights is not None:
        practice = PracticePolicy(_process_agent(config.weights, config.agent), play, rng, config.play.action_noise)
        practice.reset(observation["goal_image"])
    solo = _solo_view(env.unwrapped) if config.solo else None
    frames, actions, alone, colours = [(observation, info)], [], [], []

    def look_at_each() -> None:
        if solo is not None:
            alone.append(solo.render())
            colours.append([spec.rgb for spec in env.unwrapped.objects])  # type: ignore[attr-defined]

    look_at_each()
    for _ in range(config.episode_length):
        actions.append(play.act() if practice is None else practice.act(observation))
        observation, _, _, _, info = env.step(actions[-1])
        frames.append((observation, info))
        look_at_each()
    return Episode(
        image=np.stack([o["image"] for o, _ in frames]),
        proprio=np.stack([o["proprio"] for o, _ in frames]),
        action=np.stack(actions),
        object_positions=np.stack([i["object_positions"] for _, i in frames]).astype(np.float32),
        is_grasped=np.array([i["is_grasped"] for _, i in frames], bool),
        seed=env_seed,
        solo_image=np.stack(alone) if alone else None,
        solo_rgb=np.array(colours, np.float32) if colours else None,
    )


def _play(env: gymnasium.Env[Any, Any], config: CollectConfig, rng: np.random.Generator) -> Play:
    inner = env.unwrapped
    if isinstance(inner, TabletopEnv):
        return PlayPolicy(inner, rng, config.play)
    if isinstance(inner, GoalImageEnv):
        return inner.play(rng)
    raise InvalidInputError(f"{config.env_id!r} is no GoalImageEnv: wrap it in one (docs/tasks.md)")


def _prepare(out: Path, config: CollectConfig, seed: int) -> tuple[DatasetHeader, Rectangle]:
    """Write the header, or refuse the folder when one made with other settings lies there.

    Returns it, and the rectangle in which objects can be.
    """
    env = make_env(config.env_id, config.env)
    _play(env, config, np.random.default_rng())
    own = is_tabletop(config.env_id)
    inner: Any = env.unwrapped
    spaces: Any = env.observation_space
    actions: Any = env.action_space
    header = DatasetHeader(
        env_id=config.env_id,
        env_config=plain(asdict(config.env) if own else env.spec.kwargs if env.spec else {}),
        play_config=plain(asdict(config.play) | _practice(config) | ({"solo": True} if config.solo else {})),
        seed=seed,
        image_size=tuple(spaces["image"].shape[:2]),
        action_dim=actions.shape[0],
        proprio_dim=spaces["proprio"].shape[0],
        control_dt_s=config.env.control_dt_s if own else inner.control_dt_s,
    )
    region_m = (config.env.object_low_m, config.env.object_high_m) if own else inner.task.region_m
    env.close()
    begin_dataset(out, header)
    return header, region_m


def _practice(config: CollectConfig) -> dict[str, Any]:
    """What the header says of practice: nothing where there is none."""
    return {} if config.weights is None else {"weights": config.weights, "agent": asdict(config.agent)}


@functools.cache
def _process_agent(weights: str, config: AgentConfig) -> Agent:
    return load_agent(weights, config=config)


@functools.cache
def _process_env(config: CollectConfig) -> gymnasium.Env[Any, Any]:
    """This process's environment, closed at exit."""
    env = make_env(config.env_id, config.env)
    env.reset(options={"goal_image": False})  # loads OpenGL, whose own exit handler must come after ours
    atexit.register(env.close)
    return env


@functools.cache
def _solo_view(env: TabletopEnv) -> SoloView:
    return SoloView(env)


def _make_episode(config: CollectConfig, out: Path, seed: int, index: int) -> None:
    write_episode(out, index, collect_episode(_process_env(config), config, seed, index))
