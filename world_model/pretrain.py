"""Self-supervised pretraining of the image encoder on play video.

For clips of T frames, s control steps apart, with latents z_t = enc(image_t):

    min  ‖ẑ_{1:T-1} - z_{1:T-1}‖² + λ_sig SIGReg(z) + λ_inv ‖â(z_0, z_{T-1}) - a‖²
    s.t. ẑ_{t+1} = ẑ_t + f(ẑ_t, a_t),  ẑ_0 = z_0

f and â are heads of the training only; the encoder alone is kept, and frozen.
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
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
from latent_mpc.world_model.encoder import EncoderConfig, KeypointEncoder
from latent_mpc.world_model.losses import inverse_dynamics_loss, latent_prediction_loss, sigreg

LOG_EVERY = 20  # steps
SAVE_EVERY_S = 60.0


class PlayClips(Protocol):
    """Play video: frame i and action i belong together, action i leads from frame i to frame i + 1.

    Attributes:
        image: uint8 (F, H, W, 3), episodes one after the other.
        action: float32 (F, A), in [-1, 1].
    """

    @property
    def image(self) -> NDArray[np.uint8]: ...

    @property
    def action(self) -> NDArray[np.float32]: ...

    def clip_starts(self, length: int) -> NDArray[np.int64]:
        """Indices i for which frames i … i + length - 1 lie in one episode."""
        ...


@dataclass(frozen=True)
class PretrainConfig:
    """How the encoder is trained.

    Attributes:
        minutes: time budget; the learning rate follows the clock. Exactly one of `minutes` and `steps`.
        steps: number of optimiser steps instead; the same seed then gives the same weights.
        batch_size: clips a step.
        clip_frames: frames T of a clip.
        max_stride: control steps between two frames of a clip are drawn from 1 … max_stride for each batch.
        learning_rate: AdamW's peak rate, reached after `warmup_steps`, then a cosine to zero.
        weight_decay: AdamW's.
        prediction_weight: weight of the latent prediction loss.
        sigreg_weight: weight λ_sig.
        inverse_weight: weight λ_inv.
        num_projections: directions of SIGReg drawn at each step.
        head_width: hidden width of the two heads.
        num_threads: CPU threads.
    """

    minutes: float | None = 20.0
    steps: int | None = None
    batch_size: int = 128
    clip_frames: int = 4
    max_stride: int = 3
    learning_rate: float = 1e-3
    warmup_steps: int = 30
    weight_decay: float = 1e-4
    prediction_weight: float = 1.0
    sigreg_weight: float = 0.05
    inverse_weight: float = 1.0
    num_projections: int = 64
    head_width: int = 384
    num_threads: int = 1

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise InvalidInputError(f"give either minutes or steps, got {self.minutes} and {self.steps}")
        if (self.minutes if self.minutes is not None else self.steps or 0) <= 0:
            raise InvalidInputError(f"the budget must be positive, got {self.minutes} min, {self.steps} steps")
        if self.clip_frames < 2:
            raise InvalidInputError(f"clip_frames must be at least 2, got {self.clip_frames}")
        if min(self.batch_size, self.max_stride, self.num_projections, self.head_width, self.num_threads) < 1:
            raise InvalidInputError(f"every count must be at least 1, got {self}")
        if min(self.prediction_weight, self.sigreg_weight, self.inverse_weight, self.weight_decay) < 0:
            raise InvalidInputError(f"no weight may be negative, got {self}")
        if self.learning_rate <= 0 or self.warmup_steps < 0:
            raise InvalidInputError(f"learning_rate must be positive and warmup_steps at least 0, got {self}")


@dataclass(frozen=True)
class PretrainStatus:
    """Where the training stands: `fraction` of the budget used, and the last losses."""

    step: int
    elapsed_s: float
    fraction: float
    losses: dict[str, float]


class PretrainingModel(nn.Module):
    """The encoder with the two heads that train it."""

    def __init__(self, encoder: KeypointEncoder, action_dim: int, config: PretrainConfig) -> None:
        super().__init__()
        latent, width = encoder.config.latent_dim, config.head_width
        self.config = config
        self.encoder = encoder
        self.forward_head = _mlp(latent + config.max_stride * action_dim + 1, width, latent)
        self.inverse_head = _mlp(2 * latent + 1, width, (config.clip_frames - 1) * config.max_stride * action_dim)

    def losses(self, images: Tensor, actions: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The three losses of a batch of clips.

        Args:
            images: uint8 (B, T, H, W, 3).
            actions: the actions between the frames, (B, T-1, s, A), for any stride s up to the largest.
            generator: CPU generator of SIGReg's directions.
        """
        batch, time, stride = *images.shape[:2], actions.shape[2]
        z = self.encoder(images.flatten(0, 1)).unflatten(0, (batch, time))  # (B, T, D)
        pace = z.new_full((batch, 1), stride / self.config.max_stride)
        padding = (0, 0, 0, self.config.max_stride - stride)
        moves = nn.functional.pad(actions, padding).flatten(2)  # (B, T-1, max_stride * A)
        state, rollout = z[:, 0], []
        for t in range(time - 1):
            state = state + self.forward_head(torch.cat([state, moves[:, t], pace], dim=-1))
            rollout.append(state)
        between = actions.flatten(1)  # (B, (T-1) * s * A), in the order of time
        inferred = self.inverse_head(torch.cat([z[:, 0], z[:, -1], pace], dim=-1))[:, : between.shape[1]]
        return {
            "prediction": latent_prediction_loss(torch.stack(rollout, dim=1), z[:, 1:]),
            "sigreg": sigreg(z.flatten(0, 1), self.config.num_projections, generator),
            "inverse": inverse_dynamics_loss(inferred, between),
        }


def pretrain(
    clips: PlayClips,
    encoder_config: EncoderConfig,
    config: PretrainConfig,
    *,
    seed: int,
    device: str | torch.device = "cpu",
    checkpoint_path: Path | str | None = None,
    progress: Callable[[PretrainStatus], None] | None = None,
) -> KeypointEncoder:
    """Train an encoder on play video and return it frozen.

    With a `checkpoint_path` the state is saved there every minute, at the end and on Ctrl-C (which is then raised
    again), the losses go to `losses.jsonl` in the same folder, and a run that finds its own state there goes on
    from it. With a budget in steps on the CPU the resumed run ends in the same weights as an uninterrupted one.

    Args:
        clips: play video; `image` may be a memory map.
        encoder_config: sizes of the encoder.
        config: how to train it.
        seed: of the initial weights, the clips drawn and SIGReg's directions.
        device: where to train.
        checkpoint_path: folder of the checkpoint.
        progress: called every 20 steps.
    Raises:
        InvalidInputError: the images do not fit the encoder, no clip is long enough, or the checkpoint was made
            with other settings.
        LatentMPCError: the loss is not finite any more.
    """
    size = encoder_config.image_size
    if clips.image.shape[1:] != (size, size, 3) or clips.image.dtype != np.uint8:
        raise InvalidInputError(
            f"the encoder takes uint8 images of {(size, size, 3)}, the data has {clips.image.dtype} "
            f"{clips.image.shape[1:]}; set image_size to match"
        )
    folder = Path(checkpoint_path) if checkpoint_path is not None else None
    threads_before = torch.get_num_threads()
    torch.set_num_threads(config.num_threads)
    try:
        trainer = _Trainer(clips, encoder_config, config, seed, torch.device(device))
        if folder is not None and folder.exists():
            trainer.restore(folder)
        trainer.run(folder, progress)
    finally:
        torch.set_num_threads(threads_before)
    return trainer.model.encoder.requires_grad_(False).eval()


class _Trainer:
    """The state of a training run, and the loop over it."""

    def __init__(
        self,
        clips: PlayClips,
        encoder_config: EncoderConfig,
        config: PretrainConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        self.clips, self.config, self.device = clips, config, device
        self.starts = {s: _clip_starts(clips, config.clip_frames, s) for s in range(1, config.max_stride + 1)}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # layers draw their initial weights from torch's own generator
            model = PretrainingModel(KeypointEncoder(encoder_config), clips.action.shape[1], config)
        self.model = model.to(device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.generator = torch.Generator().manual_seed(seed)
        self.model.encoder.calibrate(self.draw_clips()[0].flatten(0, 1))
        self.step, self.elapsed_s = 0, 0.0
        self.settings = {"seed": seed, "encoder": asdict(encoder_config), "pretrain": asdict(config)}

    @property
    def fraction(self) -> float:
        """Part of the budget used, 0 to 1."""
        if self.config.steps is not None:
            return min(1.0, self.step / self.config.steps)
        assert self.config.minutes is not None
        return min(1.0, self.elapsed_s / (60.0 * self.config.minutes))

    def run(self, folder: Path | None, progress: Callable[[PretrainStatus], None] | None) -> None:
        saved_at = clock = time.monotonic()
        with _interrupt_flag() as interrupted:
            while self.fraction < 1.0 and not interrupted.is_set():
                losses = self.train_step()
                now = time.monotonic()
                self.elapsed_s, clock = self.elapsed_s + now - clock, now
                if self.step % LOG_EVERY == 0 or self.fraction >= 1.0:
                    self.report(losses, folder, progress)
                if folder is not None and now - saved_at > SAVE_EVERY_S:
                    self.save(folder)
                    saved_at = now
            if folder is not None:
                self.save(folder)
            if interrupted.is_set():
                raise KeyboardInterrupt

    def train_step(self) -> dict[str, Tensor]:
        config = self.config
        rate = config.learning_rate * min(1.0, (self.step + 1) / max(1, config.warmup_steps))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * 0.5 * (1.0 + math.cos(math.pi * self.fraction))
        losses = self.model.losses(*self.draw_clips(), self.generator)
        total = (
            config.prediction_weight * losses["prediction"]
            + config.sigreg_weight * losses["sigreg"]
            + config.inverse_weight * losses["inverse"]
        )
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.optimizer.step()
        self.step += 1
        return losses

    def draw_clips(self) -> tuple[Tensor, Tensor]:
        """A batch of clips: images (B, T, H, W, 3) and the actions between them (B, T-1, s, A)."""
        frames, batch = self.config.clip_frames, self.config.batch_size
        stride = int(torch.randint(1, self.config.max_stride + 1, (), generator=self.generator))
        starts = self.starts[stride]
        first = starts[torch.randint(len(starts), (batch, 1), generator=self.generator).numpy()]  # (B, 1)
        images = self.clips.image[first + stride * np.arange(frames)]
        actions = self.clips.action[first + np.arange(stride * (frames - 1))]
        actions = actions.reshape(batch, frames - 1, stride, -1).astype(np.float32, copy=False)
        return torch.from_numpy(images).to(self.device), torch.from_numpy(actions).to(self.device)

    def report(
        self,
        losses: dict[str, Tensor],
        folder: Path | None,
        progress: Callable[[PretrainStatus], None] | None,
    ) -> None:
        values = {name: loss.item() for name, loss in losses.items()}
        if not all(map(math.isfinite, values.values())):
            raise LatentMPCError(f"the loss is not finite at step {self.step}: {values}; lower the learning rate")
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "losses.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": self.step, "elapsed_s": round(self.elapsed_s, 2), **values}) + "\n")
        if progress is not None:
            progress(PretrainStatus(self.step, self.elapsed_s, self.fraction, values))

    def save(self, folder: Path) -> None:
        tensors = module_tensors(self.model.encoder, "encoder")
        tensors |= module_tensors(self.model.forward_head, "forward_head")
        tensors |= module_tensors(self.model.inverse_head, "inverse_head")
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        tensors["trainer.generator"] = self.generator.get_state()
        tensors["trainer.step"] = torch.tensor(self.step)
        tensors["trainer.elapsed_s"] = torch.tensor(self.elapsed_s, dtype=torch.float64)
        save_checkpoint(folder, Checkpoint(tensors, self.settings, commit=current_commit()))

    def restore(self, folder: Path) -> None:
        if not any(folder.glob("model.*")):
            return
        checkpoint = load_checkpoint(folder)
        if _without_budget(checkpoint.config) != _without_budget(self.settings):
            raise InvalidInputError(
                f"{folder} was trained with other settings: {checkpoint.config}, not {self.settings}; "
                "go on with those, or choose another folder"
            )
        tensors = checkpoint.tensors
        load_module(self.model.encoder, tensors, "encoder")
        load_module(self.model.forward_head, tensors, "forward_head")
        load_module(self.model.inverse_head, tensors, "inverse_head")
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                moments.setdefault(int(index), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.generator.set_state(tensors["trainer.generator"])
        self.step = int(tensors["trainer.step"])
        self.elapsed_s = float(tensors["trainer.elapsed_s"])


def _mlp(width_in: int, hidden: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width_in, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, width_out)
    )


def _clip_starts(clips: PlayClips, frames: int, stride: int) -> NDArray[np.int64]:
    length = (frames - 1) * stride + 1
    starts = np.asarray(clips.clip_starts(length))
    if len(starts) == 0:
        raise InvalidInputError(
            f"no episode has {length} frames, which {frames} frames {stride} steps apart take; "
            "lower clip_frames or max_stride"
        )
    return starts


def _without_budget(settings: dict) -> dict:
    """Settings as they come back from YAML, without what a resumed run may change."""
    plain = json.loads(json.dumps(settings))
    plain["pretrain"] = {
        key: value for key, value in plain.get("pretrain", {}).items() if key not in ("minutes", "steps", "num_threads")
    }
    return plain


@contextmanager
def _interrupt_flag() -> Iterator[threading.Event]:
    """Turn Ctrl-C into a flag, so that a step is never cut in half; a second Ctrl-C interrupts at once."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield flag
        return
    before = signal.getsignal(signal.SIGINT)

    def on_interrupt(*_: object) -> None:
        flag.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)
