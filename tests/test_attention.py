"""The attentive encoder: what it sees of other things, what it refuses, and that a world model with one is kept."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from latent_mpc.shipped import image_size
from latent_mpc.types import InvalidInputError
from latent_mpc.world_model.attention import AttentionConfig, AttentiveEncoder, _centres, moments
from latent_mpc.world_model.encoder import EncoderConfig
from latent_mpc.world_model.focus import GREY, attend
from latent_mpc.world_model.model import ModelConfig, WorldModel, load_world_model, save_world_model

SMALL = AttentionConfig(image_size=32, channels=(4, 6), num_keypoints=5, hidden=16, latent_dim=7)
RED, GREEN = (0.9, 0.1, 0.1), (0.15, 1.0, 0.15)  # the green is as bright as the table
OTHER = (slice(20, 26), slice(4, 10))


def draw(*things: tuple[int, int, tuple[float, float, float]]) -> Tensor:
    """uint8 (1, 32, 32, 3): a grey table, and 6×6 squares (row, column, RGB)."""
    image = torch.full((32, 32, 3), GREY)
    for row, column, rgb in things:
        image[row : row + 6, column : column + 6] = torch.tensor(rgb)
    return (255 * image).round().to(torch.uint8)[None]


def sharpened(module: torch.nn.Module) -> None:
    """Larger weights than fresh ones, which see next to nothing."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)


@pytest.fixture
def encoder() -> AttentiveEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = AttentiveEncoder(SMALL)
        sharpened(encoder)
    return encoder.requires_grad_(False)


ALONE, BESIDE = draw((6, 18, RED)), draw((6, 18, RED), (20, 4, GREEN))
HUE, TURNED = torch.zeros(1), torch.tensor([math.radians(120)])


def test_another_thing_beside_it_shows_in_one_channel_alone(encoder: AttentiveEncoder) -> None:
    difference = (attend(BESIDE, HUE) - attend(ALONE, HUE)).abs()[0]
    assert difference[:2].max() < 0.01
    assert difference[2][OTHER].min() > 0.95
    difference[2][OTHER] = 0
    assert difference[2].max() < 0.01
    assert (encoder(BESIDE, HUE) - encoder(ALONE, HUE)).abs().max() > 0.1
    encoder.convolutions[0].weight[:, 2] = 0  # blind to the others
    torch.testing.assert_close(encoder(BESIDE, HUE), encoder(ALONE, HUE), atol=0.02, rtol=0)


def test_each_image_is_seen_for_its_own_hue_whatever_is_beside_it_in_the_batch(encoder: AttentiveEncoder) -> None:
    z = encoder(torch.cat([BESIDE, ALONE, BESIDE]), torch.cat([HUE, HUE, TURNED]))
    assert z.shape == (3, 7) and z.dtype == torch.float32
    for row, image, hue in zip(z, (BESIDE, ALONE, BESIDE), (HUE, HUE, TURNED), strict=True):
        torch.testing.assert_close(encoder(image, hue)[0], row)
    assert (z[0] - z[2]).abs().max() > 0.1
    torch.testing.assert_close(encoder(BESIDE.float(), HUE)[0], z[0])


def test_moments_tell_a_blobs_middle_and_spread_exactly() -> None:
    """A rectangle of 5 × 3 pixels, beside pixels that are next to nothing."""
    focus = torch.full((1, 32, 32), 0.003)
    focus[0, 20:23, 8:13] = 1.0
    x, y, wide, high, together, area = moments(focus.flatten(1), _centres(32))[0].tolist()
    assert x == pytest.approx((10.5 / 16) - 1, abs=0.01) and y == pytest.approx((21.5 / 16) - 1, abs=0.01)
    pixel = 8 / 16  # in eighths of half an image
    assert wide == pytest.approx(pixel * math.sqrt(2), rel=0.15) and high == pytest.approx(
        pixel * math.sqrt(2 / 3), rel=0.3
    )
    assert abs(together) < 0.1 and area == pytest.approx(math.log(16), abs=0.02)


def test_moments_of_a_slanting_line_are_correlated() -> None:
    focus = torch.eye(16)[None]
    assert moments(focus.flatten(1), _centres(16))[0, 4] == pytest.approx(1.0, abs=0.05)
    assert moments(focus.flip(1).flatten(1), _centres(16))[0, 4] == pytest.approx(-1.0, abs=0.05)


def test_moments_of_nothing_are_nothing() -> None:
    seen = moments(torch.zeros(2, 64), _centres(8))
    assert seen.isfinite().all() and seen.abs().max() < 0.01


@pytest.mark.parametrize(
    ("images", "hues"),
    [
        (torch.zeros(1, 64, 64, 3, dtype=torch.uint8), torch.zeros(1)),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.zeros(1)),
        (torch.zeros(32, 32, 3, dtype=torch.uint8), torch.zeros(1)),
        (torch.zeros(2, 32, 32, 3, dtype=torch.uint8), torch.zeros(1)),
        (torch.zeros(2, 32, 32, 3, dtype=torch.uint8), torch.zeros(2, 1)),
    ],
)
def test_other_shapes_are_refused(images: Tensor, hues: Tensor, encoder: AttentiveEncoder) -> None:
    with pytest.raises(InvalidInputError, match=r"images \(B, 32, 32, 3\) and a hue for each"):
        encoder(images, hues)


@pytest.mark.parametrize(
    "sizes",
    [
        {"image_size": 30},
        {"image_size": 12},
        {"channels": (8,)},
        {"channels": (0, 8)},
        {"num_keypoints": 0},
        {"hidden": 0},
        {"latent_dim": 0},
    ],
)
def test_impossible_sizes_are_refused(sizes: dict) -> None:
    with pytest.raises(InvalidInputError):
        AttentionConfig(**sizes)


def test_a_saved_world_model_attends_as_before(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = WorldModel(SMALL, ModelConfig())
        sharpened(model.encoder)
    model.latent_mean.fill_(0.5)
    save_world_model(tmp_path, model, metrics={}, training={})
    config = yaml.safe_load((tmp_path / "model.yaml").read_text())["config"]
    assert config["attention"] == asdict(SMALL) | {"channels": [4, 6]} and "encoder" not in config
    loaded, _ = load_world_model(tmp_path)
    assert model.attends and loaded.attends and loaded.encoder.config == SMALL
    assert isinstance(loaded.encoder, AttentiveEncoder) and not any(p.requires_grad for p in loaded.parameters())
    proprio = torch.ones(1, 6)
    state = loaded.observe(BESIDE, proprio, HUE)
    assert torch.equal(state, model.observe(BESIDE, proprio, HUE)) and torch.equal(
        loaded.observe_goal(BESIDE, TURNED), model.observe_goal(BESIDE, TURNED)
    )
    assert (state - loaded.observe(BESIDE, proprio, TURNED)).abs().max() > 0.1
    torch.testing.assert_close(loaded.split(state)[0], loaded.encode(BESIDE, HUE) - 0.5)
    assert image_size(tmp_path) == 32


def test_a_model_without_attention_does_not_attend() -> None:
    assert not WorldModel(EncoderConfig(image_size=32), ModelConfig()).attends
