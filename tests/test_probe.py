"""Probes: they find what is in the features, do not find what is not, and report known errors in cm."""

from __future__ import annotations

import pytest
import torch

from latent_mpc.types import InvalidInputError
from latent_mpc.world_model.probe import axis_errors, fit_probe


def features_and_positions(count: int = 3000) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions in metres, and features that hold them squashed, turned and scaled, beside noise and a constant."""
    g = torch.Generator().manual_seed(0)
    positions = torch.rand(count, 3, generator=g) * torch.tensor([0.3, 0.4, 0.1])
    turned = torch.tanh(2 * positions @ torch.randn(3, 6, generator=g))
    rest = torch.randn(count, 2, generator=g)
    return torch.cat([1000 * turned, rest, torch.full((count, 1), 7.0)], dim=1), positions


def test_a_probe_reads_positions_and_cannot_read_noise() -> None:
    x, y = features_and_positions()
    spread_cm = 100 * y[2000:].std(0)
    seen = fit_probe(x[:2000], y[:2000], generator=torch.Generator().manual_seed(1), steps=150)
    blind = fit_probe(x[:2000, 6:], y[:2000], generator=torch.Generator().manual_seed(1), steps=30)
    good = torch.tensor(axis_errors(seen(x[2000:]), y[2000:]).rmse_cm)
    bad = torch.tensor(axis_errors(blind(x[2000:, 6:]), y[2000:]).rmse_cm)
    assert (good < 0.15 * spread_cm).all(), good
    assert (bad > 0.9 * spread_cm).all(), bad


def test_the_generator_alone_decides_and_torchs_own_is_left_alone() -> None:
    x, y = features_and_positions(300)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, other = (
        fit_probe(x, y, generator=torch.Generator().manual_seed(seed), steps=3)(x) for seed in (1, 1, 2)
    )
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_errors_are_each_axis_in_centimetres() -> None:
    target = torch.zeros(4, 2)
    predicted = torch.tensor([[0.03, 0.0], [-0.03, 0.0], [0.03, 0.0], [-0.03, 0.08]])
    errors = axis_errors(predicted, target)
    assert errors.count == 4
    assert errors.rmse_cm == pytest.approx((3.0, 4.0)) and errors.median_cm == pytest.approx((3.0, 0.0))


@pytest.mark.parametrize(
    ("features", "targets", "steps"),
    [
        (torch.zeros(3, 2), torch.zeros(4, 3), 1),
        (torch.zeros(1, 2), torch.zeros(1, 3), 1),
        (torch.zeros(3), torch.zeros(3, 3), 1),
        (torch.zeros(3, 2), torch.zeros(3, 3), 0),
        (torch.full((3, 2), torch.nan), torch.zeros(3, 3), 1),
    ],
)
def test_a_probe_refuses_what_it_cannot_fit(features: torch.Tensor, targets: torch.Tensor, steps: int) -> None:
    with pytest.raises(InvalidInputError, match="probe"):
        fit_probe(features, targets, generator=torch.Generator(), steps=steps)


def test_errors_of_nothing_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="at least 1"):
        axis_errors(torch.zeros(0, 3), torch.zeros(0, 3))
