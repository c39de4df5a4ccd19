"""Attention by colour: an image as it looks to somebody who looks for the thing of one hue, and which hues there are.

    x̃ = x / median(x),   u = (r̃ − (g̃ + b̃) / 2, √3/2 (g̃ − b̃)),   c = how colourful a pixel is, 0 to 1
    n = exp((cos ∠(u, hue) − 1) / σ²),   attended image = (luma of x̃;  focus c n;  others c (1 − n))

One thing at a time, and the same for all: what is learnt of one coloured thing holds for every other, at any hue and
however many lie beside it. Each channel is divided by its median over the image, which is the table's: neither a
coloured lamp nor a coloured table changes what is seen then. Shading changes a colour's length, not the angle of u.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latent_mpc.types import InvalidInputError

NARROWNESS = 25.0  # 1 / σ², for half of it at 14 degrees
COLOURFUL = (0.50, 0.70)  # saturation at which a pixel begins to count, and counts in full
DARK = (0.10, 0.25)  # the same for its brightest channel: the colour of what is nearly black is noise
GREY = 0.65  # what the median becomes
BINS = 72
REACH_RAD = math.radians(18)  # two hues nearer than that are one


def attend(images: Tensor, hues: Tensor) -> Tensor:
    """RGB images (B, H, W, 3), uint8 or float from 0 to 255, and a hue for each (B,), rad -> float (B, 3, H, W).

    Luma, focus and others, about 0 to 1.
    """
    x, y, colourful, luma = _colour(images)
    hues = hues[:, None, None]
    cosine = (x * hues.cos() + y * hues.sin()) * (x * x + y * y).clamp_min(1e-8).rsqrt()
    near = (NARROWNESS * (cosine - 1)).exp()
    return torch.stack([luma, colourful * near, colourful * (1 - near)], dim=1)


def area_in_focus(images: Tensor, hues: Tensor) -> Tensor:
    """How much images (B, H, W, 3) show of the things of given hues (B,), rad: (B,), pixels."""
    return attend(images, hues)[:, 1].square().sum((1, 2))


def hue_of(rgb: Tensor, images: Tensor) -> Tensor:
    """Colours (B, 3), 0 to 1, that things have in images (B, H, W, 3) -> their hues there (B,), rad."""
    r, g, b = (rgb / _median(images.float())).unbind(-1)
    return torch.atan2(math.sqrt(0.75) * (g - b), r - 0.5 * (g + b))


def find_hues(images: Tensor, *, least_px: float = 6.0) -> Tensor:
    """The hues of the coloured things in images of one scene.

    Args:
        images: uint8 (T, H, W, 3).
        least_px: mean area over the images that a thing must show.
    Returns:
        Hues (Q,) in rad from -π to π, the one with the largest area first; Q may be 0.
    Raises:
        InvalidInputError: another shape or dtype.
    """
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != torch.uint8 or not len(images):
        raise InvalidInputError(f"expected uint8 images (T, H, W, 3), got {images.dtype} {tuple(images.shape)}")
    x, y, colourful, _ = _colour(images)
    sure = colourful > 0.5
    angle, area = torch.atan2(y[sure], x[sure]), colourful[sure]
    hues: list[Tensor] = []
    while len(angle):
        bins = ((angle + math.pi) * (BINS / (2 * math.pi))).long() % BINS
        histogram = torch.bincount(bins, area, BINS)
        peak = (histogram + histogram.roll(1) + histogram.roll(-1)).argmax()
        off = _wrapped(angle - (peak + 0.5) * (2 * math.pi / BINS) + math.pi)
        near = off.abs() < REACH_RAD / 2
        if area[near].sum() < least_px * len(images):
            break
        hue = _wrapped(angle[near][0] + ((off[near] - off[near][0]) * area[near]).sum() / area[near].sum())
        hues.append(hue)
        rest = _wrapped(angle - hue).abs() >= REACH_RAD
        angle, area = angle[rest], area[rest]
    return torch.stack(hues) if hues else torch.zeros(0)


def _median(images: Tensor) -> Tensor:
    """Of each channel over each image's pixels, every other row and column: (B, H, W, 3) -> (B, 3)."""
    return images[:, ::2, ::2].flatten(1, 2).median(1).values.clamp_min(1.0)


def _colour(images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both components of u, how colourful, and luma, each (B, H, W), of images (B, H, W, 3), 0 to 255."""
    images = images.float()
    r, g, b = (images * (GREY / _median(images))[:, None, None]).unbind(-1)
    most, least = torch.maximum(torch.maximum(r, g), b), torch.minimum(torch.minimum(r, g), b)
    colourful = _ramp((most - least) / most.clamp_min(0.05), *COLOURFUL) * _ramp(most, *DARK)
    return r - 0.5 * (g + b), math.sqrt(0.75) * (g - b), colourful, 0.299 * r + 0.587 * g + 0.114 * b


def _ramp(value: Tensor, low: float, high: float) -> Tensor:
    return ((value - low) / (high - low)).clamp(0, 1)


def _wrapped(angle: Tensor) -> Tensor:
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
