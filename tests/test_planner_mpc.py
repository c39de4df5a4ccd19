"""Receding horizon, goals, objective, rollout and trace, each against numbers worked out by hand."""

import warnings

import pytest
import torch

from latent_mpc.planner import (
    CapturedCost,
    GoalTracker,
    PlanTrace,
    RecedingHorizon,
    RolloutCost,
    Scores,
    goal_energy,
    make_planner,
    nearest_goal_energy,
    reduce_steps,
    rollout,
    shift,
)
from latent_mpc.types import InvalidInputError, Plan, PlanningFailed, UnknownNameError


class Counter:
    """s' = 2 s + a."""

    def step(self, state, action):
        return 2 * state + action


def plan_of(*actions):
    a = torch.tensor(actions).view(1, -1, 1)
    return Plan(a, torch.zeros(1), torch.ones(1, dtype=torch.bool), torch.zeros(1), 1, 1)


def test_rollout_repeats_single_steps():
    state = torch.tensor([[1.0], [2.0]])
    actions = torch.arange(12.0).view(2, 3, 2, 1)
    states = rollout(Counter(), state, actions)
    assert states.shape == (2, 3, 2, 1)
    assert states[1, 2].flatten().tolist() == [2 * 2 + 10.0, 2 * 14 + 11.0]
    with pytest.raises(InvalidInputError, match=r"\(2, 1\) and \(3, 3, 2, 1\)"):
        rollout(Counter(), state, torch.zeros(3, 3, 2, 1))


def test_reductions_and_penalty():
    states = torch.tensor([[1.0]])
    actions = torch.tensor([[[[-1.0], [1.0], [0.0]]]])  # states 1, 3, 6
    value = {
        how: float(RolloutCost(Counter(), states, lambda s: s[..., 0], how, 0.5)(actions))
        for how in ("last", "sum", "min")
    }
    assert value == {"last": 7.0, "sum": 11.0, "min": 2.0}
    with pytest.raises(UnknownNameError, match="available"):
        reduce_steps(states, "mean")
    with pytest.raises(InvalidInputError):
        RolloutCost(Counter(), states, lambda s: s[..., 0], action_penalty=-1.0)


def test_goal_energy_weighs_image_and_proprioception_apart_and_a_set_takes_the_nearest():
    state = torch.tensor([[[[1.0, 2.0, 5.0]]]])
    goal = torch.tensor([0.0, 0.0, 4.0])
    assert float(goal_energy(state, goal)) == pytest.approx(2.0)
    assert float(goal_energy(state, goal, torch.tensor([1.0, 1.0, 0.0]))) == pytest.approx(5 / 3)
    goals = torch.stack([goal, torch.tensor([1.0, 2.0, 4.0])])[None]
    assert float(nearest_goal_energy(state, goals)) == pytest.approx(1 / 3)
    weights = torch.tensor([3.0, 0.0, 6.0])  # (3 + 6)/3 to the first, 6/3 to the second
    assert float(nearest_goal_energy(state, goals, weights)) == pytest.approx(2.0)


def test_shift_drops_what_was_executed_and_repeats_the_last():
    a = torch.arange(4.0).view(1, 4, 1)
    assert shift(a, 1).flatten().tolist() == [1, 2, 3, 3]
    assert shift(a, 9).flatten().tolist() == [3, 3, 3, 3]


def test_receding_horizon_executes_falls_back_and_recovers():
    mpc, calls = RecedingHorizon(execute_steps=2, deadline_s=0.1), []
    answers = [plan_of(1.0, 2.0, 3.0, 4.0), None, None, plan_of(5.0, 6.0, 7.0)]

    def replan(previous, executed, deadline_s):
        calls.append((None if previous is None else float(previous.actions[0, 0, 0]), executed, deadline_s))
        answer = answers[len(calls) - 1]
        if answer is None:
            raise PlanningFailed("no")
        return answer

    found = []
    for failures in (0, 0, 1, 2, 0):
        found.append(float(mpc.act(replan)))
        assert mpc.failures == failures
    assert found == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert calls == [(None, 0, 0.1), (1.0, 2, 0.1), (1.0, 3, 0.1), (1.0, 4, 0.1)]


def test_a_failure_with_nothing_left_of_the_old_plan_is_raised():
    mpc = RecedingHorizon(execute_steps=2)

    def failing(previous, executed, deadline_s):
        raise PlanningFailed("no")

    with pytest.raises(PlanningFailed):
        mpc.act(failing)
    mpc.act(lambda *_: plan_of(1.0, 2.0))
    mpc.act(failing)
    with pytest.raises(PlanningFailed):
        mpc.act(failing)
    with pytest.raises(InvalidInputError, match="shorter than execute_steps"):
        RecedingHorizon(execute_steps=3).act(lambda *_: plan_of(1.0))


def test_goals_switch_when_reached_or_overdue_and_the_last_one_stays():
    goals = torch.tensor([[1.0], [2.0], [3.0]])
    tracker = GoalTracker(goals, threshold=0.1, patience=3)

    def at(x):
        return lambda goal: float((goal - x).square())

    assert float(tracker.update(at(0.0))) == 1.0
    assert float(tracker.update(at(1.1))) == 2.0
    assert [float(tracker.update(at(0.0))) for _ in range(4)] == [2.0, 2.0, 2.0, 3.0]
    assert float(tracker.update(at(3.0))) == 3.0
    for threshold in (0.0, float("nan")):
        with pytest.raises(InvalidInputError):
            GoalTracker(goals, threshold=threshold)


def test_a_warm_start_makes_the_next_plan_better_at_a_small_budget():
    class Slow:
        def step(self, state, action):
            return state + 0.1 * action

    goal = torch.tensor([0.5, -0.4, 0.3, 0.6])
    planner = make_planner("cem", horizon=8, action_dim=4, num_samples=60, num_iterations=8)
    quick = make_planner("cem", horizon=8, action_dim=4, num_samples=30, num_iterations=1, init_std=0.1)

    def cost(state):
        return RolloutCost(Slow(), state, lambda s: goal_energy(s, goal))

    start = torch.zeros(1, 4)
    first = planner.plan(cost(start), generator=torch.Generator().manual_seed(0))
    after = Slow().step(start, first.actions[:, 0])
    cold = quick.plan(cost(after), generator=torch.Generator().manual_seed(1))
    warm = quick.plan(cost(after), generator=torch.Generator().manual_seed(1), warm_start=shift(first.actions, 1))
    assert float(warm.cost) < 0.3 * float(cold.cost)


def test_a_trace_survives_the_disk_and_replays_predicted_against_realised(tmp_path):
    planner = make_planner("cem", horizon=3, action_dim=1, num_samples=40, num_iterations=2)
    trace, state = PlanTrace(), torch.tensor([[0.2]])
    for step in range(2):
        plan = planner.plan(
            RolloutCost(Counter(), state, lambda s: s[..., 0].square(), "sum"),
            generator=torch.Generator().manual_seed(step),
            callback=trace.on_iteration,
        )
        predicted = rollout(Counter(), state, plan.actions[:, None])[:, 0, :, 0].square()
        trace.planned(step, plan, predicted)
        state = Counter().step(state, plan.actions[:, 0]) + 0.1 * (step == 1)  # the world differs at step 1
        trace.realised(step + 1, state[:, 0].square())
    trace.save(tmp_path / "plan.safetensors")
    loaded = PlanTrace.load(tmp_path / "plan.safetensors")
    for a, b in zip(trace.replay(), loaded.replay(), strict=True):
        assert torch.equal(a, b)
    replay = loaded.replay()
    assert list(zip(replay.step.tolist(), replay.ahead.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 1)]
    assert torch.allclose(replay.predicted[0], replay.realised[0], atol=1e-7)
    assert float((replay.predicted[2] - replay.realised[2]).abs()) > 1e-3
    assert len(loaded.iterations) == 4
    assert loaded.plans[1]["iterations"].tolist() == [2, 4]
    assert torch.equal(loaded.iterations[3]["elite_costs"], trace.iterations[3]["elite_costs"])


def test_files_that_are_no_trace_are_refused(tmp_path):
    path = tmp_path / "plan.safetensors"
    path.write_bytes(b"no trace")
    with pytest.raises(InvalidInputError, match="not a plan trace"):
        PlanTrace.load(path)
    with pytest.raises(InvalidInputError, match="nothing to replay"):
        PlanTrace().replay()


def test_capture_falls_back_with_one_warning_and_the_same_costs():
    captured = CapturedCost(lambda a: a.square().sum((-1, -2)))
    actions = torch.rand(1, 5, 2, 2)
    with pytest.warns(RuntimeWarning, match="runs uncaptured"):
        first = captured(actions)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(captured(actions), first)
    assert torch.equal(first, actions.square().sum((-1, -2)))


class FakeGraph:
    """Stands in for a CUDA graph: replays by calling the cost again on the same memory."""

    def __init__(self, cost, given, found):
        self.cost, self.given, self.found, self.replays = cost, given, found, 0

    def replay(self):
        self.replays += 1
        for old, new in zip(self.found, self.cost(self.given), strict=True):
            old.copy_(new)


def test_a_captured_cost_with_margins_returns_its_own_copies_and_lets_gradients_by(monkeypatch):
    def cost(actions):
        return Scores(actions.square().sum((-1, -2)), actions[..., 0, 0] - 0.2)

    captured, graphs = CapturedCost(cost), []

    def capture(actions):
        given = actions.clone()
        found = Scores(*(t.clone() for t in cost(given)))
        graphs.append(FakeGraph(cost, given, found))
        return graphs[-1], given, found

    monkeypatch.setattr(captured, "_capture", capture)
    one, two = torch.rand(1, 5, 2, 2), torch.rand(1, 5, 2, 2)
    first = captured(one)
    captured(two)
    assert all(torch.equal(a, b) for a, b in zip(first, cost(one), strict=True))  # not overwritten by the second call
    assert len(graphs) == 1 and graphs[0].replays == 2
    options = {"horizon": 2, "action_dim": 2, "num_samples": 30, "polish_starts": 2, "polish_steps": 5}
    plans = [
        make_planner("polish", **options).plan(f, generator=torch.Generator().manual_seed(0)) for f in (cost, captured)
    ]
    assert torch.equal(plans[0].actions, plans[1].actions) and bool(plans[1].feasible)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_captured_cost_with_margins_plans_as_the_cost_itself():
    goal = torch.full((2,), 0.3, device="cuda")

    def cost(actions):
        return Scores((actions - goal).square().sum((-1, -2)), actions[..., 0, 0] - 0.2)

    planner = make_planner("cem", horizon=4, action_dim=2, device="cuda")
    plans = [planner.plan(f, generator=torch.Generator().manual_seed(0)) for f in (cost, CapturedCost(cost))]
    assert torch.equal(plans[0].actions, plans[1].actions) and bool(plans[1].feasible.all())
