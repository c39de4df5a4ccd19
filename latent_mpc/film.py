"""What the camera of a run saw, as a video at real speed.

frame k at t_k = k / 25 s:   the image nearest to t_k | the goal image
                             phase, time, energy of the last plan; the phases of the whole run as a bar
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as pil
from PIL import ImageDraw, ImageFont
from tqdm import tqdm

from latent_mpc.frame_log import Frames
from latent_mpc.robots.channels import Phase
from latent_mpc.robots.log import Run
from latent_mpc.robots.robot import Array
from latent_mpc.video import Image, write_video

FPS = 25
SIDE, GAP, STRIP = 384, 8, 48  # pixels: of an image at least if it is enlarged, between two, and of what is below them
INK, PAPER = (230, 230, 230), (24, 24, 24)
COLOURS = {
    Phase.DISCONNECTED: (90, 90, 90),
    Phase.CONNECTED: (110, 110, 130),
    Phase.CALIBRATED: (130, 130, 170),
    Phase.ARMED: (70, 130, 200),
    Phase.RUNNING: (60, 170, 90),
    Phase.HOLD: (220, 180, 60),
    Phase.STOPPED: (210, 120, 50),
    Phase.FAULT: (200, 60, 60),
}


def film_run(run: Run, frames: Frames, path: Path) -> Path:
    """Write the video of a run that has ticks. Raises OSError as `write_video`."""
    captured_s = frames.records["captured_s"]
    at_s = np.arange(captured_s.min(), captured_s.max() + 1 / FPS, 1 / FPS)
    pictures = tqdm(_pictures(run, frames, at_s), path.name, len(at_s), unit="frame")
    return write_video(path, pictures, fps=FPS)


def nearest(times: Array, wanted: Array) -> NDArray[np.intp]:
    """Of each of `wanted` (m,) the index of the nearest of `times` (n,), n ≥ 1, in whatever order."""
    order = np.argsort(times, kind="stable")
    rising = times[order]
    return order[np.searchsorted((rising[:-1] + rising[1:]) / 2, wanted)]


def _pictures(run: Run, frames: Frames, at_s: Array) -> Iterator[Image]:
    """The video's frames at `at_s` (n,), on the monotonic clock."""
    records, ticks = frames.records, run.ticks
    scale = max(1, SIDE // max(frames.goal.shape[:2]))
    goal = _enlarged(frames.goal, scale)
    height, width, _ = goal.shape
    canvas = np.full((height + STRIP, 2 * width + GAP, 3), PAPER, np.uint8)
    canvas[:height, width + GAP :] = goal
    across = np.linspace(at_s[0], at_s[-1], canvas.shape[1])
    canvas[-14:-4] = [COLOURS[Phase(int(phase))] for phase in ticks["phase"][nearest(ticks["now_s"], across)]]
    energies = _held(records["energy"])
    seen = nearest(records["captured_s"], at_s)
    phases = ticks["phase"][nearest(ticks["now_s"], at_s)]
    for k, time_s in enumerate(at_s):
        picture = canvas.copy()
        picture[:height, :width] = _enlarged(records["image"][seen[k]], scale)
        cursor = round((len(across) - 3) * (time_s - at_s[0]) / max(at_s[-1] - at_s[0], 1 / FPS))
        picture[-16:-2, cursor : cursor + 3] = INK
        energy = energies[seen[k]]
        text = f"{time_s - run.started_monotonic_s:.1f} s   {Phase(int(phases[k])).name}"
        drawn = pil.fromarray(picture)
        draw = ImageDraw.Draw(drawn)
        draw.text((8, height + 6), text + ("" if np.isnan(energy) else f"   energy {energy:.2f}"), INK, _font(18))
        draw.text((width + GAP + 8, height + 6), "goal", INK, _font(18))
        yield np.asarray(drawn)


def _held(values: Array) -> Array:
    """The last value that was not NaN, at each place; NaN before the first."""
    last = np.maximum.accumulate(np.where(np.isnan(values), -1, np.arange(len(values))))
    return np.where(last < 0, np.nan, values[last])


def _enlarged(image: Image, scale: int) -> Image:
    return image.repeat(scale, 0).repeat(scale, 1)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with Matplotlib."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
