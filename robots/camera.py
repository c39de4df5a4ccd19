"""Cameras: always the newest frame, and when it was taken; frame_check.py judges whether it is fit to plan on."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from latent_mpc.robots.robot import Array, DriverError
from latent_mpc.robots.simulation_link import Link
from latent_mpc.robots.slots import Slot
from latent_mpc.types import InvalidInputError

Image = NDArray[np.uint8]

REOPEN_S = 0.2  # between attempts at a camera that went away


@dataclass(frozen=True)
class Frame:
    """One image.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        sequence: counts the camera's frames.
        captured_s, received_s: when the shutter was open, as well as it is known, and when the image came; monotonic.
        motion_s: the controller's motion clock at capture, where the camera knows it.
        q_rad, gripper: the arm at capture, (J,) and 0 to 1, where the camera knows it.
    """

    image: Image
    sequence: int
    captured_s: float
    received_s: float
    motion_s: float | None = None
    q_rad: Array | None = None
    gripper: float | None = None


class Camera(Protocol):
    """One camera, used by one thread."""

    def connect(self) -> None:
        """Open it and wait for a first frame. Raises DriverError, with everything closed again."""
        ...

    def read(self) -> Frame | None:
        """The newest frame, the same one again when there is no newer; None before the first. Never waits."""
        ...

    def close(self) -> None:
        """Release it; never raises, may be called twice."""
        ...


class OpenCVCamera:
    """A camera by its index, or a stream by its URL, through OpenCV.

    A thread reads whatever comes and keeps the newest, so that no buffer grows old; it opens a camera that went away
    again and again until `close`.
    """

    def __init__(
        self,
        source: int | str,
        width: int = 640,
        height: int = 480,
        *,
        latency_s: float = 0.0,
        timeout_s: float = 0.5,
        start_s: float = 5.0,
    ) -> None:
        """
        Args:
            source: index of the device, or URL.
            width, height: asked for in pixels; a device gives what it can, see the frame, and a URL ignores it.
            latency_s: from shutter to receipt, if it was measured; `captured_s` is receipt less this.
            timeout_s: for one frame from a URL. start_s: for the first frame.
        """
        if latency_s < 0 or min(width, height, timeout_s, start_s) <= 0:
            raise InvalidInputError("latency_s must be at least 0; width, height, timeout_s and start_s positive")
        self._source, self._size = source, (width, height)
        self._latency_s, self._timeout_s, self._start_s = latency_s, timeout_s, start_s
        self._newest: Frame | None = None
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def connect(self) -> None:
        if self._thread is not None:
            raise DriverError(f"camera {self._source!r} is connected already; close it first")
        try:
            import cv2
        except ImportError as error:
            raise DriverError(f"camera {self._source!r}: {error}; pip install opencv-python-headless") from error
        self._closing.clear()
        self._newest = None
        self._thread = threading.Thread(target=self._run, args=(cv2,), name=f"camera {self._source}", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + self._start_s
        while self._newest is None:
            if time.monotonic() > deadline:
                self.close()
                raise DriverError(
                    f"camera {self._source!r} gave no frame within {self._start_s} s; check its index or URL"
                )
            time.sleep(0.005)

    def read(self) -> Frame | None:
        return self._newest

    def close(self) -> None:
        self._closing.set()
        if self._thread is not None:
            self._thread.join(self._start_s + 2 * self._timeout_s)
            self._thread = None

    def _run(self, cv2: Any) -> None:
        sequence = 0
        while not self._closing.is_set():
            capture = self._open(cv2)
            while not self._closing.is_set():
                found, bgr = capture.read()
                now = time.monotonic()
                if not found or bgr is None:
                    break
                sequence += 1
                image = np.ascontiguousarray(bgr[..., ::-1])
                self._newest = Frame(image, sequence, now - self._latency_s, now)
            capture.release()
            self._closing.wait(REOPEN_S)

    def _open(self, cv2: Any) -> Any:
        if isinstance(self._source, str):
            limit = round(1e3 * self._timeout_s)
            options = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit]
            return cv2.VideoCapture(self._source, cv2.CAP_FFMPEG, options)
        capture = cv2.VideoCapture(self._source)
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, self._size[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, self._size[1])
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        return capture


class SimulatedCamera:
    """The camera of a simulated robot, in whatever process; its frames know the motion clock and the arm."""

    def __init__(self, link: Link, *, start_s: float = 5.0) -> None:
        """
        Args:
            link: of a running `Simulation` with a camera. start_s: for the first frame.
        Raises:
            InvalidInputError: the simulated robot has no camera.
        """
        if link.config.camera is None:
            raise InvalidInputError("this simulated robot has no camera; give SimulationConfig.camera")
        self._dtype, self._slot_name = link.dtypes["frame"], link.names[list(link.dtypes).index("frame")]
        self._start_s = start_s
        self._slot: Slot | None = None

    def connect(self) -> None:
        if self._slot is not None:
            raise DriverError("the simulated camera is connected already; close it first")
        try:
            self._slot = Slot(self._dtype, self._slot_name)
        except InvalidInputError as error:
            raise DriverError(f"simulated camera: {error}") from error
        deadline = time.monotonic() + self._start_s
        while self.read() is None:
            if time.monotonic() > deadline:
                self.close()
                raise DriverError(f"the simulated camera gave no frame within {self._start_s} s")
            time.sleep(0.005)

    def read(self) -> Frame | None:
        if self._slot is None or (read := self._slot.read()) is None:
            return None
        r = read[0]
        return Frame(
            image=r["image"][: r["height"], : r["width"]].copy(),
            sequence=int(r["sequence"]),
            captured_s=float(r["captured_s"]),
            received_s=float(r["sent_s"]),
            motion_s=None if np.isnan(r["motion_s"]) else float(r["motion_s"]),
            q_rad=r["q_rad"].copy(),
            gripper=float(r["gripper"]),
        )

    def close(self) -> None:
        if self._slot is not None:
            self._slot.close()
            self._slot = None


def square(image: Image, size: int) -> Image:
    """The largest centred square of an image, averaged by area to (size, size, 3); a fine one is needed no finer.

    Args:
        image: uint8 (H, W, 3).
    Raises:
        InvalidInputError: the image is no such array, or smaller than `size`.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < size:
        raise InvalidInputError(
            f"need a uint8 (H, W, 3) image of {size} pixels a side or more, got {image.dtype} {image.shape}"
        )
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    crop = image[top : top + side, left : left + side]
    edges = np.arange(size + 1) * side / size
    low, high = edges[:-1, None], edges[1:, None]
    pixels = np.arange(side)
    share = np.clip(np.minimum(high, pixels + 1) - np.maximum(low, pixels), 0, None) * size / side  # (size, side)
    rows = np.tensordot(share.astype(np.float32), crop.astype(np.float32), (1, 0))  # (size, side, 3)
    return np.rint(np.einsum("js,isc->ijc", share.astype(np.float32), rows, optimize=True)).astype(np.uint8)
