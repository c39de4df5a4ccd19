"""One training loop for every head: AdamW, warmup and cosine, checkpoints that resume to the same weights."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latent_mpc.types import InvalidInputError, LatentMPCError
from latent_mpc.world_model.checkpoint import (
    Checkpoint,
    current_commit,
    load_checkpoint,
    load_module,
    module_tensors,
    save_checkpoint,
)

SAVE_EVERY_S = 60.0
REPORT_EVERY = 20  # steps
Losses = Callable[[torch.Generator], Mapping[str, Tensor]]  # terms that are summed


@dataclass(frozen=True)
class FitConfig:
    """How long and how fast.

    Attributes:
        steps: optimiser steps.
        batch_size: samples (or clips) a step.
        learning_rate: AdamW's peak, reached after `warmup_steps`, then a cosine to zero.
        weight_decay: AdamW's.
    """

    steps: int = 4000
    batch_size: int = 512
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size) < 1 or self.learning_rate <= 0:
            raise InvalidInputError(f"steps, batch_size and learning_rate must be positive, got {self}")
        if self.warmup_steps < 0 or self.weight_decay < 0:
            raise InvalidInputError(f"warmup_steps and weight_decay must be at least 0, got {self}")


def fit(
    model: nn.Module,
    losses: Losses,
    config: FitConfig,
    *,
    seed: int,
    folder: Path,
    settings: Mapping[str, Any],
    progress: Callable[[int, Mapping[str, float]], None] | None = None,
) -> None:
    """Minimise the sum of `losses` over the trainable parameters of `model`, in place.

    The state is saved in `folder` every minute, at the end and on Ctrl-C, and the losses go to `losses.jsonl`
    there; a run that finds its own state goes on from it, and one that finds it finished only loads it.

    Args:
        losses: draws a batch from the generator it is given (on the CPU) and returns the terms to sum.
        settings: what the state must have been made with to be resumed.
        progress: called with the step and the terms every 20 steps.
    Raises:
        InvalidInputError: `folder` holds the state of other settings.
        LatentMPCError: a loss is not finite any more; the last good state stays in `folder`.
    """
    optimizer = torch.optim.AdamW(
        (p for p in model.parameters() if p.requires_grad), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    generator = torch.Generator().manual_seed(seed)
    step = _restore(folder, model, optimizer, generator, settings)
    if step == config.steps:
        return
    saved_at, drawn = time.monotonic(), generator.get_state()
    try:
        while step < config.steps:
            rate = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
            for group in optimizer.param_groups:
                group["lr"] = rate * 0.5 * (1.0 + math.cos(math.pi * step / config.steps))
            terms = losses(generator)
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(terms.values())).sum().backward()
            optimizer.step()
            step += 1
            drawn = generator.get_state()
            if step % REPORT_EVERY == 0 or step == config.steps:
                _report(folder, step, terms, progress)
            if time.monotonic() - saved_at > SAVE_EVERY_S:
                _save(folder, model, optimizer, generator, step, settings)
                saved_at = time.monotonic()
    except KeyboardInterrupt:
        generator.set_state(drawn)  # a step that was cut off is drawn again
        _save(folder, model, optimizer, generator, step, settings)
        raise
    _save(folder, model, optimizer, generator, step, settings)


def _report(
    folder: Path,
    step: int,
    terms: Mapping[str, Tensor],
    progress: Callable[[int, Mapping[str, float]], None] | None,
) -> None:
    values = {name: term.item() for name, term in terms.items()}
    if not all(map(math.isfinite, values.values())):
        raise LatentMPCError(f"the loss is not finite at step {step}: {values}; lower the learning rate")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "losses.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, **values}) + "\n")
    if progress is not None:
        progress(step, values)


def _save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    step: int,
    settings: Mapping[str, Any],
) -> None:
    if not all(p.isfinite().all() for p in model.parameters()):
        raise LatentMPCError(
            f"the weights are not finite at step {step}, so they are not saved; lower the learning rate"
        )
    tensors = module_tensors(model, "model")
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    tensors |= {"trainer.generator": generator.get_state(), "trainer.step": torch.tensor(step)}
    save_checkpoint(folder, Checkpoint(tensors, dict(settings), commit=current_commit()))


def _restore(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    settings: Mapping[str, Any],
) -> int:
    """Load the state in `folder`, if there is one; return the step it stands at."""
    if not any(folder.glob("model.*")):
        return 0
    checkpoint = load_checkpoint(folder)
    if checkpoint.config != json.loads(json.dumps(settings)):
        raise InvalidInputError(
            f"{folder} was trained with other settings: {checkpoint.config}, not {dict(settings)}; "
            "go on with those, or choose another folder"
        )
    load_module(model, checkpoint.tensors, "model")
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in checkpoint.tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            moments.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    generator.set_state(checkpoint.tensors["trainer.generator"])
    return int(checkpoint.tensors["trainer.step"])
