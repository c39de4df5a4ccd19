"""Open-loop planning problems on which planners are compared, and their scale: the cost of doing nothing.

Every problem has a start, a goal and a cost over action sequences in [-1, 1]; a seed draws start and goal. What is
compared is a ratio to doing nothing, so that seeds count alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any, Protocol

import torch
from torch import Tensor

from latent_mpc.agent import Agent
from latent_mpc.bench_record import Moment, read_moments
from latent_mpc.planner import RolloutCost
from latent_mpc.shipped import weights_folder
from latent_mpc.world_model.model import WorldModel, load_world_model

ACTION_DIM = 7  # of the synthetic problems


class Problem(Protocol):
    """What the methods plan for."""

    @property
    def horizon(self) -> int: ...

    @property
    def action_dim(self) -> int: ...

    @property
    def idle_cost(self) -> float:
        """J of doing nothing."""
        ...

    def cost(self, actions: Tensor) -> Tensor:
        """actions (B, S, H, A) in [-1, 1] -> J (B, S), differentiable."""
        ...

    def ratio(self, cost: float) -> float:
        """A cost on a positive scale on which doing nothing is 1; it grows with the cost."""
        ...


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class DoubleIntegrator:
    """Seven joints, p' = p + dt v', v' = v + dt a, dt = 0.2:  J = ‖p_H - g‖² + 0.1 ‖v_H‖² + 0.002 Σ‖a‖².

    Convex. Goals lie up to 88 % of the way that full throttle reaches from rest, so optimal plans are near bang-bang.
    """

    seed: int
    horizon: int = 25
    action_dim = ACTION_DIM
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

    def ratio(self, cost: float) -> float:
        return cost / self.idle_cost


@dataclass(frozen=True)
class LatentMLP:
    """A random network as latent dynamics, z' = z + W₂ gelu(b + W₁ [z, a]) / 4, z ∈ R¹⁹²:  J = ‖z_H - z_goal‖².

    The goal is where a smooth plan inside the box leads, so the optimum is zero. The network is the same for all
    seeds; the seed draws the start and the plan.
    """

    seed: int
    horizon: int = 10
    action_dim = ACTION_DIM
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

    def ratio(self, cost: float) -> float:
        return cost / self.idle_cost


@dataclass(frozen=True)
class PickAndPlace:
    """A moment of a recorded pick and place; the shipped world model, and the agent's own energy to the goal image.

        J = Σ_t E(s_t),   s_{t+1} = f(s_t, a_t),      ratio = exp((J - J_idle) / H)

    E contains the logarithm of the scene distance δ, so that a quotient of it means nothing. The ratio is the quotient
    of the geometric means of e^E over the steps, which is δ but for details and guardrails.
    Seed s takes moment s; past the last one they come again, with other sampling.
    """

    seed: int
    horizon: int = 15

    @cached_property
    def moment(self) -> Moment:
        moments = read_moments()
        return moments[self.seed % len(moments)]

    @property
    def action_dim(self) -> int:
        return shipped_model().config.action_dim

    @cached_property
    def cost(self) -> Callable[[Tensor], Any]:
        """actions (B, S, H, 5) -> J (B, S)."""
        agent = Agent(shipped_model())
        agent.reset(self.moment.goal_image, seed=self.seed)
        state = agent.observe({"image": self.moment.image, "proprio": self.moment.proprio})
        return RolloutCost(agent.model.predictor, state[None], partial(agent.goal_energy, start=state), "sum")

    @cached_property
    def idle_cost(self) -> float:
        """J of doing nothing."""
        with torch.no_grad():
            return float(self.cost(torch.zeros(1, 1, self.horizon, self.action_dim)))

    def ratio(self, cost: float) -> float:
        return math.exp((cost - self.idle_cost) / self.horizon)


@cache
def shipped_model() -> WorldModel:
    """The world model that comes with the package."""
    return load_world_model(weights_folder("panda-tabletop"))[0]


PROBLEMS: dict[str, Callable[[int], Problem]] = {
    "double_integrator": DoubleIntegrator,
    "mlp_latent": LatentMLP,
    "pick_and_place": PickAndPlace,
}
