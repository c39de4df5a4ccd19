"""CMA-ES through the `cma` package (an optional extra): `pip install latent-mpc[cma]`.

    x ~ N(m, s² C),  with m, the step size s and the full covariance C adapted from ranks

Source: Hansen, The CMA Evolution Strategy: A Tutorial (arXiv 1604.00772).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from latent_mpc.planner.checks import check_budget
from latent_mpc.planner.search import Search
from latent_mpc.types import InvalidInputError


@dataclass(frozen=True)
class CMA:
    """Configuration and method in one; few samples and many iterations suit it."""

    num_samples: int = 30
    num_iterations: int = 100

    def __post_init__(self) -> None:
        check_budget(self.num_samples, self.num_iterations)

    def run(self, search: Search) -> None:
        """Search until the iterations or the time are used up.

        Raises:
            InvalidInputError: the `cma` package is missing.
        """
        try:
            import cma
        except ImportError as error:
            raise InvalidInputError("planner 'cma' needs the cma package: pip install latent-mpc[cma]") from error
        shape = search.mean.shape[1:]
        strategies = []
        for b, generator in enumerate(search.generators):
            seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
            draw = np.random.default_rng(seed)
            options = {
                "popsize": self.num_samples,
                "CMA_stds": search.std[b].flatten().tolist(),
                "randn": lambda *size, draw=draw: draw.standard_normal(size),
                "seed": np.nan,  # leave numpy's global generator alone
                "verbose": -9,
            }
            strategies.append(cma.CMAEvolutionStrategy(search.mean[b].flatten().tolist(), 1.0, options))
        given = search.score_given()
        for i in search.steps(self.num_iterations):
            asked = np.stack([np.stack(s.ask()) for s in strategies])  # (B, S, K·A)
            knots = torch.as_tensor(asked, dtype=torch.float32, device=search.device).view(*asked.shape[:2], *shape)
            if i == 0 and given is not None:
                given = given[:, : self.num_samples]
                knots[:, : given.shape[1]] = given
            score = search.score(knots)
            index = search.elites(score, 2)
            worst = torch.where(score.isfinite(), score, -torch.inf).amax(1, keepdim=True)
            told = torch.where(score.isfinite(), score, worst).double().cpu().numpy()
            scored = knots.flatten(2).double().cpu().numpy()
            for b, strategy in enumerate(strategies):
                strategy.tell(list(scored[b]), told[b].tolist())
            mean = torch.stack([torch.as_tensor(s.mean, dtype=torch.float32) for s in strategies])
            search.report(mean.view(-1, *shape).to(search.device), search.std, index)
