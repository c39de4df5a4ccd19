"""What is looked for stands out at any hue and in any light, what is not is seen apart, and hues are found."""

from __future__ import annotations

import colorsys
import math

import pytest
import torch
from torch import Tensor

from latent_mpc.types import InvalidInputError
from latent_mpc.world_model.focus import GREY, area_in_focus, attend, find_hues, hue_of

TABLE, ARM = (0.72, 0.68, 0.60), (0.9, 0.9, 0.92)
LAMPS = [(1.0, 0.7, 0.5), (0.6, 0.7, 1.0), (0.45, 0.5, 0.45)]
THING = (slice(40, 45), slice(10, 15))
OTHER = (slice(30, 35), slice(40, 45))


def scene(
    *things: tuple[int, int, tuple[float, float, float]], size: int = 5, table: tuple[float, float, float] = TABLE
) -> Tensor:
    """uint8 (1, 64, 64, 3): a table, an arm, and squares (row, column, RGB)."""
    image = torch.tensor(table).expand(64, 64, 3).clone()
    image[:20, 20:30] = torch.tensor(ARM)
    for row, column, rgb in things:
        image[row : row + size, column : column + size] = torch.tensor(rgb)
    return (255 * image).round().to(torch.uint8)[None]


def rgb(degrees: float, light: float = 0.85, saturation: float = 0.85) -> tuple[float, float, float]:
    return colorsys.hsv_to_rgb(degrees % 360 / 360, saturation, light)


def hue(degrees: float, table: tuple[float, float, float] = TABLE) -> Tensor:
    """What `rgb(degrees)` looks like beside a table that counts as grey: (1,), rad; HSV's hue is within 1.2 degrees."""
    r, g, b = (c / t for c, t in zip(rgb(degrees), table, strict=True))
    return torch.tensor([2 * math.pi * colorsys.rgb_to_hsv(r, g, b)[0]])


def degrees_apart(found: Tensor, expected: Tensor) -> float:
    return float(torch.rad2deg(found - expected).add(180).remainder(360).sub(180).abs().max())


@pytest.mark.parametrize("degrees", range(0, 360, 30))
def test_a_thing_is_found_and_stands_out_at_any_hue_and_in_shade(degrees: int) -> None:
    image = scene((40, 10, rgb(degrees)), (45, 10, rgb(degrees, light=0.4)))  # a bright face and one in the shade
    (found,) = find_hues(image)
    assert degrees_apart(found, hue(degrees)) < 2
    focus, others = attend(image, found[None])[0, 1:]
    assert focus[40:50, 10:15].min() > 0.9
    focus[40:50, 10:15] = 0
    assert focus.max() < 0.01 and others.max() < 0.02


def test_it_looks_the_same_at_every_hue() -> None:
    seen = [attend(scene((40, 10, rgb(d))), hue(d))[0, 1:] for d in (5, 95, 185, 275)]
    for other in seen[1:]:
        torch.testing.assert_close(other, seen[0], atol=0.02, rtol=0)


def test_the_luma_is_that_of_the_image_over_its_tables() -> None:
    luma = attend(scene((40, 10, rgb(120))), hue(0))[0, 0]
    for at, colour in [((60, 60), TABLE), ((10, 25), ARM), ((42, 12), rgb(120))]:
        r, g, b = (GREY * c / t for c, t in zip(colour, TABLE, strict=True))
        assert luma[at].item() == pytest.approx(0.299 * r + 0.587 * g + 0.114 * b, abs=0.01)


def test_what_is_not_looked_for_shows_in_the_others_alone() -> None:
    alone, beside = scene((40, 10, rgb(0))), scene((40, 10, rgb(0)), (30, 40, rgb(120)))
    expected, seen = attend(alone, hue(0))[0], attend(beside, hue(0))[0]
    torch.testing.assert_close(seen[1], expected[1], atol=0.01, rtol=0)
    assert seen[2][OTHER].min() > 0.95 and expected[2].max() < 0.01
    turned = attend(beside, hue(120))[0]
    assert turned[1][OTHER].min() > 0.95 and turned[2][THING].min() > 0.95
    for channel in (0, 2):
        seen[channel][OTHER] = expected[channel][OTHER]
    torch.testing.assert_close(seen, expected, atol=0.01, rtol=0)  # and elsewhere nothing has changed


@pytest.mark.parametrize("lamp", LAMPS)
def test_a_coloured_lamp_changes_nothing(lamp: tuple[float, float, float]) -> None:
    image = scene((40, 10, rgb(0)), (30, 40, rgb(120)))
    lit = image * torch.tensor(lamp)
    torch.testing.assert_close(attend(lit, hue(0)), attend(image, hue(0)), atol=1e-4, rtol=0)
    (plain, tinted) = find_hues(image), find_hues(lit.round().to(torch.uint8))
    assert len(plain) == len(tinted) == 2 and degrees_apart(tinted, plain) < 3


@pytest.mark.parametrize("table", [(0.45, 0.55, 0.75), (0.75, 0.35, 0.30), (0.30, 0.30, 0.28)])
def test_a_coloured_table_is_no_thing_and_looks_grey(table: tuple[float, float, float]) -> None:
    image = scene((40, 10, rgb(120)), table=table)
    image[:, :20, 20:30] = image[:, -1:, -1:]  # beside a table of a strong colour a white arm has one, too
    (found,) = find_hues(image)
    assert degrees_apart(found, hue(120, table)) < 2
    luma, focus, others = attend(image, found[None])[0]
    torch.testing.assert_close(focus[THING], torch.ones(5, 5), atol=0.02, rtol=0)
    luma[THING], focus[THING] = GREY, 0
    torch.testing.assert_close(luma, torch.full((64, 64), GREY), atol=1e-4, rtol=0)
    assert focus.max() == 0 and others.max() < 0.02


@pytest.mark.parametrize("lamp", [(1.0, 1.0, 1.0), *LAMPS])
@pytest.mark.parametrize("degrees", range(10, 360, 50))
def test_the_hue_of_a_colour_is_the_one_that_is_found(degrees: int, lamp: tuple[float, float, float]) -> None:
    image = (scene((40, 10, rgb(degrees))) * torch.tensor(lamp)).round().to(torch.uint8)
    shown = torch.tensor(rgb(degrees)) * torch.tensor(lamp)
    assert degrees_apart(hue_of(shown[None], image), find_hues(image)) < 2


def test_each_colour_has_its_hue_in_its_own_image() -> None:
    images = torch.cat([scene(), scene(table=(0.45, 0.55, 0.75))])
    hues = hue_of(torch.tensor([rgb(30), rgb(30)]), images)
    for found, table in zip(hues, (TABLE, (0.45, 0.55, 0.75)), strict=True):
        assert degrees_apart(found, hue(30, table)) < 2
    assert degrees_apart(hues[0], hues[1]) > 5


def test_floats_are_seen_as_bytes_are() -> None:
    image = scene((40, 10, rgb(0)), (30, 40, rgb(120)))
    assert torch.equal(attend(image.float(), hue(0)), attend(image, hue(0)))
    assert torch.equal(hue_of(torch.tensor([rgb(0)]), image.float()), hue_of(torch.tensor([rgb(0)]), image))


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
    assert degrees_apart(found[0], hue(200)) < 2 and degrees_apart(found[1], hue(350)) < 2
    assert len(find_hues(image, least_px=3)) == 3


def test_two_faces_of_nearly_one_hue_are_one_thing_and_25_degrees_are_two() -> None:
    assert len(find_hues(scene((40, 10, rgb(20)), (45, 10, rgb(26))))) == 1
    assert len(find_hues(scene((40, 10, rgb(2)), (40, 30, rgb(27))))) == 2


def test_area_is_a_mean_over_the_images() -> None:
    once = torch.cat([scene((40, 10, rgb(0))), *[scene()] * 9])
    assert len(find_hues(once)) == 0
    assert len(find_hues(once, least_px=2)) == 1


def test_the_area_in_focus_is_that_of_the_thing_of_that_hue() -> None:
    image = torch.cat([scene((40, 10, rgb(0)), (40, 30, rgb(120))), scene((40, 10, rgb(120)))])
    area = area_in_focus(image, hue(0).repeat(2))
    torch.testing.assert_close(area, torch.tensor([25.0, 0.0]), atol=0.5, rtol=0)


def test_nothing_coloured_gives_no_hues() -> None:
    assert find_hues(scene()).shape == (0,)


@pytest.mark.parametrize(
    "images", [torch.zeros(64, 64, 3, dtype=torch.uint8), torch.zeros(1, 64, 64, 3), torch.zeros(0, 64, 64, 3).byte()]
)
def test_other_shapes_and_dtypes_are_refused(images: Tensor) -> None:
    with pytest.raises(InvalidInputError, match="uint8 images"):
        find_hues(images)
