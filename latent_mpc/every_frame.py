"""A camera that keeps what came while nobody looked: for a log of every frame, beside a planner that sees the newest.

A thread polls the camera. What is not asked for is bounded: the oldest goes first.
"""

from __future__ import annotations

import threading
from collections import deque

from latent_mpc.robots.camera import Camera, Frame

POLL_S = 0.005
KEPT = 64  # frames


class EveryFrame:
    """A `Camera` around another one."""

    def __init__(self, camera: Camera) -> None:
        self._camera = camera
        self._kept: deque[Frame] = deque(maxlen=KEPT)
        self._newest: Frame | None = None
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def connect(self) -> None:
        """See Camera.connect. Raises DriverError."""
        self._camera.connect()
        self._closing.clear()
        self._newest = self._camera.read()
        if self._newest is not None:
            self._kept.append(self._newest)
        self._thread = threading.Thread(target=self._watch, name="every frame", daemon=True)
        self._thread.start()

    def read(self) -> Frame | None:
        """The newest frame."""
        return self._newest

    def taken(self, sequence: int) -> list[Frame]:
        """The frames up to one, in order, that no call has given yet."""
        given = []
        while self._kept and self._kept[0].sequence <= sequence:
            given.append(self._kept.popleft())
        return given

    def close(self) -> None:
        """Release the camera; never raises, may be called twice."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._camera.close()

    def _watch(self) -> None:
        while not self._closing.wait(POLL_S):
            frame = self._camera.read()
            if frame is not None and (self._newest is None or frame.sequence != self._newest.sequence):
                self._kept.append(frame)
                self._newest = frame
