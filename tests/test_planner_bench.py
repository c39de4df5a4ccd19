"""The benchmark's statistics against hand-made runs, its problems, that evaluations are equal, and that it resumes."""

import json
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch

from latent_mpc import bench_closed_loop
from latent_mpc.agent_config import AgentConfig
from latent_mpc.baselines import NoOpAgent
from latent_mpc.bench import PlannerBenchConfig, run_planner_bench
from latent_mpc.bench_closed_loop import METHODS, agent_with, evaluations_a_plan, run_closed_loop
from latent_mpc.bench_methods import default_contenders
from latent_mpc.bench_peers import StableWorldModelSolver, installed_peers
from latent_mpc.bench_problems import PROBLEMS, DoubleIntegrator, LatentMLP, PickAndPlace
from latent_mpc.bench_record import PHASES, read_moments
from latent_mpc.bench_report import bootstrap_mean, success_markdown, summarise, summarise_successes
from latent_mpc.planner import make_planner
from latent_mpc.types import InvalidInputError, UnknownNameError


def run(method, seed, ratio):
    return {
        "problem": "p",
        "method": method,
        "gradients": False,
        "seed": seed,
        "budget": 300,
        "evaluations": 300,
        "ratio": ratio,
        "seconds": 0.1 * seed,
        "curve": [],
    }


def test_rows_pair_by_seed_and_come_best_first():
    runs = [run("ref", s, r) for s, r in enumerate((0.1, 0.2, 0.3, 0.4))]
    runs += [run("other", s, r) for s, r in reversed(list(enumerate((0.2, 0.1, 0.5, 0.6))))]
    first, second = summarise(runs, "ref")
    assert (first.method, first.wins) == ("ref", None)
    assert (second.method, second.wins, second.worst) == ("other", 0.75, 0.6)
    assert first.ratio == pytest.approx(0.25)
    assert first.low <= first.ratio <= first.high


def test_the_bootstrap_interval_agrees_with_the_normal_one_on_a_large_sample():
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    low, high = bootstrap_mean(values.tolist())
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_the_double_integrator_follows_its_closed_form():
    problem = DoubleIntegrator(seed=3)
    start, goal = problem._start_and_goal
    actions = 2 * torch.rand(1, 2, 25, 7, generator=torch.Generator().manual_seed(0)) - 1
    dt, left = problem.dt, torch.arange(25, 0, -1.0)[:, None]
    position = 25 * dt * start + dt**2 * (left * actions).sum(2)
    velocity = start + dt * actions.sum(2)
    expected = (position - goal).square().sum(-1) + 0.1 * velocity.square().sum(-1)
    expected = expected + 0.002 * actions.square().sum((-1, -2))
    assert torch.allclose(problem.cost(actions), expected, rtol=1e-4)


def test_the_latent_problem_is_reachable_and_its_seeds_differ():
    problems = [LatentMLP(seed=s) for s in (0, 1)]
    assert problems[0].idle_cost != problems[1].idle_cost
    assert all(p.idle_cost > 1 for p in problems)
    same = LatentMLP(seed=0)
    actions = torch.rand(1, 2, 10, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(same.cost(actions), problems[0].cost(actions))


def test_the_recorded_moments_are_of_every_phase_and_finite():
    moments = read_moments()
    assert [m.phase for m in moments] == [PHASES[i % 3] for i in range(24)]
    for m in moments:
        assert m.image.shape == m.goal_image.shape == (64, 64, 3) and m.image.dtype == np.uint8
        assert np.isfinite(m.proprio).all() and m.proprio.shape == (6,)
    assert len({m.image.tobytes() for m in moments}) == len({m.goal_image.tobytes() for m in moments}) == 24
    opening = {phase: np.median([m.proprio[-1] for m in moments if m.phase == phase]) for phase in PHASES}
    assert opening[PHASES[0]] > 0.06 and 0.03 < opening[PHASES[1]] < 0.05  # a cube of 4 cm is in the hand


@pytest.mark.parametrize("name", PROBLEMS)
def test_doing_nothing_has_ratio_one_and_ratios_order_as_costs(name):
    problem = PROBLEMS[name](1)
    plans = 2 * torch.rand(1, 6, problem.horizon, problem.action_dim, generator=torch.Generator().manual_seed(0)) - 1
    plans[:, 0] = 0
    costs = problem.cost(plans)[0].tolist()
    ratios = [problem.ratio(cost) for cost in costs]
    assert ratios[0] == pytest.approx(1.0, rel=1e-4)
    assert min(ratios) > 0 and np.array_equal(np.argsort(ratios), np.argsort(costs))


def test_the_ratio_of_pick_and_place_is_that_of_the_scene_distances():
    """Where guardrails and details add nothing, it is the quotient of the geometric means of the distance."""
    problem = PickAndPlace(1)
    distance, idle = torch.rand(2, problem.horizon, generator=torch.Generator().manual_seed(0)) + 1
    problem.__dict__["idle_cost"] = float(idle.log().sum())
    expected = (distance.prod() / idle.prod()) ** (1 / problem.horizon)
    assert problem.ratio(float(distance.log().sum())) == pytest.approx(float(expected), rel=1e-5)


def test_a_descent_carries_the_object_nearer_than_doing_nothing():
    problem = PickAndPlace(1)
    assert problem.moment.phase == "carrying"
    planner = make_planner("gradient", horizon=15, action_dim=5, num_samples=4, num_iterations=25)
    plan = planner.plan(problem.cost, generator=torch.Generator().manual_seed(0))
    assert problem.ratio(float(plan.cost)) < 0.2
    assert problem.idle_cost == PickAndPlace(1 + 24).idle_cost != PickAndPlace(4).idle_cost


class Counted(DoubleIntegrator):
    """Counts the candidates that are scored; a gradient step as three."""

    scored = 0

    def cost(self, actions):
        type(self).scored += actions.shape[1] * (3 if actions.requires_grad else 1)
        return super().cost(actions)


@pytest.mark.parametrize("contender", default_contenders() + installed_peers(), ids=lambda c: c.label)
def test_every_method_gets_and_reports_the_same_number_of_evaluations(contender):
    problem = Counted(seed=0)
    _ = problem.idle_cost
    Counted.scored = 0
    outcome = contender.solve(problem, 0, 600)
    assert outcome.evaluations == Counted.scored
    assert 570 <= outcome.evaluations <= 600
    assert outcome.actions.shape == (25, 7)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_the_closed_loop_scores_what_the_agent_would(method):
    agent, config = agent_with(method), AgentConfig()
    levels = [(agent._coarse, config.coarse), (agent._fine, config.fine), (agent._settle, config.settle)]
    for planner, search in levels:
        plan = planner.plan(lambda a: a.square().sum((-1, -2)), generator=torch.Generator().manual_seed(0))
        allowed = search.num_samples * search.num_iterations
        assert 0.95 * allowed <= plan.evaluations <= allowed
    assert agent._coarse.space.high == 2.5 and agent._coarse.init_std == 1.0


def test_an_episode_that_begins_at_its_goal_is_marked(monkeypatch):
    monkeypatch.setattr(bench_closed_loop, "agent_with", lambda method: with_config(NoOpAgent(5)))
    run = run_closed_loop("closed_loop_reach", "cem", 0)
    assert (run["solved_at_start"], run["success"], run["steps"]) == (False, False, 25)
    assert run["evaluations"] == evaluations_a_plan(AgentConfig())
    monkeypatch.setitem(bench_closed_loop.RADIUS_M, "Reach", 1.0)
    assert run_closed_loop("closed_loop_reach", "cem", 0)["solved_at_start"]


def with_config(agent):
    agent.config = AgentConfig()
    return agent


def test_episodes_solved_at_their_start_are_in_no_number_but_their_own():
    def episode(method, seed, success, solved_at_start=False):
        base = {"problem": "p", "method": method, "gradients": False, "seed": seed, "seconds": 0.1, "evaluations": 9}
        return base | {"success": success, "solved_at_start": solved_at_start, "steps": 10 if success else 45}

    runs = [episode("a", s, success=s < 3, solved_at_start=s in (0, 1)) for s in range(6)]
    runs += [episode("b", s, success=s > 2, solved_at_start=s in (0, 1)) for s in range(6)]
    runs += [episode("c", s, success=True, solved_at_start=True) for s in range(6)]
    first, second = summarise_successes(runs)
    assert (first.method, first.successes, first.episodes, first.solved_at_start) == ("b", 3, 4, 2)
    assert (second.method, second.successes, second.episodes, second.solved_at_start) == ("a", 1, 4, 2)
    assert first.steps == pytest.approx((3 * 10 + 45) / 4)
    assert first.low < 0.75 < first.high
    assert "| p | b | no | 3 of 4 | 30–95 % | 2 | 19 | 0.100 |" in success_markdown([first, second], 9)


def test_the_closed_loop_runs_beside_the_problems_and_has_its_own_table(tmp_path, monkeypatch):
    def fake(problem, method, seed):
        return dict(gradients=False, evaluations=256, solved_at_start=seed == 0, success=True, steps=9, seconds=0.1)

    monkeypatch.setattr("latent_mpc.bench.run_closed_loop", fake)
    problems = ("double_integrator", "closed_loop_reach")
    config = PlannerBenchConfig(methods=("more", "cem, 5 knots"), problems=problems, seeds=3, evaluations=300)
    text = run_planner_bench(config, out=tmp_path)
    tables = [[cells(line) for line in part.splitlines() if line.startswith("|")] for part in text.split("\n\n")]
    open_loop, closed_loop = (table for table in tables if table)
    assert [len(row) for row in open_loop] == [9] * 4  # head, rule, two methods
    assert [row[:5] for row in closed_loop[2:]] == [["closed_loop_reach", "more", "no", "2 of 2", "34–100 %"]]
    report = json.loads((tmp_path / "planners.json").read_text())
    assert [row["episodes"] for row in report["closed_loop"]] == [2] and len(report["rows"]) == 2


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def bench(**changes):
    settings = {"methods": ("random_shooting", "more"), "problems": ("double_integrator",), "evaluations": 600}
    return PlannerBenchConfig(**settings, **changes)


def test_a_second_call_resumes_and_better_methods_come_first(tmp_path):
    run_planner_bench(bench(seeds=2), out=tmp_path)
    lines = (tmp_path / "runs.jsonl").read_text().splitlines()
    text = run_planner_bench(bench(seeds=3), out=tmp_path)
    assert (tmp_path / "runs.jsonl").read_text().splitlines()[:4] == lines
    first, second = json.loads((tmp_path / "planners.json").read_text())["rows"]
    assert [(r["method"], r["seeds"], r["evaluations"]) for r in (first, second)] == [
        ("more", 3, 600),
        ("random_shooting", 3, 600),
    ]
    assert second["wins"] == 1.0
    assert f"| double_integrator | more | no | 3 | {first['ratio']:.4f} |" in text
    assert text.startswith((tmp_path / "planners.md").read_text())
    assert str(tmp_path / "planners_seconds.png") in text
    assert (tmp_path / "planners_seconds.png").stat().st_size > 5000


def test_a_line_cut_off_by_a_kill_is_measured_again(tmp_path):
    log = tmp_path / "runs.jsonl"
    run_planner_bench(bench(seeds=2), out=tmp_path)
    whole = log.read_text().splitlines()
    log.write_text("\n".join(whole)[:-20])
    run_planner_bench(bench(seeds=2), out=tmp_path)
    lines = log.read_text().splitlines()
    assert lines[:3] == whole[:3] and len(lines) == 5
    assert json.loads(lines[4])["ratio"] == json.loads(whole[3])["ratio"]
    run_planner_bench(bench(seeds=2), out=tmp_path)
    assert log.read_text().splitlines() == lines


def test_runs_on_other_weights_are_not_taken_over(tmp_path, monkeypatch):
    config = PlannerBenchConfig(methods=("random_shooting",), problems=("pick_and_place",), seeds=2, evaluations=300)
    for name, runs in (("old", 2), ("old", 2), ("new", 4)):
        monkeypatch.setattr("latent_mpc.bench._weights", lambda name=name: name)
        run_planner_bench(config, out=tmp_path)
        assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == runs


def test_the_seed_is_the_first_of_the_paired_seeds(tmp_path):
    for seed in (0, 1):
        run_planner_bench(bench(seeds=2), out=tmp_path, seed=seed)
    runs = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert [(r["seed"], r["method"]) for r in runs] == [(s, m) for s in (0, 1, 2) for m in ("random_shooting", "more")]
    rows = json.loads((tmp_path / "planners.json").read_text())["rows"]
    expected = {
        m: np.mean([r["ratio"] for r in runs if r["method"] == m and r["seed"] > 0])
        for m in ("random_shooting", "more")
    }
    assert {r["method"]: r["ratio"] for r in rows} == pytest.approx(expected)


@pytest.mark.parametrize("name", ["methods", "problems"])
def test_unknown_names_are_refused_with_those_that_exist(name):
    with pytest.raises(UnknownNameError, match=r"'cartpole'; available: .*(more|double_integrator)"):
        PlannerBenchConfig(**{name: ("cartpole",)})
    with pytest.raises(InvalidInputError, match=r"need at least one .*; available: .*(more|double_integrator)"):
        PlannerBenchConfig(**{name: ()})


def test_an_unknown_reference_too_few_seeds_and_other_devices_are_refused(tmp_path):
    with pytest.raises(UnknownNameError, match=r"unknown reference method 'best'; available: .*more"):
        PlannerBenchConfig(reference="best")
    with pytest.raises(InvalidInputError, match=r"'cem, 5 knots'.* closed loop; .*'more'"):
        PlannerBenchConfig(methods=("cem, 5 knots",), problems=("closed_loop_reach",))
    with pytest.raises(InvalidInputError, match="seeds >= 2"):
        PlannerBenchConfig(seeds=1)
    with pytest.raises(InvalidInputError, match="'cpu' only, got 'cuda:0'"):
        run_planner_bench(bench(), out=tmp_path / "new", device="cuda:0")
    assert not (tmp_path / "new").exists()


class Targets:
    """A `Costable`: each environment wants its actions to sum to what it shows."""

    def get_cost(self, info_dict, action_candidates):
        return (action_candidates.sum(2) - torch.as_tensor(info_dict["target"])).square().sum(-1)

    criterion = get_cost


def solver(**options):
    planner = StableWorldModelSolver(Targets(), options={"num_iterations": 6, "num_samples": 100} | options)
    box = gymnasium.spaces.Box(-1.0, 1.0, (4, 2))
    planner.configure(action_space=box, n_envs=4, config=SimpleNamespace(horizon=5, action_block=1))
    return planner


TARGETS = torch.tensor([[2.0, -1.0], [0.5, 3.0], [-2.0, -2.0], [0.0, 1.0]])


def test_our_planner_as_a_solver_of_theirs_ignores_the_place_in_the_batch():
    plans = solver().solve({"target": TARGETS})["actions"]
    assert (plans.sum(1) - TARGETS).abs().max() < 0.05
    order = [2, 0, 3, 1]
    assert torch.equal(solver().solve({"target": TARGETS[order]})["actions"], plans[order])
    some = solver().solve({"target": TARGETS[[1, 3]].numpy(), "name": ["b", "d"]})["actions"]  # two need no plan
    assert torch.equal(some, plans[[1, 3]])


def test_our_planner_as_a_solver_of_theirs_starts_where_it_is_told():
    planner = solver(num_iterations=1, num_samples=9, init_std=1e-3)
    start = torch.full((4, 3, 2), 0.5)
    plans = planner.solve({"target": TARGETS}, init_action=start)["actions"]
    expected = torch.cat([start, torch.zeros(4, 2, 2)], 1)
    assert (planner.n_envs, planner.horizon, planner.action_dim) == (4, 5, 2)
    assert torch.allclose(plans, expected, atol=0.02)


def test_our_planner_acts_inside_stable_worldmodel():
    policies = pytest.importorskip("stable_worldmodel.policy")
    config = policies.PlanConfig(horizon=5, receding_horizon=2)
    policy = policies.WorldModelPolicy(StableWorldModelSolver(Targets()), config)
    one = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    box = gymnasium.spaces.Box(-1.0, 1.0, (4, 2))
    policy.set_env(SimpleNamespace(num_envs=4, action_space=box, single_action_space=one))
    first = policy.get_action({"target": TARGETS.numpy()})
    dead = np.array([False, True, False, False])
    rest = [policy.get_action({"target": TARGETS.numpy(), "terminated": dead}) for _ in range(3)]  # replans once
    assert first.shape == (4, 2) and np.abs(first).max() <= 1 and np.isfinite(first).all()
    for actions in rest:
        np.testing.assert_array_equal(np.isnan(actions).any(1), dead)
    assert np.sign(first[2]).tolist() == [-1, -1] and first[0, 0] > 0.1
