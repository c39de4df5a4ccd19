"""What is looked for stands out at any hue and in any light, what is not is a grey patch, and hues are found."""

from __future__ import annotations

import colorsys
import math

import pytest
import torch
from torch import Tensor

from latent_mpc.types import InvalidInputError
from latent_mpc.world_model.focus import GREY, attend, find_hues, hues_of_episodes

TABLE, ARM = (0.72, 0.68, 0.60), (0.9, 0.9, 0.92)


def scene(*things: tuple[int, int, tuple[float, float, float]], size: int = 5) -> Tensor:
    """uint8 (1, 64, 64, 3): a beige table, an arm, and squares (row, column, RGB)."""
    image = torch.tensor(TABLE).expand(64, 64, 3).clone()
    image[:20, 20:30] = torch.tensor(ARM)
    for row, column, rgb in things:
        image[row : row + size, column : column + size] = torch.tensor(rgb)
    return (255 * image).round().to(torch.uint8)[None]


def rgb(degrees: float, light: float = 0.85, saturation: float = 0.85) -> tuple[float, float, float]:
    return colorsys.hsv_to_rgb(degrees % 360 / 360, saturation, light)


def hue(degrees: float) -> Tensor:
    return torch.tensor([math.radians(degrees)])


def degrees_apart(found: Tensor, degrees: float) -> float:
    return float((torch.rad2deg(found) - degrees + 180).remainder(360).sub(180).abs().max())


@pytest.mark.parametrize("degrees", range(0, 360, 30))
def test_a_thing_is_found_and_stands_out_at_any_hue_and_in_shade(degrees: int) -> None:
    image = scene((40, 10, rgb(degrees)), (45, 10, rgb(degrees, light=0.4)))  # a bright face and one in the shade
    (found,) = find_hues(image)
    assert degrees_apart(found, degrees) < 4
    focus = attend(image, found[None])[0, 1]
    assert focus[40:50, 10:15].min() > 0.9
    focus[40:50, 10:15] = 0
    assert focus.max() < 0.01


def test_it_looks_the_same_at_every_hue() -> None:
    seen = [attend(scene((40, 10, rgb(d))), hue(d)) for d in (5, 95, 185, 275)]
    for other in seen[1:]:
        torch.testing.assert_close(other, seen[0], atol=0.02, rtol=0)


def test_what_is_not_attended_leaves_no_trace_on_the_table() -> None:
    alone, beside = scene((40, 10, rgb(0))), scene((40, 10, rgb(0)), (30, 40, rgb(120)))
    torch.testing.assert_close(attend(beside, hue(0)), attend(alone, hue(0)), atol=0.01, rtol=0)
    shown = attend(beside, hue(120))[0, 1]
    assert shown[32, 42] > 0.9


def test_another_table_or_lamp_looks_nearly_the_same() -> None:
    image = scene((40, 10, rgb(0)))
    table = image == scene()[:, -1:, -1:]
    paler = torch.where(table.all(-1, keepdim=True), torch.tensor([150, 160, 150], dtype=torch.uint8), image)
    focus, luma = attend(paler, hue(0))[0, 1], attend(paler, hue(0))[0, 0]
    torch.testing.assert_close(focus, attend(image, hue(0))[0, 1])
    assert luma.flatten().median() == pytest.approx(GREY, abs=0.001)
    dark = (image * 0.8).to(torch.uint8)
    assert (attend(dark, hue(0)) - attend(image, hue(0))).abs().max() < 0.08


def test_each_image_is_looked_at_for_its_own_hue() -> None:
    images = scene((40, 10, rgb(0)), (30, 40, rgb(120))).expand(2, -1, -1, -1)
    focus = attend(images, torch.cat([hue(0), hue(120)]))[:, 1]
    assert focus[0, 42, 12] > 0.9 > 0.01 > focus[0, 32, 42]
    assert focus[1, 32, 42] > 0.9 > 0.01 > focus[1, 42, 12]


def test_hues_come_largest_first_and_small_specks_not_at_all() -> None:
    big, small, speck = (30, 5, rgb(200)), (45, 30, rgb(350)), (50, 50, rgb(100))
    image = scene(big, size=8)
    image[:, 45:50, 30:35] = scene(small)[:, 45:50, 30:35]
    image[:, 50:52, 50:52] = scene(speck, size=2)[:, 50:52, 50:52]
    found = find_hues(image)
    assert len(found) == 2
    assert degrees_apart(found[0], 200) < 4 and degrees_apart(found[1], 350) < 4
    assert len(find_hues(image, least_px=3)) == 3


def test_two_faces_of_nearly_one_hue_are_one_thing_and_25_degrees_are_two() -> None:
    assert len(find_hues(scene((40, 10, rgb(20)), (45, 10, rgb(26))))) == 1
    assert len(find_hues(scene((40, 10, rgb(2)), (40, 30, rgb(27))))) == 2


def test_area_is_a_mean_over_the_images() -> None:
    once = torch.cat([scene((40, 10, rgb(0))), *[scene()] * 9])
    assert len(find_hues(once)) == 0
    assert len(find_hues(once, least_px=2)) == 1


def test_nothing_coloured_gives_no_hues() -> None:
    assert find_hues(scene()).shape == (0,)


@pytest.mark.parametrize(
    "images", [torch.zeros(64, 64, 3, dtype=torch.uint8), torch.zeros(1, 64, 64, 3), torch.zeros(0, 64, 64, 3).byte()]
)
def test_other_shapes_and_dtypes_are_refused(images: Tensor) -> None:
    with pytest.raises(InvalidInputError, match="uint8 images"):
        find_hues(images)


def test_every_frame_of_an_episode_has_the_hues_of_the_whole() -> None:
    two, one = scene((40, 10, rgb(0)), (30, 40, rgb(120))), scene((40, 10, rgb(240)))
    hues = hues_of_episodes(torch.cat([two, two, one, one, one]), [2, 3])
    assert hues.shape == (5, 2)
    assert hues[:2].isfinite().all() and torch.equal(hues[0], hues[1])
    assert degrees_apart(hues[2:, 0], 240) < 4 and hues[2:, 1].isnan().all()
    assert hues_of_episodes(scene(), [1]).shape == (1, 0)
