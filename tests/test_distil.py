"""Teaching the attentive encoder: pictures are shaken as they should be, and it learns what the frozen one sees."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from latent_mpc.types import InvalidInputError
from latent_mpc.world_model.attention import AttentionConfig, AttentiveEncoder
from latent_mpc.world_model.checkpoint import load_checkpoint
from latent_mpc.world_model.distil import DistilConfig, Glimpses, _homography_grid, distil, shake
from latent_mpc.world_model.encoder import EncoderConfig
from latent_mpc.world_model.fit import FitConfig
from latent_mpc.world_model.focus import hue_of
from latent_mpc.world_model.model import ModelConfig, WorldModel

SIZE = 16
STILL = DistilConfig(
    FitConfig(steps=300, batch_size=48, learning_rate=6e-3, warmup_steps=10),
    moved=0.0,
    turn_deg=0.0,
    shift=0.0,
    corner=0.0,
    gain=0.0,
    tint=0.0,
    gradient=0.0,
    pixel_noise=0.0,
    hue_noise_deg=0.0,
)
BRIEF = DistilConfig(FitConfig(steps=40, batch_size=16, learning_rate=6e-3, warmup_steps=10))  # shaken, too
ATTENTION = AttentionConfig(image_size=SIZE, channels=(8, 12), num_keypoints=8, hidden=48, latent_dim=6)
COLOURS = torch.tensor([(0.9, 0.1, 0.1), (0.1, 0.8, 0.1), (0.1, 0.1, 0.9), (0.8, 0.7, 0.05)])  # red first


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- the pictures ----


@pytest.fixture
def noise() -> Tensor:
    return torch.randint(0, 256, (4, 24, 24, 3), generator=seeded(), dtype=torch.uint8)


@pytest.mark.parametrize("moved", [0.0, 1.0])
def test_unshaken_is_the_image(moved: float, noise: Tensor) -> None:
    seen = shake(noise, replace(STILL, moved=moved), seeded())
    torch.testing.assert_close(seen, noise.float(), atol=0.02, rtol=0)


def test_none_is_warped_where_none_is_moved(noise: Tensor) -> None:
    seen = shake(noise, replace(STILL, turn_deg=20.0, shift=0.2, corner=0.2), seeded())
    torch.testing.assert_close(seen, noise.float(), atol=0.02, rtol=0)


def test_the_share_that_is_moved(noise: Tensor) -> None:
    many = noise[:1].expand(400, -1, -1, -1)
    seen = shake(many, replace(STILL, moved=0.3, shift=0.2), seeded())
    share = ((seen - many).abs().flatten(1).amax(1) > 1).float().mean()
    assert 0.2 < share < 0.4


def test_shaken_alike_with_one_generator_and_inside_a_pictures_range(noise: Tensor) -> None:
    config = replace(DistilConfig(), moved=1.0, pixel_noise=0.2)
    first, same, other = (shake(noise, config, seeded(s)) for s in (0, 0, 1))
    assert torch.equal(first, same) and (first - other).abs().mean() > 10
    assert first.dtype == torch.float32 and first.shape == noise.shape
    assert first.min() == 0 and first.max() == 255  # they were cut off there
    assert (first - noise).abs().mean() > 10


@pytest.mark.parametrize(
    ("setting", "alike"),
    [("gain", ("row", "column", "channel")), ("tint", ("row", "column")), ("gradient", ("channel",))],
)
def test_each_kind_of_light_changes_what_it_should(setting: str, alike: tuple[str, ...]) -> None:
    grey = torch.full((8, 16, 16, 3), 100, dtype=torch.uint8)
    seen = shake(grey, replace(STILL, **{setting: 0.4}), seeded())
    for name, dim in [("row", 1), ("column", 2), ("channel", 3)]:
        spread = (seen.amax(dim) - seen.amin(dim)).flatten(1).amax(1)  # (B,)
        assert (spread.max() < 0.01) if name in alike else (spread.max() > 5), name
    assert seen.flatten(1).mean(1).std() > 5 or setting == "gradient"  # each image has its own lamp


# ---- the homography ----


def warp(image: Tensor, turn: float, shift: tuple[float, float], config: DistilConfig) -> Tensor:
    """An image (S, S) warped by given draws."""
    draws = torch.tensor([[turn]]), torch.tensor([shift]), torch.zeros(1, 4, 2)
    return F.grid_sample(image[None, None], _homography_grid(*draws, config, len(image)), align_corners=False)[0, 0]


@pytest.mark.parametrize(("shift", "by"), [((1, 0), (0, -3)), ((0, 1), (-3, 0)), ((-1, 1 / 3), (-1, 3))])
def test_a_shift_moves_a_dot_by_as_many_pixels(shift: tuple[float, float], by: tuple[int, int]) -> None:
    """The picture is taken from further right and down, so what it shows moves left and up."""
    image, expected = torch.zeros(2, 20, 20)
    image[8, 12] = 1.0
    expected[8 + by[0], 12 + by[1]] = 1.0
    config = replace(STILL, shift=3 * 2 / 20)  # three pixels, in half images
    torch.testing.assert_close(warp(image, 0.0, shift, config), expected, atol=1e-4, rtol=0)


def test_a_quarter_turn_is_one() -> None:
    image = torch.rand(12, 12, generator=seeded())
    turned = warp(image, 1.0, (0, 0), replace(STILL, turn_deg=90.0))
    torch.testing.assert_close(turned, image.rot90(), atol=1e-4, rtol=0)


def test_moved_corners_keep_straight_lines_and_the_ratios_along_a_diagonal() -> None:
    corner = 2 * torch.rand(5, 4, 2, generator=seeded()) - 1
    grid = _homography_grid(torch.zeros(5, 1), torch.zeros(5, 2), corner, replace(STILL, corner=0.3), 33)
    a, b, c, d = (torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]) + 0.3 * corner).unbind(1)
    middle = torch.linalg.solve(torch.stack([c - a, b - d], -1), b - a)[:, :1]  # a + t (c − a) = b + s (d − b)
    share = (torch.arange(33) + 0.5) / 33  # of the way from corner to corner before
    after = share / (share + (1 / middle - 1) * (1 - share))  # (5, 33); the cross-ratio stays
    diagonal = grid.diagonal(dim1=1, dim2=2).mT  # (5, 33, 2)
    torch.testing.assert_close(diagonal, a[:, None] + after[..., None] * (c - a)[:, None], atol=1e-5, rtol=0)
    start, end = grid[:, :, :1], grid[:, :, -1:]
    along, off = end - start, grid - start
    assert (along[..., 0] * off[..., 1] - along[..., 1] * off[..., 0]).abs().max() < 1e-5


# ---- the teaching ----


def draw(at: Tensor, colours: Tensor) -> Tensor:
    """Squares of 4 px at (F, N, 2), row and column, in colours (F, N, 3) on a grey table: uint8 (F, S, S, 3)."""
    images = torch.full((len(at), SIZE, SIZE, 3), 0.6)
    for image, places, rgbs in zip(images, at.tolist(), colours, strict=True):
        for (row, column), rgb in zip(places, rgbs, strict=True):
            image[row : row + 4, column : column + 4] = rgb
    return (255 * images).round().to(torch.uint8)


def look(model: WorldModel, count: int, seed: int) -> Glimpses:
    """Pictures of two squares of two colours, one on the left and one on the right; each is looked at."""
    g = seeded(seed)
    row, column = torch.randint(0, SIZE - 3, (count, 2), generator=g), torch.randint(0, 5, (count, 2), generator=g)
    at = torch.stack([row, column + torch.tensor([0, SIZE // 2])], -1)
    colours = COLOURS[torch.rand(count, len(COLOURS), generator=g).argsort(1)[:, :2]]
    return Glimpses(
        image=draw(at, colours),
        proprio=torch.randn(count, 2, generator=g),
        frame=torch.arange(count).repeat_interleave(2),
        rgb=colours.flatten(0, 1),
        z=model.encoder.encode_all(draw(at.view(-1, 1, 2), COLOURS[:1].expand(2 * count, 1, 3))),
    )


@pytest.fixture(scope="module")
def model() -> WorldModel:
    """A frozen model that was calibrated on a red square alone."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = EncoderConfig(image_size=SIZE, channels=(4, 8), num_keypoints=4, hidden=16, latent_dim=6)
        model = WorldModel(encoder, ModelConfig(proprio_dim=2, embedding_dim=3, head_width=16))
    at = torch.randint(0, SIZE - 3, (64, 1, 2), generator=seeded(1))
    model.encoder.calibrate(draw(at, COLOURS[:1].expand(64, 1, 3)), map_std=1.5)
    model.scene_noise.fill_(0.01)
    return model.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def glimpses(model: WorldModel) -> Glimpses:
    return look(model, 256, seed=2)


@pytest.fixture(scope="module")
def taught(
    glimpses: Glimpses, model: WorldModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[AttentiveEncoder, Path]:
    folder = tmp_path_factory.mktemp("whole")
    return distil(glimpses, model, ATTENTION, STILL, seed=0, folder=folder), folder


def weights(encoder: AttentiveEncoder) -> Tensor:
    return torch.cat([p.flatten() for p in encoder.parameters()])


def losses(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]


def test_the_losses_fall(taught: tuple[AttentiveEncoder, Path]) -> None:
    lines = losses(taught[1])
    for name, share in [("latent", 0.6), ("scene", 0.7)]:
        first, last = (sum(line[name] for line in some) for some in (lines[:3], lines[-3:]))
        assert last < share * first, name


def test_it_sees_each_thing_as_if_it_were_alone_and_red(
    taught: tuple[AttentiveEncoder, Path], model: WorldModel
) -> None:
    """In pictures that it was not taught on, and not the thing beside it; to know nothing costs 1."""
    others = look(model, 100, seed=3)
    images = others.image[others.frame]
    seen = taught[0](images, hue_of(others.rgb, images))
    beside = others.z.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
    error, mistaken = (((seen - z).square() / others.z.var(0)).mean() for z in (others.z, beside))
    assert error < 0.6 and mistaken > 1.2


def test_the_encoder_comes_frozen_and_nothing_else_is_touched(
    glimpses: Glimpses, model: WorldModel, tmp_path: Path
) -> None:
    torch.manual_seed(7)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    short = replace(BRIEF, fit=replace(BRIEF.fit, steps=2), num_threads=2)
    encoder = distil(glimpses, model, ATTENTION, short, seed=0, folder=tmp_path)
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any("model.model" in name or "scene" in name for name in load_checkpoint(tmp_path).tensors)


def test_interrupted_and_resumed_is_the_same_as_never_interrupted(
    glimpses: Glimpses, model: WorldModel, tmp_path: Path
) -> None:
    def ctrl_c(step: int, _: object) -> None:
        if step == 20:
            raise KeyboardInterrupt

    whole, other = (distil(glimpses, model, ATTENTION, BRIEF, seed=s, folder=tmp_path / str(s)) for s in (0, 1))
    with pytest.raises(KeyboardInterrupt):
        distil(glimpses, model, ATTENTION, BRIEF, seed=0, folder=tmp_path / "cut", progress=ctrl_c)
    resumed = distil(glimpses, model, ATTENTION, BRIEF, seed=0, folder=tmp_path / "cut")
    assert torch.equal(weights(resumed), weights(whole)) and not torch.equal(weights(other), weights(whole))
    with pytest.raises(InvalidInputError, match="other settings"):
        distil(glimpses, model, ATTENTION, BRIEF, seed=1, folder=tmp_path / "cut")


def test_the_weight_of_the_scene(glimpses: Glimpses, model: WorldModel, tmp_path: Path) -> None:
    once = replace(STILL, fit=replace(STILL.fit, steps=1))
    for weight in (0.1, 0.3):
        distil(glimpses, model, ATTENTION, replace(once, scene_weight=weight), seed=0, folder=tmp_path / str(weight))
    [low], [high] = losses(tmp_path / "0.1"), losses(tmp_path / "0.3")
    assert high["latent"] == low["latent"] and high["scene"] == pytest.approx(3 * low["scene"]) and low["scene"] > 0


@pytest.mark.parametrize("sizes", [{"image_size": 32}, {"latent_dim": 5}])
def test_sizes_that_do_not_fit_are_refused(sizes: dict, glimpses: Glimpses, model: WorldModel, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"set attention.image_size and attention.latent_dim"):
        distil(glimpses, model, replace(ATTENTION, **sizes), STILL, seed=0, folder=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("values", [{"gain": -0.1}, {"scene_weight": -1.0}, {"num_threads": 0}])
def test_impossible_settings_are_refused(values: dict) -> None:
    with pytest.raises(InvalidInputError):
        DistilConfig(**values)
