"""The hierarchy on a point mass whose macro model is exact: subgoals lie on the way, and both levels reach the goal."""

import importlib.util

import pytest
import torch

from latent_mpc.planner import (
    MACRO_BOX,
    METHODS,
    CoarseLevel,
    Hierarchy,
    KeepOut,
    PlanTrace,
    Rollout,
    make_planner,
    search,
    shift,
)
from latent_mpc.planner.rollout import rollout_macros
from latent_mpc.types import InvalidInputError


class Point:
    """s' = s + 0.1 a."""

    def step(self, state, action):
        return state + 0.1 * action


class MacroPoint:
    """Three equal steps of Point; a macro-action is 2.5 times the action."""

    chunk_length = 3
    macro_dim = 2

    def steps(self, state, macro):
        return state[..., None, :] + torch.tensor([[0.1], [0.2], [0.3]]) * macro[..., None, :] / MACRO_BOX

    def decode(self, state, macro):
        return (macro / MACRO_BOX)[..., None, :].expand(*macro.shape[:-1], 3, 2)


def hierarchy() -> Hierarchy:
    coarse = make_planner("cem", horizon=4, action_dim=2, num_samples=200, low=-MACRO_BOX, high=MACRO_BOX, init_std=1.0)
    fine = make_planner("cem", horizon=3, action_dim=2, num_samples=128, num_iterations=5)
    return Hierarchy([CoarseLevel(coarse, MacroPoint())], fine, Point())


def test_all_states_on_the_way_are_rolled_out():
    macros = MACRO_BOX * torch.tensor([[[[1.0, 0.0], [0.0, -1.0]]]])  # (1, 1, 2, 2)
    states = rollout_macros(MacroPoint(), torch.zeros(1, 2), macros)
    x, y = [0.1, 0.2, 0.3, 0.3, 0.3, 0.3], [0, 0, 0, -0.1, -0.2, -0.3]
    torch.testing.assert_close(states, torch.tensor([x, y]).T[None, None])


def energy_to(goal):
    return lambda states: (states - goal[:, None, None]).square().mean(-1)


def test_two_levels_reach_a_goal_beyond_the_fine_horizon():
    goal = torch.tensor([[1.0, -0.8], [-0.7, 0.9]])
    state = torch.zeros(2, 2)
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    levels, plan = hierarchy(), None
    for _ in range(12):
        plan = levels.plan(
            state,
            energy_to(goal),
            lambda states, subgoal: (states - subgoal).square().mean(-1),
            generator=generators,
            previous=plan,
            executed=2,
        )
        for t in range(2):
            state = Point().step(state, plan.actions[:, t])
    assert (state - goal).norm(dim=-1).max() < 0.1


def test_the_subgoal_is_the_first_coarse_state_and_the_fine_plan_reaches_it():
    goal = torch.tensor([[0.9, 0.3]])
    state = torch.zeros(1, 2)
    plan = hierarchy().plan(
        state,
        energy_to(goal),
        lambda states, subgoal: (states - subgoal).square().mean(-1),
        generator=torch.Generator().manual_seed(0),
    )
    first = MacroPoint().steps(state, plan.plans[0].actions[:, 0])[:, -1]
    assert torch.equal(plan.subgoals[0], first)
    assert (state + 0.1 * plan.actions.sum(1) - first).norm() < 0.02


class MacroMacroPoint:
    """Two equal macro-actions of MacroPoint."""

    chunk_length = 2
    macro_dim = 2

    def steps(self, state, macro):
        return (state + 0.6 * macro / MACRO_BOX)[..., None, :]  # nothing is known between

    def decode(self, state, macro):
        return macro[..., None, :].expand(*macro.shape[:-1], 2, 2)


def test_three_levels_hand_their_subgoals_down():
    box = {"action_dim": 2, "low": -MACRO_BOX, "high": MACRO_BOX, "init_std": 1.0}
    levels = Hierarchy(
        [
            CoarseLevel(make_planner("cem", horizon=3, **box), MacroMacroPoint()),
            CoarseLevel(make_planner("cem", horizon=2, **box), MacroPoint(), reduction="last"),
        ],
        make_planner("cem", horizon=3, action_dim=2, num_samples=128, num_iterations=6),
        Point(),
    )
    goal = torch.tensor([[1.7, -1.6]])
    plan = levels.plan(
        torch.zeros(1, 2),
        energy_to(goal),
        lambda states, subgoal: (states - subgoal).square().mean(-1),
        generator=torch.Generator().manual_seed(0),
    )
    far, near = plan.subgoals
    assert torch.equal(far, MacroMacroPoint().steps(torch.zeros(1, 2), plan.plans[0].actions[:, 0])[:, 0])
    assert (MacroPoint().steps(near, plan.plans[1].actions[:, 1])[:, -1] - far).norm() < 0.03
    assert (0.1 * plan.actions.sum(1) - near).norm() < 0.03
    assert 0 < float(near[0, 0]) < float(far[0, 0]) < 1.7


def test_the_levels_share_one_deadline(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(search.time, "perf_counter", lambda: now[0])

    class SlowPoint(Point):
        def step(self, state, action):
            now[0] += 0.01
            return super().step(state, action)

    class SlowMacroPoint(MacroPoint):
        def steps(self, state, macro):
            now[0] += 0.01
            return super().steps(state, macro)

    levels = hierarchy()
    slow = Hierarchy([CoarseLevel(levels.coarse[0].planner, SlowMacroPoint())], levels.fine, SlowPoint())
    plan = slow.plan(
        torch.zeros(1, 2),
        energy_to(torch.tensor([[0.9, 0.3]])),
        lambda states, subgoal: (states - subgoal).square().mean(-1),
        generator=torch.Generator().manual_seed(0),
        deadline_s=0.3,
    )
    assert [p.cut_off for p in plan.plans] == [True, True]
    assert 0.25 < now[0] <= 0.3 + 1e-9


def test_levels_that_do_not_fit_are_refused():
    coarse = make_planner("cem", horizon=4, action_dim=3)
    with pytest.raises(InvalidInputError, match="macro_dim"):
        CoarseLevel(coarse, MacroPoint())
    fine = make_planner("cem", horizon=4, action_dim=2)
    with pytest.raises(InvalidInputError, match="chunk_length 3"):
        Hierarchy(hierarchy().coarse, fine, Point())


class Recorder:
    """A planner that keeps what it was given; `plan` as of `Planner`."""

    def __init__(self, planner):
        self.planner, self.given = planner, []

    @property
    def horizon(self):
        return self.planner.horizon

    @property
    def action_dim(self):
        return self.planner.action_dim

    def plan(self, cost, **options):
        self.given.append(options)
        return self.planner.plan(cost, **options)


def towards(states, subgoal):
    return (states - subgoal).square().mean(-1)


def test_every_level_starts_from_the_last_plan_and_the_fine_one_from_the_decoded_macro_action():
    levels, goal, state = hierarchy(), energy_to(torch.tensor([[0.9, 0.3]])), torch.zeros(1, 2)
    coarse, fine = Recorder(levels.coarse[0].planner), Recorder(levels.fine)
    recorded = Hierarchy([CoarseLevel(coarse, MacroPoint())], fine, Point())
    generator = torch.Generator().manual_seed(0)
    first = recorded.plan(state, goal, towards, generator=generator)
    second = recorded.plan(state, goal, towards, generator=generator, previous=first, executed=2)
    assert coarse.given[0]["proposals"] is None and fine.given[0]["proposals"] is None
    for plan, given in zip((first, second), fine.given, strict=True):
        macro = plan.plans[0].actions[:, 0]
        assert torch.equal(given["warm_start"], MacroPoint().decode(state, macro))
    old = first.plans[0].actions
    assert torch.equal(coarse.given[1]["proposals"], torch.stack([old, shift(old, 1)], 1))
    assert torch.equal(fine.given[1]["proposals"], torch.stack([first.actions, shift(first.actions, 2)], 1))


OPTIONS = {
    "cma": {"num_samples": 20, "num_iterations": 20},
    "gradient": {"num_samples": 1, "num_iterations": 60},
    "polish": {"num_samples": 60, "num_iterations": 8, "polish_starts": 2, "polish_steps": 30},
}


@pytest.mark.parametrize("name", [n for n in sorted(METHODS) if n != "cma" or importlib.util.find_spec("cma")])
def test_any_method_plans_at_every_level(name):
    options = OPTIONS.get(name, {"num_samples": 100, "num_iterations": 10})
    coarse = make_planner(name, horizon=4, action_dim=2, low=-MACRO_BOX, high=MACRO_BOX, init_std=1.0, **options)
    levels = Hierarchy(
        [CoarseLevel(coarse, MacroPoint(), reduction="sum")],
        make_planner(name, horizon=3, action_dim=2, **options),
        Point(),
    )
    goal, state, plan = torch.tensor([[0.6, -0.4]]), torch.zeros(1, 2), None
    generator = torch.Generator().manual_seed(0)
    for _ in range(6):
        plan = levels.plan(state, energy_to(goal), towards, generator=generator, previous=plan, executed=2)
        for t in range(2):
            state = Point().step(state, plan.actions[:, t])
    assert (state - goal).norm() < (0.25 if name == "random_shooting" else 0.12)


BALL = KeepOut(lambda states: states, (0.45, 0.02), 0.2)


def test_guardrails_hold_on_both_levels():
    free = hierarchy()
    goal, zero = torch.tensor([[0.9, 0.0]]), torch.zeros(1, 2)
    for constraints in ((), (BALL,)):
        levels = Hierarchy(
            [CoarseLevel(free.coarse[0].planner, MacroPoint(), constraints=constraints)],
            free.fine,
            Point(),
            constraints=constraints,
        )
        state, plan, path = zero, None, [zero]
        generator = torch.Generator().manual_seed(0)
        for _ in range(14):
            plan = levels.plan(state, energy_to(goal), towards, generator=generator, previous=plan, executed=1)
            state = Point().step(state, plan.actions[:, 0])
            path.append(state)
        walked = torch.stack(path[1:], 1)[:, None]
        depth = float(BALL(Rollout(zero, walked, walked)).max())
        if constraints:
            assert depth <= 1e-6 and (state - goal).norm() < 0.1
            assert plan.feasible.all() and torch.equal(plan.margin, plan.plans[-1].margin)
            assert float(plan.plans[0].margin) <= 0
        else:
            assert depth > 0.1 and float(plan.margin) == -torch.inf
        assert torch.equal(plan.cost, plan.plans[-1].cost) and not plan.cut_off


def test_uncertainty_counts_on_both_levels():
    seen = []

    def doubt(rollout):
        seen.append((rollout.states.shape[2], rollout.actions.shape[2]))
        return 100 * (rollout.states[..., 0] - 0.2).clamp_min(0)

    free = hierarchy()
    levels = Hierarchy(
        [CoarseLevel(free.coarse[0].planner, MacroPoint(), uncertainty=doubt, uncertainty_weight=2.0)],
        free.fine,
        Point(),
        uncertainty=doubt,
    )
    goal = energy_to(torch.tensor([[0.9, 0.0]]))
    plan = levels.plan(torch.zeros(1, 2), goal, towards, generator=torch.Generator().manual_seed(0))
    assert set(seen) == {(12, 4), (3, 3)}  # three states a macro-action
    assert float(plan.subgoals[0][0, 0]) < 0.23 and float(0.1 * plan.actions[..., 0].sum()) < 0.23


@pytest.mark.parametrize("wrong", [{"deadline_s": 0.0}, {"deadline_s": float("nan")}])
def test_a_deadline_that_cannot_be_is_refused(wrong):
    goal = energy_to(torch.zeros(1, 2))
    with pytest.raises(InvalidInputError, match="deadline_s"):
        hierarchy().plan(torch.zeros(1, 2), goal, towards, generator=torch.Generator(), **wrong)


def test_a_trace_takes_a_plan_of_a_hierarchy():
    trace = PlanTrace()
    goal = energy_to(torch.tensor([[0.9, 0.3]]))
    plan = hierarchy().plan(
        torch.zeros(1, 2),
        goal,
        towards,
        generator=torch.Generator().manual_seed(0),
        callbacks=[None, trace.on_iteration],
    )
    trace.planned(0, plan, torch.zeros(1, 3))
    trace.realised(1, torch.ones(1))
    assert trace.replay().realised.tolist() == [[1.0]]
