"""Nothing that a camera gave is missed while nobody looks, nothing is given twice, and memory is bounded."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from latent_mpc.every_frame import KEPT, EveryFrame
from latent_mpc.robots.camera import Frame


class Ticking:
    """A camera that gives its next frame when the last one was read twice, so that none can be missed by chance."""

    def __init__(self, last: int) -> None:
        self.sequence, self.last, self.reads, self.closed = 1, last, 0, 0

    def connect(self) -> None:
        pass

    def read(self) -> Frame:
        self.reads += 1
        if self.reads % 2 == 0:
            self.sequence = min(self.sequence + 1, self.last)
        return Frame(np.full((2, 2, 3), self.sequence % 256, np.uint8), self.sequence, 0.0, 0.0)

    def close(self) -> None:
        self.closed += 1


def watched(last: int) -> tuple[EveryFrame, Ticking]:
    """One that has seen the last frame."""
    inner = Ticking(last)
    camera = EveryFrame(inner)
    camera.connect()
    deadline_s = time.monotonic() + 20
    while (frame := camera.read()) is None or frame.sequence < last:
        assert time.monotonic() < deadline_s
        time.sleep(0.002)
    return camera, inner


def test_every_frame_is_given_once_and_in_order() -> None:
    camera, inner = watched(20)
    try:
        assert [f.sequence for f in camera.taken(7)] == list(range(1, 8))
        assert camera.taken(7) == []
        assert [f.sequence for f in camera.taken(20)] == list(range(8, 21))
        assert [int(f.image[0, 0, 0]) for f in camera.taken(99)] == []
    finally:
        camera.close()
        camera.close()
    assert inner.closed == 2 and not [t for t in threading.enumerate() if t.name == "every frame"]


def test_what_nobody_asks_for_is_bounded_and_the_newest_stays() -> None:
    camera, _ = watched(KEPT + 30)
    try:
        assert [f.sequence for f in camera.taken(999)] == list(range(31, KEPT + 31))
    finally:
        camera.close()


def test_a_camera_that_does_not_connect_leaves_no_thread() -> None:
    class Missing(Ticking):
        def connect(self) -> None:
            raise OSError("no such camera")

    with pytest.raises(OSError, match="no such camera"):
        EveryFrame(Missing(1)).connect()
    assert not [t for t in threading.enumerate() if t.name == "every frame"]
