"""Teaches the attentive encoder to see each thing of a scene as the frozen encoder sees it alone.

    min   ‖z̃ − z̃*‖²  +  λ ln(1 + d(s, s*) / ε)  +  μ |w(z̃) − w(z̃*)| / 2 cm,
    z = enc(A x, hue),   z* = enc*(x alone),   s = [z̃, p̃]

x and "x alone" are two pictures of one moment of play, which a simulator can take: the scene in any looks, and the same
arm with that thing alone, painted red. d is the scene distance of the world model whose encoder enc* is, ε its
noise, w its locator: the first term is mostly about the arm, the others are about the thing. No position is read. A
shakes the picture: as if the camera stood elsewhere (a random homography), the lamp were another (gains, a gradient)
and the sensor noisy.
Source: randomised-to-canonical images, James et al. (arXiv 1812.07252), in latent space.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latent_mpc.types import InvalidInputError
from latent_mpc.world_model.attention import AttentionConfig, AttentiveEncoder
from latent_mpc.world_model.fit import FitConfig, fit
from latent_mpc.world_model.focus import hue_of
from latent_mpc.world_model.model import WorldModel

PLACE_ERROR_M = 0.02  # unit of the places' error


@dataclass(frozen=True)
class DistilConfig:
    """How the attentive encoder is taught.

    Attributes:
        fit: `batch_size` counts things looked at.
        scene_weight: λ. place_weight: μ.
        moved: share of the images that are warped as if the camera stood elsewhere.
        turn_deg, shift, corner: of these: rotation, and shift and displacement of each corner in half images.
        gain: log of the largest gain of all channels together; tint: of each by itself; gradient: across the image.
        pixel_noise: standard deviation, 0 to 1.
        hue_noise_deg: standard deviation of what is added to the hue that is looked for.
        num_threads: CPU threads.
    """

    fit: FitConfig = field(default_factory=lambda: FitConfig(steps=20000, batch_size=96, learning_rate=2e-3))
    scene_weight: float = 0.1
    place_weight: float = 1.0
    moved: float = 0.3
    turn_deg: float = 6.0
    shift: float = 0.05
    corner: float = 0.06
    gain: float = 0.4
    tint: float = 0.3
    gradient: float = 0.3
    pixel_noise: float = 0.02
    hue_noise_deg: float = 4.0
    num_threads: int = 1

    def __post_init__(self) -> None:
        if min(v for v in asdict(self).values() if not isinstance(v, dict)) < 0 or self.num_threads < 1:
            raise InvalidInputError(f"nothing may be negative, and num_threads must be at least 1, got {self}")
        if self.moved > 1:
            raise InvalidInputError(f"moved is a share from 0 to 1, got {self.moved}")


@dataclass(frozen=True)
class Glimpses:
    """What there is to learn from: P looks at F pictures.

    Attributes:
        image: uint8 (F, H, W, 3). proprio: (F, P), in the robot's units.
        frame: which picture each look is at, int64 (P,). rgb: colour of the thing looked at, (P, 3), 0 to 1.
        z: what the frozen encoder sees when it is alone, (P, Z).
    """

    image: Tensor
    proprio: Tensor
    frame: Tensor
    rgb: Tensor
    z: Tensor

    @classmethod
    def join(cls, parts: Sequence[Glimpses]) -> Glimpses:
        """All of them, one after the other."""
        offsets = itertools.accumulate((len(part.image) for part in parts[:-1]), initial=0)
        moved = [replace(part, frame=part.frame + at) for part, at in zip(parts, offsets, strict=True)]
        return cls(*(torch.cat([getattr(part, f.name) for part in moved]) for f in fields(cls)))


class _Student(nn.Module):
    """The encoder with what its loss needs."""

    def __init__(self, encoder: AttentiveEncoder, model: WorldModel) -> None:
        super().__init__()
        self.encoder = encoder
        self._model = [model]  # a list hides it: it is not trained, and not saved with the state

    def losses(
        self, images: Tensor, hues: Tensor, proprio: Tensor, z: Tensor, config: DistilConfig
    ) -> dict[str, Tensor]:
        (model,) = self._model
        seen, true = model.state(self.encoder(images, hues), proprio), model.state(z, proprio)
        off = model.scene_distance(seen, true) / model.scene_noise.clamp_min(1e-6)
        terms = {
            "latent": F.mse_loss(model.split(seen)[0], model.split(true)[0]),
            "scene": config.scene_weight * off.log1p().mean(),
        }
        if model.locator is not None:
            places = model.place(seen) / PLACE_ERROR_M, model.place(true) / PLACE_ERROR_M
            terms["place"] = config.place_weight * F.smooth_l1_loss(*places, beta=0.1)
        return terms


def distil(
    glimpses: Glimpses,
    model: WorldModel,
    attention: AttentionConfig,
    config: DistilConfig,
    *,
    seed: int,
    folder: Path,
    device: str | torch.device = "cpu",
    init: AttentiveEncoder | None = None,
    progress: Callable[[int, Mapping[str, float]], None] | None = None,
) -> AttentiveEncoder:
    """Train an attentive encoder for a world model and return it frozen; see `fit` for `folder` and `progress`.

    Args:
        init: one to go on from, of the same sizes; None begins anew.
    Raises:
        InvalidInputError: the sizes differ from the model's or the images', or `folder` holds another training.
        LatentMPCError: the loss is not finite any more.
    """
    size, width = attention.image_size, attention.latent_dim
    if glimpses.image.shape[1:] != (size, size, 3) or width != model.latent_dim:
        raise InvalidInputError(
            f"attention has images of {size} px and latents of {width}, the data {tuple(glimpses.image.shape[1:3])} px "
            f"and the model {model.latent_dim}; set attention.image_size and attention.latent_dim to match"
        )
    threads_before = torch.get_num_threads()
    torch.set_num_threads(config.num_threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # layers draw their initial weights from torch's own generator
            student = _Student(AttentiveEncoder(attention), model.to(device)).to(device)
        if init is not None:
            student.encoder.load_state_dict(init.state_dict())

        def losses(generator: torch.Generator) -> dict[str, Tensor]:
            look = torch.randint(len(glimpses.frame), (config.fit.batch_size,), generator=generator)
            frame = glimpses.frame[look]
            images = glimpses.image[frame]
            hues = hue_of(glimpses.rgb[look], images)
            hues = hues + math.radians(config.hue_noise_deg) * torch.randn(hues.shape, generator=generator)
            shaken = shake(images, config, generator)
            shaken, hues = shaken.to(device), hues.to(device)
            proprio, z = glimpses.proprio[frame].to(device), glimpses.z[look].to(device)
            return student.losses(shaken, hues, proprio, z, config)

        fit(
            student,
            losses,
            config.fit,
            seed=seed,
            folder=folder,
            settings={"seed": seed, "attention": asdict(attention), "distil": asdict(config)},
            progress=progress,
        )
    finally:
        torch.set_num_threads(threads_before)
    return student.encoder.requires_grad_(False).eval()


def shake(images: Tensor, config: DistilConfig, generator: torch.Generator) -> Tensor:
    """Images uint8 (B, H, W, 3) as another camera in another light might take them: float (B, H, W, 3), 0 to 255."""
    count, side = len(images), images.shape[1]

    def uniform(*shape: int) -> Tensor:
        return 2 * torch.rand(count, *shape, generator=generator) - 1

    x = images.float().movedim(-1, 1) / 255
    moved = torch.rand(count, generator=generator) < config.moved
    grid = _homography_grid(uniform(1), uniform(2), uniform(4, 2), config, side)
    warped = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    x = torch.where(moved[:, None, None, None], warped, x)
    gain = (config.gain * uniform(1, 1, 1) + config.tint * uniform(3, 1, 1)).exp()
    ramp = torch.linspace(-1, 1, side)
    slope = config.gradient * uniform(2, 1, 1)
    light = 1 + slope[:, :1] * ramp[:, None] + slope[:, 1:] * ramp
    x = x * gain * light + config.pixel_noise * torch.randn(x.shape, generator=generator)
    return (255 * x.clamp(0, 1)).movedim(1, -1)


def _homography_grid(turn: Tensor, shift: Tensor, corner: Tensor, config: DistilConfig, side: int) -> Tensor:
    """Where each pixel of a warped image is taken from, (B, side, side, 2), for draws in [-1, 1].

    The four corners turn (B, 1) and shift (B, 2) together and move (B, 4, 2) each by itself.
    """
    at = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    angle = math.radians(config.turn_deg) * turn
    c, s = angle.cos(), angle.sin()
    to = torch.stack([at[:, 0] * c - at[:, 1] * s, at[:, 0] * s + at[:, 1] * c], -1)  # (B, 4, 2)
    to = to + config.shift * shift[:, None] + config.corner * corner
    # Eight equations for the homography h with h_33 = 1: x' (g x + h y + 1) = a x + b y + c, and y' likewise.
    x, y, one, zero = at[:, 0].expand(len(to), 4), at[:, 1].expand(len(to), 4), torch.ones(1), torch.zeros(1)
    one, zero = one.expand_as(x), zero.expand_as(x)
    rows_x = torch.stack([x, y, one, zero, zero, zero, -to[..., 0] * x, -to[..., 0] * y], -1)
    rows_y = torch.stack([zero, zero, zero, x, y, one, -to[..., 1] * x, -to[..., 1] * y], -1)
    h = torch.linalg.solve(torch.cat([rows_x, rows_y], 1), torch.cat([to[..., 0], to[..., 1]], 1))  # (B, 8)
    H = torch.cat([h, torch.ones(len(h), 1)], 1).unflatten(1, (3, 3))
    centres = (torch.arange(side) + 0.5) * (2 / side) - 1
    v, u = torch.meshgrid(centres, centres, indexing="ij")
    points = torch.stack([u, v, torch.ones_like(u)], -1).flatten(0, 1)  # (side², 3)
    mapped = points @ H.transpose(1, 2)
    return (mapped[..., :2] / mapped[..., 2:]).unflatten(1, (side, side))
