"""What a planner saw and what then happened: recorded as a callback, saved, reloaded, replayed.

trace = PlanTrace()
plan = planner.plan(cost, generator=g, callback=trace.on_iteration)
trace.planned(step, plan, predicted)    # predicted energies (B, H) of the plan's states
trace.realised(step + 1, energy)        # the energy (B,) that the environment really gave
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from latent_mpc.planner.search import Iteration
from latent_mpc.types import InvalidInputError, Plan


class Replay(NamedTuple):
    """Predicted against realised energy, one row for each pair: all (N,), energies (N, B)."""

    step: Tensor  # when the plan was made
    ahead: Tensor  # how many steps it looked ahead, from 1
    predicted: Tensor
    realised: Tensor


class PlanTrace:
    """A recorder; grows by a few kilobytes a plan."""

    def __init__(self) -> None:
        self.iterations: list[dict[str, Tensor]] = []  # of all plans, in order
        self.plans: list[dict[str, Tensor]] = []
        self.energies: dict[int, Tensor] = {}
        self._open = 0

    def on_iteration(self, iteration: Iteration) -> None:
        """Record an iteration; give this method to `Planner.plan` as its callback."""
        self.iterations.append(
            {
                "mean": iteration.mean.cpu().clone(),
                "std": iteration.std.cpu().clone(),
                "elite_costs": iteration.elite_costs.cpu().clone(),
                "best_cost": iteration.best_cost.cpu().clone(),
                "feasible_share": iteration.feasible.float().mean(1).cpu(),
            }
        )

    def planned(self, step: int, plan: Plan, predicted: Tensor | None = None) -> None:
        """Close the iterations recorded since the last plan, with the plan made at control step `step`."""
        record = {
            "step": torch.tensor(step),
            "actions": plan.actions.cpu().clone(),
            "cost": plan.cost.cpu().clone(),
            "margin": plan.margin.cpu().clone(),
            "iterations": torch.tensor([self._open, len(self.iterations)]),
        }
        self._open = len(self.iterations)
        if predicted is not None:
            if predicted.shape != plan.actions.shape[:2]:
                raise InvalidInputError(
                    f"predicted must have shape (B, H) = {tuple(plan.actions.shape[:2])}, got {tuple(predicted.shape)}"
                )
            record["predicted"] = predicted.detach().cpu().clone()
        self.plans.append(record)

    def realised(self, step: int, energy: Tensor) -> None:
        """Record the energy (B,) that was measured at control step `step`."""
        self.energies[step] = energy.detach().cpu().clone()

    def replay(self) -> Replay:
        """Pair every predicted energy with the one realised at that step, where there is one.

        Raises:
            InvalidInputError: no plan has predicted energies for a step that was measured.
        """
        rows = [
            (int(plan["step"]), ahead, plan["predicted"][:, ahead - 1], self.energies[int(plan["step"]) + ahead])
            for plan in self.plans
            if "predicted" in plan
            for ahead in range(1, plan["predicted"].shape[1] + 1)
            if int(plan["step"]) + ahead in self.energies
        ]
        if not rows:
            raise InvalidInputError("nothing to replay: record predicted energies and call `realised` for later steps")
        step, ahead, predicted, realised = zip(*rows, strict=True)
        return Replay(torch.tensor(step), torch.tensor(ahead), torch.stack(predicted), torch.stack(realised))

    def save(self, path: str | Path) -> None:
        """Write the trace as safetensors."""
        tensors = {f"energy/{step}": value for step, value in self.energies.items()}
        for kind, records in (("iteration", self.iterations), ("plan", self.plans)):
            for i, record in enumerate(records):
                tensors |= {f"{kind}/{i}/{key}": value.contiguous() for key, value in record.items()}
        save_file(tensors, path, metadata={"format": "latent-mpc plan trace 1"})

    @classmethod
    def load(cls, path: str | Path) -> PlanTrace:
        """Read a trace.

        Raises:
            InvalidInputError: the file is not one, or is truncated.
        """
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise InvalidInputError(f"{path} is not a plan trace: {error}") from error
        trace = cls()
        try:
            for name, value in tensors.items():
                kind, number, *rest = name.split("/")
                if kind == "energy":
                    trace.energies[int(number)] = value
                    continue
                records = {"iteration": trace.iterations, "plan": trace.plans}[kind]
                records.extend({} for _ in range(int(number) + 1 - len(records)))
                records[int(number)][rest[0]] = value
        except (KeyError, ValueError, IndexError) as error:
            raise InvalidInputError(f"{path} is not a plan trace: unexpected tensor {name!r}") from error
        trace._open = len(trace.iterations)
        return trace
