"""Frames to an H.264 file, and pictures to a grid."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from latent_mpc.types import InvalidInputError

Image = NDArray[np.uint8]


def write_video(path: Path | str, frames: Iterable[Image], *, fps: float) -> Path:
    """Write an H.264 MP4 that browsers play; the file appears only when it is whole.

    Args:
        path: ends in `.mp4`.
        frames: uint8 (H, W, 3), all of one size; an odd side loses its last row or column, as H.264 needs.
        fps: frames a second.
    Raises:
        InvalidInputError: no frames, or frames of several sizes.
        OSError: ffmpeg failed, on a full disk, say; nothing is left at `path` that was not there.
    """
    path = Path(path)
    film = [np.ascontiguousarray(f[: f.shape[0] // 2 * 2, : f.shape[1] // 2 * 2]) for f in frames]
    sizes = {f.shape for f in film}
    if len(sizes) != 1:
        raise InvalidInputError(f"a video needs frames of one size, got {sorted(sizes) or 'no frames'}")
    height, width, _ = sizes.pop()
    partial = path.with_name(f"{path.name}.partial")
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:.6f}", "-i", "-"]
    target = [
        "-c:v",
        "libx264",
        "-preset",
        "veryfast",
        "-crf",
        "18",
        "-pix_fmt",
        "yuv420p",
        "-movflags",
        "+faststart",
        "-f",
        "mp4",
    ]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *source, *target, str(partial)]
    try:
        done = subprocess.run(command, input=b"".join(f.tobytes() for f in film), capture_output=True)
        if done.returncode:
            raise OSError(f"ffmpeg could not write {path}: {done.stderr.decode(errors='replace').strip()}")
        partial.replace(path)
    finally:
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
