"""The benchmark's statistics against hand-made runs, its problems, and that a second call resumes."""

import json

import numpy as np
import pytest
import torch

from latent_mpc.bench import PlannerBenchConfig, bootstrap_mean, run_planner_bench, summarise
from latent_mpc.bench_problems import DoubleIntegrator, LatentMLP
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
    with pytest.raises(InvalidInputError, match=r"null for all; available: .*(more|double_integrator)"):
        PlannerBenchConfig(**{name: ()})


def test_an_unknown_reference_too_few_seeds_and_other_devices_are_refused(tmp_path):
    with pytest.raises(UnknownNameError, match=r"unknown reference method 'best'; available: .*more"):
        PlannerBenchConfig(reference="best")
    with pytest.raises(InvalidInputError, match="seeds >= 2"):
        PlannerBenchConfig(seeds=1)
    with pytest.raises(InvalidInputError, match="'cpu' only, got 'cuda:0'"):
        run_planner_bench(bench(), out=tmp_path / "new", device="cuda:0")
    assert not (tmp_path / "new").exists()
