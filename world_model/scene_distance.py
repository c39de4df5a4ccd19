"""How differently two states have the scene arranged, whatever the robot's arm does meanwhile.

    d(s, s') = ‖φ(s) − φ(s')‖²,   min_φ,ψ InfoNCE of  −α ln(1 + d(s_t, s_{t+k})) − ‖ψ(p_t) − ψ(p_{t+k})‖²

The positives are states of one episode, k steps apart, the negatives other episodes. What lasts over those steps is
how things lie on the table, so that is what φ learns to tell apart. ψ sees the arm only and explains what can be
told from it, so that φ need not; the heavy tail of the first term forgives the pairs between which something was
moved, which a squared distance would pay for with blur.
Source: InfoNCE, van den Oord et al. (arXiv 1807.03748); heavy-tailed similarity after t-SNE (van der Maaten & Hinton,
JMLR 2008);
time as the supervisor after time-contrastive networks (arXiv 1704.06888).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latent_mpc.world_model.layers import mlp


class SceneDistance(nn.Module):
    """Distance between states s = [z̃, p̃], scaled to a mean of 1 between unrelated states of play."""

    scale: Tensor

    def __init__(self, state_dim: int, proprio_dim: int, embedding_dim: int, hidden: int) -> None:
        super().__init__()
        self.proprio_dim = proprio_dim
        self.embedding = mlp(state_dim, hidden, embedding_dim, depth=2)
        self.arm_embedding = mlp(proprio_dim, 64, 8, depth=2)  # ψ, of the training only
        self.log_sharpness = nn.Parameter(torch.ones(()))  # ln α
        self.register_buffer("scale", torch.ones(()))

    def forward(self, state: Tensor, other: Tensor) -> Tensor:
        """States (..., D), broadcastable -> distance (...), unitless."""
        return (self.embedding(state) - self.embedding(other)).square().sum(-1) / self.scale

    def similarity(self, first: Tensor, second: Tensor) -> Tensor:
        """Logits of the contrast: states (B, D) and (B, D) -> (B, B)."""
        scene = torch.cdist(self.embedding(first), self.embedding(second)).square()
        arms = (s[:, -self.proprio_dim :] for s in (first, second))
        arm = torch.cdist(*map(self.arm_embedding, arms)).square()
        return -self.log_sharpness.exp() * torch.log1p(scene) - arm
