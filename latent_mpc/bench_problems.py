"""Open-loop planning problems on which planners are compared, and their scale: the cost of doing nothing.

Every problem has a start, a goal and a cost over action sequences in [-1, 1]; a seed draws start and goal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

ACTION_DIM = 7


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class DoubleIntegrator:
    """Seven joints, p' = p + dt v', v' = v + dt a, dt = 0.2:  J = ‖p_H - g‖² + 0.1 ‖v_H‖² + 0.002 Σ‖a‖².

    Convex. Goals lie up to 88 % of the way that full throttle reaches from rest, so optimal plans are near bang-bang.
    """

    seed: int
    horizon: int = 25
    name = "double integrator"
    dt = 0.2

    @cached_property
    def _start_and_goal(self) -> tuple[Tensor, Tensor]:
        g = _generator(self.seed)
        velocity = 0.3 * torch.randn(1, ACTION_DIM, generator=g)
        reach = 0.22 * (self.horizon * self.dt) ** 2
        return velocity[0], ((torch.rand(1, ACTION_DIM, generator=g) * 2 - 1) * reach)[0]

    def cost(self, actions: Tensor) -> Tensor:
        """actions (B, S, H, 7) -> J (B, S)."""
        start, goal = self._start_and_goal
        velocity = start.expand(*actions.shape[:2], -1)
        position = torch.zeros_like(velocity)
        for t in range(self.horizon):
            velocity = velocity + self.dt * actions[:, :, t]
            position = position + self.dt * velocity
        end = (position - goal).square().sum(-1) + 0.1 * velocity.square().sum(-1)
        return end + 0.002 * actions.square().sum((-1, -2))

    @cached_property
    def idle_cost(self) -> float:
        """J of doing nothing."""
        return float(self.cost(torch.zeros(1, 1, self.horizon, ACTION_DIM)))


@dataclass(frozen=True)
class LatentMLP:
    """A random network as latent dynamics, z' = z + W₂ gelu(b + W₁ [z, a]) / 4, z ∈ R¹⁹²:  J = ‖z_H - z_goal‖².

    The goal is where a smooth plan inside the box leads, so the optimum is zero. The network is the same for all
    seeds; the seed draws the start and the plan.
    """

    seed: int
    horizon: int = 10
    name = "MLP latent"
    width = 192
    hidden = 512

    @cached_property
    def _weights(self) -> tuple[Tensor, Tensor, Tensor]:
        g = _generator(1000)
        first = torch.randn(self.width + ACTION_DIM, self.hidden, generator=g)
        first = first / math.sqrt(self.width + ACTION_DIM)
        bias = 0.1 * torch.randn(self.hidden, generator=g)
        second = torch.randn(self.hidden, self.width, generator=g) / math.sqrt(self.hidden)
        first[self.width :] *= 4.0  # actions matter as much as the latent
        return first, bias, second

    def step(self, state: Tensor, action: Tensor) -> Tensor:
        """state (N, 192), action (N, 7) -> next state (N, 192)."""
        first, bias, second = self._weights
        hidden = torch.nn.functional.gelu(torch.addmm(bias, torch.cat([state, action], -1), first))
        return torch.addmm(state, hidden, second, alpha=0.25)

    def _roll(self, start: Tensor, actions: Tensor) -> Tensor:
        for t in range(self.horizon):
            start = self.step(start, actions[:, t])
        return start

    @cached_property
    def _start_and_goal(self) -> tuple[Tensor, Tensor]:
        g = _generator(self.seed)
        start = torch.randn(1, self.width, generator=g)
        coefficients = torch.randn(ACTION_DIM, 4, generator=g)
        t = torch.linspace(0, 1, self.horizon)
        waves = [torch.ones_like(t), 2 * t - 1, torch.sin(2 * math.pi * t), torch.cos(2 * math.pi * t)]
        plan = 0.9 * torch.tanh(0.7 * torch.stack(waves, -1) @ coefficients.T)
        with torch.no_grad():
            return start, self._roll(start, plan[None])

    def cost(self, actions: Tensor) -> Tensor:
        """actions (B, S, H, 7) -> J (B, S)."""
        start, goal = self._start_and_goal
        flat = actions.flatten(0, 1)
        end = self._roll(start.expand(len(flat), -1), flat)
        return (end - goal).square().sum(-1).view(actions.shape[:2])

    @cached_property
    def idle_cost(self) -> float:
        """J of doing nothing."""
        with torch.no_grad():
            return float(self.cost(torch.zeros(1, 1, self.horizon, ACTION_DIM)))


PROBLEMS = {"double_integrator": DoubleIntegrator, "mlp_latent": LatentMLP}
