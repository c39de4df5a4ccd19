"""Image encoder: two convolutions, a spatial softmax over keypoint maps, a small MLP.

    p_k(u) = softmax_u m_k(u),   x_k = Σ_u p_k(u) u,   v_k = Σ_u p_k(u) m_k(u),   z = MLP(x_1, v_1, …, x_K, v_K)

The spatial softmax turns "where" into numbers, so an object a few pixels wide moves the latent as much as a large
one does; flat features lose it. Vision only: proprioception never enters, it would make the latent blind.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latent_mpc.types import InvalidInputError

BLOCK = 4  # stride of the first convolution, px


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of the encoder.

    Attributes:
        image_size: height and width of the images, px; a multiple of 4.
        channels: widths of the two convolutions.
        num_keypoints: keypoint maps K.
        hidden: width of the MLP's hidden layer.
        latent_dim: width D of the latent.
    """

    image_size: int = 64
    channels: tuple[int, int] = (16, 32)
    num_keypoints: int = 32
    hidden: int = 256
    latent_dim: int = 192

    def __post_init__(self) -> None:
        if self.image_size % BLOCK or self.image_size < 4 * BLOCK:
            raise InvalidInputError(f"image_size must be a multiple of 4 and at least 16, got {self.image_size}")
        if len(self.channels) != 2:
            raise InvalidInputError(f"channels must name two widths, got {self.channels}")
        if min(*self.channels, self.num_keypoints, self.hidden, self.latent_dim) < 1:
            raise InvalidInputError(f"every width must be at least 1, got {self}")


class KeypointEncoder(nn.Module):
    """Images to latents; see the module's docstring for the maths.

    Source: spatial softmax of Levine et al. 2016 (arXiv 1504.00702), section 5.1.
    """

    grid: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.grid: Tensor
        self.config = config
        wide, deep = config.channels
        # The same as an 8×8 convolution of stride 4, written on 4×4 blocks of pixels.
        self.conv1 = nn.Conv2d(3 * BLOCK**2, wide, 2).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.conv2 = nn.Conv2d(wide, deep, 3, padding=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.to_maps = nn.Linear(deep, config.num_keypoints)
        self.mlp = nn.Sequential(
            nn.Linear(3 * config.num_keypoints, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.latent_dim),
        )
        cells = config.image_size // BLOCK - 1
        centres = (torch.arange(cells) + 1) * (2 * BLOCK / config.image_size) - 1  # middle of each 8×8 window
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        self.register_buffer("grid", torch.stack([x.flatten(), y.flatten()], dim=-1), persistent=False)  # (U, 2)

    def maps(self, images: Tensor) -> Tensor:
        """Keypoint maps m of uint8 images (B, H, W, 3), before their softmax: (B, K, U) over the U grid cells.

        Raises:
            InvalidInputError: another shape or dtype.
        """
        size = self.config.image_size
        if images.ndim != 4 or images.shape[1:] != (size, size, 3) or images.dtype != torch.uint8:
            raise InvalidInputError(
                f"the encoder takes uint8 images (B, {size}, {size}, 3), got {images.dtype} {tuple(images.shape)}"
            )
        n = size // BLOCK
        blocks = images.reshape(-1, n, BLOCK, n, BLOCK, 3).permute(0, 1, 3, 2, 4, 5).reshape(-1, n, n, 3 * BLOCK**2)
        pixels = blocks.permute(0, 3, 1, 2).float().mul_(1 / 255).sub_(0.5)  # channels last, in [-0.5, 0.5]
        features = F.relu(self.conv2(F.relu(self.conv1(pixels)))).flatten(2)  # (B, C, U)
        kernel = self.to_maps.weight.expand(len(images), -1, -1)
        return torch.baddbmm(self.to_maps.bias[:, None], kernel, features)  # contiguous, as the softmax wants it

    def keypoints(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Keypoints of uint8 images (B, H, W, 3).

        Returns:
            Positions (B, K, 2), (x, y) from -1 (left, top edge) to 1 (right, bottom edge), and values (B, K).
        Raises:
            InvalidInputError: another shape or dtype.
        """
        maps = self.maps(images)
        weight = maps.softmax(dim=-1)
        return weight @ self.grid, (weight * maps).sum(-1)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 images (B, H, W, 3) -> latents (B, D), close to N(0, I) over the training data."""
        position, value = self.keypoints(images)
        return self.mlp(torch.cat([position.flatten(1), value], dim=-1))

    @torch.no_grad()
    def calibrate(self, images: Tensor, map_std: float = 3.0) -> None:
        """Rescale fresh weights on a batch of images: peaked maps, and latents of mean 0 and variance 1.

        Without it every keypoint starts as the image's mean position, the latents start collapsed, and SIGReg,
        whose gradient vanishes there, takes hundreds of steps to pull them apart.

        Args:
            images: uint8 (B, H, W, 3).
            map_std: standard deviation of each map over the grid, in nats.
        Source: layer-sequential unit variance, Mishkin and Matas 2015 (arXiv 1511.06422), on two layers.
        """
        self.to_maps.weight.mul_(map_std / self.maps(images).std(-1).mean(0).clamp_min(1e-6)[:, None])
        last = self.mlp[-1]
        assert isinstance(last, nn.Linear)
        last.weight.div_(self(images).std(0).clamp_min(1e-6)[:, None])
        last.bias.sub_(self(images).mean(0))

    @torch.no_grad()
    def encode_all(self, images: Tensor, batch_size: int = 256) -> Tensor:
        """Latents of many images, a batch at a time and without gradients: (F, H, W, 3) -> (F, D) on the CPU."""
        device = self.grid.device
        return torch.cat([self(batch.to(device)).cpu() for batch in images.split(batch_size)])
