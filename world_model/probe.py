"""Probes: how much of what a frozen feature knows can be read off it by a small network.

    min_h  mean_n ‖h(x̃_n) − ỹ_n‖²        x̃, ỹ standardised; the features x stay as they are

A probe measures features and never trains them. Its targets may be truth that nothing else here is allowed to see.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latent_mpc.types import InvalidInputError
from latent_mpc.world_model.layers import mlp

HIDDEN = 256
BATCH_SIZE = 512
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Probe:
    """A fitted probe; call it on features. Holds the mean and the std that inputs and outputs are scaled with."""

    net: nn.Sequential
    feature_scale: tuple[Tensor, Tensor]
    target_scale: tuple[Tensor, Tensor]

    @torch.no_grad()
    def __call__(self, features: Tensor) -> Tensor:
        """(..., D) -> (..., T), in the targets' units."""
        mean, std = self.feature_scale
        offset, scale = self.target_scale
        return self.net((features - mean) / std) * scale + offset


@dataclass(frozen=True)
class AxisErrors:
    """Errors of `count` predictions, one entry an axis, cm."""

    count: int
    rmse_cm: tuple[float, ...]
    median_cm: tuple[float, ...]


def fit_probe(features: Tensor, targets: Tensor, *, generator: torch.Generator, steps: int = 2000) -> Probe:
    """Fit an MLP from features (N, D) to targets (N, T) by AdamW with a cosine rate.

    Args:
        generator: on the CPU; draws the initial weights and the batches. Torch's own generator is left alone.
        steps: optimiser steps, each on 512 rows.
    Raises:
        InvalidInputError: the rows do not match, are fewer than two, or are not finite.
    """
    if features.ndim != 2 or targets.ndim != 2 or len(features) != len(targets) or len(features) < 2 or steps < 1:
        raise InvalidInputError(
            f"a probe needs features (N, D) and targets (N, T) with N at least 2, and at least 1 step; got "
            f"{tuple(features.shape)}, {tuple(targets.shape)} and {steps} steps"
        )
    if not (features.isfinite().all() and targets.isfinite().all()):
        raise InvalidInputError("a probe's features and targets must be finite")
    feature_scale, target_scale = _scale(features), _scale(targets)
    x, y = ((t - mean) / std for t, (mean, std) in ((features, feature_scale), (targets, target_scale)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))  # layers draw their weights from it
        net = mlp(x.shape[1], HIDDEN, y.shape[1], depth=2).to(x)
    optimizer = torch.optim.AdamW(net.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(x), (BATCH_SIZE,), generator=generator)
        loss = F.mse_loss(net(x[rows]), y[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return Probe(net.requires_grad_(False).eval(), feature_scale, target_scale)


def axis_errors(predicted: Tensor, target: Tensor) -> AxisErrors:
    """Root mean square and median absolute error of each axis: (N, T) metres each -> centimetres.

    Raises:
        InvalidInputError: the shapes differ, or there are no rows.
    """
    if predicted.shape != target.shape or target.ndim != 2 or len(target) == 0:
        raise InvalidInputError(
            f"errors need two (N, T) of one shape with N at least 1, got {tuple(predicted.shape)}, "
            f"{tuple(target.shape)}"
        )
    error = 100 * (predicted - target)
    rmse, median = error.square().mean(0).sqrt(), error.abs().quantile(0.5, dim=0)
    return AxisErrors(len(target), tuple(rmse.tolist()), tuple(median.tolist()))


def _scale(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the columns; a constant column keeps the scale 1."""
    std = rows.std(0)
    return rows.mean(0), torch.where(std > 1e-6, std, torch.ones_like(std))
