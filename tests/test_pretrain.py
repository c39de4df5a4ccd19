"""Pretraining on a synthetic video of a moving square: the losses fall, the latent tells where it is, runs resume."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from latent_mpc.types import InvalidInputError
from latent_mpc.world_model.encoder import EncoderConfig, KeypointEncoder
from latent_mpc.world_model.fit import FitConfig
from latent_mpc.world_model.focus import hues_of_episodes
from latent_mpc.world_model.pretrain import PretrainConfig, _pair_sampler, pretrain

SIZE, LENGTH = 32, 12  # pixels, frames of an episode
COLOURS = np.array([[220, 30, 30], [30, 220, 30], [30, 30, 220], [200, 200, 20]], np.uint8)
ENCODER = EncoderConfig(image_size=SIZE, channels=(4, 8), num_keypoints=4, hidden=24, latent_dim=8)
CONFIG = PretrainConfig(FitConfig(400, batch_size=16, learning_rate=5e-3, warmup_steps=10), max_gap=3, head_width=16)


@dataclass(frozen=True)
class Video:
    """A white square on black that actions push about; proprioception is its position, px."""

    image: np.ndarray
    proprio: np.ndarray
    action: np.ndarray

    @classmethod
    def make(cls, episodes: int, seed: int) -> Video:
        rng = np.random.default_rng(seed)
        frames = episodes * LENGTH
        action = rng.uniform(-1, 1, (frames, 2)).astype(np.float32)
        position = np.empty((frames, 2))
        image = np.zeros((frames, SIZE, SIZE, 3), np.uint8)
        for i in range(frames):
            first = i % LENGTH == 0
            position[i] = rng.uniform(4, SIZE - 12, 2) if first else np.clip(position[i - 1] + 3 * action[i - 1], 0, 24)
            row, column = np.round(position[i]).astype(int)
            image[i, row : row + 8, column : column + 8] = 255
        return cls(image, position.astype(np.float32), action)

    @property
    def hues(self) -> np.ndarray:
        return hues_of_episodes(torch.from_numpy(self.image), [LENGTH] * (len(self.image) // LENGTH)).numpy()

    def clip_starts(self, length: int) -> np.ndarray:
        starts = np.arange(len(self.image))
        return starts[starts % LENGTH + length <= LENGTH]

    def with_things(self, seed: int) -> Video:
        """The same, and in each episode one to three squares of different colours that lie still."""
        rng, image = np.random.default_rng(seed), self.image.copy()
        for start in range(0, len(image), LENGTH):
            for colour in rng.permutation(COLOURS)[: rng.integers(1, 4)]:
                row, column = rng.integers(0, SIZE - 8, 2)
                image[start : start + LENGTH, row : row + 8, column : column + 8] = colour
        return Video(image, self.proprio, self.action)


@pytest.fixture(scope="module")
def video() -> Video:
    return Video.make(40, seed=0)


@pytest.fixture(scope="module")
def trained(video: Video, tmp_path_factory: pytest.TempPathFactory) -> tuple[KeypointEncoder, Path]:
    folder = tmp_path_factory.mktemp("whole")
    return pretrain(video, ENCODER, CONFIG, seed=0, folder=folder), folder


def weights(encoder: KeypointEncoder) -> torch.Tensor:
    return torch.cat([p.flatten() for p in encoder.parameters()])


def unexplained(encoder: KeypointEncoder, train: Video, test: Video) -> float:
    """Share of the position's variance that a linear map of the latent leaves unexplained, on other episodes."""

    def columns(video: Video) -> np.ndarray:
        z = encoder.encode_all(torch.from_numpy(video.image)).numpy()
        return np.concatenate([z, np.ones((len(z), 1))], axis=1)

    fit, *_ = np.linalg.lstsq(columns(train), train.proprio, rcond=None)
    error = columns(test) @ fit - test.proprio
    return float((error.var(0) / test.proprio.var(0)).max())


def test_the_losses_fall(trained: tuple[KeypointEncoder, Path]) -> None:
    lines = [json.loads(line) for line in (trained[1] / "losses.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(20, 401, 20))
    for name in ("prediction", "inverse", "proprio", "contrast"):
        assert lines[-1][name] < 0.8 * lines[0][name], name
    assert lines[-1]["proprio"] < 0.15  # of a variance of 1


def test_the_latent_tells_where_the_square_is_and_has_not_collapsed(
    trained: tuple[KeypointEncoder, Path], video: Video
) -> None:
    encoder, _ = trained
    assert unexplained(encoder, video, Video.make(10, seed=1)) < 0.1
    z = encoder.encode_all(torch.from_numpy(video.image))
    assert 0.15 < z.std(0).min() and z.std(0).max() < 2.5


def test_the_encoder_comes_frozen_and_torchs_state_is_left_alone(video: Video, tmp_path: Path) -> None:
    torch.manual_seed(7)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    short = replace(CONFIG, fit=replace(CONFIG.fit, steps=2), num_threads=2)
    encoder = pretrain(video, ENCODER, short, seed=0, folder=tmp_path)
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads


def test_interrupted_and_resumed_is_the_same_as_never_interrupted(
    trained: tuple[KeypointEncoder, Path], video: Video, tmp_path: Path
) -> None:
    def ctrl_c(step: int, _: object) -> None:
        if step == 200:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(video, ENCODER, CONFIG, seed=0, folder=tmp_path, progress=ctrl_c)
    resumed = pretrain(video, ENCODER, CONFIG, seed=0, folder=tmp_path)
    assert torch.equal(weights(resumed), weights(trained[0]))


def test_another_seed_gives_other_weights_and_needs_another_folder(
    trained: tuple[KeypointEncoder, Path], video: Video, tmp_path: Path
) -> None:
    short = replace(CONFIG, fit=replace(CONFIG.fit, steps=2))
    first, second = (
        weights(pretrain(video, ENCODER, short, seed=seed, folder=tmp_path / str(seed))) for seed in (0, 1)
    )
    assert not torch.equal(first, second)
    with pytest.raises(InvalidInputError, match="other settings"):
        pretrain(video, ENCODER, CONFIG, seed=1, folder=trained[1])


def test_data_that_does_not_fit_is_refused(video: Video, tmp_path: Path) -> None:
    for image in (video.image[:, :16, :16], video.image.astype(np.float32)):
        with pytest.raises(InvalidInputError, match=r"uint8 images of \(32, 32, 3\)"):
            pretrain(replace(video, image=image), ENCODER, CONFIG, seed=0, folder=tmp_path)
    with pytest.raises(InvalidInputError, match=f"no episode has {LENGTH + 1} frames"):
        pretrain(video, ENCODER, replace(CONFIG, max_gap=LENGTH), seed=0, folder=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("values", [{"max_gap": 0}, {"num_projections": 0}, {"sigreg_weight": -1.0}])
def test_impossible_settings_are_refused(values: dict) -> None:
    with pytest.raises(InvalidInputError):
        PretrainConfig(**values)


def test_an_encoder_that_attends_learns_to_tell_the_things_of_one_scene_apart(video: Video, tmp_path: Path) -> None:
    things = video.with_things(seed=1)
    config = replace(CONFIG, fit=replace(CONFIG.fit, steps=200))
    encoder = pretrain(things, replace(ENCODER, attends=True), config, seed=0, folder=tmp_path)
    contrast = [json.loads(line)["contrast"] for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    assert np.mean(contrast[-3:]) < 0.6 * contrast[0]
    hues, some = torch.from_numpy(things.hues), torch.from_numpy(things.image)
    two = ~hues[:, 1].isnan()
    z = [encoder.encode_all(some[two], hues[two, q]) for q in range(2)]
    assert ((z[0] - z[1]).norm(dim=-1) > 0.1).float().mean() > 0.9


def test_a_pair_is_seen_once_for_each_of_its_hues(video: Video) -> None:
    things = video.with_things(seed=2)
    draw = _pair_sampler(things, things.clip_starts(4), True, replace(CONFIG, hues_at_once=3), torch.device("cpu"))
    images, hues, proprio, moves, gap = draw(torch.Generator().manual_seed(0))
    assert hues is not None and hues.isfinite().all() and torch.equal(hues[0], hues[1])
    assert images.shape[:2] == hues.shape == proprio.shape[:2] and len(moves) == len(gap) == hues.shape[1]
    assert 6 < hues.shape[1] < 18  # six frames, one to three hues each
    for image, hue in zip(images[0], hues[0], strict=True):
        present = hues_of_episodes(image[None], [1])[0]
        assert (present - hue).abs().nan_to_num(9).min() < 0.05
    for a in range(hues.shape[1]):
        same = (images[0] == images[0, a]).flatten(1).all(1).nonzero()[:, 0]
        assert len(hues[0, same].unique()) == len(same)


def test_hues_that_are_missing_or_too_much_are_refused() -> None:
    images = torch.zeros(2, SIZE, SIZE, 3, dtype=torch.uint8)
    with pytest.raises(InvalidInputError, match="a hue for each of the 2 images"):
        KeypointEncoder(replace(ENCODER, attends=True))(images)
    with pytest.raises(InvalidInputError, match="takes no hues"):
        KeypointEncoder(ENCODER)(images, torch.zeros(2))
