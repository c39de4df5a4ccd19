"""`make_planner(name, ...)` and the `Planner` that every method shares.

    a* ≈ argmin_a J(a)  subject to  low <= a <= high  and, where the cost gives margins,  g(a) <= 0

A method is an object with `run(search)`; it proposes knots and never sees the box, the clock or the cost itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from latent_mpc.planner.cem import CEM
from latent_mpc.planner.checks import check_deadline
from latent_mpc.planner.cma import CMA
from latent_mpc.planner.gradient import Gradient
from latent_mpc.planner.icem import ICEM
from latent_mpc.planner.more import MORE
from latent_mpc.planner.mppi import MPPI
from latent_mpc.planner.parametrisation import ActionSpace, knot_std
from latent_mpc.planner.polish import Polish
from latent_mpc.planner.random_shooting import PredictiveSampling, RandomShooting
from latent_mpc.planner.search import Callback, Search
from latent_mpc.planner.threads import torch_threads
from latent_mpc.types import CostFunction, InvalidInputError, Plan, UnknownNameError


class Method(Protocol):
    """An optimiser over knots."""

    def run(self, search: Search) -> None:
        """Score candidates on `search` until its iterations or its time are used up."""
        ...


@dataclass(frozen=True)
class Planner:
    """A method on an action space; holds no state between calls.

    Attributes:
        space: box, basis and discrete dimensions.
        method: the optimiser.
        init_std: initial standard deviation in action units, one number or one a dimension; None: a quarter box.
        device: where candidates are made and scored.
    """

    space: ActionSpace
    method: Method
    init_std: float | tuple[float, ...] | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        knot_std(self.space, self.init_std)

    @property
    def horizon(self) -> int:
        return self.space.horizon

    @property
    def action_dim(self) -> int:
        return self.space.action_dim

    def plan(
        self,
        cost: CostFunction,
        *,
        generator: torch.Generator | Sequence[torch.Generator],
        warm_start: Tensor | None = None,
        proposals: Tensor | None = None,
        deadline_s: float | None = None,
        callback: Callback | None = None,
    ) -> Plan:
        """Minimise `cost` over action sequences.

        Runs on one torch thread, and so does the cost unless B·S·H·A >= `threads.LARGE`: it gets the caller's then.

        Args:
            cost: actions (B, S, H, A), which it must not change, -> (B, S), or `Scores` when there are hard
                constraints.
            generator: one for a single problem (B = 1), or B of them; a problem's plan depends on its own only.
            warm_start: (B, H, A), where the search starts; a candidate as it stands.
            proposals: (B, N, H, A), candidates from outside, part of the first iteration's samples.
            deadline_s: seconds from now; the search stops before the iteration that would overrun it, and has
                always finished one.
            callback: called with an `Iteration` after each one.
        Returns:
            The best candidate scored, with its own cost.
        Raises:
            PlanningFailed: fewer candidates than elites had a finite cost.
            InvalidInputError: an argument of the wrong type or shape or one that is not finite, or a cost that returns
                something else or changes its actions.
        """
        generators = [generator] if isinstance(generator, torch.Generator) else generator
        if not isinstance(generators, Sequence) or not generators or not _all_generators(generators):
            raise InvalidInputError(
                f"generator must be a torch.Generator or a non-empty sequence of them, got {generator!r}"
            )
        check_deadline(deadline_s)
        batch, device = len(generators), torch.device(self.device)
        for name, value, ndim in (("warm_start", warm_start, 3), ("proposals", proposals, 4)):
            if value is None:
                continue
            if not isinstance(value, Tensor):
                raise InvalidInputError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
            if value.ndim != ndim or value.shape[0] != batch:
                raise InvalidInputError(
                    f"{name} must have {ndim} dimensions and lead with B={batch}, one a generator; "
                    f"got shape {tuple(value.shape)}"
                )
        threads = torch.get_num_threads()
        with torch.no_grad(), torch_threads(1):
            search = Search(
                self.space,
                cost,
                generators,
                std=knot_std(self.space, self.init_std),
                warm_start=None if warm_start is None else self.space.check(warm_start.to(device), "warm_start"),
                proposals=None if proposals is None else self.space.check(proposals.to(device), "proposals"),
                deadline_s=deadline_s,
                callback=callback,
                device=device,
                threads=threads,
            )
            self.method.run(search)
            return search.result()


def _all_generators(values: Sequence[object]) -> bool:
    return all(isinstance(value, torch.Generator) for value in values)


METHODS: dict[str, type] = {
    "cem": CEM,
    "cma": CMA,
    "gradient": Gradient,
    "icem": ICEM,
    "more": MORE,
    "mppi": MPPI,
    "polish": Polish,
    "predictive_sampling": PredictiveSampling,
    "random_shooting": RandomShooting,
}

DEFAULT = "more"  # the best of those that need no gradients, at a few thousand evaluations of a smooth cost

# Methods that model the cost over all dimensions at once, and how many they can: beyond, they search a spline.
MODELLED_DIMENSIONS = {"more": 40}
MIN_KNOTS = 4
MOST_DIMENSIONS = {"more": 300}  # beyond, a few thousand candidates say too little about a quadratic


def make_planner(
    name: str = DEFAULT,
    *,
    horizon: int,
    action_dim: int,
    num_samples: int = 300,
    num_iterations: int = 10,
    **config: Any,
) -> Planner:
    """Build a planner by name.

    Args:
        name: a key of `METHODS`; without one `DEFAULT`.
        horizon: H; action_dim: A.
        num_samples: candidates an iteration; num_iterations: iterations.
        **config: fields of `ActionSpace` (low, high, basis, num_knots, sign_dims), of `Planner` (init_std, device)
            and of the method; each goes where it is declared, and an unknown one is an error. Unless a basis
            is given, "more" searches cubic knots where H·A exceeds 40.
    Raises:
        UnknownNameError: no such method. InvalidInputError: no such option, or an impossible value.
    """
    if name not in METHODS:
        raise UnknownNameError("planner", name, list(METHODS))
    method = METHODS[name]
    own = {f.name for f in dataclasses.fields(method)} - {"num_samples", "num_iterations"}
    space = {f.name for f in dataclasses.fields(ActionSpace)} - {"horizon", "action_dim"}
    shared = {"init_std", "device"}
    limit = MODELLED_DIMENSIONS.get(name, horizon * action_dim)
    if "basis" not in config and horizon * action_dim > limit and horizon > MIN_KNOTS:
        config = {"basis": "cubic", "num_knots": max(MIN_KNOTS, limit // action_dim)} | config
    unknown = set(config) - own - space - shared
    if unknown:
        raise InvalidInputError(
            f"planner {name!r} has no option {sorted(unknown)}; available: {sorted(own | space | shared)}"
        )
    actions = ActionSpace(horizon, action_dim, **{k: v for k, v in config.items() if k in space})
    dimensions, most = actions.knots * action_dim, MOST_DIMENSIONS.get(name)
    if most is not None and dimensions > most:
        raise InvalidInputError(
            f"planner {name!r} models at most {most} dimensions, got {actions.knots} knots x {action_dim}; "
            "take fewer knots, or 'cem'"
        )
    return Planner(
        space=actions,
        method=method(
            num_samples=num_samples,
            num_iterations=num_iterations,
            **{k: v for k, v in config.items() if k in own},
        ),
        **{k: v for k, v in config.items() if k in shared},
    )
