"""`latent-mpc info`: what a model is made of, how it was trained, and what it has learnt, as Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from latent_mpc.measure import MeasureConfig, measure
from latent_mpc.shipped import weights_folder
from latent_mpc.training import load_encoder, load_split
from latent_mpc.types import InvalidInputError
from latent_mpc.world_model.checkpoint import TENSORS_NAME, Checkpoint, load_checkpoint
from latent_mpc.world_model.dataset import write_whole
from latent_mpc.world_model.encoder import KeypointEncoder
from latent_mpc.world_model.model import WorldModel, load_world_model

AXES = ("x", "y", "z")


@dataclass(frozen=True)
class InfoConfig:
    """Settings of `latent-mpc info`.

    Attributes:
        measure: how the model is measured on data.
        max_episodes: the first episodes of the data that the model was trained on, of which some were held out.
            None: as many as its card says, or all when it says nothing.
    """

    measure: MeasureConfig = field(default_factory=MeasureConfig)
    max_episodes: int | None = None

    def __post_init__(self) -> None:
        if self.max_episodes is not None and self.max_episodes < 2:
            raise InvalidInputError(f"max_episodes must be at least 2, got {self.max_episodes}")


def describe(config: InfoConfig, *, weights: str, data: Path | None, out: Path | None, seed: int, device: str) -> str:
    """Describe a world model, or an encoder that `pretrain` wrote, and measure it when there is data.

    Args:
        weights: shipped name or folder.
        data: play to measure on, the model's own: the episodes that training held out are held out here. None: the
            measures that the model's card holds.
        out: JSON file for the same facts.
    Returns:
        Markdown.
    Raises:
        UnknownNameError: no such weights. InvalidInputError: weights or data are damaged, or do not fit.
    """
    folder = weights_folder(weights)
    checkpoint = load_checkpoint(folder)
    is_encoder = "encoder" in checkpoint.config and "model" not in checkpoint.config
    model = load_encoder(folder) if is_encoder else load_world_model(folder)[0]
    training = {k: v for k, v in checkpoint.config.items() if k not in ("encoder", "model")}
    training = training.get("training", training)
    metrics = checkpoint.metrics
    if data is not None:
        episodes = config.max_episodes or training.get("episodes", [None])[0]  # the first folder is the play
        dataset, train, held_out = load_split(data, episodes, with_truth=True)
        metrics = measure(model, dataset, train, held_out, config.measure, seed=seed, device=device)
    facts = {
        "weights": str(weights),
        "commit": checkpoint.commit,
        "parameters": _parameters(model),
        "size_mb": round((folder / TENSORS_NAME).stat().st_size / 1e6, 2),
        "training": training,
        "metrics": metrics,
    }
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, json.dumps(facts, indent=1).encode())
    return _markdown(facts, checkpoint)


def _parameters(model: WorldModel | KeypointEncoder) -> dict[str, int]:
    """Number of parameters of each part."""
    parts: dict[str, nn.Module] = {"encoder": model}
    if isinstance(model, WorldModel):
        parts = dict(model.named_children())
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}


def _markdown(facts: dict[str, Any], checkpoint: Checkpoint) -> str:
    parameters, metrics = facts["parameters"], dict(facts["metrics"])
    sizes: dict[str, Any] = {
        name: checkpoint.config[name] for name in ("encoder", "attention", "model") if name in checkpoint.config
    }
    sections = [
        f"# {facts['weights']}",
        "## Size",
        table(
            ["part", "parameters"],
            [[name, f"{count:,}"] for name, count in [*parameters.items(), ("together", sum(parameters.values()))]],
        ),
        f"{TENSORS_NAME}: {facts['size_mb']} MB",
        _yaml(sizes),
        "## Training",
        _yaml({"commit": facts["commit"], **facts["training"]}),
    ]
    sections += render_metrics(metrics)
    if not metrics:
        sections.append("Nothing was measured yet: give --data with the play that the model was trained on.")
    return "\n\n".join(sections)


def render_metrics(metrics: dict[str, Any]) -> list[str]:
    """Markdown sections of what `measure` returned; of what else a card holds, YAML."""
    rest = dict(metrics)
    data, probe, arm, open_loop, surprise = (
        rest.pop(name, None) for name in ("data", "object_probe", "arm", "open_loop", "surprise")
    )
    sections = []
    if probe:
        axes = [f"{name} {axis}" for name in ("RMSE", "median") for axis in AXES]
        held = f"on {data['validation_episodes']} held-out episodes, " if data else ""
        sections += [
            f"## Where the objects are: error of a probe {held}cm",
            table(
                ["features", "object", "frames", "n", *axes],
                [[r["features"], r["object"], r["frames"], r["count"], *r["rmse_cm"], *r["median_cm"]] for r in probe],
            ),
        ]
    if arm:
        sections += [
            "## Where the tool is: error of the proprioception head, cm",
            table(["", *AXES], [["RMSE", *arm["rmse_cm"]], ["median", *arm["median_cm"]]]),
        ]
    if open_loop:
        columns = ["level", "object", "steps", "clips", "count", "mean_cm", "median_cm", "floor_cm", "persistence_cm"]
        names = ["level", "object", "steps", "clips", "n", "mean", "median", "probe alone", "persistence"]
        sections += [
            "## Open loop: object error of predictions, cm",
            table(names, [[row[column] for column in columns] for row in open_loop]),
        ]
    if surprise:
        sections += [
            "## Surprise: mean squared one-step error of the standardised state",
            table(
                ["part", "mean", "95 %", "persistence"],
                [[r["part"], *(f"{r[name]:.4f}" for name in ("mean", "p95", "persistence"))] for r in surprise],
            ),
        ]
    return sections + (["## Further measures", _yaml(rest)] if rest else [])


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table that is also legible as it stands; floats with two digits."""
    cells = [[f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row] for row in [columns, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def _yaml(values: dict[str, Any]) -> str:
    return f"```yaml\n{yaml.safe_dump(values, sort_keys=False, default_flow_style=None).strip()}\n```"
