"""Stored play frames by which a predicted latent is shown to people: the nearest one, found in latent space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from latent_mpc.types import InvalidInputError
from latent_mpc.world_model.checkpoint import write_atomically
from latent_mpc.world_model.focus import find_hues
from latent_mpc.world_model.model import WorldModel

GALLERY_NAME = "gallery.safetensors"
ENCODE_BATCH = 256


@dataclass(frozen=True)
class Gallery:
    """Frames uint8 (N, H, W, 3) and the states (N, D) that the world model sees in them."""

    frames: NDArray[np.uint8]
    states: Tensor

    def nearest(self, state: Tensor, energy: Callable[[Tensor, Tensor], Tensor]) -> NDArray[np.uint8]:
        """The stored frame of least energy to `state` (D,); `energy` maps (N, D), (D,) -> (N,)."""
        return self.frames[int(energy(self.states, state).argmin())]


def save_gallery(folder: Path, frames: NDArray[np.uint8], proprio: NDArray[np.float32]) -> None:
    """Store frames (N, H, W, 3) with the proprioception (N, P) recorded beside them."""
    arrays = {"frames": frames, "proprio": proprio}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    write_atomically(folder / GALLERY_NAME, save(tensors))


@torch.no_grad()
def load_gallery(folder: Path, model: WorldModel) -> Gallery:
    """Read a gallery and look at it with `model`.

    A model that attends looks for the largest coloured thing in each frame; frames without one are left out.

    Raises:
        InvalidInputError: it is missing, damaged, or not from this model's camera and robot; or the model attends, and
            nothing is coloured.
    """
    path = folder / GALLERY_NAME
    if not path.is_file():
        raise InvalidInputError(f"{path} is missing; `latent-mpc train` writes it beside the weights")
    try:
        tensors = load_file(path)
        frames, proprio = tensors["frames"], tensors["proprio"]
    except (SafetensorError, KeyError) as error:
        raise InvalidInputError(f"{path} is truncated or no gallery: {error}") from error
    if proprio.shape != (len(frames), model.config.proprio_dim):
        raise InvalidInputError(
            f"{path} has proprioception {tuple(proprio.shape)}, the model takes {model.config.proprio_dim} entries"
        )
    looks = [frames]
    if model.attends:
        hues = [find_hues(frame[None])[:1] for frame in frames]  # of the largest thing in each
        coloured = torch.tensor([len(hue) > 0 for hue in hues])
        if not coloured.any():
            raise InvalidInputError(f"{path} shows nothing coloured, which is all that this model attends to")
        frames, proprio = frames[coloured], proprio[coloured]
        looks = [frames, torch.cat(hues)]
    z = torch.cat([model.encode(*look) for look in zip(*(rows.split(ENCODE_BATCH) for rows in looks), strict=True)])
    return Gallery(frames.numpy(), model.state(z, proprio))
