"""Self-supervised pretraining of the image encoder on play video.

Pairs of frames of one episode, k control steps apart, with latents z_i = enc(image_i), z_j = enc(image_j):

    min   ‖z_i + f(z_i, ā, k) − z_j‖²          what an action changes can be predicted
        + ‖â(z_i, z_j, k) − ā‖²                 and the action can be told from what it changed
        + λ_p ‖p̂(z) − p̃‖²                       the body is seen where proprioception feels it
        + λ_c InfoNCE(h(z_i), h(z_j))           what lasts over an episode tells it from the others
        + λ_s SIGReg(z)                         and nothing collapses

ā is the sum of the k actions between, p̃ the standardised proprioception. The heads f, â, p̂, h are of the training
only; the encoder alone is kept, and frozen. Proprioception is a target, never an input: as an input it would make
the latent blind to the arm. Objects lie where they were while nobody touches them, so it is the contrast between
episodes that pays for seeing them sharply.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from latent_mpc.types import InvalidInputError, LatentMPCError
from latent_mpc.world_model.encoder import EncoderConfig, KeypointEncoder
from latent_mpc.world_model.fit import FitConfig, fit
from latent_mpc.world_model.layers import mlp
from latent_mpc.world_model.losses import contrastive_loss, inverse_dynamics_loss, latent_prediction_loss, sigreg

MIN_PROPRIO_STD = 0.01


class PlayClips(Protocol):
    """Play video: frame i and action i belong together, action i leads from frame i to frame i + 1.

    Attributes:
        image: uint8 (F, H, W, 3), episodes one after the other.
        proprio: float32 (F, P).
        action: float32 (F, A), in [-1, 1].
    """

    @property
    def image(self) -> NDArray[np.uint8]: ...

    @property
    def proprio(self) -> NDArray[np.float32]: ...

    @property
    def action(self) -> NDArray[np.float32]: ...

    def clip_starts(self, length: int) -> NDArray[np.int64]:
        """Indices i for which frames i … i + length - 1 lie in one episode."""
        ...


@dataclass(frozen=True)
class PretrainConfig:
    """How the encoder is trained.

    Attributes:
        fit: `batch_size` counts pairs of frames.
        brightness: images are made brighter or darker by up to this share, each by itself.
        max_gap: the control steps k between the frames of a pair are drawn from 1 … max_gap.
        proprio_weight, contrast_weight, sigreg_weight: λ_p, λ_c, λ_s.
        num_projections: directions of SIGReg drawn at each step.
        head_width: hidden width of the heads.
        num_threads: CPU threads.
    """

    fit: FitConfig = field(default_factory=lambda: FitConfig(steps=26000, batch_size=48, learning_rate=4e-3))
    brightness: float = 0.0
    max_gap: int = 10
    proprio_weight: float = 2.0
    contrast_weight: float = 0.2
    sigreg_weight: float = 0.02
    num_projections: int = 64
    head_width: int = 128
    num_threads: int = 1

    def __post_init__(self) -> None:
        if min(self.max_gap, self.num_projections, self.head_width, self.num_threads) < 1:
            raise InvalidInputError(f"every count must be at least 1, got {self}")
        if min(self.proprio_weight, self.contrast_weight, self.sigreg_weight) < 0:
            raise InvalidInputError(f"no weight may be negative, got {self}")
        if not 0 <= self.brightness < 1:
            raise InvalidInputError(f"brightness is a share from 0 to 1, got {self.brightness}")


class PretrainingModel(nn.Module):
    """The encoder with the heads that train it."""

    def __init__(self, encoder: KeypointEncoder, proprio_dim: int, action_dim: int, config: PretrainConfig) -> None:
        super().__init__()
        latent, width = encoder.config.latent_dim, config.head_width
        self.config, self.encoder = config, encoder
        self.forward_head = mlp(latent + action_dim + 1, 2 * width, latent, depth=2)
        self.inverse_head = mlp(2 * latent + 1, 2 * width, action_dim, depth=1)
        self.proprio_head = mlp(latent, width, proprio_dim, depth=1)
        self.contrast_head = mlp(latent, width, 32, depth=1)
        self.log_scale = nn.Parameter(torch.zeros(()))  # of the contrast's squared distances

    def losses(
        self, images: Tensor, proprio: Tensor, moves: Tensor, gap: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The weighted losses of a batch of pairs.

        Args:
            images: uint8 (2, B, H, W, 3), earlier and later frames. proprio: (2, B, P), standardised.
            moves: sum of the actions between, (B, A). gap: k / max_gap, (B, 1).
            generator: CPU generator of SIGReg's directions.
        """
        c = self.config
        z = self.encoder(images.flatten(0, 1))  # (2B, D)
        first, second = z.chunk(2)
        predicted = first + self.forward_head(torch.cat([first, moves, gap], dim=-1))
        inferred = self.inverse_head(torch.cat([first, second, gap], dim=-1))
        similarity = -self.log_scale.exp() * torch.cdist(*self.contrast_head(z).chunk(2)).square()
        return {
            "prediction": latent_prediction_loss(predicted, second),
            "inverse": inverse_dynamics_loss(inferred, moves),
            "proprio": c.proprio_weight * F.mse_loss(self.proprio_head(z), proprio.flatten(0, 1)),
            "contrast": c.contrast_weight * contrastive_loss(similarity),
            "sigreg": c.sigreg_weight * sigreg(z, c.num_projections, generator),
        }


def pretrain(
    clips: PlayClips,
    encoder_config: EncoderConfig,
    config: PretrainConfig,
    *,
    seed: int,
    folder: Path,
    device: str | torch.device = "cpu",
    progress: Callable[[int, Mapping[str, float]], None] | None = None,
) -> KeypointEncoder:
    """Train an encoder on play video and return it frozen.

    The state is kept in `folder` and resumed from there, see `fit`; on the CPU the resumed run ends in the same
    weights as an uninterrupted one.

    Args:
        clips: play video.
        seed: of the initial weights, the pairs drawn and SIGReg's directions.
        progress: called with the step and the losses every 20 steps.
    Raises:
        InvalidInputError: the images do not fit the encoder, no episode is long enough, or `folder` holds the state
            of other settings.
        LatentMPCError: the loss is not finite any more, or the latents have collapsed.
    """
    size = encoder_config.image_size
    if clips.image.shape[1:] != (size, size, 3) or clips.image.dtype != np.uint8:
        raise InvalidInputError(
            f"the encoder takes uint8 images of {(size, size, 3)}, the data has {clips.image.dtype} "
            f"{clips.image.shape[1:]}; set encoder.image_size to match"
        )
    starts = np.asarray(clips.clip_starts(config.max_gap + 1))
    if len(starts) == 0:
        raise InvalidInputError(
            f"no episode has {config.max_gap + 1} frames, which max_gap={config.max_gap} takes; lower max_gap"
        )
    threads_before = torch.get_num_threads()
    torch.set_num_threads(config.num_threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # layers draw their initial weights from torch's own generator
            encoder = KeypointEncoder(encoder_config)
            model = PretrainingModel(encoder, clips.proprio.shape[1], clips.action.shape[1], config)
        draw = _pair_sampler(clips, starts, config, torch.device(device))
        images, *_ = draw(torch.Generator().manual_seed(seed))
        encoder.calibrate(images.flatten(0, 1).cpu())
        model.to(device)
        fit(
            model,
            lambda generator: model.losses(*draw(generator), generator),
            config.fit,
            seed=seed,
            folder=folder,
            settings={"seed": seed, "encoder": asdict(encoder_config), "pretrain": asdict(config)},
            progress=functools.partial(_watch, config, progress),
        )
    finally:
        torch.set_num_threads(threads_before)
    return encoder.requires_grad_(False).eval()


def _watch(
    config: PretrainConfig,
    progress: Callable[[int, Mapping[str, float]], None] | None,
    step: int,
    losses: Mapping[str, float],
) -> None:
    """Stop when all latents of a batch have become nearly equal, from which no training comes back."""
    latents = 2 * config.fit.batch_size
    if losses["sigreg"] > config.sigreg_weight * latents > 0:  # see `sigreg`; 8 is usual
        raise LatentMPCError(
            f"the encoder has collapsed by step {step}: it sees all images alike; begin anew, in another folder, with "
            f"a training.fit.learning_rate below {config.fit.learning_rate}"
        )
    if progress is not None:
        progress(step, losses)


def _pair_sampler(
    clips: PlayClips, starts: NDArray[np.int64], config: PretrainConfig, device: torch.device
) -> Callable[[torch.Generator], tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Draws images (2, B, H, W, 3), standardised proprioception (2, B, P), summed actions (B, A) and gaps (B, 1)."""
    mean, std = clips.proprio.mean(0), np.maximum(clips.proprio.std(0), MIN_PROPRIO_STD)
    zero = np.zeros((1, clips.action.shape[1]))
    travelled = np.concatenate([zero, clips.action.cumsum(0, dtype=np.float64)])  # actions before each frame
    move_std = np.maximum(clips.action.std(0), 1e-3) * np.sqrt(config.max_gap)

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        batch = config.fit.batch_size
        first = starts[torch.randint(len(starts), (batch,), generator=generator).numpy()]
        gap = torch.randint(1, config.max_gap + 1, (batch,), generator=generator).numpy()
        pair = np.stack([first, first + gap])  # (2, B)
        moves = (travelled[pair[1]] - travelled[pair[0]]) / move_std
        arrays = (clips.proprio[pair] - mean) / std, moves, gap[:, None] / config.max_gap
        numbers = (torch.from_numpy(a).float().to(device) for a in arrays)
        images = torch.from_numpy(clips.image[pair]).to(device)
        if config.brightness:
            gain = 1 + config.brightness * (2 * torch.rand(*images.shape[:2], 1, 1, 1, generator=generator) - 1)
            images = (images * gain.to(device)).clamp_(0, 255).to(torch.uint8)
        return images, *numbers  # type: ignore[return-value]

    return draw
