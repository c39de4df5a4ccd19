"""What `Planner.plan` sees to for every method: deadlines, threads, costs that misbehave, arguments of a wrong kind."""

import importlib.util
import time

import numpy as np
import pytest
import torch

from latent_mpc.planner import METHODS, ActionSpace, Scores, make_planner, search
from latent_mpc.planner.threads import LARGE, torch_threads
from latent_mpc.types import InvalidInputError, PlanningFailed, UnknownNameError

H, A = 6, 3
SMALL = {"num_samples": 40, "num_iterations": 4}
OPTIONS = {
    "cma": {"num_samples": 12, "num_iterations": 8},
    "gradient": {"num_samples": 4, "num_iterations": 10},
    "polish": {"polish_starts": 2, "polish_steps": 4},
}
NAMES = [n for n in sorted(METHODS) if n != "cma" or importlib.util.find_spec("cma")]
DESCENDING = ["gradient", "polish"]


def planner(name, **options):
    return make_planner(name, horizon=H, action_dim=A, **(SMALL | OPTIONS.get(name, {}) | options))


def seeded(*seeds):
    return [torch.Generator().manual_seed(s) for s in seeds]


def cost(actions):
    return (actions - 0.3).square().sum((-1, -2))


@pytest.mark.parametrize("deadline_s", [0.25, 0.45, 0.65, 0.75, 0.85, 1.05])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_overruns_the_deadline_not_even_the_last_mean(name, deadline_s, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(search.time, "perf_counter", lambda: now[0])

    def slow(actions):
        now[0] += 0.1
        return cost(actions)

    plan = planner(name).plan(slow, generator=seeded(0), deadline_s=deadline_s)
    took = now[0]
    assert took <= deadline_s + 1e-9
    now[0] = 0.0
    planner(name).plan(slow, generator=seeded(0))
    assert plan.cut_off == (took < now[0] - 1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_real_time_is_kept(name):
    def slow(actions):
        time.sleep(0.01)
        return cost(actions)

    planner(name).plan(slow, generator=seeded(0))  # what is loaded once is loaded
    started = time.perf_counter()
    plan = planner(name, num_iterations=1000).plan(slow, generator=seeded(0), deadline_s=0.2)
    assert plan.cut_off and 0.05 < time.perf_counter() - started < 0.6


def test_small_work_runs_on_one_thread_and_large_work_on_the_callers(monkeypatch):
    seen = []

    def watched(actions):
        seen.append((actions.numel() >= LARGE, torch.get_num_threads()))
        return cost(actions)

    with torch_threads(2):
        planner("cem").plan(watched, generator=seeded(0))
        planner("cem", num_samples=1 + LARGE // (H * A), num_iterations=1).plan(watched, generator=seeded(0))
        planner("gradient", num_samples=1 + LARGE // (H * A), num_iterations=1).plan(watched, generator=seeded(0))
        assert torch.get_num_threads() == 2
    assert set(seen) == {(False, 1), (True, 2)}


def test_the_bits_depend_neither_on_the_number_of_threads_nor_on_the_batch():
    for name, options in (("icem", {}), ("mppi", {"num_samples": 40_000, "num_iterations": 2})):
        p, found = planner(name, **options), []
        for threads, seeds in ((1, (3,)), (2, (3,)), (2, (5, 3))):
            with torch_threads(threads):
                found.append(p.plan(lambda a: a[:, :, 0, 0] + a[:, :, 1, 1].square(), generator=seeded(*seeds)).actions)
        assert torch.equal(found[0][0], found[1][0])
        assert torch.equal(found[0][0], found[2][1])


@pytest.mark.parametrize("name", NAMES)
def test_ctrl_c_in_a_cost_comes_through_and_restores_threads_and_gradients(name):
    calls = []

    def interrupted(actions):
        calls.append(torch.get_num_threads())
        if len(calls) == 2:
            raise KeyboardInterrupt
        return cost(actions)

    with torch_threads(2), torch.enable_grad():
        with pytest.raises(KeyboardInterrupt):
            planner(name).plan(interrupted, generator=seeded(0))
        assert torch.get_num_threads() == 2 and torch.is_grad_enabled()
    assert calls == [1, 1]


@pytest.mark.parametrize("name", NAMES)
def test_a_cost_that_changes_its_actions_is_found_out(name):
    def meddling(actions):
        value = cost(actions)
        with torch.no_grad():
            actions += 5.0
        return value

    with pytest.raises((InvalidInputError, RuntimeError), match=r"must not change the actions|in-?place"):
        planner(name).plan(meddling, generator=seeded(0))


@pytest.mark.parametrize(
    "answer",
    [
        lambda a: cost(a).int(),
        lambda a: cost(a) > 1,
        lambda a: cost(a) + 1j,
        lambda a: None,
        lambda a: (cost(a), cost(a)),
        lambda a: cost(a).detach().numpy(),
        lambda a: cost(a)[:, :-1],
        lambda a: Scores(cost(a), cost(a)[:, :1]),
        lambda a: Scores(cost(a), cost(a) > 1),
        lambda a: Scores(1.0, cost(a)),
    ],
)
@pytest.mark.parametrize("name", ["cem", "gradient"])
def test_a_cost_that_returns_something_else_is_named(name, answer):
    with pytest.raises(InvalidInputError, match=r"the cost must return shape \(B, S\) = "):
        planner(name).plan(answer, generator=seeded(0))


@pytest.mark.parametrize(
    "arguments",
    [
        {"generator": None},
        {"generator": 5},
        {"generator": [1, 2]},
        {"generator": []},
        {"warm_start": np.zeros((1, H, A))},
        {"warm_start": [[0.0]]},
        {"warm_start": torch.zeros(1, H, A, dtype=torch.complex64)},
        {"proposals": np.zeros((1, 2, H, A))},
        {"deadline_s": float("nan")},
    ],
)
def test_arguments_of_a_wrong_kind_are_refused(arguments):
    with pytest.raises(InvalidInputError):
        planner("cem").plan(cost, **({"generator": seeded(0)} | arguments))


NAN = float("nan")


@pytest.mark.parametrize(
    "name, options",
    [
        *((name, {"min_std": bad}) for name in ("cem", "icem", "mppi", "more") for bad in (NAN, -0.1)),
        *((name, {"num_elites": bad}) for name in ("cem", "icem", "mppi") for bad in (0, -1)),
        *((name, {"num_samples": 2}) for name in ("cem", "icem", "mppi", "more")),
        *((name, {"num_samples": 40.0}) for name in NAMES),
        ("icem", {"decay": NAN}),
        ("icem", {"colour": NAN}),
        ("mppi", {"temperature": NAN}),
        ("gradient", {"num_samples": 1, "num_iterations": 0}),
        ("cem", {"init_std": (0.1, 0.2)}),
        ("cem", {"init_std": NAN}),
        ("cem", {"sign_dims": 2}),
        ("cem", {"low": float("-inf")}),
        ("cem", {"high": (1.0, float("inf"), 1.0)}),
        ("cem", {"high": "wide"}),
        ("cem", {"horizon": 2.5}),
    ],
)
def test_values_that_would_pass_unnoticed_are_refused(name, options):
    with pytest.raises(InvalidInputError):
        make_planner(name, **({"horizon": H, "action_dim": A} | SMALL | OPTIONS.get(name, {}) | options))


def test_bounds_may_be_tensors_and_two_cubic_knots_are_a_line():
    assert ActionSpace(H, A, low=torch.tensor(-2.0), high=torch.ones(A)).box[0].tolist() == [-2.0] * A
    space = ActionSpace(5, 1, basis="cubic", num_knots=2)
    line = space.decode(torch.tensor([-0.4, 0.8]).view(1, 1, 2, 1)).flatten()
    assert torch.allclose(line, torch.linspace(-0.4, 0.8, 5))


@pytest.mark.parametrize("name", DESCENDING)
def test_gradient_methods_say_so_where_there_is_no_gradient(name):
    for flat in (lambda a: torch.ones(a.shape[:2]), lambda a: cost(a.detach())):
        with pytest.raises(InvalidInputError, match="the cost has no gradient"):
            planner(name).plan(flat, generator=seeded(0))
    with torch.inference_mode(), pytest.raises(InvalidInputError, match="inference_mode"):
        planner(name).plan(cost, generator=seeded(0))


def test_polish_keeps_what_sampling_found_where_descent_finds_nothing():
    def only_by_sampling(actions):
        return cost(actions) + (torch.nan if actions.requires_grad else 0.0)

    plan = planner("polish").plan(only_by_sampling, generator=seeded(0))
    alone = planner("cem", mean_candidate=False).plan(cost, generator=seeded(0))
    assert torch.equal(plan.actions, alone.actions)


def test_a_number_of_knots_that_cannot_be_is_refused():
    with pytest.raises((InvalidInputError, UnknownNameError)):
        planner("cem", basis="cubic", num_knots=1)
    with pytest.raises(PlanningFailed, match="only 0 of"):
        planner("gradient").plan(lambda a: cost(a) * torch.nan, generator=seeded(0))
