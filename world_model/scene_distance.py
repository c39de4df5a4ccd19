"""How differently two states have the scene arranged, whatever the robot's arm does meanwhile.

    d(s, s') = ‖φ(s) − φ(s')‖²,   min_φ,ψ,r InfoNCE of  −α ln(1 + d(s_t, s_{t+k})) − ‖ψ(p_t) − ψ(p_{t+k})‖²
                                            + β ‖r(φ(s), p̃) − z̃‖²

The positives are states of one episode, k steps apart, the negatives other episodes. What lasts over those steps is
how things lie on the table, so that is what φ learns to tell apart. ψ sees the arm only and explains what can be
told from it, so that φ need not; the heavy tail of the first term forgives the pairs between which something was
moved, which a squared distance would pay for with blur. r sees the arm too and draws the rest of the latent from φ,
which so keeps what does not last: where a held object is just now.

    min_u |u(s_t) − ln(1 + d(s_t, s_{t+j}))|,   j small

u is the median of how far φ jumps within a few steps: large where the state leaves open how the scene is arranged,
because the arm hides it, say.
Source: InfoNCE, van den Oord et al. (arXiv 1807.03748); heavy-tailed similarity after t-SNE (van der Maaten & Hinton,
JMLR 2008); time as the supervisor after time-contrastive networks (arXiv 1704.06888).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latent_mpc.world_model.layers import mlp


class SceneDistance(nn.Module):
    """Distance between states s = [z̃, p̃], scaled to a mean of 1 between unrelated states of play."""

    scale: Tensor

    def __init__(self, latent_dim: int, proprio_dim: int, embedding_dim: int, hidden: int) -> None:
        super().__init__()
        self.latent_dim, self.embedding_dim = latent_dim, embedding_dim
        state_dim = latent_dim + proprio_dim
        self.embedding = mlp(state_dim, hidden, embedding_dim, depth=2)
        self.log_spread = mlp(state_dim, hidden, 1, depth=2)  # u
        self.arm_embedding = mlp(proprio_dim, 64, 8, depth=2)  # ψ, of the training only
        self.decoder = mlp(embedding_dim + proprio_dim, hidden, latent_dim, depth=2)  # r, of the training only
        self.log_sharpness = nn.Parameter(torch.ones(()))  # ln α
        self.register_buffer("scale", torch.ones(()))

    def forward(self, state: Tensor, other: Tensor) -> Tensor:
        """States (..., D), broadcastable -> distance (...), unitless."""
        return (self.embedding(state) - self.embedding(other)).square().sum(-1) / self.scale

    def code(self, state: Tensor) -> Tensor:
        """φ of states (..., D), scaled to a variance of about 1: (..., E)."""
        return self.embedding(state) * (2 * self.embedding_dim / self.scale).sqrt()

    def spread(self, state: Tensor) -> Tensor:
        """How far from the true arrangement that of a state (..., D) may be, as a distance (...)."""
        return self.log_spread(state)[..., 0].expm1().clamp_min(0.0) / self.scale

    def similarity(self, first: Tensor, second: Tensor) -> Tensor:
        """Logits of the contrast: states (B, D) and (B, D) -> (B, B)."""
        scene = torch.cdist(self.embedding(first), self.embedding(second)).square()
        arm = torch.cdist(*(self.arm_embedding(s[:, self.latent_dim :]) for s in (first, second))).square()
        return -self.log_sharpness.exp() * torch.log1p(scene) - arm

    def reconstruction_error(self, state: Tensor) -> Tensor:
        """Mean squared error of r: states (B, D) -> scalar."""
        latent, arm = state[:, : self.latent_dim], state[:, self.latent_dim :]
        return (self.decoder(torch.cat([self.embedding(state), arm], -1)) - latent).square().mean()

    def spread_error(self, state: Tensor, near: Tensor) -> Tensor:
        """Mean absolute errors of u at both ends of a few steps, summed: states (B, D) and (B, D) -> scalar.

        Trains u alone.
        """
        with torch.no_grad():
            jump = (self.embedding(state) - self.embedding(near)).square().sum(-1).log1p()
        return (self.log_spread(torch.stack([state, near]))[..., 0] - jump).abs().mean(-1).sum()
