"""The frames of a planner's camera, in the folder of its run, beside what robots/log.py keeps there.

    frames_goal.png  the goal image; the frames are of its size
    frames.bin       records of `frame_dtype(H, W)`, one after another; a last one that was cut off is left out

A thread of its own writes, so that a slow disk never delays a plan. What is not written yet is bounded, past that
frames are dropped and counted, and so is the file. A disk that refuses ends the log with one warning, not the planner.
"""

from __future__ import annotations

import errno
import queue
import threading
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray

from latent_mpc.robots.camera import Frame, Image
from latent_mpc.types import InvalidInputError

GOAL_NAME, FRAMES_NAME = "frames_goal.png", "frames.bin"
BACKLOG = 64  # frames
MAX_BYTES = 8 << 30  # half an hour of 30 frames a second at 224 pixels


def frame_dtype(height: int, width: int) -> np.dtype:
    """One frame, whether it was planned on or not.

    `captured_s` is on the monotonic clock, like `now_s` of a tick; `motion_s` the motion clock then, NaN where the
    camera does not know it; `energy` that of the plan made from it, NaN if none was.
    """
    return np.dtype(
        [
            ("captured_s", "f8"),
            ("motion_s", "f8"),
            ("energy", "f8"),
            ("sequence", "i8"),
            ("image", "u1", (height, width, 3)),
        ]
    )


class FrameLog:
    """Writes the frames of a run; no call of it waits for the disk or raises, and `close` waits two seconds at most.

    Attributes:
        dropped: frames of another size than the goal's, or that the backlog or the disk had no room for.
    """

    def __init__(self, folder: Path, goal: Image) -> None:
        """
        Args:
            folder: of the run; created if need be. goal: uint8 (H, W, 3).
        """
        self.dropped = 0
        self._folder, self._dtype = folder, frame_dtype(*goal.shape[:2])
        self._queue: queue.Queue[bytes | None] = queue.Queue(BACKLOG)
        self._thread: threading.Thread | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = open(folder / FRAMES_NAME, "xb", buffering=0)
            iio.imwrite(folder / GOAL_NAME, goal, plugin="pillow")
        except OSError as error:
            self._end(error)
            return
        self._thread = threading.Thread(target=self._write_all, args=(file,), name="frame log", daemon=True)
        self._thread.start()

    def add(self, frame: Frame, energy: float = np.nan) -> None:
        """Keep a frame, and the energy of the plan that was made from it."""
        record = np.zeros((), self._dtype)
        if self._thread is None or not self._thread.is_alive() or frame.image.shape != record["image"].shape:
            self.dropped += 1
            return
        record["captured_s"], record["sequence"], record["energy"] = frame.captured_s, frame.sequence, energy
        record["motion_s"] = np.nan if frame.motion_s is None else frame.motion_s
        record["image"] = frame.image
        try:
            self._queue.put_nowait(record.tobytes())
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what is left. May be called twice."""
        if self._thread is not None and self._thread.is_alive():
            with suppress(queue.Full):
                self._queue.put(None, timeout=1.0)
            self._thread.join(1.0)

    def _write_all(self, file: BinaryIO) -> None:
        room = MAX_BYTES
        with file:
            try:
                while (record := self._queue.get()) is not None:
                    if (room := room - len(record)) < 0:
                        raise OSError(errno.EFBIG, f"{FRAMES_NAME} would exceed {MAX_BYTES} bytes")
                    while record:  # an unbuffered file may take a part only
                        record = record[file.write(record) :]
            except OSError as error:
                self._end(error)

    def _end(self, error: OSError) -> None:
        warnings.warn(f"the frames in {self._folder} end here: {error}", RuntimeWarning, stacklevel=2)


@dataclass(frozen=True)
class Frames:
    """The frames of a run as read back.

    Attributes:
        goal: uint8 (H, W, 3).
        records: (n,) of `frame_dtype`, n ≥ 1, in the order in which they were seen; mapped from the file.
    """

    goal: Image
    records: NDArray[np.void]


def read_frames(folder: Path) -> Frames | None:
    """The frames in a run's folder, also of a planner that was killed; None if there is not one.

    Raises:
        InvalidInputError: there are frames, but their goal image is missing or damaged.
    """
    path = folder / FRAMES_NAME
    if not path.exists() or not path.stat().st_size:
        return None
    try:
        goal = np.asarray(iio.imread(folder / GOAL_NAME, plugin="pillow"))
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{folder / GOAL_NAME} tells the frames' size, and cannot be read: {error}") from error
    dtype = frame_dtype(*goal.shape[:2])
    whole = path.stat().st_size // dtype.itemsize
    return Frames(goal, np.memmap(path, dtype, "r", shape=(whole,))) if whole else None
