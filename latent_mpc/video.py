"""Frames to an H.264 file, one at a time, and pictures to a grid."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from latent_mpc.types import InvalidInputError

Image = NDArray[np.uint8]


def write_video(path: Path | str, frames: Iterable[Image], *, fps: float, keyframes: int = 250) -> Path:
    """Write an H.264 MP4 that browsers play, a frame at a time; the file appears only when it is whole.

    Args:
        path: ends in `.mp4`.
        frames: uint8 (H, W, 3), all of one size; an odd side loses its last row or column, as H.264 needs.
        fps: frames a second. keyframes: one every so many frames at least; fewer make for quicker random access.
    Raises:
        InvalidInputError: no frames, or frames of several sizes.
        OSError: ffmpeg failed, on a full disk, say; nothing is left at `path` that was not there.
    """
    path = Path(path)
    images = (f[: f.shape[0] // 2 * 2, : f.shape[1] // 2 * 2] for f in frames)
    if (first := next(images, None)) is None:
        raise InvalidInputError("a video needs frames, got no frames")
    partial = path.with_name(f"{path.name}.partial")
    height, width, _ = first.shape
    source = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {fps:.6f} -i -"
    target = f"-c:v libx264 -preset veryfast -crf 18 -g {keyframes} -pix_fmt yuv420p -movflags +faststart -f mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *source.split(), *target.split(), str(partial)]
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=complaints)
        assert process.stdin is not None
        try:
            try:
                process.stdin.write(first.tobytes())
                for image in images:
                    if image.shape != first.shape:
                        raise InvalidInputError(f"a video needs frames of one size, got {first.shape}, {image.shape}")
                    process.stdin.write(image.tobytes())
                process.stdin.close()
            except BrokenPipeError:
                pass  # ffmpeg ended, and says why
            if process.wait():
                complaints.seek(0)
                raise OSError(f"ffmpeg could not write {path}: {complaints.read().decode(errors='replace').strip()}")
            partial.replace(path)
        finally:
            process.kill()
            process.wait()
            with suppress(BrokenPipeError):
                process.stdin.close()
            partial.unlink(missing_ok=True)
    return path


def tile(images: Sequence[Image], columns: int, *, gap: int = 4, background: int = 255) -> Image:
    """Pictures of one size in rows of `columns`, as one picture.

    Args:
        images: uint8 (H, W, 3) each.
        columns: pictures in a row; the last row is filled up with `background`.
        gap: pixels between pictures.
    """
    height, width, _ = images[0].shape
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    canvas = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), background, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return canvas
