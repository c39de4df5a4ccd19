"""CEM, then a few gradient steps from its best candidates: the basin by sampling, the bottom by descent."""

from __future__ import annotations

from dataclasses import dataclass

from latent_mpc.planner.cem import CEM
from latent_mpc.planner.checks import check_budget, check_positive
from latent_mpc.planner.gradient import descend
from latent_mpc.planner.search import Search
from latent_mpc.types import InvalidInputError


@dataclass(frozen=True)
class Polish:
    """Configuration and method in one.

    Attributes:
        num_samples, num_iterations, elite_fraction, momentum: of the CEM.
        polish_starts: how many of its last elites are polished; polish_steps: Adam steps.
        learning_rate: first step size, in half boxes.
    """

    num_samples: int = 150
    num_iterations: int = 10
    elite_fraction: float = 0.1
    momentum: float = 0.1
    polish_starts: int = 5
    polish_steps: int = 100
    learning_rate: float = 0.05

    def __post_init__(self) -> None:
        check_budget(self.num_samples, self.num_iterations)
        check_positive(learning_rate=self.learning_rate, polish_steps=self.polish_steps)
        if not 1 <= self.polish_starts <= self.cem.elites:
            raise InvalidInputError(
                f"polish_starts must lie in 1..{self.cem.elites} (the elites), got {self.polish_starts}"
            )

    @property
    def cem(self) -> CEM:
        """The first phase."""
        return CEM(
            self.num_samples,
            self.num_iterations,
            elite_fraction=self.elite_fraction,
            momentum=self.momentum,
            mean_candidate=False,
        )

    def run(self, search: Search) -> None:
        """Search until the iterations or the time are used up."""
        self.cem.run(search)
        knots = search.space.encode(search.elite_actions()[:, : self.polish_starts])
        descend(search, knots, self.polish_steps, self.learning_rate)
