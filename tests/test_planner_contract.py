"""What every method promises: the box, its own cost, NaN loses, batch independence, seeds, deadlines."""

import importlib.util

import pytest
import torch

from latent_mpc.planner import DEFAULT, METHODS, ActionSpace, Scores, make_planner, search, shift
from latent_mpc.types import InvalidInputError, PlanningFailed, UnknownNameError

H, A = 6, 3
SMALL = {"num_samples": 40, "num_iterations": 4}
OPTIONS = {
    "cma": {"num_samples": 12, "num_iterations": 8},
    "gradient": {"num_samples": 4, "num_iterations": 10},
    "polish": {"polish_starts": 2, "polish_steps": 4},
}
NAMES = [n for n in sorted(METHODS) if n != "cma" or importlib.util.find_spec("cma")]
SPACES = [
    {},
    {"basis": "cubic", "num_knots": 4},
    {"basis": "constant", "num_knots": 3, "low": (-0.3, 0.1, -2.0), "high": (0.7, 0.2, 5.0)},
    {"sign_dims": (2,)},
    {"basis": "linear", "num_knots": 3, "low": 0.1, "high": 0.2, "sign_dims": (0, 2)},
]


def planner(name, **options):
    return make_planner(name, horizon=H, action_dim=A, **(SMALL | OPTIONS.get(name, {}) | options))


def seeded(*seeds):
    return [torch.Generator().manual_seed(s) for s in seeds]


def cost(actions):
    """Curved and off-centre, with its minimum outside of the box [-1, 1] in one dimension."""
    target = torch.tensor([0.3, -0.6, 1.7])
    return ((actions - target).square() * torch.linspace(0.5, 2.0, H)[:, None]).sum((-1, -2))


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", NAMES)
def test_plans_stay_in_the_box_and_report_their_own_cost(name, space):
    seen = []
    p = planner(name, **space)

    def watched(actions):
        seen.append(actions.detach())
        return cost(actions)

    plan = p.plan(watched, generator=seeded(0, 1))
    low, high = p.space.box
    for actions in [*seen, plan.actions[:, None]]:
        assert bool((actions >= low).all()) and bool((actions <= high).all())
    assert torch.equal(plan.cost, cost(plan.actions[:, None])[:, 0])
    best = torch.stack([cost(actions).amin(1) for actions in seen]).amin(0)
    assert torch.equal(plan.cost, best)
    for d in space.get("sign_dims", ()):
        assert all(set(a[..., d].unique().tolist()) <= {float(low[d]), float(high[d])} for a in (plan.actions, *seen))


@pytest.mark.parametrize("name", NAMES)
def test_sign_dimensions_of_given_sequences_go_to_the_nearer_bound(name):
    given = torch.full((1, H, A), 0.3)
    seen = []

    def watched(actions):
        seen.append(actions.detach())
        return (actions - 0.3).abs().sum((-1, -2))

    p = planner(name, sign_dims=(2,))
    for options in ({"warm_start": given}, {"proposals": -given[:, None]}):
        plan = p.plan(watched, generator=seeded(0), **options)
        assert all(set(a[..., 2].unique().tolist()) <= {-1.0, 1.0} for a in (plan.actions, *seen))
    assert (torch.cat(seen, 1) == torch.tensor([-0.3, -0.3, -1.0])).all(-1).all(-1).any()


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_bit_identical_to_single_problems_with_the_same_seeds(name, space):
    seeds = (3, 1, 4, 15, 9)
    p = planner(name, **space)
    warm = 0.1 * torch.randn(5, H, A, generator=torch.Generator().manual_seed(0))
    others = 0.3 * torch.randn(5, 2, H, A, generator=torch.Generator().manual_seed(1))
    batch = p.plan(cost, generator=seeded(*seeds), warm_start=warm, proposals=others)
    for b, seed in enumerate(seeds):
        single = p.plan(cost, generator=seeded(seed)[0], warm_start=warm[b : b + 1], proposals=others[b : b + 1])
        assert torch.equal(single.actions[0], batch.actions[b])
        assert torch.equal(single.cost[0], batch.cost[b])


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_plan_and_another_seed_another(name):
    p = planner(name, basis="cubic", num_knots=4)
    plans = [p.plan(cost, generator=seeded(s)[0]).actions for s in (5, 5, 6)]
    assert torch.equal(plans[0], plans[1])
    assert not torch.equal(plans[0], plans[2])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", NAMES)
def test_non_finite_costs_lose(name, bad):
    def half_broken(actions):
        return torch.where(actions[..., 0, 0] > 0, bad, cost(actions))

    plan = planner(name).plan(half_broken, generator=seeded(0, 1))
    assert bool(plan.cost.isfinite().all())
    assert bool((plan.actions[:, 0, 0] <= 0).all())


@pytest.mark.parametrize("name", NAMES)
def test_too_few_finite_candidates_raise_with_the_count(name):
    def broken(actions):
        return torch.full(actions.shape[:2], torch.nan) * actions.sum((-1, -2))

    with pytest.raises(PlanningFailed, match=r"only 0 of \d+ candidates"):
        planner(name).plan(broken, generator=seeded(0))


def test_fewer_finite_candidates_than_elites_are_counted():
    def three_finite(actions):
        value = cost(actions)
        value[:, 3:] = torch.nan
        return value

    with pytest.raises(PlanningFailed, match="only 3 of 40 candidates have a finite cost, and 4 are needed"):
        planner("cem").plan(three_finite, generator=seeded(0))


@pytest.mark.parametrize("name", NAMES)
def test_the_deadline_is_kept_to_within_one_iteration(name, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(search.time, "perf_counter", lambda: now[0])

    def slow(actions):
        now[0] += 0.1
        return cost(actions)

    plan = planner(name, num_iterations=50).plan(slow, generator=seeded(0), deadline_s=0.75)
    assert plan.cut_off
    assert 0.55 < now[0] <= 0.75 + 1e-9
    assert plan.cost < cost(torch.zeros(1, 1, H, A))[0]
    now[0] = 0.0
    first_only = planner(name).plan(slow, generator=seeded(0), deadline_s=0.01)
    assert first_only.cut_off and first_only.iterations == 1


@pytest.mark.parametrize("name", NAMES)
def test_an_unhurried_plan_uses_its_budget_and_is_not_cut_off(name):
    p = planner(name)
    plan = p.plan(cost, generator=seeded(0), deadline_s=1000.0)
    m = p.method
    budget = m.num_samples * m.num_iterations
    if name == "gradient":
        budget *= 3  # a forward and a backward pass count as three
    if name == "polish":
        budget += 3 * m.polish_starts * m.polish_steps
    assert not plan.cut_off
    assert plan.evaluations == budget


@pytest.mark.parametrize("space", SPACES[:3])
@pytest.mark.parametrize("name", NAMES)
def test_given_sequences_are_scored_once_as_they_stand(name, space):
    given = torch.rand(2, 4, H, A, generator=torch.Generator().manual_seed(0)) / 3 + 0.1
    p = planner(name, **space)
    given = p.space.check(given, "given")
    for options in ({"warm_start": given[:, 0]}, {"proposals": given}, {"warm_start": given[:, 0], "proposals": given}):
        seen = []

        def watched(actions, seen=seen):
            seen.append(actions.detach())
            return cost(actions)

        plan = p.plan(watched, generator=seeded(0, 1), **options)
        every = torch.cat(seen, 1)
        for n in range(1 if "proposals" not in options else 4):
            same = (every == given[:, n, None]).all(-1).all(-1)
            assert bool(same.any(1).all())
        spent = {"gradient": 3, "polish": 3}.get(name, 1)
        assert len(every[0]) <= plan.evaluations <= spent * len(every[0])


@pytest.mark.parametrize("low, high", [(-1.0, 1.0), (-0.37, 1.91)])
@pytest.mark.parametrize("name", NAMES)
def test_the_plan_is_never_worse_than_warm_start_or_proposals(name, low, high):
    optimum = torch.tensor([0.3, -0.21, high]).expand(2, H, A)

    def steep(actions):
        return (actions - optimum[:, None]).abs().sum((-1, -2)) * 1e4

    noise = torch.rand(2, 3, H, A, generator=torch.Generator().manual_seed(0))
    proposals = torch.cat([noise, optimum[:, None]], 1)
    p = planner(name, low=low, high=high, **({"num_samples": 8} if name == "gradient" else {}))
    assert bool((p.plan(steep, generator=seeded(0, 1), warm_start=optimum).cost == 0).all())
    assert bool((p.plan(steep, generator=seeded(0, 1), proposals=proposals).cost == 0).all())


@pytest.mark.parametrize("name", ["cem", "icem", "more", "mppi"])
def test_shifted_elites_are_candidates_of_the_next_plan(name):
    p = planner(name)
    passed = shift(p.plan(cost, generator=seeded(0)).elites, 2)
    seen = []

    def watched(actions):
        seen.append(actions)
        return cost(actions)

    p.plan(watched, generator=seeded(1), proposals=passed)
    assert torch.equal(seen[0][:, -passed.shape[1] :], passed)


@pytest.mark.parametrize("name", NAMES)
def test_the_least_violating_plan_comes_back_where_nothing_is_feasible(name):
    def never(actions):
        violation = 0.5 + (actions[..., 0] - 0.4).square().sum(-1)
        return Scores(actions[..., 0].sum(-1) + actions[..., 1].square().sum(-1), violation)

    p = planner(name, num_samples=60, num_iterations=10 if name != "gradient" else 100)
    plan = p.plan(never, generator=seeded(0))
    start = 0.5 + H * 0.4**2
    assert not bool(plan.feasible)
    assert 0.5 <= float(plan.margin) < (start if name == "random_shooting" else 0.5 + 0.35 * (start - 0.5))


@pytest.mark.parametrize("scale", [1.0, 1e12, 1e16, 1e30])
@pytest.mark.parametrize("name", NAMES)
def test_a_feasible_sequence_wins_at_any_cost(name, scale):
    only = torch.full((1, H, A), 0.9)

    def almost_never(actions):
        near = (actions - 0.9).abs().amax((-1, -2)) < 1e-6
        margin = torch.where(near, -0.01, 0.5) + 0 * actions.sum((-1, -2))
        return Scores(scale * (actions.square().sum((-1, -2)) + 1), margin)

    for options in ({"warm_start": only}, {"proposals": only[:, None]}):
        plan = planner(name).plan(almost_never, generator=seeded(0), **options)
        assert bool(plan.feasible) and float(plan.margin) == pytest.approx(-0.01)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
@pytest.mark.parametrize("name", NAMES)
def test_margins_that_are_not_finite_are_the_largest_violation(name, bad):
    def broken(actions):
        return Scores(cost(actions), torch.where(actions[..., 0, 0] > 0.1, bad, actions[..., 0, 0] + 0.5))

    plan = planner(name).plan(broken, generator=seeded(0))
    assert bool(plan.margin.isfinite().all())
    if name not in ("gradient",):  # which starts where its gradient is nowhere finite
        everywhere = planner(name).plan(lambda a: Scores(cost(a), bad + 0 * a.sum((-1, -2))), generator=seeded(0))
        assert not bool(everywhere.feasible) and float(everywhere.margin) == float("inf")


def test_callbacks_see_feasibility_and_action_units():
    space = {"basis": "linear", "num_knots": 3, "low": (-2.0, 0.0, 0.0), "high": (2.0, 1.0, 10.0)}
    seen = []

    def guarded(actions):
        return Scores(cost(actions), actions[..., 0, 0] - 0.2)

    wanted = (0.4, 0.1, 2.0)
    p = planner("mppi", num_samples=2000, num_iterations=1, init_std=wanted, adapt_std=False, **space)
    drawn = []
    p.plan(lambda a: (drawn.append(a), guarded(a))[1], generator=seeded(0), callback=seen.append)
    assert torch.equal(seen[0].feasible, drawn[0][..., 0, 0] <= 0.2)
    assert 0.1 < seen[0].feasible.float().mean() < 0.9
    # knots lie on steps 0, 2.5 and 5: the ends have the knots' own standard deviation, in action units
    assert torch.allclose(seen[0].std[0, [0, -1]], torch.tensor(wanted).expand(2, A), rtol=1e-5)
    assert torch.allclose(drawn[0][0, :, 0].std(0), torch.tensor(wanted), rtol=0.1)
    weights = torch.tensor([0.6**2 + 0.4**2]).sqrt()  # of step 1, between two knots
    assert torch.allclose(seen[0].std[0, 1], torch.tensor(wanted) * weights, rtol=1e-4)


def test_a_linear_basis_is_straight_between_its_knots():
    space = ActionSpace(9, 1, basis="linear", num_knots=3)
    bent = space.decode(torch.tensor([-0.8, 0.8, 0.0]).view(1, 1, 3, 1)).flatten()
    expected = torch.cat([torch.linspace(-0.8, 0.8, 5), torch.linspace(0.8, 0.0, 5)[1:]])
    assert torch.allclose(bent, expected, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_callbacks_see_every_iteration(name):
    seen = []
    plan = planner(name).plan(cost, generator=seeded(0, 1), callback=seen.append)
    assert len(seen) == plan.iterations
    for it in seen:
        assert it.mean.shape == it.std.shape == (2, H, A)
        assert torch.equal(it.elite_costs, it.costs.sort(1).values[:, : it.elite_costs.shape[1]])
        assert bool(it.feasible.all())
    assert bool((seen[-1].best_cost >= plan.cost).all())


@pytest.mark.parametrize("name", ["cem", "icem", "more", "mppi"])
def test_the_standard_deviation_contracts_but_not_below_its_floor(name):
    stds = []
    planner(name, num_iterations=8, min_std=0.05).plan(
        cost, generator=seeded(0), callback=lambda it: stds.append(it.std)
    )
    assert stds[-1].mean() < 0.6 * stds[0].mean()
    assert stds[-1].min() >= 0.05 - 1e-6


def test_unknown_names_and_options_list_what_exists():
    assert make_planner(horizon=H, action_dim=A) == make_planner(DEFAULT, horizon=H, action_dim=A)
    with pytest.raises(UnknownNameError, match=r"available: .*'cem'.*'icem'"):
        make_planner("simulated_annealing", horizon=H, action_dim=A)
    with pytest.raises(InvalidInputError, match=r"no option .'elites'.*elite_fraction"):
        make_planner("cem", horizon=H, action_dim=A, elites=3)


@pytest.mark.parametrize(
    "name, options",
    [
        ("cem", {"num_elites": 40}),
        ("cem", {"momentum": 1.0}),
        ("cem", {"min_std": -1.0}),
        ("cem", {"init_std": 0.0}),
        ("cem", {"low": 1.0, "high": 1.0}),
        ("cem", {"low": (0.0, 0.0)}),
        ("cem", {"num_knots": 3}),
        ("cem", {"basis": "cubic", "num_knots": 7}),
        ("cem", {"basis": "quintic", "num_knots": 3}),
        ("cem", {"sign_dims": (3,)}),
        ("icem", {"decay": 0.9}),
        ("mppi", {"temperature": 0.0}),
        ("more", {"trust": -1.0}),
        ("polish", {"polish_starts": 30}),
        ("gradient", {"learning_rate": 0.0}),
        ("more", {"horizon": 4, "action_dim": 200}),
    ],
)
def test_impossible_options_are_refused(name, options):
    with pytest.raises((InvalidInputError, UnknownNameError)):
        make_planner(name, **({"horizon": H, "action_dim": A} | SMALL | OPTIONS.get(name, {}) | options))


@pytest.mark.parametrize(
    "arguments",
    [
        {"warm_start": torch.zeros(1, H + 1, A)},
        {"warm_start": torch.zeros(2, H, A)},
        {"warm_start": torch.full((1, H, A), torch.nan)},
        {"proposals": torch.zeros(1, H, A)},
        {"proposals": torch.zeros(1, 60, H, A)},
        {"deadline_s": 0.0},
    ],
)
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(InvalidInputError):
        planner("cem").plan(cost, generator=seeded(0), **arguments)


def test_a_cost_of_the_wrong_shape_is_named():
    with pytest.raises(InvalidInputError, match=r"must return shape \(B, S\) = \(1, 40\)"):
        planner("cem").plan(lambda actions: actions.sum(), generator=seeded(0))


@pytest.mark.parametrize("basis, knots", [("steps", None), ("constant", 3), ("linear", 4), ("cubic", 4)])
def test_encode_inverts_decode(basis, knots):
    space = ActionSpace(12, A, low=(-1.0, 0.0, -3.0), high=(1.0, 2.0, 1.0), basis=basis, num_knots=knots)
    x = 1.2 * torch.rand(2, 5, space.knots, A, generator=torch.Generator().manual_seed(0)) - 0.6
    assert torch.allclose(space.encode(space.decode(x)), x, atol=1e-5)


def test_a_cubic_basis_repeats_straight_lines_and_passes_through_its_knots():
    space = ActionSpace(9, 1, basis="cubic", num_knots=5)
    line = torch.linspace(-0.8, 0.6, 5).view(1, 1, 5, 1)
    assert torch.allclose(space.decode(line).flatten(), torch.linspace(-0.8, 0.6, 9), atol=1e-6)
    bumps = torch.tensor([0.1, -0.5, 0.4, 0.0, 0.3]).view(1, 1, 5, 1)
    assert torch.allclose(space.decode(bumps).flatten()[::2], bumps.flatten(), atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 7, 8])
@pytest.mark.parametrize("include_mean", [True, False])
def test_candidates_are_the_mean_and_mirror_images_about_it(count, include_mean):
    space = ActionSpace(H, A)
    run = search.Search(space, cost, seeded(3, 4), std=torch.full((A,), 0.1), device=torch.device("cpu"))
    mean = torch.linspace(-0.5, 0.5, H * A).view(1, H, A).repeat(2, 1, 1)
    knots = run.sample(mean, run.std, count, include_mean=include_mean)
    assert knots.shape == (2, count, H, A)
    offset = knots - mean[:, None]
    if include_mean:
        assert bool((offset[:, 0] == 0).all())
        offset = offset[:, 1:]
    drawn = search.drawn(count - include_mean)
    images = offset[:, drawn:]
    assert torch.allclose(images, -offset[:, : images.shape[1]], atol=1e-6)
    assert not drawn or not torch.equal(offset[0], offset[1])  # each problem has its own noise


def test_the_fitted_gaussian_is_that_of_the_elites():
    elites = torch.randn(2, 30, H, A, generator=seeded(0)[0]) * 0.3 + 5.0
    mean, std = search.fit_gaussian(elites)
    expected_std, expected_mean = torch.std_mean(elites.double(), 1, correction=0)
    assert torch.allclose(mean.double(), expected_mean, atol=1e-5)
    assert torch.allclose(std.double(), expected_std, atol=1e-5)
