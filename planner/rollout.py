"""Predictor × action sequences → states:  s_{t+1} = f(s_t, a_t),  t = 0 … H-1."""

from __future__ import annotations

import torch
from torch import Tensor

from latent_mpc.types import InvalidInputError, MacroModel, Predictor


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


def rollout_macros(model: MacroModel, state: Tensor, macros: Tensor) -> Tensor:
    """As `rollout` over macro-actions, with all states that the model knows on their way.

    Args:
        model: N states a macro-action.
        state: (B, D), where each problem starts.
        macros: (B, S, H, M).
    Returns:
        Predicted states (B, S, H·N, D).
    """
    b, s, h, m = macros.shape
    flat = macros.reshape(b * s, h, m)
    now = state[:, None].expand(b, s, -1).reshape(b * s, -1)
    states = []
    for t in range(h):
        states.append(model.steps(now, flat[:, t]))  # (B·S, N, D)
        now = states[-1][:, -1]
    joined = torch.cat(states, 1)
    return joined.reshape(b, s, *joined.shape[1:])
