"""The gallery: the nearest frame is the one of least energy, and damaged files are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from latent_mpc.types import InvalidInputError
from latent_mpc.world_model import gallery as module
from latent_mpc.world_model.attention import AttentionConfig
from latent_mpc.world_model.encoder import EncoderConfig
from latent_mpc.world_model.focus import find_hues
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


def test_a_model_that_attends_looks_for_the_largest_thing_of_each_frame(
    proprio: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attention = AttentionConfig(image_size=16, channels=(4, 4), num_keypoints=2, hidden=8, latent_dim=4)
        model = WorldModel(attention, ModelConfig(proprio_dim=2, head_width=4)).requires_grad_(False)
        for parameter in model.encoder.parameters():  # fresh weights see next to nothing
            torch.nn.init.normal_(parameter, std=0.5)
    frames = np.full((6, 16, 16, 3), 160, np.uint8)
    frames[:4, :5, :5] = [200, 20, 20]
    frames[2:4, 9:12, 9:12] = [20, 20, 200]  # smaller
    frames[1, 9:15, 9:15] = [20, 200, 20]  # larger
    frames[5, 5:8, 5:8] = [20, 200, 20]
    monkeypatch.setattr(module, "ENCODE_BATCH", 2)
    save_gallery(tmp_path, frames, proprio)
    gallery = load_gallery(tmp_path, model)
    shown = [0, 1, 2, 3, 5]
    np.testing.assert_array_equal(gallery.frames, frames[shown])
    red, green = (find_hues(torch.from_numpy(frames[i : i + 1]))[0] for i in (0, 5))
    some, hues = torch.from_numpy(frames[shown]), torch.stack([red, green, red, red, green])
    torch.testing.assert_close(gallery.states, model.observe(some, torch.from_numpy(proprio[shown]), hues))
    other = model.observe(some, torch.from_numpy(proprio[shown]), hues.flip(0))
    assert ((gallery.states - other).abs().amax(-1) > 1e-3).tolist() == [True, True, False, True, True]
    save_gallery(tmp_path, frames[4:5], proprio[4:5])
    with pytest.raises(InvalidInputError, match="shows nothing coloured"):
        load_gallery(tmp_path, model)
