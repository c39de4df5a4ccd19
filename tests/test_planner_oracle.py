"""Planners against exact answers: a linear-quadratic problem solved by least squares, a maze, a blind planner."""

import pytest
import torch

from latent_mpc.planner import RecedingHorizon, make_planner, rollout, shift
from latent_mpc.planner.icem import coloured

H, A, D = 10, 2, 4
BUDGET = {
    "gradient": {"num_samples": 10, "num_iterations": 100},
    "polish": {"num_samples": 150, "num_iterations": 10, "polish_starts": 5, "polish_steps": 100},
}


class Linear:
    """s' = F s + G a; J = ‖s_H - goal‖² + 0.05 Σ‖a‖², whose minimiser is a least-squares solution."""

    def __init__(self, seed):
        g = torch.Generator().manual_seed(seed)
        draw = torch.randn(D, D, generator=g, dtype=torch.float64)
        self.F = (torch.linalg.qr(draw).Q * 0.95).float()
        self.G = 0.3 * torch.randn(D, A, generator=g)
        self.start = torch.randn(1, D, generator=g)
        reachable = 0.5 * (2 * torch.rand(1, 1, H, A, generator=g) - 1)
        self.goal = rollout(self, self.start, reachable)[:, 0, -1]

    def step(self, state, action):
        return state @ self.F.T + action @ self.G.T

    def cost(self, actions):
        end = rollout(self, self.start.expand(actions.shape[0], -1), actions)[:, :, -1]
        return (end - self.goal).square().sum(-1) + 0.05 * actions.square().sum((-1, -2))

    def optimum(self):
        """The exact minimum of J over all action sequences (H, A), in float64."""
        F, G = self.F.double(), self.G.double()
        blocks = [torch.linalg.matrix_power(F, H - 1 - t) @ G for t in range(H)]
        gap = self.goal[0].double() - torch.linalg.matrix_power(F, H) @ self.start[0].double()
        left = torch.cat([torch.cat(blocks, 1), 0.05**0.5 * torch.eye(H * A, dtype=torch.float64)])
        right = torch.cat([gap, torch.zeros(H * A, dtype=torch.float64)])
        best = torch.linalg.lstsq(left, right[:, None]).solution
        return best.view(H, A), float((left @ best - right[:, None]).square().sum())


def regret(problem, plan):
    best, least = problem.optimum()
    assert best.abs().max() < 1  # so that the box does not bind and the least-squares solution is the optimum
    idle = float(problem.cost(torch.zeros(1, 1, H, A)))
    return (float(problem.cost(plan.actions[:, None])) - least) / (idle - least)


@pytest.mark.parametrize("name", ["cem", "icem", "more", "gradient", "polish"])
def test_normalised_regret_at_3000_evaluations(name):
    planner = make_planner(name, horizon=H, action_dim=A, **BUDGET.get(name, {}))
    values = []
    for seed in range(6):
        problem = Linear(seed)
        plan = planner.plan(problem.cost, generator=torch.Generator().manual_seed(seed))
        assert plan.evaluations <= 3000
        values.append(regret(problem, plan))
    assert min(values) >= -1e-3  # nothing beats the exact optimum
    assert sum(values) / 6 <= 0.02


@pytest.mark.parametrize("name", ["cem", "icem", "more", "mppi", "gradient", "polish"])
def test_a_planner_that_ignores_its_cost_fails_the_same_test(name):
    planner = make_planner(name, horizon=H, action_dim=A, **BUDGET.get(name, {}))
    blind = torch.Generator().manual_seed(7)

    def noise(actions):  # with a gradient that is noise too
        slope = torch.randn(actions.shape[1:], generator=blind)
        return torch.rand(actions.shape[:2], generator=blind) + (slope * (actions - actions.detach())).sum((-1, -2))

    values = []
    for seed in range(3):
        plan = planner.plan(noise, generator=torch.Generator().manual_seed(seed))
        values.append(regret(Linear(seed), plan))
    assert sum(values) / 3 > 0.8


class Maze:
    """A point that a wall at x = 0.5 stops below y = 0.4; s' = s + 0.12 a. The goal lies behind the wall."""

    goal = torch.tensor([1.0, 0.0])

    def step(self, state, action):
        after = state + 0.12 * action
        crosses = (state[..., 0] < 0.5) != (after[..., 0] < 0.5)
        stopped = crosses & (torch.minimum(state[..., 1], after[..., 1]) < 0.4)
        return torch.where(stopped[..., None], state, after)


def drive_maze(horizon, **options):
    maze, mpc = Maze(), RecedingHorizon(execute_steps=1 if horizon == 1 else 8)
    planner = make_planner("cem", horizon=horizon, action_dim=2, **options)
    state = torch.zeros(1, 2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(32):

        def cost(actions, now=state):
            return (rollout(maze, now, actions) - maze.goal).square().sum(-1).sum(-1)

        def replan(previous, executed, deadline_s, cost=cost):
            start = None if previous is None else shift(previous.actions, executed)
            return planner.plan(cost, generator=generator, warm_start=start)

        state = maze.step(state, mpc.act(replan))
    return float((state - maze.goal).norm())


def test_a_maze_that_greedy_fails():
    assert drive_maze(1, num_samples=100, num_iterations=4) > 0.4
    assert drive_maze(24, basis="cubic", num_knots=6, num_samples=200, init_std=1.0) < 0.1


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_coloured_noise_has_unit_variance_and_the_power_law(exponent):
    n = 64
    white = torch.randn(n, 4000, generator=torch.Generator().manual_seed(0))
    noise = coloured(n, exponent) @ white
    assert torch.allclose(noise.std(1), torch.ones(n), atol=0.06)
    window = torch.hann_window(n, periodic=False)[:, None]
    power = torch.fft.rfft(noise * window, dim=0).abs().square().mean(1)
    f = torch.arange(3, 25).float()
    slope = torch.linalg.lstsq(torch.stack([f.log(), torch.ones_like(f)], 1), power[3:25].log()[:, None]).solution[0, 0]
    assert abs(float(slope) + exponent) < 0.15
