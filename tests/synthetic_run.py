"""A run as `drive --log` leaves it, made up: joints are sines of the time, and frame k is of one grey level."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latent_mpc.frame_log import FrameLog, frame_dtype
from latent_mpc.robots.camera import Frame
from latent_mpc.robots.channels import Phase, tick_dtype
from latent_mpc.robots.log import RunLog

NAMES = ("shoulder", "elbow")
BEGAN_S, TICK_S, FRAME_S = 1000.0, 0.01, 0.05
GOAL_LEVEL = 200


def joints(time_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 2), rad."""
    return np.column_stack([np.sin(time_s), 0.5 * np.cos(3 * time_s)])


def ticks(count: int, torque: slice) -> NDArray[np.void]:
    """`count` ticks from BEGAN_S on; with torque, and RUNNING, in the slice."""
    records = np.zeros(count, tick_dtype(2))
    records["now_s"] = BEGAN_S + TICK_S * np.arange(count)
    records["q_rad"], records["gripper"] = joints(records["now_s"]), np.linspace(0, 1, count)
    records["torque"][torque] = True
    records["sent_rad"][torque] = joints(records["now_s"] + 0.1)[torque]
    records["sent_gripper"][torque] = 0.25
    records["phase"] = np.where(records["torque"], Phase.RUNNING, Phase.CALIBRATED)
    return records


def level(sequence: int) -> int:
    return 20 + 3 * sequence


def frame(sequence: int, size: tuple[int, int] = (32, 32)) -> Frame:
    captured_s = BEGAN_S + FRAME_S * sequence
    return Frame(np.full((*size, 3), level(sequence), np.uint8), sequence, captured_s, captured_s + 0.03)


def write_run(
    folder: Path,
    sequences: Sequence[int] = range(60),
    *,
    torque: slice = slice(50, 250),
    size: tuple[int, int] = (32, 32),
    names: tuple[str, ...] = NAMES,
    cut: int = 0,
) -> Path:
    """A run of 3 s.

    Args:
        sequences: of the frames that the planner saw; none: it kept no frames. size: of the images.
        torque: ticks with torque. cut: bytes missing at the end of both files.
    """
    log = RunLog(folder, names, {"arm": "fake"})
    for tick in ticks(300, torque):
        log.tick(tick)
    log.event(BEGAN_S, "phase", "CALIBRATED: made up")
    log.close()
    if sequences:
        frames = FrameLog(folder, np.full((*size, 3), GOAL_LEVEL, np.uint8))
        frames.close()
        records = np.zeros(len(sequences), frame_dtype(*size))
        for record, sequence in zip(records, sequences, strict=True):
            seen = frame(sequence, size)
            record["captured_s"], record["sequence"], record["image"] = seen.captured_s, sequence, seen.image
            record["motion_s"], record["energy"] = np.nan, 4.0 - sequence / 60 if sequence % 4 == 0 else np.nan
        (folder / "frames.bin").write_bytes(records.tobytes())
    for file in folder.glob("*.bin") if cut else ():
        with open(file, "r+b") as opened:
            opened.truncate(file.stat().st_size - cut)
    return folder
