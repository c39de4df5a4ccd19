"""Macro-actions: what play does in C steps, as a vector m that is standard normal given the state.

    q(m | s, a_1…a_C),  â = d(s, m),  ŝ = s + F(s, m);   min ‖â − a‖² / 2σ_a² + ‖ŝ − s_C‖² / 2σ_s² + KL(q ‖ N(0, I))

Because decoder and coarse dynamics see the state, m ~ N(0, I) *is* the state-conditional prior of play, whitened:
a search within a few standard deviations of zero stays inside what play has shown in this state.
Source: skill priors, Pertsch et al. (arXiv 2010.11944), with the prior folded into the decoder; chunked latent
dynamics after hierarchical planning with latent world models (arXiv 2604.03208).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latent_mpc.types import Predictor
from latent_mpc.world_model.layers import ResidualMLP, mlp


class MacroActionModel(nn.Module):
    """Encoder and decoder of action chunks and the coarse dynamics. A `MacroModel` in the sense of types.py."""

    def __init__(
        self, state_dim: int, action_dim: int, macro_dim: int, chunk_length: int, width: int, blocks: int
    ) -> None:
        super().__init__()
        self.chunk_length, self.macro_dim, self.action_dim = chunk_length, macro_dim, action_dim
        chunk_dim = chunk_length * action_dim
        self.encoder = mlp(state_dim + chunk_dim, width, 2 * macro_dim, depth=2)
        self.decoder = mlp(state_dim + macro_dim, width, chunk_dim, depth=2)
        self.net = ResidualMLP(state_dim + macro_dim, width, state_dim, blocks)

    def posterior(self, state: Tensor, chunk: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(m | s, a_1…a_C): state (..., D), chunk (..., C, A) -> (..., M) each."""
        mean, log_var = self.encoder(torch.cat([state, chunk.flatten(-2)], dim=-1)).chunk(2, dim=-1)
        return mean, log_var.clamp(-12, 4)

    def step(self, state: Tensor, macro: Tensor) -> Tensor:
        """state (..., D), macro (..., M) -> state `chunk_length` steps later (..., D)."""
        return state + self.net(torch.cat([state, macro], dim=-1))

    def decode(self, state: Tensor, macro: Tensor) -> Tensor:
        """state (..., D), macro (..., M) -> actions (..., C, A) in [-1, 1]."""
        chunk = torch.tanh(self.decoder(torch.cat([state, macro], dim=-1)))
        return chunk.unflatten(-1, (self.chunk_length, self.action_dim))


class DecodedMacroActions:
    """The same macro-actions, but what they lead to is rolled out by the fine dynamics on the decoded actions.

        s' = f(… f(s, â_1) …, â_C),   â = d(s, m)

    C times the work of the coarse dynamics, and nothing between decoder and prediction for a search to exploit.
    A `MacroModel` in the sense of types.py.
    """

    def __init__(self, macro: MacroActionModel, predictor: Predictor) -> None:
        self.chunk_length, self.macro_dim = macro.chunk_length, macro.macro_dim
        self.decode, self._predictor = macro.decode, predictor

    def step(self, state: Tensor, macro: Tensor) -> Tensor:
        """state (..., D), macro (..., M) -> state `chunk_length` steps later (..., D)."""
        for action in self.decode(state, macro).unbind(-2):
            state = self._predictor.step(state, action)
        return state
