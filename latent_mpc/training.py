"""`latent-mpc pretrain`, `train`, `attend` and `baseline`: datasets in, checkpoints out, progress shown."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from latent_mpc.shipped import weights_folder
from latent_mpc.types import InvalidInputError
from latent_mpc.world_model import pretrain as pretraining
from latent_mpc.world_model.attention import AttentionConfig, AttentiveEncoder
from latent_mpc.world_model.checkpoint import config_from_dict, load_checkpoint, load_module
from latent_mpc.world_model.dataset import PlayDataset, episode_path, read_solo
from latent_mpc.world_model.distil import DistilConfig, Glimpses, distil
from latent_mpc.world_model.encoder import EncoderConfig, KeypointEncoder
from latent_mpc.world_model.gallery import GALLERY_NAME, save_gallery
from latent_mpc.world_model.inverse_dynamics import (
    InverseDynamicsConfig,
    save_inverse_dynamics,
    train_inverse_dynamics,
)
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
class AttendConfig:
    """Settings of `latent-mpc attend`: sizes of the attentive encoder, how to teach it, episodes to use (None: all)."""

    attention: AttentionConfig = field(default_factory=AttentionConfig)
    training: DistilConfig = field(default_factory=DistilConfig)
    max_episodes: int | None = None


@dataclass(frozen=True)
class BaselineConfig:
    """Settings of `latent-mpc baseline`: the network and how to train it, episodes to use (None: all)."""

    training: InverseDynamicsConfig = field(default_factory=InverseDynamicsConfig)
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
        init: weights to go on from; their encoder and scene distance stay as they are.
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
    if isinstance(model.encoder, AttentiveEncoder):
        raise InvalidInputError(f"{init} attends: train the model that its encoder was taught by, then attend anew")
    model.requires_grad_(True).encoder.requires_grad_(False)
    model.to(device)
    parts: list[Clips] = []
    for folder, (dataset, episodes) in zip(data, splits, strict=True):
        if dataset.header.play_config.get("solo"):
            z, _ = encode_solo(model.encoder, folder, dataset)
            parts += [_clips(z[:, i], dataset, episodes, device) for i in range(z.shape[1])]
        else:
            parts.append(encode_clips(model.encoder, dataset, episodes, device))
    clips = Clips.join(parts)
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
    if init is not None:
        _copy_gallery(init, out)
        return f"world model written to {out}; next: latent-mpc eval --weights {out}"
    dataset, episodes = splits[0]
    frames = dataset.clip_starts(0, episodes)
    chosen = np.sort(np.random.default_rng(seed).choice(frames, min(GALLERY_FRAMES, len(frames)), replace=False))
    save_gallery(out, dataset.image[chosen], dataset.proprio[chosen])
    return f"world model written to {out}; next: latent-mpc info {out} --data {data[0]}"


def baseline(config: BaselineConfig, *, data: Path, weights: str, out: Path, seed: int, device: str) -> str:
    """Train the evaluation's agent "inverse-dynamics" on play, as a world model sees it; returns what to tell the user.

    Args:
        weights: of the world model, which stays as it is; one that does not attend.
    """
    folder = weights_folder(weights)
    model, _ = load_world_model(folder)
    if isinstance(model.encoder, AttentiveEncoder):
        raise InvalidInputError(f"{weights} attends, and inverse dynamics sees all at once: give another world model")
    dataset, episodes, _ = load_split(data, config.max_episodes)
    clips = encode_clips(model.encoder, dataset, episodes, device)
    with tqdm(total=config.training.fit.steps, desc="inverse dynamics", unit="step") as bar:
        network = train_inverse_dynamics(
            model.to(device),
            clips,
            config.training,
            seed=seed,
            folder=out / "stages",
            progress=functools.partial(_show, bar),
        )
    save_inverse_dynamics(out, network, config.training, folder, seed)
    return (
        f"inverse dynamics written to {out}; next: latent-mpc eval --weights {weights} "
        f"baseline_weights={out} 'agents=[inverse-dynamics]'"
    )


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
    """Some episodes of play after the frozen encoder, on `device`."""
    parts = np.array_split(dataset.image, -(-len(dataset.image) // 1024))
    images = tqdm(parts, desc="encode", unit="batch")
    return _clips(torch.cat([encoder.encode_all(torch.from_numpy(part)) for part in images]), dataset, episodes, device)


def _clips(z: Tensor, dataset: PlayDataset, episodes: NDArray[np.int64], device: str) -> Clips:
    return Clips(
        z=z.to(device),
        proprio=torch.from_numpy(dataset.proprio).to(device),
        action=torch.from_numpy(dataset.action).to(device),
        starts=EpisodeClips(dataset, episodes).clip_starts,
    )


def encode_solo(encoder: KeypointEncoder, folder: Path, dataset: PlayDataset) -> tuple[Tensor, Tensor]:
    """What the frozen encoder sees when each object is alone, (F, N, Z), and the objects' colours (F, N, 3).

    Raises:
        InvalidInputError: the dataset was collected without solo=true, or an episode is damaged.
    """
    latents, colours = [], []
    for index in tqdm(dataset.episodes, desc=f"encode {folder.name}", unit="episode"):
        images, rgb = map(torch.from_numpy, read_solo(episode_path(folder, int(index))))
        latents.append(encoder.encode_all(images.flatten(0, 1)).unflatten(0, images.shape[:2]))
        colours.append(rgb)
    return torch.cat(latents), torch.cat(colours)


def attend(
    config: AttendConfig,
    *,
    data: Sequence[Path],
    weights: str,
    out: Path,
    seed: int,
    device: str,
    init: str | None = None,
) -> str:
    """Teach a world model to attend to one thing among many, and write it to `out`; returns what to tell the user.

    Args:
        data: play that shows its objects alone, too.
        weights: a model that knows one object; all of it but its encoder stays as it is.
        init: weights that attend, whose encoder is taught further.
    """
    model, _ = load_world_model(weights_folder(weights))
    if isinstance(model.encoder, AttentiveEncoder):
        raise InvalidInputError(f"{weights} attends already: give the model that its encoder was taught by")
    start = None if init is None else _attentive_encoder(init, config.attention)
    glimpses = Glimpses.join([_glimpses(model.encoder, folder, config.max_episodes) for folder in data])
    with tqdm(total=config.training.fit.steps, desc="attend", unit="step") as bar:
        encoder = distil(
            glimpses,
            model,
            config.attention,
            config.training,
            seed=seed,
            folder=out / "stages" / "attention",
            device=device,
            init=start,
            progress=functools.partial(_show, bar),
        )
    attentive = WorldModel(config.attention, model.config)
    of_the_model = {k: v for k, v in model.state_dict().items() if not k.startswith("encoder.")}
    attentive.load_state_dict(of_the_model | {f"encoder.{k}": v for k, v in encoder.state_dict().items()})
    training = {
        "seed": seed,
        "taught_by": weights,
        "refines": init,
        "looks": len(glimpses.frame),
        "distil": asdict(config.training),
    }
    save_world_model(out, attentive, metrics={}, training=training)
    _copy_gallery(weights, out)
    return f"world model written to {out}; next: latent-mpc eval --weights {out} 'tasks=[PickPlace:4]'"


def _attentive_encoder(name: str, config: AttentionConfig) -> AttentiveEncoder:
    model, _ = load_world_model(weights_folder(name))
    if not isinstance(model.encoder, AttentiveEncoder) or model.encoder.config != config:
        raise InvalidInputError(f"{name} has no attentive encoder of the sizes that the settings ask for: {config}")
    return model.encoder


def _glimpses(encoder: KeypointEncoder, folder: Path, max_episodes: int | None) -> Glimpses:
    """All looks at all objects in a dataset's training episodes."""
    dataset, episodes, _ = load_split(folder, max_episodes)
    z, rgb = encode_solo(encoder, folder, dataset)  # (F, N, …)
    frames = torch.from_numpy(dataset.clip_starts(0, episodes))
    return Glimpses(
        image=torch.from_numpy(dataset.image),
        proprio=torch.from_numpy(dataset.proprio),
        frame=frames.repeat_interleave(z.shape[1]),
        rgb=rgb[frames].flatten(0, 1),
        z=z[frames].flatten(0, 1),
    )


def _copy_gallery(weights: str, out: Path) -> None:
    """Show what `out` predicts by the same frames as the weights that it came from, where those have any."""
    gallery = weights_folder(weights) / GALLERY_NAME
    if gallery.is_file() and gallery.resolve() != (out / GALLERY_NAME).resolve():
        shutil.copyfile(gallery, out / GALLERY_NAME)


def _show(bar: tqdm, step: int, losses: Mapping[str, float]) -> None:
    bar.set_postfix({k: f"{v:.3g}" for k, v in losses.items()}, refresh=False)
    bar.update(step - bar.n)
