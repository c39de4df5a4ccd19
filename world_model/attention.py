"""The attentive encoder: in a scene of many things it sees the arm and the one thing of a given hue, and nothing else.

    z = enc(attend(image, hue)) ≈ enc*(image of the same arm with that thing alone, painted red, from the usual camera)

enc* is the frozen encoder of a world model that knows one cube in one light; what that model has learnt of a cube is so
true of any thing in any scene. Four convolutions, a spatial softmax over keypoint maps, an MLP; it is also told where
the pixels of that hue are: their centroid, to a tenth of a pixel, is more than maps of a quarter of the image can tell.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latent_mpc.types import InvalidInputError
from latent_mpc.world_model.focus import attend
from latent_mpc.world_model.layers import mlp

NUM_MOMENTS = 6
FAINT_PX = 0.1  # less than this in focus is next to nothing


@dataclass(frozen=True)
class AttentionConfig:
    """Sizes of the attentive encoder.

    Attributes:
        image_size: height and width of the images, px; a multiple of 4.
        channels: widths of the convolutions at half and at a quarter of the image's resolution.
        num_keypoints: keypoint maps K. hidden: width of the MLP. latent_dim: width D of the latent.
    """

    image_size: int = 64
    channels: tuple[int, int] = (24, 64)
    num_keypoints: int = 64
    hidden: int = 512
    latent_dim: int = 192

    def __post_init__(self) -> None:
        if self.image_size % 4 or self.image_size < 16:
            raise InvalidInputError(f"image_size must be a multiple of 4 and at least 16, got {self.image_size}")
        if len(self.channels) != 2 or min(*self.channels, self.num_keypoints, self.hidden, self.latent_dim) < 1:
            raise InvalidInputError(f"channels must name two widths, and every width be at least 1, got {self}")


class AttentiveEncoder(nn.Module):
    """Images and hues to latents; see the module's docstring.

    Source: spatial softmax of Levine et al. 2016 (arXiv 1504.00702), section 5.1.
    """

    grid: Tensor
    pixels: Tensor

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        self.config = config
        wide, deep = config.channels
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, wide, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(wide, wide, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(wide, deep, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(deep, deep, 3, padding=1),
            nn.ReLU(),
        ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.to_maps = nn.Conv2d(deep, config.num_keypoints, 1)
        self.mlp = mlp(3 * config.num_keypoints + deep + NUM_MOMENTS, config.hidden, config.latent_dim, depth=2)
        self.register_buffer("grid", _centres(config.image_size // 4), persistent=False)  # (U, 2)
        self.register_buffer("pixels", _centres(config.image_size), persistent=False)  # (H W, 2)

    def forward(self, images: Tensor, hues: Tensor) -> Tensor:
        """RGB images (B, H, W, 3), uint8 or float from 0 to 255, and what to look for in each (B,), rad -> (B, D).

        Raises:
            InvalidInputError: another shape.
        """
        size = self.config.image_size
        if images.ndim != 4 or images.shape[1:] != (size, size, 3) or hues.shape != images.shape[:1]:
            raise InvalidInputError(
                f"the encoder takes images (B, {size}, {size}, 3) and a hue for each, got {tuple(images.shape)} and "
                f"{tuple(hues.shape)}"
            )
        attended = attend(images, hues)
        features = self.convolutions((attended - 0.5).contiguous(memory_format=torch.channels_last))  # (B, C, H/4, W/4)
        maps = self.to_maps(features).flatten(2)  # (B, K, U)
        weight = maps.softmax(dim=-1)
        keypoints, values = (weight @ self.grid).flatten(1), (weight * maps).sum(-1)
        blob = moments(attended[:, 1].flatten(1), self.pixels)
        return self.mlp(torch.cat([keypoints, values, features.mean((2, 3)), blob], dim=-1))


def moments(focus: Tensor, pixels: Tensor) -> Tensor:
    """Where the pixels in focus are, and how they are spread.

    Args:
        focus: how much each pixel counts, (B, U), 0 to 1; squared, so that faint ones do not.
        pixels: where they are, (U, 2), x and y from -1 to 1.
    Returns:
        (B, 6): centroid x and y; standard deviations, in eighths of half an image; correlation; log of the area in
        pixels. All but the last fade to 0 where next to nothing is in focus.
    """
    weight = focus.square()
    area = weight.sum(1, keepdim=True)
    share = weight / (area + FAINT_PX)
    centroid = share @ pixels  # (B, 2)
    off = pixels - centroid[:, None]  # (B, U, 2)
    variance = (share[:, None] @ off.square())[:, 0].clamp_min(1e-8)
    together = (share * off.prod(-1)).sum(1, keepdim=True)
    correlation = together / variance.prod(-1, keepdim=True).sqrt()
    return torch.cat([centroid, 8 * variance.sqrt(), correlation, area.log1p()], dim=-1)


def _centres(cells: int) -> Tensor:
    """Centres of an image's `cells` × `cells` cells, row by row, (cells², 2): x and y from -1 to 1."""
    at = (torch.arange(cells) + 0.5) * (2 / cells) - 1
    y, x = torch.meshgrid(at, at, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=-1)
