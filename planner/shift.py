"""An old plan, seen from a later step."""

from __future__ import annotations

import torch
from torch import Tensor


def shift(actions: Tensor, steps: int) -> Tensor:
    """Drop the first `steps` actions of (..., H, A) and repeat the last one, so that H stays."""
    horizon = actions.shape[-2]
    index = torch.arange(horizon, device=actions.device).add_(steps).clamp_(max=horizon - 1)
    return actions.index_select(-2, index)
