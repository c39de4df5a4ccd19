"""One search: draws noise, scores candidates, keeps the best of them and the time. Every method runs on it.

What holds for all methods is held here, once: actions stay in the box, NaN and inf lose, infeasible candidates
rank behind feasible ones, each problem of a batch has its own generator, the deadline is kept to an iteration.
Shapes: B problems, S samples, K knots, H horizon, A action width, E elites.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from latent_mpc.planner.parametrisation import ActionSpace
from latent_mpc.planner.threads import LARGE, torch_threads
from latent_mpc.types import CostFunction, InvalidInputError, Plan, PlanningFailed, Scores


@dataclass(frozen=True)
class Iteration:
    """What a callback sees after each iteration; `mean` and `std` are in action units, (B, H, A)."""

    index: int
    mean: Tensor
    std: Tensor
    costs: Tensor  # (B, S), NaN replaced by inf
    elite_costs: Tensor  # (B, E), best first
    feasible: Tensor  # (B, S) bool
    best_cost: Tensor  # (B,), of the incumbent
    evaluations: int
    elapsed_s: float


Callback = Callable[[Iteration], None]


class Search:
    """The moving parts of one call of `Planner.plan`.

    Attributes:
        mean, std: where to start, (B, K, A), in half boxes.
        last: the last scored candidates' cost and margin, (B, S).
        threads: of the caller, for a cost with a lot of work.
    """

    def __init__(
        self,
        space: ActionSpace,
        cost: CostFunction,
        generators: Sequence[torch.Generator],
        *,
        std: Tensor,
        warm_start: Tensor | None = None,
        proposals: Tensor | None = None,
        deadline_s: float | None = None,
        callback: Callback | None = None,
        device: torch.device,
        threads: int = 1,
    ) -> None:
        self.space, self.cost, self.generators, self.device = space, cost, generators, device
        self.callback, self.threads = callback, threads
        self.started_s = time.perf_counter()
        self.deadline_s = deadline_s
        batch = len(generators)
        shape = (batch, space.knots, space.action_dim)
        self.std = std.to(device).expand(shape).contiguous()
        self._has_warm_start = warm_start is not None
        self.mean = torch.zeros(shape, device=device) if warm_start is None else space.encode(warm_start)
        self._given = proposals if warm_start is None else _cat(warm_start[:, None], proposals)
        self._winners: list[tuple[Tensor, Scores]] = []  # of each call of evaluate, (B, 1, H, A) and (B, 1)
        # the last scored candidates, (B, S, H, A), and their scores
        self.actions = torch.zeros(batch, 1, space.horizon, space.action_dim, device=device)
        self.last = Scores(torch.full((batch, 1), torch.inf, device=device), None)
        self._ranking = self.last.cost
        self._elites: tuple[Tensor, Tensor] | None = None
        self.iterations = self.evaluations = 0
        self.cut_off = False
        self._longest_s = 0.0  # iteration
        self._offsets = torch.arange(batch, device=device)[:, None]

    @property
    def batch(self) -> int:
        return len(self.generators)

    def steps(self, count: int) -> Iterator[int]:
        """Yield iteration numbers until `count`, or until the next iteration would probably miss the deadline."""
        for i in range(count):
            if self.iterations and self.is_late():
                return
            before = time.perf_counter()
            yield i
            self.iterations += 1
            self._longest_s = max(self._longest_s, time.perf_counter() - before)

    def is_late(self) -> bool:
        """Whether one more iteration would probably miss the deadline; if so, the search counts as cut off."""
        if self.deadline_s is not None:
            self.cut_off |= time.perf_counter() - self.started_s + self._longest_s > self.deadline_s
        return self.cut_off

    def noise(self, *shape: int) -> Tensor:
        """Standard normal noise (B, *shape), each problem from its own generator."""
        draws = [torch.randn((1, *shape), generator=g, device=g.device) for g in self.generators]
        return (draws[0] if len(draws) == 1 else torch.cat(draws)).to(self.device)

    def sample(self, mean: Tensor, std: Tensor, count: int, *, include_mean: bool = True) -> Tensor:
        """Knots (B, count, K, A) from N(mean, std²), mirrored; the first one is the mean, unless told otherwise."""
        noise = self.noise(drawn(count - include_mean), *mean.shape[1:])
        return self.mirrored(mean, noise.mul_(std.unsqueeze(1)), count, include_mean=include_mean)

    def mirrored(self, mean: Tensor, offset: Tensor, count: int, *, include_mean: bool = True) -> Tensor:
        """Knots (B, count, K, A): the mean, then mean + offset, then mean - offset, clipped to their range.

        Half of the noise is drawn, and its mirror image tries everything the other way round.
        Source: Brockhoff et al., Mirrored sampling and sequential selection for evolution strategies (2010).

        Args:
            mean: (B, K, A). offset: (B, drawn(count - include_mean), K, A).
        """
        mean, limit = mean.unsqueeze(1), self.space.limit
        mirror = mean - offset[:, : (count - include_mean) // 2]
        return torch.cat([*([mean] if include_mean else []), mean + offset, mirror], 1).clamp_(-limit, limit)

    def score(self, knots: Tensor) -> Tensor:
        """Score candidates and remember the best one.

        The first call puts the warm start, in the place of the mean, which it is, and the proposals among `knots`;
        their actions are scored as they were given, not as the knots repeat them.

        Args:
            knots: (B, S, K, A).
        Returns:
            A score (B, S) that orders the candidates, feasible ones first; +inf is worst.
        Raises:
            InvalidInputError: fewer candidates than given sequences, or the cost returned something else.
        """
        given, self._given = self._given, None
        if given is None:
            self.evaluate(self.space.decode(knots))
            return self._ranking
        count, total = given.shape[1], knots.shape[1]
        if count > total:
            raise InvalidInputError(f"{count} given sequences leave no room among {total} samples; give fewer")
        first = 0 if self._has_warm_start else total - count
        knots[:, first : first + count] = self.space.encode(given)
        actions = self.space.decode(knots)
        actions[:, first : first + count] = given
        self.evaluate(actions)
        return self._ranking

    def score_given(self) -> Tensor | None:
        """Score the warm start and the proposals by themselves, for a method that cannot take them as they stand.

        Returns:
            Their knots (B, N, K, A), best first; None without any.
        """
        given, self._given = self._given, None
        if given is None:
            return None
        self.evaluate(given)
        return self.space.encode(self.take(given, self._ranking.argsort(dim=1, stable=True)))

    def score_mean(self, mean: Tensor) -> None:
        """Score the final mean (B, K, A), unless that would probably miss the deadline."""
        if not self.is_late():
            self.score(mean.unsqueeze(1))

    def evaluate(self, actions: Tensor) -> Scores:
        """Cost and margin (B, S) of actions (B, S, H, A) that lie in the box; remembers the best one.

        They keep their gradients; a NaN or infinite cost is +inf, and so is a NaN margin.
        """
        with self.cost_threads(actions):
            found = self.cost(actions)
        cost, margin = found if isinstance(found, Scores) else (found, None)
        _check(cost, actions, "cost")
        cost = torch.nan_to_num(cost, nan=torch.inf, posinf=torch.inf, neginf=torch.inf)
        if margin is not None:
            _check(margin, actions, "margin")
            margin = torch.where(margin.isnan(), torch.inf, margin)
        self.evaluations += actions.shape[1]
        self.actions = actions.detach()
        self.last = Scores(cost.detach(), None if margin is None else margin.detach())
        self._ranking = self.last.ranking()
        best = self._ranking.argmin(1, keepdim=True)
        self._winners.append((self.take(self.actions, best), self.last.take(best)))
        return Scores(cost, margin)

    def cost_threads(self, actions: Tensor) -> AbstractContextManager[None]:
        """The threads for the cost of actions (B, S, H, A): one, or the caller's where there is much to do."""
        return torch_threads(self.threads) if actions.numel() >= LARGE else nullcontext()

    @property
    def feasible(self) -> Tensor | None:
        """Which of the last scored candidates are feasible, (B, S); None without constraints."""
        return None if self.last.margin is None else (self.last.margin <= 0) & self.last.cost.isfinite()

    def _best(self) -> tuple[Tensor, Scores]:
        """The best candidate of all calls: actions (B, 1, H, A), its scores (B, 1)."""
        actions, found = zip(*self._winners, strict=True)
        scores = Scores.cat(found)
        index = scores.ranking().argmin(1, keepdim=True)
        return self.take(torch.cat(actions, 1), index), scores.take(index)

    def elites(self, score: Tensor, count: int) -> Tensor:
        """Indices (B, count) of the best candidates, best first.

        Raises:
            PlanningFailed: fewer than `count` candidates have a finite score.
        """
        values, index = score.topk(count, dim=1, largest=False)
        if values.max().item() == torch.inf:  # scores are finite or inf
            finite = score.isfinite().sum(1)
            raise PlanningFailed(
                f"only {int(finite.min())} of {score.shape[1]} candidates have a finite cost, and {count} are needed"
            )
        return index

    def elite_actions(self) -> Tensor:
        """The last elites' actions (B, E, H, A), best first."""
        assert self._elites is not None
        return self.take(*self._elites)

    def take(self, candidates: Tensor, index: Tensor) -> Tensor:
        """candidates (B, S, ...), index (B, E) -> (B, E, ...)."""
        if self.batch == 1:
            return candidates.index_select(1, index[0])
        return candidates[self._offsets, index]

    def report(self, mean: Tensor, std: Tensor, index: Tensor) -> None:
        """Close an iteration: remember its elites' `index` (B, E), tell the callback; `mean`, `std` (B, K, A)."""
        self._elites = (self.actions, index)
        if self.callback is None:
            return
        w = self.space.matrix.to(self.device)
        feasible = self.last.cost.isfinite() if self.feasible is None else self.feasible
        self.callback(
            Iteration(
                index=self.iterations,
                mean=self.space.decode(mean[:, None])[:, 0],
                std=torch.einsum("hk,bka->bha", w**2, std**2).sqrt() * self.space.half.to(self.device),
                costs=self.last.cost,
                elite_costs=self.last.cost.gather(1, index),
                feasible=feasible,
                best_cost=self._best()[1].cost[:, 0],
                evaluations=self.evaluations,
                elapsed_s=time.perf_counter() - self.started_s,
            )
        )

    def result(self) -> Plan:
        """The best plan found.

        Raises:
            PlanningFailed: no candidate of some problem had a finite cost.
            InvalidInputError: the cost changed the actions that it was given.
        """
        actions, scores = self._best()
        cost = scores.cost[:, 0]
        lost = int((~cost.isfinite()).sum())
        if lost:
            raise PlanningFailed(
                f"only 0 of {self.evaluations} candidates have a finite cost in {lost} of {self.batch} problem(s)"
            )
        if not self.space.holds(actions):
            raise InvalidInputError("the plan has left the box: the cost must not change the actions that it is given")
        margin = torch.full_like(cost, -torch.inf) if scores.margin is None else scores.margin[:, 0]
        return Plan(
            actions=actions[:, 0],
            cost=cost,
            feasible=margin <= 0,
            margin=margin,
            iterations=self.iterations,
            evaluations=self.evaluations,
            cut_off=self.cut_off,
            elites=None if self._elites is None else self.elite_actions(),
        )


def drawn(count: int) -> int:
    """How many of `count` mirrored candidates are drawn; the others are their mirror images."""
    return (count + 1) // 2


def fit_gaussian(elites: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (B, K, A) of elites (B, E, K, A); twice as fast as `torch.std_mean`."""
    count = elites.shape[1]
    mean = elites.sum(1).mul_(1 / count)
    variance = (elites - mean.unsqueeze(1)).square_().sum(1).mul_(1 / count)
    return mean, variance.sqrt_()


def _check(value: object, actions: Tensor, name: str) -> None:
    """Raise InvalidInputError unless a cost returned floats (B, S) for actions (B, S, H, A)."""
    if isinstance(value, Tensor) and value.shape == actions.shape[:2] and value.is_floating_point():
        return
    got = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise InvalidInputError(
        f"the cost must return shape (B, S) = {tuple(actions.shape[:2])} for actions {tuple(actions.shape)}, a float "
        f"tensor or Scores of them; its {name} is {got}"
    )


def _cat(first: Tensor, second: Tensor | None) -> Tensor:
    return first if second is None else torch.cat([first, second], 1)
