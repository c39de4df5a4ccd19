"""Videos are whole, at their speed, and written a frame at a time; pictures are tiled from the left."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from latent_mpc.types import InvalidInputError
from latent_mpc.video import Image, tile, write_video

from .test_film import decoded


def grey(value: int, height: int = 16, width: int = 16) -> Image:
    return np.full((height, width, 3), value, np.uint8)


@pytest.mark.parametrize("keyframes", [2, 250])
def test_every_frame_is_written_and_few_are_in_memory_at_a_time(tmp_path: Path, keyframes: int) -> None:
    seen: list[weakref.ref[Image]] = []
    most = 0

    def frames() -> Iterator[Image]:
        nonlocal most
        for k in range(60):
            image = grey(4 * k, 17, 19)
            seen.append(weakref.ref(image))
            most = max(most, sum(ref() is not None for ref in seen))
            yield image

    film = decoded(write_video(tmp_path / "a.mp4", frames(), fps=7, keyframes=keyframes))
    assert len(film) == 60 and most <= 4
    assert film[0].shape == (16, 18, 3)
    assert max(abs(picture.mean() - 4 * k) for k, picture in enumerate(film)) < 3
    assert imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "a.mp4"))[1] == pytest.approx(60 / 7, abs=0.02)


def test_a_video_that_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"kept")
    with pytest.raises(InvalidInputError, match="needs frames, got no frames"):
        write_video(path, [], fps=5)
    with pytest.raises(InvalidInputError, match="of one size"):
        write_video(path, [grey(0), grey(0, 32)], fps=5)
    with pytest.raises(OSError, match="ffmpeg could not write"):
        write_video(path, [grey(0)] * 3, fps=0)
    with pytest.raises(OSError, match="ffmpeg could not write"):
        write_video(tmp_path / "missing" / "a.mp4", (grey(0, 512, 512) for _ in range(50)), fps=5)
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"] and path.read_bytes() == b"kept"


def test_odd_sides_are_cut_to_even_ones(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", [grey(90, 65, 67)] * 3, fps=5)
    assert next(imageio_ffmpeg.read_frames(str(path)))["size"] == (66, 64)


def test_a_video_that_cannot_be_opened_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    (tmp_path / "a.mp4.partial").mkdir()  # ffmpeg cannot open this
    with pytest.raises(OSError, match=r"a\.mp4"):
        write_video(path, [grey(0)] * 2, fps=5)
    assert path.read_bytes() == b"old"


def test_tile_fills_rows_from_the_left() -> None:
    images = [np.full((2, 3, 3), v, np.uint8) for v in (1, 2, 3)]
    expected = np.full((5, 7), 9)
    expected[:2, :3], expected[:2, 4:], expected[3:, :3] = 1, 2, 3
    np.testing.assert_array_equal(tile(images, 2, gap=1, background=9)[..., 0], expected)
