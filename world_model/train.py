"""Trains all after the encoder on its frozen latents: where arm and thing are, scene distance, dynamics, macros."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from latent_mpc.types import InvalidInputError
from latent_mpc.world_model.fit import FitConfig, fit
from latent_mpc.world_model.locator import held_places, pushed_places
from latent_mpc.world_model.losses import contrastive_loss, gaussian_kl, gaussian_nll
from latent_mpc.world_model.model import WorldModel

Progress = Callable[[str, int, int, Mapping[str, float]], None]  # stage, step, of steps, losses
MIN_STD = 0.01
MOVED = 0.15  # scene distance from which on a scene counts as changed; 1 is that of unrelated ones
FROZEN_IN_REFINEMENT = ("distance",)  # what a goal means stays as it was


@dataclass(frozen=True)
class TrainConfig:
    """How each stage is trained.

    Attributes:
        proprio, locator: batches of frames. distance: of pairs of states.
        predictor, macro: clips of `rollout_steps` actions, and of `macro_steps` chunks.
        state_noise: σ_s, what counts as noise in the predicted states of the coarse level.
        action_noise: σ_a, the same for decoded actions; about the noise that play itself has.
        min_gap, max_gap: control steps between the states of a pair; spread_gap: at most, between those that tell how
            much a state leaves open.
        reconstruction_weight: β of the scene distance.
        rollout_steps, macro_steps: steps that predictions are rolled out over in training.
        start_noise: standard deviation of what is added to a rollout's first state.
        decoder_noise: the same for the states that macro-actions are decoded in; those of a plan are predicted ones.
        moving_share: of the stretches that macro-actions are learnt from, how many are to change the scene; the others
            may. In most of play, and for most of the things in it, nothing does.
        num_threads: CPU threads.
    """

    proprio: FitConfig = field(default_factory=lambda: FitConfig(steps=8000, batch_size=512, learning_rate=2e-3))
    distance: FitConfig = field(default_factory=lambda: FitConfig(steps=4000, batch_size=256, learning_rate=2e-3))
    locator: FitConfig = field(default_factory=lambda: FitConfig(steps=4000, batch_size=512, learning_rate=1e-3))
    predictor: FitConfig = field(default_factory=lambda: FitConfig(steps=14000, batch_size=128, learning_rate=2e-3))
    macro: FitConfig = field(default_factory=lambda: FitConfig(steps=6000, batch_size=512, learning_rate=2e-3))
    state_noise: float = 0.3
    action_noise: float = 0.2
    min_gap: int = 5
    max_gap: int = 15
    spread_gap: int = 5
    reconstruction_weight: float = 4.0
    rollout_steps: int = 10
    macro_steps: int = 4
    start_noise: float = 0.03
    decoder_noise: float = 0.03
    moving_share: float = 0.9
    num_threads: int = 1

    def __post_init__(self) -> None:
        if min(self.state_noise, self.action_noise) <= 0 or min(self.start_noise, self.decoder_noise) < 0:
            raise InvalidInputError("state_noise and action_noise must be positive, the other noises at least 0")
        if not 1 <= self.min_gap <= self.max_gap:
            raise InvalidInputError(f"need 1 <= min_gap <= max_gap, got {self.min_gap} and {self.max_gap}")
        if self.reconstruction_weight < 0 or not 0 <= self.moving_share <= 1:
            raise InvalidInputError(
                f"reconstruction_weight must be at least 0 and moving_share a share, got {self.reconstruction_weight} "
                f"and {self.moving_share}"
            )
        if min(self.spread_gap, self.rollout_steps, self.macro_steps, self.num_threads) < 1:
            raise InvalidInputError("spread_gap, rollout_steps, macro_steps and num_threads must be at least 1")


@dataclass(frozen=True)
class Clips:
    """Play after the encoder. Frames lie one episode after the other; action i leads from frame i to i + 1.

    Attributes:
        z: image latents, (F, Z). proprio: (F, P), in the robot's units. action: (F, A), in [-1, 1].
        starts: clip length -> indices i for which frames i … i + length - 1 lie in one episode.
    """

    z: Tensor
    proprio: Tensor
    action: Tensor
    starts: Callable[[int], NDArray[np.int64]]

    @classmethod
    def join(cls, parts: Sequence[Clips]) -> Clips:
        """All of them, one after the other."""
        offsets = np.cumsum([0] + [len(part.z) for part in parts[:-1]])

        def starts(length: int) -> NDArray[np.int64]:
            return np.concatenate([at + part.starts(length) for at, part in zip(offsets, parts, strict=True)])

        z, proprio, action = (torch.cat([getattr(p, name) for p in parts]) for name in ("z", "proprio", "action"))
        return cls(z, proprio, action, starts)


def train_heads(
    model: WorldModel,
    clips: Clips,
    config: TrainConfig,
    *,
    seed: int,
    folder: Path,
    refines: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Train proprioception head, scene distance, locator, predictor and macro-actions of `model` in place, in turn.

    Each stage keeps its state in a folder of its own below `folder` and resumes from it.

    Args:
        refines: what `model` was called, when it is trained already: the scene distance stays, the rest goes on.
    Raises:
        InvalidInputError: no episode is long enough, or `folder` holds the state of other settings.
        LatentMPCError: a loss is not finite any more.
    """
    threads_before = torch.get_num_threads()
    torch.set_num_threads(config.num_threads)
    try:
        if refines is None:
            _standardise(model, clips)
        stages: list[tuple[str, FitConfig, Callable[[], _Stage]]] = [
            ("proprio", config.proprio, lambda: _proprio_stage(model, clips, config)),
            ("distance", config.distance, lambda: _distance_stage(model, clips, config)),
            ("locator", config.locator, lambda: _locator_stage(model, clips, config)),
            ("predictor", config.predictor, lambda: _predictor_stage(model, clips, config)),
            ("macro", config.macro, lambda: _macro_stage(model, clips, config)),
        ]
        for i, (name, fit_config, build) in enumerate(stages):
            if (refines is not None and name in FROZEN_IN_REFINEMENT) or (name == "locator" and model.locator is None):
                continue
            module, losses = build()
            fit(
                module,
                losses,
                fit_config,
                seed=seed + i,
                folder=folder / name,
                settings={"seed": seed, "refines": refines, "train": asdict(config), "model": asdict(model.config)},
                progress=None if progress is None else functools.partial(_report, progress, name, fit_config.steps),
            )
            if name == "distance":
                _standardise_distance(model, clips, seed)
        model.scene_noise.fill_(_chunk_error(model, clips, seed))
    finally:
        torch.set_num_threads(threads_before)


_Stage = tuple[nn.Module, Callable[[torch.Generator], Mapping[str, Tensor]]]


def _report(progress: Progress, name: str, steps: int, step: int, terms: Mapping[str, float]) -> None:
    progress(name, step, steps, terms)


def _proprio_stage(model: WorldModel, clips: Clips, config: TrainConfig) -> _Stage:
    proprio, frames = (clips.proprio - model.proprio_mean) / model.proprio_std, episode_starts(clips, 0)

    def losses(generator: torch.Generator) -> dict[str, Tensor]:
        index = frames[torch.randint(len(frames), (config.proprio.batch_size,), generator=generator)]
        return {"proprio": F.smooth_l1_loss(model.proprio_head(clips.z[index]), proprio[index], beta=0.1)}

    return model.proprio_head, losses


def _distance_stage(model: WorldModel, clips: Clips, config: TrainConfig) -> _Stage:
    distance, states = model.scene_distance, all_states(model, clips)
    starts = episode_starts(clips, max(config.max_gap, config.spread_gap))

    def losses(generator: torch.Generator) -> dict[str, Tensor]:
        size = (config.distance.batch_size,)
        first = starts[torch.randint(len(starts), size, generator=generator)]
        second = first + torch.randint(config.min_gap, config.max_gap + 1, size, generator=generator)
        near = first + torch.randint(1, config.spread_gap + 1, size, generator=generator)
        return {
            "contrast": contrastive_loss(distance.similarity(states[first], states[second])),
            "reconstruction": config.reconstruction_weight * distance.reconstruction_error(states[first]),
            "spread": distance.spread_error(states[first], states[near]),
        }

    return distance, losses


def _locator_stage(model: WorldModel, clips: Clips, config: TrainConfig) -> _Stage:
    assert model.locator is not None
    locator, states = model.locator, all_states(model, clips)
    embedding = _in_parts(model.scene_distance.embedding, states) / model.scene_distance.scale.sqrt()
    frames, ends = episode_starts(clips, 0), episode_ends(clips)
    end_of = ends[torch.searchsorted(ends, frames)].to(embedding.device)
    if model.config.grasps:
        places = held_places(clips.proprio[frames], clips.action[frames], embedding[frames], end_of)
    else:
        places = pushed_places(clips.proprio[frames], embedding[frames], end_of)
    told = places[:, 0].isfinite()
    frames, places = frames[told.cpu()], places[told]
    if not len(frames):
        done = "held" if model.config.grasps else "pushed"
        key = "grasps" if model.config.grasps else "pushes"
        raise InvalidInputError(
            f"nothing was ever {done} in this play, so that nothing can be located; set {key}=false"
        )
    locator.mean.copy_(places.mean(0))
    locator.std.copy_(places.std(0).clamp_min(MIN_STD))

    def losses(generator: torch.Generator) -> dict[str, Tensor]:
        index = torch.randint(len(frames), (config.locator.batch_size,), generator=generator)
        latent = model.split(states[frames[index]])[0]
        latent = latent + config.start_noise * torch.randn(latent.shape, generator=generator).to(latent)
        off = (locator(latent) - places[index]) / locator.std
        return {"place": F.smooth_l1_loss(off, torch.zeros_like(off), beta=0.1)}

    return locator, losses


def _predictor_stage(model: WorldModel, clips: Clips, config: TrainConfig) -> _Stage:
    draw = _clip_sampler(model, clips, config.rollout_steps, config.predictor.batch_size)

    def losses(generator: torch.Generator) -> dict[str, Tensor]:
        states, actions = draw(generator)
        s = states[:, 0]
        s = s + config.start_noise * torch.randn(s.shape, generator=generator).to(s)
        rollout = []
        for t in range(config.rollout_steps):
            s = model.predictor.step(s, actions[:, t])
            rollout.append(s)
        return {"prediction": F.mse_loss(torch.stack(rollout, dim=1), states[:, 1:])}

    return model.predictor, losses


def _macro_stage(model: WorldModel, clips: Clips, config: TrainConfig) -> _Stage:
    chunk, macro = model.config.chunk_length, model.macro
    draw = _clip_sampler(model, clips, config.macro_steps * chunk, config.macro.batch_size)
    draw_goals = _goal_sampler(model, clips, config.moving_share, config.macro.batch_size)

    def noisy(s: Tensor, std: float, generator: torch.Generator) -> Tensor:
        return s + std * torch.randn(s.shape, generator=generator).to(s)

    def losses(generator: torch.Generator) -> dict[str, Tensor]:
        state, actions, goal, steps = draw_goals(generator)
        view, goal = model.view(noisy(state, config.decoder_noise, generator), goal)
        time = macro.time(steps)
        mean, log_var = macro.posterior(view, goal, time, actions)
        x = mean + torch.randn(mean.shape, generator=generator).to(mean) * (0.5 * log_var).exp()
        decoded = macro.decode_at(view, goal, time, x)
        terms = {
            "actions": gaussian_nll(decoded, actions, config.action_noise, event_dims=2),
            "kl": gaussian_kl(mean, log_var),
        }
        states, actions = draw(generator)
        at = states[:, ::chunk]  # (B, K+1, D)
        s, rollout = noisy(at[:, 0], config.start_noise, generator), []
        for chunk_actions in actions.unflatten(1, (config.macro_steps, chunk)).unbind(1):
            s = macro.predict(s, chunk_actions)
            rollout.append(s)
        return {**terms, "prediction": gaussian_nll(torch.stack(rollout, dim=1), at[:, 1:], config.state_noise)}

    return macro, losses


def _clip_sampler(
    model: WorldModel, clips: Clips, length: int, batch_size: int
) -> Callable[[torch.Generator], tuple[Tensor, Tensor]]:
    """Draws states (B, length+1, D) and the actions between them (B, length, A)."""
    states = all_states(model, clips)
    starts = episode_starts(clips, length)
    ahead = torch.arange(length + 1)

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        first = starts[torch.randint(len(starts), (batch_size, 1), generator=generator)]
        return states[first + ahead], clips.action[first + ahead[:-1]]

    return draw


def _goal_sampler(
    model: WorldModel, clips: Clips, moving_share: float, batch_size: int
) -> Callable[[torch.Generator], tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Draws states (B, D), the actions that follow (B, C, A), places reached later (B, 3 or E), and when (B,).

    The goals lie one chunk to `macro.max_steps` steps ahead, at the episode's end where that comes first.
    """
    length, max_steps = model.macro.chunk_length, model.macro.max_steps
    states = all_states(model, clips)
    codes = _in_parts(model.scene_distance.code, states)
    places = _in_parts(model.place, states)
    starts, ends = episode_starts(clips, length), episode_ends(clips)
    ahead = torch.arange(length)
    moving = torch.zeros(len(starts), dtype=torch.bool)
    for steps in (max_steps // 2, max_steps):
        later = torch.minimum(starts + steps, ends[torch.searchsorted(ends, starts)])
        moving |= (codes[starts] - codes[later]).square().sum(-1) > MOVED * 2 * model.config.embedding_dim
    moved = starts[moving]
    num_moving = round(moving_share * batch_size) if len(moved) else 0

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        first = torch.cat(
            [
                among[torch.randint(len(among), (count,), generator=generator)]
                for among, count in ((moved, num_moving), (starts, batch_size - num_moving))
                if count
            ]
        )
        later = first + torch.randint(length, max_steps + 1, (batch_size,), generator=generator)
        goal = torch.minimum(later, ends[torch.searchsorted(ends, first)])
        return states[first], clips.action[first[:, None] + ahead], places[goal], goal - first

    return draw


@torch.no_grad()
def _in_parts(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """A function of rows (F, …), some at a time."""
    return torch.cat([function(part) for part in rows.split(8192)])


def episode_ends(clips: Clips) -> Tensor:
    """Last frames of the episodes, ascending."""
    frames = episode_starts(clips, 0)
    return frames[~torch.isin(frames, episode_starts(clips, 1))]


def episode_starts(clips: Clips, length: int) -> Tensor:
    """Frames from which `length` actions follow in one episode."""
    starts = torch.from_numpy(np.asarray(clips.starts(length + 1)))
    if len(starts) == 0:
        raise InvalidInputError(
            f"no episode has the {length} actions that training takes in a row; collect longer ones"
        )
    return starts


@torch.no_grad()
def all_states(model: WorldModel, clips: Clips, batch_size: int = 4096) -> Tensor:
    """The state of every frame, (F, D)."""
    pairs = zip(clips.z.split(batch_size), clips.proprio.split(batch_size), strict=True)
    return torch.cat([model.state(z, p) for z, p in pairs])


def _standardise(model: WorldModel, clips: Clips) -> None:
    model.latent_mean.copy_(clips.z.mean(0))
    model.latent_std.copy_(clips.z.std(0).clamp_min(MIN_STD))
    model.proprio_mean.copy_(clips.proprio.mean(0))
    model.proprio_std.copy_(clips.proprio.std(0).clamp_min(MIN_STD))


@torch.no_grad()
def _standardise_distance(model: WorldModel, clips: Clips, seed: int) -> None:
    """Scale the distance to a mean of 1 between states drawn at random."""
    states, frames = all_states(model, clips), episode_starts(clips, 0)
    index = torch.randint(len(frames), (2, 8192), generator=torch.Generator().manual_seed(seed))
    model.scene_distance.scale.fill_(1.0)
    model.scene_distance.scale.copy_(model.scene_distance(*states[frames[index]]).mean())


@torch.no_grad()
def _chunk_error(model: WorldModel, clips: Clips, seed: int) -> float:
    """Median scene distance of true states to those that the predictor gives a chunk of actions earlier."""
    states, actions = _clip_sampler(model, clips, model.config.chunk_length, 4096)(torch.Generator().manual_seed(seed))
    predicted = states[:, 0]
    for action in actions.unbind(1):
        predicted = model.predictor.step(predicted, action)
    return model.scene_distance(predicted, states[:, -1]).median().item()
