"""The losses against closed forms, numerical integration and torch.distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch.distributions import Independent, Normal, kl_divergence

from latent_mpc.world_model.losses import (
    contrastive_loss,
    gaussian_kl,
    gaussian_nll,
    inverse_dynamics_loss,
    latent_prediction_loss,
    sigreg,
)


@pytest.fixture
def g() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def epps_pulley(samples: np.ndarray) -> float:
    """N ∫ |mean exp(itx) - exp(-t²/2)|² exp(-t²/2) dt over [-3, 3]."""

    def integrand(t: float) -> float:
        return abs(np.exp(1j * t * samples).mean() - np.exp(-(t**2) / 2)) ** 2 * np.exp(-(t**2) / 2)

    return len(samples) * quad(integrand, -3, 3)[0]


@pytest.mark.parametrize(("num_points", "tolerance"), [(17, 2e-2), (2000, 1e-5)])
def test_sigreg_is_the_integral_of_its_docstring(num_points: int, tolerance: float, g: torch.Generator) -> None:
    samples = torch.tensor([-1.3, 0.2, 0.4, 2.5, 0.0])
    value = sigreg(samples[:, None], 3, g, num_points=num_points).item()  # in 1-D every direction is ±1
    assert value == pytest.approx(epps_pulley(samples.double().numpy()), rel=tolerance)


@pytest.mark.parametrize("count", [200, 4000])
def test_sigreg_of_a_standard_normal_is_near_one_whatever_the_count(count: int, g: torch.Generator) -> None:
    """Its expectation is ∫ (1 - exp(-t²)) exp(-t²/2) dt = 1.05."""
    values = [sigreg(torch.randn(count, 6, generator=g), 64, g).item() for _ in range(10)]
    assert np.mean(values) == pytest.approx(1.05, abs=0.2)


def test_sigreg_of_a_collapsed_latent_is_of_order_n(g: torch.Generator) -> None:
    """All samples zero: N ∫ (1 - exp(-t²/2))² exp(-t²/2) dt = 0.402 N; 206 for 512."""
    assert sigreg(torch.zeros(512, 192), 64, g).item() == pytest.approx(206, rel=0.01)


def test_sigreg_sees_scale_anisotropy_and_heavy_tails(g: torch.Generator) -> None:
    z = torch.randn(2000, 4, generator=g)
    normal = sigreg(z, 64, g).item()
    cauchy = z / torch.randn(2000, 1, generator=g).abs()
    for other in (0.5 * z, z * torch.tensor([2.0, 2.0, 0.5, 0.5]), z + 1, cauchy, z.abs()):
        assert sigreg(other, 64, g).item() > 10 * normal


def test_sigreg_descends_to_a_normal(g: torch.Generator) -> None:
    z = (0.3 * torch.randn(128, 3, generator=g) + 0.5).requires_grad_()
    optimizer = torch.optim.Adam([z], 0.1)
    for _ in range(40):
        optimizer.zero_grad()
        sigreg(z, 16, g).backward()
        optimizer.step()
    assert z.mean(0).abs().max() < 0.15 and (z.std(0) - 1).abs().max() < 0.15


def test_gaussian_kl_is_the_kl_of_torch(g: torch.Generator) -> None:
    mean, log_var = torch.randn(2, 7, 5, 3, generator=g)
    posterior = Independent(Normal(mean, (0.5 * log_var).exp()), 1)
    prior = Independent(Normal(torch.zeros(3), torch.ones(3)), 1)
    torch.testing.assert_close(gaussian_kl(mean, log_var), kl_divergence(posterior, prior).mean())


@pytest.mark.parametrize("event_dims", [1, 2])
def test_gaussian_nll_is_minus_log_likelihood_without_its_constant(event_dims: int, g: torch.Generator) -> None:
    predicted, target = torch.randn(2, 6, 5, 3, generator=g)
    likelihood = Independent(Normal(predicted, 0.3), event_dims)
    expected = likelihood.log_prob(predicted) - likelihood.log_prob(target)
    torch.testing.assert_close(gaussian_nll(predicted, target, 0.3, event_dims), expected.mean())


def test_contrast_is_nothing_for_clear_pairs_and_chance_for_constants(g: torch.Generator) -> None:
    apart = 10 * torch.eye(8)
    near = apart + 0.01 * torch.randn(8, 8, generator=g)
    similarity = -torch.cdist(apart, near).square()
    assert contrastive_loss(similarity).item() < 1e-4
    assert contrastive_loss(similarity.roll(1, 0)).item() > 10
    assert contrastive_loss(torch.full((8, 8), -3.0)).item() == pytest.approx(math.log(8))


def test_contrast_counts_both_ways() -> None:
    """Every row is as similar to both columns, so only the columns tell the rows apart."""
    similarity = torch.tensor([[2.0, 2.0], [-1.0, -1.0]])
    rows, columns = math.log(2), (np.logaddexp(0, -3) + np.logaddexp(0, 3)) / 2
    assert contrastive_loss(similarity).item() == pytest.approx((rows + columns) / 2)
    assert contrastive_loss(similarity.T).item() == pytest.approx((rows + columns) / 2)


@pytest.mark.parametrize("loss", [latent_prediction_loss, inverse_dynamics_loss])
def test_squared_errors_are_means(loss) -> None:
    a, b = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    assert loss(a, b).item() == pytest.approx((1 + 4 + 1) / 4)


def test_prediction_trains_the_target_too() -> None:
    target = torch.zeros(3, 2, requires_grad=True)
    latent_prediction_loss(torch.ones(3, 2), target).backward()
    assert (target.grad < 0).all()
