"""`latent-mpc pretrain` and `latent-mpc train`: datasets in, checkpoints out, progress shown."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from latent_mpc.shipped import weights_folder
from latent_mpc.types import InvalidInputError
from latent_mpc.world_model import pretrain as pretraining
from latent_mpc.world_model.checkpoint import config_from_dict, load_checkpoint, load_module
from latent_mpc.world_model.dataset import PlayDataset
from latent_mpc.world_model.encoder import EncoderConfig, KeypointEncoder
from latent_mpc.world_model.focus import hues_of_episodes
from latent_mpc.world_model.gallery import save_gallery
from latent_mpc.world_model.model import ModelConfig, WorldModel, load_world_model, save_world_model
from latent_mpc.world_model.train import Clips, train_heads
from latent_mpc.world_model.train import TrainConfig as HeadsConfig

VALIDATION_FRACTION = 0.05  # of the episodes; never trained on, `latent-mpc info` measures on them
SPLIT_SEED = 0
GALLERY_FRAMES = 600


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of `latent-mpc pretrain`: sizes of the encoder, how to train it, episodes to use (None: all)."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    training: pretraining.PretrainConfig = field(default_factory=pretraining.PretrainConfig)
    max_episodes: int | None = None


@dataclass(frozen=True)
class TrainConfig:
    """Settings of `latent-mpc train`: sizes after the encoder, how to train them, episodes to use (None: all)."""

    model: ModelConfig = field(default_factory=ModelConfig)
    training: HeadsConfig = field(default_factory=HeadsConfig)
    max_episodes: int | None = None


@dataclass(frozen=True)
class EpisodeClips:
    """A play dataset narrowed to some of its episodes, as the trainers want it; nothing is copied."""

    dataset: PlayDataset
    episodes: NDArray[np.int64]

    @property
    def image(self) -> NDArray[np.uint8]:
        return self.dataset.image

    @property
    def proprio(self) -> NDArray[np.float32]:
        return self.dataset.proprio

    @property
    def action(self) -> NDArray[np.float32]:
        return self.dataset.action

    @functools.cached_property
    def hues(self) -> NDArray[np.float32]:
        """Of the coloured things in each frame's episode, (F, Q), rad; NaN where there are fewer.

        Raises:
            InvalidInputError: nothing is coloured.
        """
        hues = hues_of_episodes(torch.from_numpy(self.dataset.image), self.dataset.lengths).numpy()
        if not hues.size:
            raise InvalidInputError("nothing in the play is coloured; set encoder.attends=false")
        return hues

    def clip_starts(self, length: int) -> NDArray[np.int64]:
        """Indices i for which frames i … i + length - 1 lie in one of the episodes."""
        return self.dataset.clip_starts(length - 1, self.episodes)


def load_split(
    data: Path, max_episodes: int | None, *, with_truth: bool = False
) -> tuple[PlayDataset, NDArray[np.int64], NDArray[np.int64]]:
    """A play dataset and the numbers of its training and validation episodes, always split the same way."""
    dataset = PlayDataset.load(data, max_episodes=max_episodes, with_truth=with_truth)
    return dataset, *dataset.split(VALIDATION_FRACTION, SPLIT_SEED)


def pretrain(config: PretrainConfig, *, data: Path, out: Path, seed: int, device: str) -> str:
    """Pretrain the encoder on play video; returns what to tell the user."""
    dataset, episodes, _ = load_split(data, config.max_episodes)
    with tqdm(total=config.training.fit.steps, desc="pretrain", unit="step") as bar:
        pretraining.pretrain(
            EpisodeClips(dataset, episodes),
            config.encoder,
            config.training,
            seed=seed,
            folder=out,
            device=device,
            progress=functools.partial(_show, bar),
        )
    return f"encoder written to {out}; next: latent-mpc train --data {data} --encoder {out}"


def train(
    config: TrainConfig,
    *,
    data: Sequence[Path],
    encoder: Path,
    out: Path,
    seed: int,
    device: str,
    init: str | None = None,
) -> str:
    """Train everything after the encoder and write the world model to `out`; returns what to tell the user.

    Args:
        data: play, and the practice that refines a model.
        encoder: folder that `pretrain` wrote; not read when there is `init`.
        init: weights to go on from. Only their predictor and macro-actions are trained.
    """
    splits = [load_split(folder, config.max_episodes)[:2] for folder in data]
    for dataset, _ in splits:
        sizes = dataset.header.proprio_dim, dataset.header.action_dim
        if sizes != (config.model.proprio_dim, config.model.action_dim):
            raise InvalidInputError(
                f"the data has proprioception of {sizes[0]} and actions of {sizes[1]} entries, the model "
                f"{config.model.proprio_dim} and {config.model.action_dim}; set model.proprio_dim and "
                "model.action_dim to match"
            )
    model = _new_model(config.model, encoder, seed) if init is None else _trained_model(config.model, init)
    model.requires_grad_(True).encoder.requires_grad_(False)
    model.to(device)
    clips = Clips.join([encode_clips(model.encoder, dataset, episodes, device) for dataset, episodes in splits])
    bars: dict[str, tqdm] = {}

    def show(stage: str, step: int, steps: int, losses: Mapping[str, float]) -> None:
        if stage not in bars:
            bars[stage] = tqdm(total=steps, desc=stage, unit="step")
        _show(bars[stage], step, losses)
        if step == steps:
            bars[stage].close()

    train_heads(model, clips, config.training, seed=seed, folder=out / "stages", refines=init, progress=show)
    training = {
        "seed": seed,
        "episodes": [len(dataset.episodes) for dataset, _ in splits],
        "refines": init,
        "heads": asdict(config.training),
    }
    save_world_model(out, model, metrics={}, training=training)
    dataset, episodes = splits[0]
    frames = dataset.clip_starts(0, episodes)
    chosen = np.sort(np.random.default_rng(seed).choice(frames, min(GALLERY_FRAMES, len(frames)), replace=False))
    save_gallery(out, dataset.image[chosen], dataset.proprio[chosen])
    return f"world model written to {out}; next: latent-mpc info {out} --data {data[0]}"


def _new_model(config: ModelConfig, encoder: Path, seed: int) -> WorldModel:
    frozen = load_encoder(encoder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # layers draw their initial weights from torch's own generator
        model = WorldModel(frozen.config, config)
    model.encoder.load_state_dict(frozen.state_dict())
    return model


def _trained_model(config: ModelConfig, name: str) -> WorldModel:
    model, _ = load_world_model(weights_folder(name))
    if model.config != config:
        raise InvalidInputError(f"{name} has sizes {asdict(model.config)}, the settings ask for {asdict(config)}")
    return model


def load_encoder(folder: Path) -> KeypointEncoder:
    """The frozen encoder of a folder that `pretrain` wrote.

    Raises:
        InvalidInputError: it is missing, damaged, or not an encoder's.
    """
    checkpoint = load_checkpoint(folder)
    if "encoder" not in checkpoint.config:
        raise InvalidInputError(f"{folder} holds no encoder; it has {sorted(checkpoint.config)}")
    encoder = KeypointEncoder(config_from_dict(EncoderConfig, checkpoint.config["encoder"]))
    load_module(encoder, checkpoint.tensors, "model.encoder")
    return encoder.requires_grad_(False).eval()


def encode_clips(
    encoder: KeypointEncoder, dataset: PlayDataset, episodes: NDArray[np.int64], device: str = "cpu"
) -> Clips:
    """Some episodes of play after the frozen encoder, on `device`; one that attends sees each once for every hue."""
    clips = EpisodeClips(dataset, episodes)
    if not encoder.config.attends:
        return _encode(encoder, clips, np.arange(len(dataset.image)), None, device)
    seen = [np.flatnonzero(~np.isnan(hues)) for hues in clips.hues.T]
    return Clips.join([_encode(encoder, clips, f, clips.hues[f, q], device) for q, f in enumerate(seen)])


def _encode(
    encoder: KeypointEncoder,
    clips: EpisodeClips,
    frames: NDArray[np.int64],
    hues: NDArray[np.float32] | None,
    device: str,
) -> Clips:
    """Whole episodes, given by their frames, after the encoder."""
    latents = []
    for index in tqdm(np.array_split(frames, -(-len(frames) // 1024)), desc="encode", unit="batch"):
        looked_for = None if hues is None else torch.from_numpy(hues[np.searchsorted(frames, index)])
        latents.append(encoder.encode_all(torch.from_numpy(clips.image[index]), looked_for))

    def starts(length: int) -> NDArray[np.int64]:
        inside = clips.clip_starts(length)
        return np.searchsorted(frames, inside[np.isin(inside, frames)])

    return Clips(
        z=torch.cat(latents).to(device),
        proprio=torch.from_numpy(clips.proprio[frames]).to(device),
        action=torch.from_numpy(clips.action[frames]).to(device),
        starts=starts,
    )


def _show(bar: tqdm, step: int, losses: Mapping[str, float]) -> None:
    bar.set_postfix({k: f"{v:.3g}" for k, v in losses.items()}, refresh=False)
    bar.update(step - bar.n)
