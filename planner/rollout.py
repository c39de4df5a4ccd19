"""Predictor × action sequences → states:  s_{t+1} = f(s_t, a_t),  t = 0 … H-1."""

from __future__ import annotations

import torch
from torch import Tensor

from latent_mpc.types import InvalidInputError, Predictor


def rollout(predictor: Predictor, state: Tensor, actions: Tensor) -> Tensor:
    """Roll every candidate forward; problems and samples are one batch for the predictor.

    Gradients flow where they are enabled; planners run without them unless they need them.

    Args:
        predictor: s' = f(s, a) on (N, D), (N, A).
        state: (B, D), where each problem starts.
        actions: (B, S, H, A).
    Returns:
        Predicted states (B, S, H, D); index 0 is one step ahead.
    Raises:
        InvalidInputError: the shapes disagree.
    """
    if state.ndim != 2 or actions.ndim != 4 or state.shape[0] != actions.shape[0]:
        raise InvalidInputError(
            f"need state (B, D) and actions (B, S, H, A), got {tuple(state.shape)} and {tuple(actions.shape)}"
        )
    b, s, h, a = actions.shape
    flat = actions.reshape(b * s, h, a)
    now = state[:, None].expand(b, s, -1).reshape(b * s, -1)
    states = []
    for t in range(h):
        now = predictor.step(now, flat[:, t])
        states.append(now)
    return torch.stack(states, 1).reshape(b, s, h, -1)
