"""Attention by colour: an image as it looks to somebody who looks for the things of one hue, and which hues there are.

    u = (r − (g + b) / 2, √3/2 (g − b)),   c = how colourful a pixel is, 0 to 1,   n = exp((cos ∠(u, hue) − 1) / σ²)
    attended image = (luma over its median, and the median wherever something is colourful;  focus c n)

One thing at a time, and the same for all: what is learnt of one coloured thing holds for every other, at any hue and
however many lie beside it. Shading and light change a colour's length, not the angle of u. The median is the table's:
without it, and with the other things left in sight, a scene could be told from others by them, and what learns by
telling scenes apart would not look at the thing itself. Nor would it in play whose lamp or table changes from one
episode to the next: vary them within an episode, or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from latent_mpc.types import InvalidInputError

NARROWNESS = 25.0  # 1 / σ², for half of it at 14 degrees
COLOURFUL = (0.40, 0.65)  # saturation at which a pixel begins to count, and counts in full
DARK = (0.10, 0.25)  # the same for its brightest channel: the colour of what is nearly black is noise
GREY = 0.65  # what the median becomes
BINS = 72
REACH_RAD = math.radians(18)  # two hues nearer than that are one


def attend(images: Tensor, hues: Tensor) -> Tensor:
    """uint8 images (B, H, W, 3) and a hue for each (B,), rad -> float (B, 2, H, W): luma and focus, 0 to 1."""
    x, y, colourful, luma = _colour(images)
    hues = hues[:, None, None]
    cosine = (x * hues.cos() + y * hues.sin()) * (x * x + y * y).clamp_min(1e-8).rsqrt()
    focus = colourful * (NARROWNESS * (cosine - 1)).exp()
    over = luma - luma.flatten(1).median(1).values[:, None, None]
    return torch.stack([GREY + over * (1 - colourful), focus], dim=1)


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


def hues_of_episodes(images: Tensor, lengths: Sequence[int]) -> Tensor:
    """The hues of what each episode shows, for each of its frames.

    Args:
        images: uint8 (F, H, W, 3), episodes one after the other. lengths: frames of each.
    Returns:
        (F, Q), rad, the largest thing's first; NaN where there are fewer than Q.
    """
    found = [find_hues(video) for video in images.split(list(lengths))]
    rows = torch.nn.utils.rnn.pad_sequence(found, batch_first=True, padding_value=math.nan)
    return rows.repeat_interleave(torch.tensor(lengths), dim=0)


def _colour(images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both components of u, how colourful, and luma, each (B, H, W), of uint8 images (B, H, W, 3)."""
    r, g, b = images.movedim(-1, 0).contiguous().float().mul_(1 / 255)
    most, least = torch.maximum(torch.maximum(r, g), b), torch.minimum(torch.minimum(r, g), b)
    colourful = _ramp((most - least) / most.clamp_min(0.05), *COLOURFUL) * _ramp(most, *DARK)
    return r - 0.5 * (g + b), math.sqrt(0.75) * (g - b), colourful, 0.299 * r + 0.587 * g + 0.114 * b


def _ramp(value: Tensor, low: float, high: float) -> Tensor:
    return ((value - low) / (high - low)).clamp(0, 1)


def _wrapped(angle: Tensor) -> Tensor:
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
