"""What a planner saw and what then happened: recorded as a callback, saved, reloaded, replayed.

trace = PlanTrace()
plan = planner.plan(cost, generator=g, callback=trace.on_iteration)
trace.planned(step, plan, predicted)    # predicted energies (B, H) of the plan's states
trace.realised(step + 1, energy)        # the energy (B,) that the environment really gave
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from latent_mpc.planner.hierarchy import HierarchyPlan
from latent_mpc.planner.search import Iteration
from latent_mpc.types import InvalidInputError, Plan

FORMAT = "latent-mpc plan trace 2"


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

    def planned(self, step: int, plan: Plan | HierarchyPlan, predicted: Tensor | None = None) -> None:
        """Close the iterations recorded since the last plan, with the plan made at control step `step`.

        Args:
            predicted: energies (B, H) of the plan's states.
        Raises:
            InvalidInputError: predicted energies of another shape.
        """
        record = {
            "step": torch.tensor(step),
            "actions": plan.actions.cpu().clone(),
            "cost": plan.cost.cpu().clone(),
            "margin": plan.margin.cpu().clone(),
            "iterations": torch.tensor([self._open, len(self.iterations)]),
        }
        self._open = len(self.iterations)
        if predicted is not None:
            record["predicted"] = predicted.detach().cpu().clone()
        _check_plan(record)
        self.plans.append(record)

    def realised(self, step: int, energy: Tensor) -> None:
        """Record the energy (B,) that was measured at control step `step`.

        Raises:
            InvalidInputError: it is no tensor of one dimension.
        """
        if not isinstance(energy, Tensor) or energy.ndim != 1:
            raise InvalidInputError(f"energy must be a tensor of shape (B,), got {energy!r}")
        self.energies[int(step)] = energy.detach().cpu().clone()

    def replay(self) -> Replay:
        """Pair every predicted energy with the one realised at that step, where there is one.

        A pair that looks further ahead than the next plan was made compares with actions of that next plan: it shows
        how plans changed, not how wrong the model was. Those up to the next `step` are the model's own.

        Raises:
            InvalidInputError: no plan has predicted energies for a step that was measured, or the batches differ.
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
        shapes = {tuple(energy.shape) for energy in (*predicted, *realised)}
        if len(shapes) > 1:
            raise InvalidInputError(
                f"predicted and realised energies must be of one batch, got shapes {sorted(shapes)}"
            )
        return Replay(torch.tensor(step), torch.tensor(ahead), torch.stack(predicted), torch.stack(realised))

    def save(self, path: str | Path) -> None:
        """Write the trace as safetensors, with a checksum.

        Raises:
            InvalidInputError: the file cannot be written.
        """
        tensors = {f"energy/{step}": value.contiguous() for step, value in self.energies.items()}
        for kind, records in (("iteration", self.iterations), ("plan", self.plans)):
            for i, record in enumerate(records):
                tensors |= {f"{kind}/{i}/{key}": value.contiguous() for key, value in record.items()}
        try:
            save_file(tensors, path, metadata={"format": FORMAT, "sha256": _checksum(tensors)})
        except (SafetensorError, OSError) as error:
            raise InvalidInputError(f"cannot write a plan trace to {path}: {error}") from error

    @classmethod
    def load(cls, path: str | Path) -> PlanTrace:
        """Read a trace.

        Raises:
            InvalidInputError: the file is not one, is truncated, or was changed.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except Exception as error:  # safetensors, json, unicode and system errors alike
            raise InvalidInputError(f"{path} is not a plan trace: {error}") from error
        if metadata.get("format") != FORMAT:
            raise InvalidInputError(f"{path} is not a plan trace: its format is {metadata.get('format')!r}")
        if metadata.get("sha256") != _checksum(tensors):
            raise InvalidInputError(f"{path} was damaged: its contents do not have its checksum")
        trace = cls()
        try:
            for name, value in sorted(tensors.items(), key=_place):
                kind, number, *rest = name.split("/")
                if kind == "energy":
                    trace.realised(int(number), value)
                    continue
                records = {"iteration": trace.iterations, "plan": trace.plans}[kind]
                if int(number) == len(records):
                    records.append({})
                records[int(number)][rest[0]] = value
            for record in trace.plans:
                _check_plan(record)
        except (KeyError, ValueError, IndexError) as error:
            raise InvalidInputError(f"{path} is not a plan trace: {error}") from error
        trace._open = len(trace.iterations)
        return trace


def _place(item: tuple[str, Tensor]) -> tuple[str, int]:
    """Where a tensor comes: by kind, then by number."""
    kind, number = item[0].split("/")[:2]
    return kind, int(number)


def _check_plan(record: dict[str, Tensor]) -> None:
    """Raise InvalidInputError unless a plan's record is complete and its shapes agree."""
    missing = {"step", "actions", "cost", "margin", "iterations"} - record.keys()
    if missing:
        raise InvalidInputError(f"a plan lacks {sorted(missing)}")
    shape = tuple(record["actions"].shape[:2])
    if "predicted" in record and tuple(record["predicted"].shape) != shape:
        raise InvalidInputError(f"predicted must have shape (B, H) = {shape}, got {tuple(record['predicted'].shape)}")


def _checksum(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and contents."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()
