"""From the record of one episode to pictures: a video with its energies, a filmstrip, a coarse plan."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image as pil
from PIL import ImageDraw, ImageFont

from latent_mpc.types import InvalidInputError, check_image
from latent_mpc.video import Image, write_video

INK, FAINT, PAPER = "#20242c", "#8b919c", "#ffffff"
GOAL, SUBGOAL = "#d1495b", "#00798c"
GOOD, BAD = "#2a7f4f", "#b3392f"
WIDTH, MARGIN = 640, 16  # of the video, pixels
HOLD_S = 2.0  # the last picture stays that long


@dataclass(frozen=True)
class EpisodeRecord:
    """What one episode left to draw; T actions, T+1 frames.

    Attributes:
        frames: scene, uint8 (H, W, 3) each, T+1.
        goal_image: uint8 (H, W, 3).
        goal_energy: energy to the goal at each frame before an action, (T,); NaN where there is none.
        success: as the task judges.
        position_error_m: of the object (Reach: of the tool) at the end.
        act_times_s: time of each call of `act`, (T,).
        control_dt_s: seconds between frames.
        subgoal_frames: T pictures of the current subgoal (the nearest stored frame), or None without subgoals.
        subgoal_energy: energy to the subgoal, (T,), or None.
        plan_frames: T lists of pictures, one for each coarse latent of the plan in force, or None.
    """

    frames: Sequence[Image]
    goal_image: Image
    goal_energy: NDArray[np.float64]
    success: bool
    position_error_m: float
    act_times_s: NDArray[np.float64]
    control_dt_s: float
    subgoal_frames: Sequence[Image] | None = None
    subgoal_energy: NDArray[np.float64] | None = None
    plan_frames: Sequence[Sequence[Image]] | None = None

    def __post_init__(self) -> None:
        steps = len(self.frames) - 1
        if steps < 1:
            raise InvalidInputError(f"an episode to draw needs at least 2 frames, got {len(self.frames)}")
        for image in (*self.frames, self.goal_image, *(self.subgoal_frames or ())):
            check_image(image, "frame")
        for name in ("goal_energy", "act_times_s", "subgoal_frames", "subgoal_energy", "plan_frames"):
            value = getattr(self, name)
            if value is not None and len(value) != steps:
                raise InvalidInputError(f"{name} must have one entry an action ({steps}), got {len(value)}")

    @property
    def verdict(self) -> str:
        """One line for people."""
        word = "success" if self.success else "no success"
        return f"{word}, {100 * self.position_error_m:.1f} cm from the goal"


def save_episode(record: EpisodeRecord, directory: Path | str) -> list[Path]:
    """Write `episode.mp4` and `filmstrip.png` into `directory`, which is made when missing.

    Raises:
        OSError: the disk is full, say.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    video = write_video(directory / "episode.mp4", video_frames(record), fps=1 / record.control_dt_s)
    strip = directory / "filmstrip.png"
    pil.fromarray(filmstrip(record)).save(strip)
    return [video, strip]


def video_frames(record: EpisodeRecord) -> Iterator[Image]:
    """Pictures of the video in real time, uint8 (H, 640, 3), H even: T+1, and the last one held for 2 s.

    On the left the scene, beside it the goal and the current subgoal, below the coarse plan, where there is one,
    and the energies up to now.
    """
    steps = len(record.frames) - 1
    energies = _Energies(record, WIDTH, 170)
    for t in range(steps + 1):
        picture = _compose(record, t, energies)
        yield picture
    for _ in range(round(HOLD_S / record.control_dt_s)):
        yield picture


def filmstrip(record: EpisodeRecord, *, columns: int = 8, side: int = 150) -> Image:
    """Key frames from the first to the last with their times, the subgoals at these times below, then the goal."""
    last = len(record.frames) - 1
    steps = np.unique(np.linspace(0, last, min(columns, last + 1)).round().astype(int))
    rows = 1 if record.subgoal_frames is None else 2
    gap, label, head = 8, 22, 34
    width = (len(steps) + 1) * (side + gap) + 3 * gap
    canvas = pil.new("RGB", (width, head + rows * (side + label + gap) + gap), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((gap, 9), record.verdict, fill=GOOD if record.success else BAD, font=font(16, bold=True))
    for column, t in enumerate(steps):
        left = gap + column * (side + gap)
        canvas.paste(_fit(record.frames[t], side), (left, head))
        draw_centred(draw, left, head + side + 3, side, f"step {t}, {t * record.control_dt_s:.1f} s", INK)
        if record.subgoal_frames is not None and t < last:
            top = head + side + label + gap
            canvas.paste(_fit(record.subgoal_frames[t], side), (left, top))
            draw_centred(draw, left, top + side + 3, side, f"subgoal at step {t}", SUBGOAL)
    left = 3 * gap + len(steps) * (side + gap)
    canvas.paste(_fit(record.goal_image, side), (left, head))
    draw.rectangle((left - 3, head - 3, left + side + 2, head + side + 2), outline=GOAL, width=3)
    draw_centred(draw, left, head + side + 3, side, "goal", GOAL)
    return np.asarray(canvas)


def plan_strip(plan: Sequence[Image], goal: Image, *, width: int = WIDTH) -> Image:
    """The coarse latents as their nearest stored frames, then the goal, in a row with arrows, (H, width, 3)."""
    arrow, label, largest = 14, 20, 96
    side = min(largest, (width - 2 * MARGIN - len(plan) * arrow) // (len(plan) + 1))
    canvas = pil.new("RGB", (width, largest + label), PAPER)  # as high for any number of frames
    draw = ImageDraw.Draw(canvas)
    for i, image in enumerate([*plan, goal]):
        left, middle = MARGIN + i * (side + arrow), label + side // 2
        name, colour = f"then {i + 1}", INK
        if i == 0:
            name, colour = "subgoal", SUBGOAL
        if i == len(plan):
            name, colour = "goal", GOAL
        draw_centred(draw, left, 1, side, name, colour, size=12)
        canvas.paste(_fit(image, side), (left, label))
        if i:
            draw.polygon([(left - 10, middle - 4), (left - 10, middle + 4), (left - 4, middle)], fill=FAINT)
    return np.asarray(canvas)


def _compose(record: EpisodeRecord, t: int, energies: _Energies) -> Image:
    """The video's picture at frame t."""
    last = len(record.frames) - 1
    now = min(t, last - 1)  # the last frame has no action: what was planned before it stays
    scene, side, head, label = 400, 188, 44, 22
    strip = None
    if record.plan_frames is not None:
        strip = plan_strip(record.plan_frames[now], record.goal_image)
    top = head + label
    below = top + scene + MARGIN // 2
    height = below + (0 if strip is None else strip.shape[0] + 6) + energies.height
    canvas = pil.new("RGB", (WIDTH, height + height % 2), PAPER)
    draw = ImageDraw.Draw(canvas)

    if t == last:
        draw.text((MARGIN, 14), record.verdict, fill=GOOD if record.success else BAD, font=font(18, bold=True))
    else:
        draw.text((MARGIN, 14), f"step {t} of {last}", fill=INK, font=font(18, bold=True))
    clock = f"{t * record.control_dt_s:.1f} s,  {1000 * np.mean(record.act_times_s):.0f} ms an action"
    draw.text((WIDTH - MARGIN, 17), clock, fill=FAINT, font=font(14), anchor="ra")

    right = WIDTH - MARGIN - side
    draw.text((MARGIN, head), "scene", fill=INK, font=font(14))
    canvas.paste(_fit(record.frames[t], scene), (MARGIN, top))
    draw.text((right, head), "goal image", fill=GOAL, font=font(14))
    canvas.paste(_fit(record.goal_image, side), (right, top))
    if record.subgoal_frames is not None:
        lower = top + scene - side
        draw.text((right, lower - label), "subgoal (nearest stored)", fill=SUBGOAL, font=font(14))
        canvas.paste(_fit(record.subgoal_frames[now], side), (right, lower))

    if strip is not None:
        canvas.paste(pil.fromarray(strip), (0, below))
        below += strip.shape[0] + 6
    canvas.paste(pil.fromarray(energies.until(t)), (0, below))
    return np.asarray(canvas)


class _Energies:
    """The energy curves, drawn once empty and once whole; at step t, what lies left of t is shown of the whole."""

    def __init__(self, record: EpisodeRecord, width: int, height: int) -> None:
        self.height = height
        steps = len(record.frames) - 1
        figure = Figure(figsize=(width / 100, height / 100), dpi=100)
        axes = figure.add_axes((0.085, 0.24, 0.89, 0.62))
        curves = [("energy to goal", GOAL, record.goal_energy)]
        if record.subgoal_energy is not None:
            curves.append(("energy to subgoal", SUBGOAL, record.subgoal_energy))
        values = np.concatenate([np.asarray(curve, float) for *_, curve in curves])
        peak = np.nanmax(values, initial=0.0, where=np.isfinite(values)) or 1.0
        axes.set(xlim=(0, steps), ylim=(0, 1.08 * peak), xlabel="step")
        axes.locator_params(axis="x", integer=True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9, colors=INK)
        axes.xaxis.label.set(size=9, color=INK)
        axes.grid(axis="y", color="0.92")
        for i, (name, colour, _) in enumerate(curves):
            axes.text(0.02 + 0.24 * i, 1.06, name, color=colour, size=10, transform=axes.transAxes)
        self._empty = _rasterise(figure)
        for _, colour, curve in curves:
            axes.plot(np.arange(len(curve)), curve, color=colour, lw=2, solid_capstyle="butt")
        self._whole = _rasterise(figure)
        box = axes.get_window_extent()
        self._columns = np.linspace(box.x0, box.x1, steps + 1).round().astype(int)

    def until(self, t: int) -> Image:
        """The panel at step t, uint8 (height, width, 3)."""
        column = int(self._columns[t])
        picture = self._empty.copy()
        picture[:, : column + 1] = self._whole[:, : column + 1]
        return picture


def _rasterise(figure: Figure) -> Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi, facecolor=PAPER)
    return np.asarray(pil.open(buffer).convert("RGB"))


def _fit(image: Image, side: int) -> pil.Image:
    """The picture as a square of `side` pixels, cut to its middle."""
    height, width, _ = image.shape
    square = min(height, width)
    top, left = (height - square) // 2, (width - square) // 2
    cut = pil.fromarray(np.ascontiguousarray(image[top : top + square, left : left + square]))
    return cut.resize((side, side), pil.Resampling.LANCZOS)


def draw_centred(
    draw: ImageDraw.ImageDraw, left: int, top: int, width: int, text: str, colour: str, size: int = 13
) -> None:
    draw.text((left + width // 2, top), text, fill=colour, font=font(size), anchor="ma")


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with Matplotlib."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)
