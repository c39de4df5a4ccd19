"""What sets each method apart: a change of any of these parts changes these numbers."""

import importlib.util
from itertools import pairwise

import numpy as np
import pytest
import torch

from latent_mpc.bench_problems import DoubleIntegrator, LatentMLP
from latent_mpc.planner import Scores, make_planner, more

H, A = 6, 3


def seeded(*seeds):
    return [torch.Generator().manual_seed(s) for s in seeds]


def planner(name, **options):
    return make_planner(name, horizon=H, action_dim=A, **({"num_samples": 40, "num_iterations": 5} | options))


def cost(actions):
    return ((actions - 0.4).square() * torch.linspace(0.5, 2.0, H)[:, None]).sum((-1, -2))


def batches(name, cost=cost, **options):
    """The candidates of each call of the cost."""
    seen = []

    def watched(actions):
        seen.append(actions.clone())
        return cost(actions)

    plan = planner(name, **options).plan(watched, generator=seeded(0))
    return seen, plan


def holds(batch, sequence):
    return bool((batch == sequence).all(-1).all(-1).any())


def test_icem_keeps_its_best_elites_for_the_next_iteration():
    seen, _ = batches("icem", keep_fraction=0.5)
    for before, after in pairwise(seen[:-1]):
        best = before[0, cost(before)[0].topk(2, largest=False).indices]
        assert all(holds(after, sequence) for sequence in best)


def test_icem_shrinks_its_population_and_spends_the_same():
    seen, plan = batches("icem", decay=1.5, num_samples=60)
    sizes = [batch.shape[1] for batch in seen[:-1]]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 1.5 * sizes[-1]
    assert plan.evaluations == 60 * 5


def test_icem_samples_are_coloured_over_time_and_cem_samples_are_white():
    def neighbours(name):
        seen, _ = batches(name, num_samples=4000, num_iterations=1, init_std=0.1)
        noise = seen[0][0, 1:]  # (S, H, A), without the mean
        return float((noise[:, 1:] * noise[:, :-1]).mean() / noise.square().mean())

    assert abs(neighbours("cem")) < 0.05
    assert neighbours("icem") > 0.3


@pytest.mark.parametrize("name", ["cem", "icem", "mppi"])
def test_momentum_keeps_that_share_of_mean_and_standard_deviation(name):
    found = {}
    for momentum in (0.0, 0.8):
        seen = []
        planner(name, num_iterations=2, momentum=momentum).plan(cost, generator=seeded(0), callback=seen.append)
        found[momentum] = seen[0]
    assert torch.allclose(found[0.8].mean, 0.2 * found[0.0].mean, atol=1e-6)
    assert torch.allclose(found[0.8].std, 0.2 * found[0.0].std + 0.8 * 0.5, atol=1e-6)


def test_predictive_sampling_narrows_by_its_decay_around_the_best_so_far():
    seen = []
    batch, _ = batches("predictive_sampling", decay=0.5)
    planner("predictive_sampling", decay=0.5).plan(cost, generator=seeded(0), callback=seen.append)
    assert [float(it.std.mean()) for it in seen] == pytest.approx([0.5 * 0.5**i for i in range(5)])
    for before, after in pairwise(batch):
        assert torch.equal(after[0, 0], before[0, cost(before)[0].argmin()])


def test_more_remembers_earlier_batches_and_stays_in_its_trust_region():
    def final(**options):
        return planner("more", num_samples=30, **options).plan(cost, generator=seeded(0))

    assert not torch.equal(final(memory=30).actions, final(memory=120).actions)
    mean = {}
    for memory in (20, 200):  # fewer candidates than the quadratic has coefficients
        p = planner("more", num_samples=20, num_iterations=10, memory=memory)
        mean[memory] = sum(float(p.plan(cost, generator=seeded(s)).cost) for s in range(6)) / 6
    assert mean[200] < 0.7 * mean[20]
    moved = {}
    for trust in (0.01, 0.3):
        seen = []
        planner("more", trust=trust).plan(cost, generator=seeded(0), callback=seen.append)
        std, mean_ = seen[0].std.double(), seen[0].mean.double()
        # a lower bound of the divergence from the marginals: N(mean, std²) from N(0, 0.5²)
        divergence = 0.5 * ((std / 0.5) ** 2 - 1 - 2 * (std / 0.5).log() + (mean_ / 0.5) ** 2).sum()
        moved[trust] = float(divergence) / (H * A)
        assert moved[trust] <= 1.01 * trust
    assert moved[0.01] < 0.1 * moved[0.3]


def test_mppi_gives_no_weight_to_infeasible_candidates():
    def halved(actions):
        return Scores(-actions[:, :, 0, 0], actions[:, :, 0, 0])  # the better, the more infeasible

    seen = []
    planner("mppi", num_samples=200, momentum=0.0).plan(halved, generator=seeded(0), callback=seen.append)
    assert all(float(it.mean[0, 0, 0]) <= 0 for it in seen)


@pytest.mark.skipif(not importlib.util.find_spec("cma"), reason="an extra")
def test_cma_is_told_the_points_that_were_scored(monkeypatch):
    import cma

    told, original = [], cma.CMAEvolutionStrategy.tell

    def tell(self, solutions, values, *rest, **options):
        told.append((solutions, values))
        return original(self, solutions, values, *rest, **options)

    monkeypatch.setattr(cma.CMAEvolutionStrategy, "tell", tell)
    warm = torch.full((1, H, A), 0.25)
    planner("cma", num_samples=12).plan(cost, generator=seeded(0), warm_start=warm)
    for solutions, values in told:
        actions = torch.tensor(np.asarray(solutions)).float().view(1, -1, H, A).clamp(-1, 1)
        assert torch.allclose(cost(actions)[0].double(), torch.tensor(values).double(), rtol=1e-6)
    assert torch.equal(torch.tensor(told[0][0][0]).float(), warm.flatten())


class Rastrigin:
    @staticmethod
    def cost(actions):
        off = actions - 0.2
        return off.square().sum((-1, -2)) + 0.1 * (1 - torch.cos(8 * off)).sum((-1, -2))


@pytest.mark.parametrize(
    "problem, size",
    [
        (lambda seed: Rastrigin, {"horizon": 10, "action_dim": 2}),
        (DoubleIntegrator, {"horizon": 25, "action_dim": 7, "num_samples": 1000, "num_iterations": 3}),
        (DoubleIntegrator, {"horizon": 25, "action_dim": 7, "num_samples": 100, "num_iterations": 20}),
    ],
)
def test_the_default_temperature_is_near_the_best_one(problem, size):
    mean = {}
    for factor in (0.4, 0.7, 1.0, 1.4, 2.0, 3.0):
        p = make_planner("mppi", temperature=0.07 * factor, **size)
        mean[factor] = sum(float(p.plan(problem(50 + s).cost, generator=seeded(s)).cost) for s in range(3))
    default = make_planner("mppi", **size)
    assert default.method.temperature == 0.07
    assert mean[1.0] <= 1.5 * min(mean.values())


@pytest.mark.parametrize("name", ["mppi", "more", "cem", "icem"])
def test_neither_scale_nor_shift_of_the_cost_changes_what_is_found(name):
    p = planner(name, num_samples=100, num_iterations=8)
    plain = float(p.plan(cost, generator=seeded(0)).cost)
    for scale, shift in ((2.0**-20, 0.0), (2.0**20, 0.0), (1.0, 64.0), (2.0**20, 2.0**24)):
        found = p.plan(lambda a, scale=scale, shift=shift: scale * cost(a) + shift, generator=seeded(0)).actions
        assert float(cost(found[:, None])) == pytest.approx(plain, rel=0.1, abs=2e-4)


@pytest.mark.parametrize("problem, bar", [(DoubleIntegrator, 0.0045), (LatentMLP, 0.008)])
def test_the_default_planner_reaches_its_bar_at_3000_evaluations(problem, bar):
    found = []
    for seed in range(400, 403):  # seen by no table and no tuning
        task = problem(seed)
        p = make_planner(horizon=task.horizon, action_dim=task.action_dim)
        plan = p.plan(task.cost, generator=seeded(seed))
        assert plan.evaluations <= 3000
        found.append(float(plan.cost) / task.idle_cost)
    assert sum(found) / len(found) <= bar


def test_huge_plans_are_searched_over_knots():
    p = make_planner(horizon=100, action_dim=7)
    assert (p.space.basis, p.space.num_knots) == ("cubic", 5)
    plan = p.plan(lambda a: (a - 0.3).square().mean((-1, -2)), generator=seeded(0))
    assert float(plan.cost) < 0.01 * 0.09


def test_what_the_quadratic_is_fitted_to_has_no_jump():
    cost_, margin = torch.rand(200, dtype=torch.float64).numpy(), torch.linspace(-1, 1, 200).double().numpy()
    kept, target = more._smooth(cost_, margin)
    assert kept.tolist() == (margin <= 0).tolist() and (target == cost_).all()
    kept, target = more._smooth(cost_, margin + 0.95)  # five are feasible: too few for a quadratic
    assert kept.all() and (target[:5] == cost_[:5]).all() and (target[5:] > cost_[5:]).all()
    kept, _ = more._smooth(cost_, margin.clip(0.1))  # no way out of 0.1: those at 0.1 are all as good
    assert kept.tolist() == (margin <= 0.1).tolist()
