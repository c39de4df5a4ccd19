"""Pretraining on a synthetic video of a moving square: the losses fall, the latent tells where it is, runs resume."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from latent_mpc.types import InvalidInputError, LatentMPCError
from latent_mpc.world_model.encoder import EncoderConfig, KeypointEncoder
from latent_mpc.world_model.fit import FitConfig
from latent_mpc.world_model.pretrain import PretrainConfig, _pair_sampler, pretrain

SIZE, LENGTH = 32, 12  # pixels, frames of an episode
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

    def clip_starts(self, length: int) -> np.ndarray:
        starts = np.arange(len(self.image))
        return starts[starts % LENGTH + length <= LENGTH]


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


def test_a_collapsed_encoder_is_an_error_that_says_what_to_do(video: Video, tmp_path: Path) -> None:
    dark = replace(video, image=np.zeros_like(video.image))  # all alike
    with pytest.raises(LatentMPCError, match=r"collapsed by step 20: .*learning_rate below 0.005"):
        pretrain(dark, ENCODER, CONFIG, seed=0, folder=tmp_path)


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


def test_each_image_is_made_brighter_or_darker_by_itself(video: Video) -> None:
    grey = replace(video, image=np.full_like(video.image, 100))
    config = replace(CONFIG, brightness=0.3, fit=replace(CONFIG.fit, batch_size=200))
    images, *_ = _pair_sampler(grey, grey.clip_starts(4), config, torch.device("cpu"))(torch.Generator().manual_seed(0))
    level = images.flatten(2)
    assert images.shape == (2, 200, SIZE, SIZE, 3) and torch.equal(level.amin(-1), level.amax(-1))
    level = level[..., 0].float()
    assert 69 <= level.min() < 73 and 127 < level.max() <= 130  # 30 % either way, rounded down
    assert (level[0] - level[1]).abs().mean() > 10  # the frames of one pair, too
    plain, *_ = _pair_sampler(grey, grey.clip_starts(4), CONFIG, torch.device("cpu"))(torch.Generator().manual_seed(0))
    assert (plain == 100).all()


@pytest.mark.parametrize(
    "values", [{"max_gap": 0}, {"num_projections": 0}, {"sigreg_weight": -1.0}, {"brightness": 1.0}]
)
def test_impossible_settings_are_refused(values: dict) -> None:
    with pytest.raises(InvalidInputError):
        PretrainConfig(**values)
