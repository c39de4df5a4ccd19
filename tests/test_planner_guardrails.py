"""Hard constraints while planning: a keep-out ball that greedy cannot pass, honest reports, uncertainty penalties."""

import importlib.util
import math

import pytest
import torch

from latent_mpc.planner import (
    METHODS,
    Disagreement,
    Hazard,
    KeepOut,
    RecedingHorizon,
    Rollout,
    RolloutCost,
    Scores,
    SpeedLimit,
    SupportDistance,
    Workspace,
    goal_energy,
    make_planner,
    rollout,
    shift,
)
from latent_mpc.planner.guardrails import KeepOutBox, margin, workspace_constraints
from latent_mpc.types import InvalidInputError, WorkspaceSpec

NAMES = [n for n in sorted(METHODS) if n != "cma" or importlib.util.find_spec("cma")]
OPTIONS = {
    "cma": {"num_samples": 20, "num_iterations": 30},
    "gradient": {"num_samples": 5, "num_iterations": 100},
    "polish": {"num_samples": 50, "polish_steps": 50},
}


class Point:
    """s' = s + 0.1 a, metres."""

    def step(self, state, action):
        return state + 0.1 * action


def position(states):
    return states


START, GOAL = torch.tensor([[0.0, 0.0]]), torch.tensor([1.0, 0.0])
BALL = KeepOut(position, (0.5, 0.02), 0.25)
BALL_1D, WALL_1D = KeepOut(position, (0.5,), 0.2), Workspace(position, (0.0,), (1.0,))


def energy(states):
    return goal_energy(states, GOAL)


def point_cost(constraints=(), **options):
    return RolloutCost(Point(), START, energy, constraints=constraints, **options)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_respects_a_wall_and_plans_up_to_it(name):
    wall = Workspace(position, (-1.0, -1.0), (0.4, 1.0))
    options = OPTIONS.get(name, {"num_samples": 150})
    planner = make_planner(name, horizon=6, action_dim=2, **options)
    free = planner.plan(point_cost(), generator=torch.Generator().manual_seed(0))
    held = planner.plan(point_cost((wall,)), generator=torch.Generator().manual_seed(0))
    end = {k: rollout(Point(), START, p.actions[:, None])[0, 0] for k, p in (("free", free), ("held", held))}
    reach = end["free"][-1, 0]
    assert bool(held.feasible) and float(held.margin) <= 0
    assert float(held.margin) == pytest.approx(float((end["held"][:, 0] - 0.4).max()), abs=1e-6)
    assert end["held"][:, 0].max() <= 0.4
    if name not in ("random_shooting",):
        assert reach > 0.45  # so that the wall matters
        assert end["held"][-1, 0] > 0.3


@pytest.mark.parametrize("name", ["cem", "icem", "more", "mppi"])
def test_when_nothing_is_feasible_the_least_violating_plan_comes_back_and_says_so(name):
    island = Workspace(position, (1.0, -0.1), (1.2, 0.1))  # at most 0.6 of the way to it is in reach
    planner = make_planner(name, horizon=6, action_dim=2, num_samples=150)
    cost = RolloutCost(Point(), START, lambda s: s[..., 0].square(), constraints=(island,))
    plan = planner.plan(cost, generator=torch.Generator().manual_seed(0))
    assert not bool(plan.feasible)
    # g is 1 after the first step at best 0.9: the first step decides, the cost pulls the other way
    assert 0.9 - 1e-6 <= float(plan.margin) < 0.93


def drive(horizon, constraints, **options):
    mpc, state = RecedingHorizon(execute_steps=1), START
    planner = make_planner("cem", horizon=horizon, action_dim=2, num_samples=200, num_iterations=6, **options)
    generator, path = torch.Generator().manual_seed(0), [START]
    for _ in range(30):
        cost = RolloutCost(Point(), state, energy, reduction="sum", constraints=constraints)

        def replan(previous, executed, deadline_s, cost=cost):
            start = None if previous is None else shift(previous.actions, executed)
            return planner.plan(cost, generator=generator, warm_start=start)

        state = Point().step(state, mpc.act(replan))
        path.append(state)
    return torch.cat(path)


def test_a_keep_out_pocket_that_greedy_does_not_leave():
    pocket = (KeepOut(position, (0.5, 0.2), 0.25), KeepOut(position, (0.5, -0.2), 0.25))
    greedy = drive(1, pocket)
    assert (greedy[-1] - GOAL).norm() > 0.4
    planned = drive(18, pocket, basis="cubic", num_knots=5, init_std=0.8)
    assert (planned[-1] - GOAL).norm() < 0.05
    whole = Rollout(START, planned[None, None, 1:], planned[None, None, 1:])
    assert max(float(ball(whole).max()) for ball in pocket) <= 1e-6
    through = drive(18, (), basis="cubic", num_knots=5, init_std=0.8)
    assert pocket[0](Rollout(START, through[None, None, 1:], through[None, None, 1:])).max() > 0.03


def test_a_step_across_the_ball_counts_although_both_ends_are_outside():
    states = torch.tensor([[[[1.0, 0.0]]]])
    assert float(BALL(Rollout(START, states, states))) == pytest.approx(0.25 - 0.02, abs=1e-6)


def test_constraints_measure_what_they_say():
    states = torch.tensor([[[[0.1, 0.0], [0.1, 0.3]]]])
    seen = Rollout(START, states, torch.zeros(1, 1, 2, 2))
    assert torch.allclose(SpeedLimit(position, 1.0, 0.2)(seen), torch.tensor([[[-0.5, 0.5]]]), atol=1e-6)
    assert torch.allclose(Workspace(position, (0.0, -0.2), (1.0, 0.2))(seen), torch.tensor([[[-0.1, 0.1]]]), atol=1e-6)
    assert torch.allclose(Hazard(lambda s: s.sum(-1), 0.25)(seen), torch.tensor([[[-0.15, 0.15]]]), atol=1e-6)


def test_ranking_puts_feasible_first_then_the_smaller_violation():
    cost = torch.tensor([[5.0, 1.0, 3.0, torch.inf, 0.0]])
    margin = torch.tensor([[-1.0, 0.2, 0.0, -1.0, 0.1]])
    assert Scores(cost, margin).ranking().argsort(1).tolist() == [[2, 0, 4, 1, 3]]


@pytest.mark.parametrize("large", [1e6, 1e16, 1e30])
def test_a_tiny_violation_is_not_lost_beside_a_large_cost(large):
    cost = torch.tensor([[large, 0.0, 0.5, 0.0]])
    margin = torch.tensor([[-1.0, 2e-12, 1e-12, 1e-30]])
    assert Scores(cost, margin).ranking().argsort(1).tolist() == [[0, 3, 2, 1]]


def test_ranking_settles_ties_by_cost_and_takes_a_nan_margin_for_the_largest_violation():
    nan, inf = torch.nan, torch.inf
    cost = torch.tensor([[3.0, 1.0, 2.0, 9.0, 8.0, 7.0, nan, -inf]])
    violation = torch.tensor([[0.1, 0.1, 0.1, 0.05, nan, inf, -1.0, -1.0]])
    score = Scores(cost, violation).ranking()
    assert score.argsort(dim=1, stable=True)[0, :6].tolist() == [3, 1, 2, 0, 5, 4]
    assert score[0, 6:].tolist() == [inf, inf]
    seen = Rollout(START, torch.full((1, 1, 2, 2), nan), torch.zeros(1, 1, 2, 2))
    assert bool(margin((BALL,), seen).isnan())


@pytest.mark.parametrize("ball", [((0.5, 0.1), 0.2), ((0.5, 0.02), 0.25)])
def test_the_default_planner_finds_the_way_round_as_well_as_cem(ball):
    found = {}
    for name in ("more", "cem"):
        planner = make_planner(name, horizon=12, action_dim=2)
        plans = [
            planner.plan(point_cost((KeepOut(position, *ball),)), generator=torch.Generator().manual_seed(s))
            for s in range(3)
        ]
        assert all(bool(plan.feasible) for plan in plans)
        found[name] = sum(float(plan.cost) for plan in plans) / 3
    assert found["more"] < 1.5 * found["cem"] + 0.01  # straight on, at the edge of the ball, it is 0.2


def test_from_inside_a_keep_out_ball_the_default_planner_goes_on_to_the_goal():
    plan = make_planner(horizon=12, action_dim=2).plan(
        point_cost((KeepOut(position, (0.05, 0.0), 0.1),)), generator=torch.Generator().manual_seed(0)
    )
    assert not bool(plan.feasible) and float(plan.margin) == pytest.approx(0.05, abs=1e-6)
    assert float(plan.cost) < 0.05


class Bent:
    """Agrees with Point below x = 0.3 and differs more and more beyond: where the data ended."""

    def step(self, state, action):
        return state + 0.1 * action + 0.5 * (state[..., :1] - 0.3).clamp_min(0)


def test_penalties_keep_the_plan_in_the_support():
    planner = make_planner("cem", horizon=8, action_dim=2)
    seen = 0.3 * (2 * torch.rand(2000, 2, generator=torch.Generator().manual_seed(0)) - 1)

    def reached(**options):
        plan = planner.plan(point_cost(**options), generator=torch.Generator().manual_seed(0))
        return float(rollout(Point(), START, plan.actions[:, None])[0, 0, :, 0].max())

    assert reached() > 0.7
    assert reached(uncertainty=Disagreement([Point(), Bent()]), uncertainty_weight=100.0) < 0.45
    assert 0.2 < reached(uncertainty=SupportDistance(seen), uncertainty_weight=10.0) < 0.35


def test_support_distance_far_from_the_origin_and_with_repeated_latents():
    seen = 1000 + 0.01 * torch.rand(100, 2, generator=torch.Generator().manual_seed(0))
    exact = (seen.double()[:, None] - seen.double()).norm(dim=-1).fill_diagonal_(torch.inf).amin(1).quantile(0.95)
    assert SupportDistance(seen).scale == pytest.approx(float(exact), rel=1e-3)
    assert SupportDistance(seen.repeat(3, 1)).scale == SupportDistance(seen).scale
    for bad in (torch.zeros(50, 2), torch.full((5, 2), torch.nan), torch.zeros(1, 2)):
        with pytest.raises(InvalidInputError):
            SupportDistance(bad)


@pytest.mark.parametrize(
    "make",
    [
        lambda: KeepOut(position, (0.0, 0.0), math.nan),
        lambda: KeepOut(position, (0.0, math.nan), 0.1),
        lambda: SpeedLimit(position, math.nan, 0.1),
        lambda: SpeedLimit(position, 1.0, math.nan),
        lambda: Workspace(position, (math.nan, 0.0), (1.0, 1.0)),
        lambda: Hazard(position, math.nan),
        lambda: point_cost(action_penalty=math.nan),
        lambda: point_cost(uncertainty_weight=math.nan),
        lambda: BALL_1D(Rollout(START, torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))),
        lambda: WALL_1D(Rollout(START, torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))),
        lambda: Disagreement([Point(), Point()])(Rollout(START, torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 2, 2))),
    ],
)
def test_constraints_that_would_hold_for_nothing_are_refused(make):
    with pytest.raises(InvalidInputError):
        make()


def test_support_distance_is_zero_inside_and_grows_outside():
    seen = torch.rand(3000, 2, generator=torch.Generator().manual_seed(0))
    states = torch.tensor([[[[0.5, 0.5], [1.5, 0.5], [2.5, 0.5]]]])
    inside, near, far = SupportDistance(seen)(Rollout(START, states, states)).flatten().tolist()
    assert inside == pytest.approx(0.0, abs=0.7)
    assert far == pytest.approx(3 * near, rel=0.1)


def test_the_depth_in_a_box_is_the_largest_along_each_segment():
    generator = torch.Generator().manual_seed(0)
    box = KeepOutBox(position, (-0.2, -0.3, -0.1), (0.3, 0.1, 0.4))
    start, states = torch.randn(1, 3, generator=generator), torch.randn(1, 200, 4, 3, generator=generator)
    states[0, 0] = states[0, 1, :1]  # at rest
    states[0, 2, :, 1:] = states[0, 2, :1, 1:]  # along an axis
    seen = Rollout(start, states, states)
    found, path = box(seen), seen.path(position)
    share = torch.linspace(0, 1, 501)[:, None]
    dense = path[:, :, :-1, None] + share * path.diff(dim=2)[:, :, :, None]
    depth = torch.minimum(dense - torch.tensor(box.low), torch.tensor(box.high) - dense).amin(-1).amax(-1)
    step = path.diff(dim=2).abs().amax(-1) / 500
    assert (found >= depth - 1e-6).all() and (found <= depth + step + 1e-6).all()
    assert (found[0, 3:] > 0).any() and (found[0, 3:] < 0).any()


WORKSPACE = WorkspaceSpec(
    low_m=(0.2, -0.4, -0.1),
    high_m=(0.7, 0.4, 0.5),
    table_m=0.02,
    keep_out_balls_m=((0.5, 0.2, 0.1, 0.05),),
    keep_out_boxes_m=((0.3, -0.3, 0.0, 0.4, -0.2, 0.3),),
    speed_m_s=0.5,
)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((0.50, 0.0, 0.20), (0.51, 0.0, 0.20), None),  # free
        ((0.69, 0.0, 0.20), (0.73, 0.0, 0.20), 0.03),  # out of the box
        ((0.50, 0.0, 0.03), (0.50, 0.0, 0.01), 0.01),  # into the table, which is higher than the box
        ((0.50, 0.15, 0.10), (0.50, 0.24, 0.10), 0.05),  # through the middle of the ball
        ((0.35, -0.31, 0.20), (0.35, -0.28, 0.20), 0.02),  # into the box
        ((0.50, 0.0, 0.20), (0.50, 0.12, 0.20), 0.1),  # 0.6 m/s
    ],
)
def test_the_constraints_of_a_workspace(before, after, expected):
    constraints = workspace_constraints(WORKSPACE, position, control_dt_s=0.2)
    found = margin(constraints, Rollout(torch.tensor([before]), torch.tensor([[[after]]]), torch.zeros(1, 1, 1, 2)))
    assert float(found) <= 0 if expected is None else float(found) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"low_m": (0.8, -0.4, 0.0)},
        {"low_m": (math.nan, -0.4, 0.0)},
        {"high_m": (0.7, 0.4, math.inf)},
        {"table_m": 0.6},
        {"table_m": math.nan},
        {"speed_m_s": 0.0},
        {"keep_out_balls_m": ((0.5, 0.2, 0.1, -0.05),)},
        {"keep_out_boxes_m": ((0.3, -0.3, 0.0, 0.4, -0.4, 0.3),)},
    ],
)
def test_an_impossible_workspace_is_refused(wrong):
    with pytest.raises(InvalidInputError):
        WorkspaceSpec(**{"low_m": (0.2, -0.4, -0.1), "high_m": (0.7, 0.4, 0.5)} | wrong)
