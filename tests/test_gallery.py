"""The gallery: the nearest frame is the one of least energy, and damaged files are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from latent_mpc.types import InvalidInputError
from latent_mpc.world_model.encoder import EncoderConfig
from latent_mpc.world_model.gallery import Gallery, load_gallery, save_gallery
from latent_mpc.world_model.model import ModelConfig, WorldModel


@pytest.fixture(scope="module")
def model() -> WorldModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = EncoderConfig(image_size=16, channels=(2, 2), num_keypoints=2, hidden=4, latent_dim=4)
        model = WorldModel(encoder, ModelConfig(proprio_dim=2, head_width=4))
    return model.requires_grad_(False)


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)


@pytest.fixture
def proprio() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(6, 2)).astype(np.float32)


def test_nearest_is_the_frame_of_least_energy(frames: np.ndarray) -> None:
    states = torch.tensor([[float(i), 10.0 * i] for i in range(6)])
    gallery = Gallery(frames, states)
    state = torch.tensor([1.1, 29.0])

    def both(stored: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        return (stored - state).square().sum(-1)

    def first_only(stored: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        return (stored[:, 0] - state[0]).abs()

    np.testing.assert_array_equal(gallery.nearest(state, both), frames[3])
    np.testing.assert_array_equal(gallery.nearest(state, first_only), frames[1])


def test_what_is_saved_is_seen_by_the_model(
    model: WorldModel, frames: np.ndarray, proprio: np.ndarray, tmp_path: Path
) -> None:
    save_gallery(tmp_path, frames, proprio)
    gallery = load_gallery(tmp_path, model)
    np.testing.assert_array_equal(gallery.frames, frames)
    torch.testing.assert_close(gallery.states, model.observe(torch.from_numpy(frames), torch.from_numpy(proprio)))


def test_a_missing_or_damaged_gallery_is_told(
    model: WorldModel, frames: np.ndarray, proprio: np.ndarray, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError, match=r"gallery.safetensors is missing"):
        load_gallery(tmp_path, model)
    save_gallery(tmp_path, frames, proprio)
    path = tmp_path / "gallery.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InvalidInputError, match="truncated or no gallery"):
        load_gallery(tmp_path, model)
    save_file({"frames": torch.from_numpy(frames)}, path)
    with pytest.raises(InvalidInputError, match="no gallery"):
        load_gallery(tmp_path, model)


def test_a_gallery_of_another_camera_or_robot_is_told(
    model: WorldModel, frames: np.ndarray, proprio: np.ndarray, tmp_path: Path
) -> None:
    save_gallery(tmp_path, np.repeat(frames, 2, axis=1), proprio)
    with pytest.raises(InvalidInputError, match=r"images \(B, 16, 16, 3\)"):
        load_gallery(tmp_path, model)
    for other in (proprio[:, :1], proprio[:4]):
        save_gallery(tmp_path, frames, other)
        with pytest.raises(InvalidInputError, match="the model takes 2 entries"):
            load_gallery(tmp_path, model)
