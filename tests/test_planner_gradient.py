"""Descent through the cost: the step that is halved, the constraints it keeps, the elites it hands on."""

import pytest
import torch

from latent_mpc.planner import Scores, make_planner

METHODS = ["gradient", "polish"]
OPTIONS = {"gradient": {"num_samples": 6, "num_iterations": 60}, "polish": {"num_samples": 60, "polish_steps": 60}}


def planner(name, **options):
    return make_planner(name, horizon=4, action_dim=2, **(OPTIONS[name] | options))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_a_start_that_falls_off_a_cliff_goes_back_and_halves_its_step():
    fallen = []

    def cliff(actions):
        """Falls all the way to 0.5 and is NaN beyond."""
        x = actions[:, :, 0, 0]
        fallen.append(bool(x > 0.5))
        return torch.where(x > 0.5, torch.nan, -x)

    plan = planner("gradient", num_samples=1, num_iterations=100, learning_rate=0.3).plan(
        cliff, generator=seeded(0), warm_start=torch.zeros(1, 4, 2)
    )
    assert 0.4999 < float(plan.actions[0, 0, 0]) <= 0.5
    assert 5 < sum(fallen) < 40  # at full steps it falls nearly every time


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("name", METHODS)
def test_hard_constraints_hold_at_any_scale_of_the_cost(name, scale):
    def bounded(actions):
        total = actions.sum((-1, -2))
        return Scores(scale * (actions - 0.5).square().sum((-1, -2)), total - 2.0)

    plan = planner(name).plan(bounded, generator=seeded(0))
    # the nearest point of the half-space: every entry 0.25
    assert bool(plan.feasible) and -0.05 < float(plan.margin) <= 0
    assert float(plan.margin) == pytest.approx(float(plan.actions.sum()) - 2.0, abs=1e-5)
    assert float(plan.cost) / scale < 0.5 + 0.03


@pytest.mark.parametrize("name", METHODS)
def test_an_infeasible_start_climbs_out(name):
    def narrow(actions):
        return Scores(actions.square().sum((-1, -2)), 0.6 - actions[:, :, 0, 0])

    plan = planner(name, init_std=0.05).plan(narrow, generator=seeded(0))
    assert bool(plan.feasible)
    assert float(plan.actions[0, 0, 0]) == pytest.approx(0.6, abs=0.03)


@pytest.mark.parametrize("name", METHODS)
def test_elites_are_those_of_the_last_step(name):
    target = torch.tensor([0.3, -0.6])
    seen = []
    plan = planner(name).plan(lambda a: (a - target).square().sum((-1, -2)), generator=seeded(0), callback=seen.append)
    found = (plan.elites[:, 0] - target).square().sum()
    assert torch.allclose(found, seen[-1].elite_costs[0, 0], atol=1e-7)
    assert float(found) < 1e-3


def test_sign_dimensions_pass_the_gradient_straight_through():
    p = make_planner(
        "gradient", horizon=3, action_dim=2, sign_dims=(1,), low=0.1, high=0.9, num_samples=1, num_iterations=100
    )
    plan = p.plan(
        lambda a: (a - 0.9).square().sum((-1, -2)), generator=seeded(0), warm_start=torch.full((1, 3, 2), 0.1)
    )
    assert torch.allclose(plan.actions, torch.full((1, 3, 2), 0.9), atol=0.01)
    assert set(plan.actions[..., 1].unique().tolist()) == {float(torch.tensor(0.9))}


@pytest.mark.parametrize("samples", [1, 2])
def test_more_given_sequences_than_starts(samples):
    given = torch.linspace(-0.5, 0.5, 5).view(1, 5, 1, 1).expand(1, 5, 4, 2)
    plan = planner("gradient", num_samples=samples, num_iterations=1).plan(
        lambda a: (a - 0.5).square().sum((-1, -2)), generator=seeded(0), proposals=given
    )
    assert float(plan.cost) == 0.0 and plan.evaluations == 5 + 3 * samples
