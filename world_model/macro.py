"""Macro-actions: what play does in C steps on its way to a goal, as a vector m that is standard normal.

    o = o(s_t),  g = g(s_t, s_{t+k}),  k ~ U[C, k_max];   q(x | o, g, k, a_1…a_C),  â = d(o, g, k, x);
    min ‖â − a‖² / 2σ_a² + KL(q ‖ N(0, I))
    ŝ = s + F(s, a_1…a_C);   min ‖ŝ − s_C‖² / 2σ_s²

o is the arm and where the thing is from it, g how far the thing has to go to where it was k steps later, wherever the
arm was then (model.py): hindsight makes every stretch of play an example of how to bring about what it led to, in how
many steps. The macro-action is m = [x, Φ⁻¹((k − C) / (k_max − C))]. Because the decoder sees o, g and k, m ~ N(0, I)
*is* the prior over what play does here on the way to g, whitened: a search within a few standard deviations of zero
stays inside what play has shown. The decoder only proposes; what a proposal leads to is for the dynamics to say.
Source: skill priors, Pertsch et al. (arXiv 2010.11944), with the prior folded into the decoder; hindsight goals,
Lynch et al. (arXiv 1903.01973); chunked latent dynamics after hierarchical planning with latent world models
(arXiv 2604.03208).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from latent_mpc.types import Predictor
from latent_mpc.world_model.layers import ResidualMLP, mlp


class MacroActionModel(nn.Module):
    """Encoder and decoder of action chunks, and the coarse dynamics F.

    Attributes:
        max_steps: k_max, the furthest ahead that a state is still taken for a goal.
    """

    def __init__(
        self,
        state_dim: int,
        view_dim: int,
        goal_dim: int,
        action_dim: int,
        macro_dim: int,
        chunk_length: int,
        max_steps: int,
        width: int,
        blocks: int,
    ) -> None:
        super().__init__()
        self.max_steps = max_steps
        self.chunk_length, self.macro_dim, self.action_dim = chunk_length, macro_dim, action_dim
        chunk_dim = chunk_length * action_dim
        self.encoder = mlp(view_dim + goal_dim + 1 + chunk_dim, width, 2 * (macro_dim - 1), depth=2)
        self.decoder = ResidualMLP(view_dim + goal_dim + macro_dim, width, chunk_dim, blocks)
        self.net = ResidualMLP(state_dim + chunk_dim, width, state_dim, blocks)

    def posterior(self, view: Tensor, goal: Tensor, time: Tensor, chunk: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(x | o, g, k, a_1…a_C).

        Args:
            view: o, (..., O). goal: g, (..., G). time: k as a share of its range, (..., 1) in [0, 1].
            chunk: (..., C, A).
        Returns:
            (..., M - 1) each.
        """
        mean, log_var = self.encoder(torch.cat([view, goal, time, chunk.flatten(-2)], dim=-1)).chunk(2, dim=-1)
        return mean, log_var.clamp(-12, 4)

    def time(self, steps: Tensor) -> Tensor:
        """k control steps (...,) -> their share of its range (..., 1)."""
        return ((steps - self.chunk_length) / (self.max_steps - self.chunk_length))[..., None]

    def decode_at(self, view: Tensor, goal: Tensor, time: Tensor, x: Tensor) -> Tensor:
        """As `decode`, of m in its parts: time (..., 1) as in `posterior`, x (..., M - 1)."""
        chunk = torch.tanh(self.decoder(torch.cat([view, goal, time, x], dim=-1)))
        return chunk.unflatten(-1, (self.chunk_length, self.action_dim))

    def decode(self, view: Tensor, goal: Tensor, macro: Tensor) -> Tensor:
        """View (..., O), goal (..., G), macro (..., M) -> actions (..., C, A) in [-1, 1]."""
        return self.decode_at(view, goal, torch.special.ndtr(macro[..., -1:]), macro[..., :-1])

    def predict(self, state: Tensor, chunk: Tensor) -> Tensor:
        """F: state (..., D), chunk (..., C, A) -> state C steps later (..., D)."""
        return state + self.net(torch.cat([state, chunk.flatten(-2)], dim=-1))


class MacroActions:
    """Macro-actions towards one goal. A `MacroModel` in the sense of types.py.

    Attributes:
        model: decodes them.
        view: a state (..., D) -> what the decoder sees of it and of the goal, (..., O) and (..., G).
        predictor: the fine dynamics, which then say where the decoded actions lead; None for the coarse ones, a
            fifth of the work at chunks of five.
    """

    def __init__(
        self,
        model: MacroActionModel,
        view: Callable[[Tensor], tuple[Tensor, Tensor]],
        predictor: Predictor | None = None,
    ) -> None:
        self.chunk_length, self.macro_dim = model.chunk_length, model.macro_dim
        self.model, self.view, self.predictor = model, view, predictor

    def steps(self, state: Tensor, macro: Tensor) -> Tensor:
        """state (..., D), macro (..., M) -> state after each of its C actions, or with the coarse dynamics the last.

        Returns:
            (..., C, D) or (..., 1, D).
        """
        chunk = self.decode(state, macro)
        if self.predictor is None:
            return self.model.predict(state, chunk)[..., None, :]
        states = []
        for action in chunk.unbind(-2):
            state = self.predictor.step(state, action)
            states.append(state)
        return torch.stack(states, -2)

    def decode(self, state: Tensor, macro: Tensor) -> Tensor:
        """state (..., D), macro (..., M) -> actions (..., C, A) in [-1, 1]."""
        return self.model.decode(*self.view(state), macro)
