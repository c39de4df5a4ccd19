"""The training losses, one function each.

Letters: B batch, T time, N samples, D latent width, A action width, M projections.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def sigreg(
    z: Tensor, num_projections: int, generator: torch.Generator, *, t_max: float = 3.0, num_points: int = 17
) -> Tensor:
    """Sketched isotropic Gaussian regularisation: how far random 1-D projections of z are from N(0, 1).

    For M random unit directions u the Epps–Pulley statistic compares characteristic functions,

        N ∫ |mean_n exp(i t u·z_n) - exp(-t²/2)|² exp(-t²/2) dt   over |t| <= t_max,

    and the mean over directions is returned. The integrand is even, so the trapezoid runs over [0, t_max].

    Args:
        z: latents, (N, D).
        num_projections: M, the number of directions drawn anew at each call.
        generator: source of the directions, on the CPU, so that every device draws the same.
        t_max: end of the integral.
        num_points: points of the trapezoid.
    Returns:
        Scalar, unitless: near 1 for samples of N(0, I) whatever N is, of order N for a collapsed z.
    Source: LeJEPA (arXiv 2511.08544), section 4, algorithm 1.
    """
    directions = torch.randn(z.shape[-1], num_projections, generator=generator).to(z)
    projected = z @ (directions / directions.norm(dim=0))  # (N, M)
    t = torch.linspace(0.0, t_max, num_points, device=z.device)
    gaussian = torch.exp(-0.5 * t.square())
    angle = t[:, None, None] * projected  # (num_points, N, M)
    error = (angle.cos().mean(1) - gaussian[:, None]).square() + angle.sin().mean(1).square()
    return 2.0 * z.shape[0] * torch.trapezoid(error * gaussian[:, None], t, dim=0).mean()


def latent_prediction_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of predicted latents against the encoder's own latents of the frames they predict.

    The gradient flows through both arguments: `sigreg` prevents the collapse that a stopped gradient would.

    Args:
        predicted: (..., D). target: (..., D), encoded.
    Returns:
        Scalar, in squared latent units (a unit-variance latent makes a constant prediction cost 1).
    Source: LeWorldModel (arXiv 2603.19312), prediction loss.
    """
    return F.mse_loss(predicted, target)


def inverse_dynamics_loss(predicted: Tensor, actions: Tensor) -> Tensor:
    """Mean squared error of the actions inferred from the latents at both ends of a clip.

    Args:
        predicted: (..., A), read off (z_t, z_{t+k}). actions: what was done between the two, (..., A).
    Returns:
        Scalar, in squared action units.
    Source: inverse dynamics as a representation loss, Pathak et al. 2017 (arXiv 1705.05363), eq. 3; here over k
        steps at once, so that slow consequences of the actions count too.
    """
    return F.mse_loss(predicted, actions)


def contrastive_loss(similarity: Tensor) -> Tensor:
    """InfoNCE, both ways: each row's own column shall be the most similar one, and each column's own row.

    Args:
        similarity: logits between the first and second frames of B pairs, (B, B); the diagonal are the pairs.
    Returns:
        Scalar, nats: 0 when all pairs are told apart, ln B for chance.
    Source: InfoNCE, van den Oord et al. (arXiv 1807.03748), eq. 4.
    """
    own = torch.arange(len(similarity), device=similarity.device)
    return 0.5 * (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own))


def gaussian_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, exp(log_var)) ‖ N(0, I)) summed over the last dimension, averaged over the rest; nats.

    Source: Kingma & Welling (arXiv 1312.6114), appendix B.
    """
    return 0.5 * (mean.square() + log_var.exp() - 1.0 - log_var).sum(-1).mean()


def gaussian_nll(predicted: Tensor, target: Tensor, std: float, event_dims: int = 1) -> Tensor:
    """Squared error over 2 std², summed over the last `event_dims` dimensions, averaged over the rest; nats.

    The negative log-likelihood of a Gaussian of fixed `std`, without its constant. The std says which differences
    are noise, and so sets the exchange rate against a KL term.
    """
    error = (predicted - target).square().flatten(-event_dims).sum(-1)
    return error.mean() / (2.0 * std**2)
