"""One search: draws noise, scores candidates, keeps the best of them and the time. Every method runs on it.

What holds for all methods is held here, once: actions stay in the box, NaN and inf lose, infeasible candidates
rank behind feasible ones, each problem of a batch has its own generator, the deadline is kept to an iteration.
Shapes: B problems, S samples, K knots, H horizon, A action width, E elites.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latent_mpc.planner.parametrisation import ActionSpace
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
    ) -> None:
        self.space, self.cost, self.generators, self.device = space, cost, generators, device
        self.callback = callback
        self.started_s = time.perf_counter()
        self.deadline_s = deadline_s
        batch = len(generators)
        shape = (batch, space.knots, space.action_dim)
        self.std = std.to(device).expand(shape).contiguous()
        self._has_warm_start = warm_start is not None
        self.mean = torch.zeros(shape, device=device) if warm_start is None else space.encode(warm_start)
        self._given = proposals if warm_start is None else _cat(warm_start[:, None], proposals)
        self._winners: list[tuple[Tensor, Tensor, Tensor | None]] = []  # of each call of score
        # the last scored candidates, (B, S, H, A), and their scores
        self.actions = torch.zeros(batch, 1, space.horizon, space.action_dim, device=device)
        self.last = Scores(torch.full((batch, 1), torch.inf, device=device), None)
        self._elites: tuple[Tensor, Tensor] | None = None
        self.iterations = self.evaluations = 0
        self.cut_off = False
        self._offsets = torch.arange(batch, device=device)[:, None]

    @property
    def batch(self) -> int:
        return len(self.generators)

    def steps(self, count: int) -> Iterator[int]:
        """Yield iteration numbers until `count`, or until the next iteration would probably miss the deadline."""
        longest = 0.0
        before = time.perf_counter()
        for i in range(count):
            yield i
            self.iterations += 1
            if self.deadline_s is None:
                continue
            now = time.perf_counter()
            longest, before = max(longest, now - before), now
            if i + 1 < count and now - self.started_s + longest > self.deadline_s:
                self.cut_off = True
                return

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

        Args:
            knots: (B, S, K, A). Without gradients the first call overwrites some of them, see `mix`.
        Returns:
            A score (B, S) that orders the candidates, feasible ones first; +inf is worst.
        """
        if torch.is_grad_enabled():
            return self.score_actions(self.space.decode(knots))
        given = self._given
        actions = self.space.decode(self.mix(knots))
        if given is not None:
            actions[:, self._slots(knots, given)] = given  # exactly, not as the knots repeat them
        return self.score_actions(actions)

    def mix(self, knots: Tensor) -> Tensor:
        """Put the warm start and the proposals from outside among `knots` (B, S, K, A), the first time only.

        The warm start takes the place of the mean, which it is; proposals alone take the last places.
        """
        given, self._given = self._given, None
        if given is not None:
            if given.shape[1] > knots.shape[1]:
                raise InvalidInputError(
                    f"{given.shape[1]} given sequences leave no room among {knots.shape[1]} samples; give fewer"
                )
            knots[:, self._slots(knots, given)] = self.space.encode(given)
        return knots

    def _slots(self, knots: Tensor, given: Tensor) -> slice:
        first = 0 if self._has_warm_start else knots.shape[1] - given.shape[1]
        return slice(first, first + given.shape[1])

    def score_actions(self, actions: Tensor) -> Tensor:
        """Score actions (B, S, H, A) that lie in the box; otherwise as `score`."""
        shape = tuple(actions.shape[:2])
        found = self.cost(actions)
        cost, margin = found if isinstance(found, Scores) else (found, None)
        if tuple(cost.shape) != shape:
            raise InvalidInputError(
                f"the cost must return shape (B, S) = {shape} for actions {tuple(actions.shape)}, "
                f"got {tuple(cost.shape)}"
            )
        cost = torch.nan_to_num(cost, nan=torch.inf, posinf=torch.inf, neginf=torch.inf)
        margin = None if margin is None else torch.where(margin.isnan(), torch.inf, margin)
        score = Scores(cost, margin).ranking()
        self.evaluations += shape[1]
        self.actions = actions.detach()
        self.last = Scores(cost.detach(), None if margin is None else margin.detach())
        self._keep(score.detach().argmin(1, keepdim=True))
        return score

    @property
    def feasible(self) -> Tensor | None:
        """Which of the last scored candidates are feasible, (B, S); None without constraints."""
        return None if self.last.margin is None else (self.last.margin <= 0) & self.last.cost.isfinite()

    def _keep(self, index: Tensor) -> None:
        """Remember the last scored candidate `index` (B, 1), the best of its call."""
        margin = self.last.margin
        self._winners.append(
            (
                self.take(self.actions, index),
                self.last.cost.gather(1, index),
                None if margin is None else margin.gather(1, index),
            )
        )

    def _best(self) -> tuple[Tensor, Scores]:
        """The best candidate of all calls: actions (B, 1, H, A), its scores (B, 1)."""
        actions, cost, margin = zip(*self._winners, strict=True)
        scores = Scores.cat([Scores(c, m) for c, m in zip(cost, margin, strict=True)])
        index = scores.ranking().argmin(1, keepdim=True)
        chosen = Scores(*(None if t is None else t.gather(1, index) for t in scores))  # type: ignore[arg-type]
        return self.take(torch.cat(actions, 1), index), chosen

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
        self._elites = (self.actions, index)
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
        """Tell the callback of the iteration that just ended; `mean`, `std` (B, K, A), elites' `index` (B, E)."""
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
        """
        actions, scores = self._best()
        cost = scores.cost[:, 0]
        lost = int((~cost.isfinite()).sum())
        if lost:
            raise PlanningFailed(f"0 of {self.evaluations} candidates have a finite cost in {lost} problem(s)")
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


def _cat(first: Tensor, second: Tensor | None) -> Tensor:
    return first if second is None else torch.cat([first, second], 1)
