"""The keypoint encoder: where a blob is, the convolution it stands for, calibration, and refusals."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from latent_mpc.types import InvalidInputError
from latent_mpc.world_model.encoder import EncoderConfig, KeypointEncoder

SMALL = EncoderConfig(image_size=32, channels=(3, 4), num_keypoints=5, hidden=16, latent_dim=7)


@pytest.fixture
def encoder() -> KeypointEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return KeypointEncoder(SMALL).requires_grad_(False)


@pytest.fixture
def brightness(encoder: KeypointEncoder) -> KeypointEncoder:
    """Keypoint 0 is where the image is brightest: map 0 is 100 times the mean of each 8×8 window."""
    for layer in (encoder.conv1, encoder.conv2, encoder.to_maps):
        layer.weight.zero_()
        layer.bias.zero_()
    encoder.conv1.weight[0] = 1 / (4 * 4 * 3 * 4)
    encoder.conv1.bias[0] = 0.5
    encoder.conv2.weight[0, 0, 1, 1] = 1.0
    encoder.to_maps.weight[0, 0] = 100.0
    return encoder


def blob(row: int, column: int) -> torch.Tensor:
    """A white 8×8 square on black, its top left corner at a pixel."""
    image = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    image[:, row : row + 8, column : column + 8] = 255
    return image


@pytest.mark.parametrize(("row", "column"), [(0, 0), (8, 8), (8, 20), (24, 12), (24, 24)])
def test_a_keypoint_is_where_the_blob_is(row: int, column: int, brightness: KeypointEncoder) -> None:
    position, value = brightness.keypoints(blob(row, column))
    expected = torch.tensor([(column + 4) / 16 - 1, (row + 4) / 16 - 1])  # x to the right, y down
    torch.testing.assert_close(position[0, 0], expected, atol=1e-4, rtol=0)
    assert value[0, 0].item() == pytest.approx(100, abs=0.1)


def test_a_keypoint_moves_with_the_blob_and_as_far(brightness: KeypointEncoder) -> None:
    at = [brightness.keypoints(blob(8, column))[0][0, 0] for column in (4, 8, 12, 16)]
    for before, after in pairwise(at):
        torch.testing.assert_close(after - before, torch.tensor([2 * 4 / 32, 0.0]), atol=1e-4, rtol=0)


def test_the_first_layer_is_an_8x8_convolution_of_stride_4(encoder: KeypointEncoder) -> None:
    images = torch.randint(0, 256, (2, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    seen = []
    encoder.conv1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    encoder(images)
    blocks = encoder.conv1.weight.view(3, 4, 4, 3, 2, 2)  # out, row in block, column in block, RGB, block row, column
    weight = blocks.permute(0, 3, 4, 1, 5, 2).reshape(3, 3, 8, 8)
    pixels = images.permute(0, 3, 1, 2) / 255 - 0.5
    torch.testing.assert_close(seen[0], F.conv2d(pixels, weight, encoder.conv1.bias, stride=4), atol=1e-5, rtol=1e-4)


def test_shapes_and_batches(encoder: KeypointEncoder) -> None:
    images = torch.randint(0, 256, (5, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    position, value = encoder.keypoints(images)
    assert encoder.maps(images).shape == (5, 5, 49) and position.shape == (5, 5, 2) and value.shape == (5, 5)
    assert position.abs().max() <= 1
    z = encoder(images)
    assert z.shape == (5, 7) and z.dtype == torch.float32
    torch.testing.assert_close(encoder.encode_all(images, batch_size=2), z)
    torch.testing.assert_close(encoder(images[3:4]), z[3:4])  # what stands beside an image does not matter


def test_calibrated_latents_have_mean_0_and_variance_1_and_peaked_maps(encoder: KeypointEncoder) -> None:
    g = torch.Generator().manual_seed(0)
    images = torch.cat([blob(*torch.randint(0, 24, (2,), generator=g).tolist()) for _ in range(64)])
    assert encoder(images).std(0).max() < 0.1  # fresh weights see next to nothing
    encoder.calibrate(images, map_std=3.0)
    z = encoder(images)
    torch.testing.assert_close(z.mean(0), torch.zeros(7), atol=1e-3, rtol=0)
    torch.testing.assert_close(z.std(0), torch.ones(7), atol=1e-3, rtol=0)
    torch.testing.assert_close(encoder.maps(images).std(-1).mean(0), torch.full((5,), 3.0), atol=1e-3, rtol=0)


def test_calibrating_on_one_colour_leaves_finite_weights(encoder: KeypointEncoder) -> None:
    encoder.calibrate(torch.zeros(4, 32, 32, 3, dtype=torch.uint8))
    assert all(p.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(1, 64, 64, 3, dtype=torch.uint8),
        torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
        torch.zeros(32, 32, 3, dtype=torch.uint8),
        torch.zeros(1, 32, 32, 3),
    ],
)
def test_other_images_are_refused(images: torch.Tensor, encoder: KeypointEncoder) -> None:
    with pytest.raises(InvalidInputError, match=r"uint8 images \(B, 32, 32, 3\)"):
        encoder(images)


@pytest.mark.parametrize(
    "sizes",
    [{"image_size": 30}, {"image_size": 12}, {"channels": (8,)}, {"channels": (0, 8)}, {"num_keypoints": 0}],
)
def test_impossible_sizes_are_refused(sizes: dict) -> None:
    with pytest.raises(InvalidInputError):
        EncoderConfig(**sizes)


def test_default_sizes() -> None:
    """The shipped encoder's: a change here is a change of the released weights."""
    config = EncoderConfig()
    assert (config.image_size, config.channels, config.num_keypoints, config.latent_dim) == (64, (16, 32), 32, 192)
