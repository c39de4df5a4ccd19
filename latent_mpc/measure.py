"""What a world model has learnt, measured on play that it was not trained on, before anything is planned.

Probes are fitted on training episodes and judged on validation episodes. Open loop, a clip's first state is rolled
forward under the actions that were taken, and the probe of the image latent is asked where the objects are:

    e_k = ‖ probe(ẑ_{t+k}) − y_{t+k} ‖       floor: the same with the true z_{t+k};   persistence: ‖ y_t − y_{t+k} ‖

True positions y come from the dataset's `truth`; no model sees them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from latent_mpc.types import InvalidInputError
from latent_mpc.world_model.dataset import PlayDataset
from latent_mpc.world_model.encoder import KeypointEncoder
from latent_mpc.world_model.model import WorldModel
from latent_mpc.world_model.probe import Probe, axis_errors, fit_probe

HORIZON = 20  # control steps
FINE_STEPS = (1, 5, 10, 20)
POSITION_DIMS = 3  # of the proprioception: it begins with the tool's position in metres
CALIBRATION_FRAMES = 256
ENCODE_BATCH = 1024


@dataclass(frozen=True)
class MeasureConfig:
    """How the measuring is done.

    Attributes:
        probe_steps: optimiser steps of a probe; probe_frames: training frames it is fitted on, evenly spaced.
        clip_stride: every how many frames an open-loop clip starts.
        moved_m: a clip counts as moved when the object ends at least this far from where it started.
        num_threads: CPU threads.
    """

    probe_steps: int = 2000
    probe_frames: int = 50_000
    clip_stride: int = 5
    moved_m: float = 0.02
    num_threads: int = 1

    def __post_init__(self) -> None:
        if min(self.probe_steps, self.clip_stride, self.num_threads) < 1 or self.probe_frames < 2 or self.moved_m < 0:
            raise InvalidInputError(
                f"probe_steps, clip_stride and num_threads must be at least 1, probe_frames at least 2, moved_m at "
                f"least 0, got {self}"
            )


def measure(
    model: WorldModel | KeypointEncoder,
    dataset: PlayDataset,
    train_episodes: NDArray[np.int64],
    validation_episodes: NDArray[np.int64],
    config: MeasureConfig | None = None,
    *,
    seed: int,
    device: str = "cpu",
    progress: bool = True,
) -> dict[str, Any]:
    """Measure a world model, or an encoder alone, on validation episodes.

    Args:
        model: moved to `device`.
        dataset: loaded with its truth.
        seed: of the probes and of the random encoder.
        progress: show progress bars on stderr.
    Returns:
        Plain values for JSON or YAML: `data` with counts, and rows of tables. `object_probe`: object errors for each
        axis, read off the image latent, a random encoder's latent and the embedding in which a world model compares
        scenes. For a world model also `arm`: what its proprioception head errs; `open_loop`: object errors of
        predictions; `surprise`: mean squared one-step errors of the standardised state, against those of predicting
        no change.
    Raises:
        InvalidInputError: the model attends, or the dataset has no truth, does not fit the model, or its episodes are
            too short.
    """
    config = config or MeasureConfig()
    _check(model, dataset)
    threads_before = torch.get_num_threads()
    torch.set_num_threads(config.num_threads)
    try:
        measuring = _Measuring(model.to(device), dataset, train_episodes, validation_episodes, config, seed, progress)
        return _rounded(measuring.run())
    finally:
        torch.set_num_threads(threads_before)


class _Measuring:
    """One measurement: its frames, and the probes that are fitted on them."""

    def __init__(
        self,
        model: WorldModel | KeypointEncoder,
        dataset: PlayDataset,
        train_episodes: NDArray[np.int64],
        validation_episodes: NDArray[np.int64],
        config: MeasureConfig,
        seed: int,
        progress: bool,
    ) -> None:
        assert dataset.object_positions is not None and dataset.is_grasped is not None
        self.model, self.dataset, self.config, self.seed, self.progress = model, dataset, config, seed, progress
        encoder = model.encoder if isinstance(model, WorldModel) else model
        assert isinstance(encoder, KeypointEncoder)
        self.encoder = encoder
        self.device = self.encoder.grid.device
        self.generator = torch.Generator().manual_seed(seed)
        frames = dataset.clip_starts(0, train_episodes)
        self.train = frames[:: -(-len(frames) // config.probe_frames)]
        self.held = dataset.clip_starts(0, validation_episodes)
        self.validation_episodes = validation_episodes
        self.positions = torch.from_numpy(dataset.object_positions)  # (F, N, 3)
        self.grasped = torch.from_numpy(dataset.is_grasped[self.held])

    def run(self) -> dict[str, Any]:
        with tqdm(total=2 + isinstance(self.model, WorldModel), unit="probe", disable=not self.progress) as bar:
            z_train, z = self._encode(self.encoder, self.train, bar), self._encode(self.encoder, self.held, bar)
            probe = self._fit(z_train, bar)
            rows = self._probe_rows("image latent", probe, z)
            null = self._random_encoder()
            null_train, null_z = self._encode(null, self.train, bar), self._encode(null, self.held, bar)
            rows += self._probe_rows("random encoder", self._fit(null_train, bar), null_z)
            report: dict[str, Any] = {
                "data": {
                    "probe_frames": len(self.train),
                    "validation_frames": len(self.held),
                    "validation_episodes": len(self.validation_episodes),
                    "seed": self.seed,
                },
                "object_probe": rows,
            }
            if isinstance(self.model, WorldModel):
                states = self._states(self.model, z, self.held)
                with torch.no_grad():
                    embed = self.model.scene_distance.embedding
                    embedded = embed(self._states(self.model, z_train, self.train)), embed(states)
                rows += self._probe_rows("scene embedding", self._fit(embedded[0], bar), embedded[1])
                report["arm"] = self._arm(self.model, z)
                report["open_loop"] = self._open_loop(self.model, probe, states)
                report["surprise"] = self._surprise(self.model, states)
        return report

    def _encode(self, encoder: KeypointEncoder, frames: NDArray[np.int64], bar: tqdm) -> Tensor:
        """Latents of some frames (F,) -> (F, Z)."""
        latents = []
        for i in range(0, len(frames), ENCODE_BATCH):
            bar.set_description(f"encode {i}/{len(frames)}")
            images = torch.from_numpy(self.dataset.image[frames[i : i + ENCODE_BATCH]])
            latents.append(encoder.encode_all(images))
        return torch.cat(latents).to(self.device)

    def _fit(self, features: Tensor, bar: tqdm) -> Probe:
        bar.set_description("fit")
        targets = self.positions[self.train].flatten(1).to(features)
        probe = fit_probe(features, targets, generator=self.generator, steps=self.config.probe_steps)
        bar.update()
        return probe

    def _random_encoder(self) -> KeypointEncoder:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)  # layers draw their initial weights from torch's own generator
            encoder = KeypointEncoder(self.encoder.config)
        some = self.train[:: -(-len(self.train) // CALIBRATION_FRAMES)]
        encoder.calibrate(torch.from_numpy(self.dataset.image[some]))
        return encoder.requires_grad_(False).to(self.device)

    def _proprio(self, frames: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self.dataset.proprio[frames]).to(self.device)

    @torch.no_grad()
    def _states(self, model: WorldModel, z: Tensor, frames: NDArray[np.int64]) -> Tensor:
        return model.state(z, self._proprio(frames))

    def _probe_rows(self, features: str, probe: Probe, held_features: Tensor) -> list[dict[str, Any]]:
        predicted = probe(held_features).cpu().unflatten(1, (-1, 3))  # (F, N, 3)
        target = self.positions[self.held]
        subsets = {"all": torch.ones_like(self.grasped), "grasped": self.grasped, "free": ~self.grasped}
        return [
            {"features": features, "object": n, "frames": name, **asdict(axis_errors(predicted[at, n], target[at, n]))}
            for n in range(target.shape[1])
            for name, at in subsets.items()
            if at.any()
        ]

    @torch.no_grad()
    def _arm(self, model: WorldModel, z: Tensor) -> dict[str, Any]:
        seen = model.proprio_head(z) * model.proprio_std + model.proprio_mean
        return asdict(axis_errors(seen[:, :POSITION_DIMS], self._proprio(self.held)[:, :POSITION_DIMS]))

    def _clips(self, states: Tensor, length: int, stride: int) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
        """States (B, length+1, D) and actions (B, length, A) of validation clips, and the clips' frames."""
        starts = self.dataset.clip_starts(length, self.validation_episodes)[::stride]
        if len(starts) == 0:
            raise InvalidInputError(f"no validation episode has {length} actions; measure on longer episodes")
        frames = starts[:, None] + np.arange(length + 1)  # (B, length+1)
        actions = torch.from_numpy(self.dataset.action[frames[:, :-1]]).to(states)
        return states[np.searchsorted(self.held, frames)], actions, frames

    @torch.no_grad()
    def _open_loop(self, model: WorldModel, probe: Probe, states: Tensor) -> list[dict[str, Any]]:
        clip_states, actions, frames = self._clips(states, HORIZON, self.config.clip_stride)
        truth = self.positions[frames]  # (B, H+1, N, 3)
        moved = (truth[:, -1] - truth[:, 0]).norm(dim=-1) > self.config.moved_m  # (B, N), over the whole horizon

        def seen(state: Tensor) -> Tensor:
            z = model.split(state)[0] * model.latent_std + model.latent_mean
            return probe(z).cpu().unflatten(1, (-1, 3))  # (B, N, 3)

        rows = []
        for level, steps, predicted in _predictions(model, clip_states, actions):
            error, floor, still = (
                100 * (position - truth[:, steps]).norm(dim=-1)  # (B, N)
                for position in (seen(predicted), seen(clip_states[:, steps]), truth[:, 0])
            )
            for n in range(truth.shape[2]):
                for name, at in {"all": torch.ones_like(moved[:, n]), "moved": moved[:, n]}.items():
                    if at.any():
                        rows.append(
                            {
                                "level": level,
                                "object": n,
                                "steps": steps,
                                "clips": name,
                                "count": int(at.sum()),
                                "mean_cm": error[at, n].mean().item(),
                                "median_cm": error[at, n].quantile(0.5).item(),
                                "floor_cm": floor[at, n].mean().item(),
                                "persistence_cm": still[at, n].mean().item(),
                            }
                        )
        return rows

    @torch.no_grad()
    def _surprise(self, model: WorldModel, states: Tensor) -> list[dict[str, Any]]:
        pair, action, _ = self._clips(states, 1, 1)
        wrong = (model.predictor.step(pair[:, 0], action[:, 0]) - pair[:, 1]).square()
        still = (pair[:, 0] - pair[:, 1]).square()
        rows = []
        for part, error, change in zip(("image latent", "arm"), model.split(wrong), model.split(still), strict=True):
            error = error.mean(-1)  # (B,)
            p95 = error.quantile(0.95).item()
            rows.append({"part": part, "mean": error.mean().item(), "p95": p95, "persistence": change.mean().item()})
        return rows


def _predictions(model: WorldModel, states: Tensor, actions: Tensor) -> Iterator[tuple[str, int, Tensor]]:
    """Level, control steps ahead and predicted state (B, D), from states (B, H+1, D) and actions (B, H, A)."""
    state = states[:, 0]
    for k in range(HORIZON):
        state = model.predictor.step(state, actions[:, k])
        if k + 1 in FINE_STEPS:
            yield "fine", k + 1, state
    chunk, state = model.config.chunk_length, states[:, 0]
    for at in range(0, HORIZON - chunk + 1, chunk):
        state = model.macro.predict(state, actions[:, at : at + chunk])
        yield "coarse", at + chunk, state


def _check(model: WorldModel | KeypointEncoder, dataset: PlayDataset) -> None:
    if dataset.object_positions is None or dataset.is_grasped is None:
        raise InvalidInputError("load the dataset with_truth=True: measuring needs the objects' true positions")
    if isinstance(model, WorldModel):
        if model.attends:
            raise InvalidInputError(
                "a model that attends sees one thing at a time; measure the model whose encoder taught its own"
            )
        given = dataset.header.proprio_dim, dataset.header.action_dim
        wanted = model.config.proprio_dim, model.config.action_dim
        if given != wanted:
            raise InvalidInputError(
                f"the data has proprioception of {given[0]} and actions of {given[1]} entries, the model was trained "
                f"on {wanted[0]} and {wanted[1]}; measure it on data of its own robot"
            )


def _rounded(value: Any, digits: int = 5) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item, digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item, digits) for item in value]
    return round(value, digits) if isinstance(value, float) else value
