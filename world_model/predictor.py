"""Action-conditioned latent dynamics, one control step: s_{t+1} = s_t + f(s_t, a_t)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latent_mpc.world_model.layers import ResidualMLP


class LatentPredictor(nn.Module):
    """Predicts the next state, image latent and proprioception together. A `Predictor` in the sense of types.py."""

    def __init__(self, state_dim: int, action_dim: int, width: int, blocks: int) -> None:
        super().__init__()
        self.net = ResidualMLP(state_dim + action_dim, width, state_dim, blocks)

    def step(self, state: Tensor, action: Tensor) -> Tensor:
        """state (..., D), action (..., A) in [-1, 1] -> next state (..., D)."""
        return state + self.net(torch.cat([state, action], dim=-1))
