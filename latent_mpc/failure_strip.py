"""A failure as a strip of small pictures: the start, what led to it, the end, and the goal image."""

from __future__ import annotations

import io

import mujoco
import numpy as np
from PIL import Image as pil
from PIL import ImageDraw

from latent_mpc.envs.tabletop import TabletopEnv
from latent_mpc.failure_trace import FailureTrace
from latent_mpc.video import Image
from latent_mpc.visualise import GOAL, INK, PAPER, draw_centred, font

FRAMES = 8
LEAD, STRIDE = 4, 2  # pictures before the moment of failure, and steps between two
SIDE, GAP, HEAD, FOOT = 104, 4, 24, 16  # pixels
COLOURS = (192, 128, 96, 64, 48, 32)  # of the palette; fewer until the file is small enough
MAX_BYTES = 60_000


def key_moments(moment: int, steps: int) -> list[int]:
    """Which of the T+1 moments to show: the first, the last, and up to six around the one that decided.

    They are `STRIDE` steps apart; where an end of the episode cuts them off, more of the other side come instead.
    """
    if steps < FRAMES:
        return list(range(steps + 1))
    inner = FRAMES - 2
    stride = min(STRIDE, max(1, (steps - 2) // (inner - 1)))
    first = int(np.clip(moment - LEAD * stride, 1, steps - 1 - (inner - 1) * stride))
    return [0, *range(first, first + inner * stride, stride), steps]


def draw_moments(env: TabletopEnv, trace: FailureTrace, moments: list[int]) -> tuple[list[Image], Image]:
    """The observation camera's pictures of these moments and of the goal, in the episode that the scene still has."""
    camera = env.config.camera
    goal = env.render_goal(camera, SIDE, SIDE)
    pictures = []
    for t in moments:
        env.data.qpos[:] = trace.qpos[t]
        mujoco.mj_forward(env.model, env.data)
        pictures.append(env.render_camera(camera, SIDE, SIDE))
    return pictures, goal


def strip(
    title: str, rgb: tuple[float, float, float], pictures: list[Image], moments: list[int], marked: int, goal: Image
) -> Image:
    """One row, uint8 (H, W, 3).

    Args:
        title: one line above it. rgb: of the thing that it is about, 0 to 1, as a square before the title.
        pictures: uint8 (H, W, 3) each. moments: their steps. marked: the moment that decided; the nearest is marked.
    """
    width = (len(pictures) + 1) * (SIDE + GAP) + 3 * GAP
    canvas = pil.new("RGB", (width, HEAD + SIDE + FOOT), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((GAP, 6, GAP + 11, 17), fill=tuple(round(255 * c) for c in rgb), outline=INK)
    draw.text((GAP + 18, 4), title, fill=INK, font=font(12))
    nearest = int(np.argmin(np.abs(np.array(moments) - marked)))
    for i, (picture, t) in enumerate(zip(pictures, moments, strict=True)):
        left = GAP + i * (SIDE + GAP)
        canvas.paste(pil.fromarray(picture), (left, HEAD))
        if i == nearest:
            draw.rectangle((left - 1, HEAD - 1, left + SIDE, HEAD + SIDE), outline=INK, width=2)
        draw_centred(draw, left, HEAD + SIDE + 1, SIDE, f"step {t}", INK, size=11)
    left = 3 * GAP + len(pictures) * (SIDE + GAP)
    canvas.paste(pil.fromarray(goal), (left, HEAD))
    draw.rectangle((left - 1, HEAD - 1, left + SIDE, HEAD + SIDE), outline=GOAL, width=2)
    draw_centred(draw, left, HEAD + SIDE + 1, SIDE, "goal", GOAL, size=11)
    return np.asarray(canvas)


def small_png(picture: Image) -> bytes:
    """A PNG of at most `MAX_BYTES`, with as many colours as fit."""
    for colours in COLOURS:
        buffer = io.BytesIO()
        few = pil.fromarray(picture).quantize(colours, method=pil.Quantize.MEDIANCUT, dither=pil.Dither.NONE)
        few.save(buffer, format="png", optimize=True)
        if buffer.tell() <= MAX_BYTES:
            break
    return buffer.getvalue()
