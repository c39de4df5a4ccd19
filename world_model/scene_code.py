"""What an image shows beside the robot: a code of the scene that leaves out what proprioception already tells.

    q(u | z) = N(μ(z), σ(z)²),   ẑ = d(u, p);   min  ‖ẑ − z‖² / 2σ_z² + KL(q(u | z) ‖ N(0, I))

The decoder is given the proprioception p, so the narrow code u spends its nats on the rest: where the objects are.
Without it the arm, which fills most of the picture, drowns a cube of 4 cm in every distance between latents.
Both heads read a frozen encoder's latents z; nothing here knows an object, a reward or a task.
Source: conditional variational autoencoder, Sohn et al., NeurIPS 2015, eq. 4 (with roles: p conditions, z is data).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latent_mpc.world_model.layers import mlp


class SceneCoder(nn.Module):
    """Encodes latents z (B, Z) into codes u (B, U); decodes them beside proprioception (for training only).

    Letters: Z width of the image latent, U of the code, P of proprioception.
    """

    code_mean: Tensor
    code_std: Tensor

    def __init__(self, latent_dim: int, code_dim: int, proprio_dim: int, hidden: int) -> None:
        super().__init__()
        self.encoder = mlp(latent_dim, hidden, 2 * code_dim, depth=2)
        self.decoder = mlp(code_dim + proprio_dim, hidden, latent_dim, depth=3)
        # Scales the code's mean to unit variance over the play data; set once training is over.
        self.register_buffer("code_mean", torch.zeros(code_dim))
        self.register_buffer("code_std", torch.ones(code_dim))

    def posterior(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(u | z), each (B, U)."""
        mean, log_var = self.encoder(z).chunk(2, dim=-1)
        return mean, log_var.clamp(-12, 4)

    def forward(self, z: Tensor) -> Tensor:
        """The code: standardised mean of q(u | z), (B, Z) -> (B, U)."""
        return (self.posterior(z)[0] - self.code_mean) / self.code_std
