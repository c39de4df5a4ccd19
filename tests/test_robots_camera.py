"""Cameras: a loopback stream through OpenCV, the simulation's slot, and the square the model sees."""

from __future__ import annotations

import socket
import threading
import time

import numpy as np
import pytest

from latent_mpc.envs.rendering import make_renderer
from latent_mpc.robots.camera import OpenCVCamera, SimulatedCamera, square
from latent_mpc.robots.frame_check import FrameCheck, FrameLimits
from latent_mpc.robots.robot import DriverError
from latent_mpc.robots.simulation_link import Link, Slots
from latent_mpc.robots.world import SceneCamera, SimulationConfig
from latent_mpc.types import InvalidInputError

from . import hostile
from .fake_mjpeg import BARS, HEIGHT, RED, WIDTH, FakeMJPEG, number_of
from .leaks import no_memory_left
from .test_robots_setpoint_check import SPEC


def wait_until(condition, seconds: float = 10.0) -> float:
    """Seconds until it was so."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() < begin + seconds
        time.sleep(0.002)
    return time.monotonic() - begin


@pytest.fixture
def stream():
    pytest.importorskip("cv2")
    with FakeMJPEG() as stream:
        yield stream


@pytest.fixture
def camera(stream):
    camera = OpenCVCamera(stream.url, latency_s=0.01)
    camera.connect()
    yield camera
    camera.close()
    assert "camera" not in " ".join(thread.name for thread in threading.enumerate())


def test_the_newest_frame_in_rgb_with_its_times(stream, camera) -> None:
    behind = []
    for _ in range(10):  # a slow reader
        time.sleep(0.1)
        frame = camera.read()
        behind.append((stream.sent - number_of(frame.image)) % BARS)
    assert np.median(behind) <= 2, "old frames queue up somewhere"
    assert frame.image.shape == (HEIGHT, WIDTH, 3)
    assert frame.image.dtype == np.uint8
    beside = frame.image[:, (WIDTH // BARS) * ((number_of(frame.image) + BARS // 2) % BARS)]
    np.testing.assert_allclose(beside.mean(0), RED, atol=6)
    assert frame.received_s - frame.captured_s == pytest.approx(0.01)
    assert 0 <= time.monotonic() - frame.received_s < 1
    assert frame.motion_s is None
    assert frame.sequence > 10


def test_a_stall_shows_by_its_age_and_the_stream_comes_back(stream, camera) -> None:
    check = FrameCheck(FrameLimits((HEIGHT, WIDTH)))
    wait_until(lambda: check.judge(camera.read(), time.monotonic(), moving=True) is None)
    for trouble, complaint in (("stall", "stalled"), ("black", "blank"), ("gone", "stalled")):
        stream.mode = trouble

        def refused(complaint: str = complaint) -> bool:
            return (check.judge(camera.read(), time.monotonic(), moving=True) or "").startswith(complaint)

        assert wait_until(refused) < 2
        stream.mode = "live"
        wait_until(lambda: check.judge(camera.read(), time.monotonic(), moving=True) is None)


PART = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
HOSTILE = {
    "a pickle": lambda pickled: PART % len(pickled) + pickled + b"\r\n",
    "garbage": lambda _: hostile.GARBAGE,
    "garbage for a JPEG": lambda _: PART % len(hostile.GARBAGE) + hostile.GARBAGE + b"\r\n",
    "1 GB announced": lambda _: PART % hostile.GIB + bytes(1000),
    "a head without end": lambda _: b"--frame\r\nX-Long: " + b"x" * (4 << 20),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_frame_costs_a_pause_and_no_memory(stream, camera, tmp_path, what: str) -> None:
    with hostile.unharmed(tmp_path) as pickled:
        stream.between = HOSTILE[what](pickled)
        sent_at = stream.sent
        wait_until(lambda: not stream.between)
        wait_until(lambda: stream.sent > sent_at + 10 and time.monotonic() - camera.read().received_s < 0.1)
        assert camera.read().image.shape == (HEIGHT, WIDTH, 3)


def test_nobody_there() -> None:
    pytest.importorskip("cv2")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/stream.mjpg"
        camera = OpenCVCamera(url, start_s=0.5)
        with pytest.raises(DriverError, match=r"gave no frame within 0.5 s"):
            camera.connect()
    assert camera.read() is None
    camera.close()
    for bad in ({"latency_s": -1.0}, {"width": 0}, {"timeout_s": 0.0}):
        with pytest.raises(InvalidInputError):
            OpenCVCamera(url, **bad)


def test_the_simulated_cameras_frames_carry_the_arm(tmp_path) -> None:
    with no_memory_left():
        config = SimulationConfig(tmp_path / "any.xml", SPEC, camera=SceneCamera(make_renderer, size=8))
        bare = Link(config, 9, 9)
        slots = Slots(bare)
        camera = SimulatedCamera(Link(config, 9, 9, slots.names), start_s=0.05)
        assert camera.read() is None
        with pytest.raises(DriverError, match="gave no frame"):
            camera.connect()
        record = np.zeros((), slots.frame.dtype)
        record["sequence"], record["captured_s"], record["sent_s"], record["motion_s"] = 3, 10.0, 10.05, np.nan
        record["q_rad"], record["gripper"], record["height"], record["width"] = np.arange(7), 0.25, 8, 4
        record["image"] = np.arange(192).reshape(8, 8, 3)
        slots.frame.write(record)
        camera.connect()
        frame = camera.read()
        assert (frame.sequence, frame.captured_s, frame.received_s, frame.motion_s) == (3, 10.0, 10.05, None)
        assert (frame.image == np.arange(192).reshape(8, 8, 3)[:, :4]).all()
        assert frame.q_rad.tolist() == list(range(7))
        assert frame.gripper == 0.25
        record["motion_s"] = 1.5
        slots.frame.write(record)
        assert camera.read().motion_s == 1.5
        camera.close()
        camera.close()
        slots.close()
        with pytest.raises(DriverError, match="owner is gone"):
            camera.connect()
        with pytest.raises(InvalidInputError, match="no camera"):
            SimulatedCamera(Link(SimulationConfig(tmp_path / "any.xml", SPEC), 9, 9))


def test_square_is_the_mean_over_areas_of_the_centre() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (6, 10, 3), dtype=np.uint8)
    assert (square(image, 6) == image[:, 2:8]).all()
    means = image[:, 2:8].reshape(3, 2, 3, 2, 3).mean((1, 3))
    np.testing.assert_allclose(square(image, 3), means, atol=0.5)
    # a side that does not divide: 6 to 4, each pixel 1.5 wide, by refining to 12 first
    fine = image[:, 2:8].repeat(2, 0).repeat(2, 1)
    np.testing.assert_allclose(square(image, 4), fine.reshape(4, 3, 4, 3, 3).mean((1, 3)), atol=0.5)
    tall = square(image.transpose(1, 0, 2), 3)
    np.testing.assert_allclose(tall, means.transpose(1, 0, 2), atol=0.5)
    for bad in (image[..., 0], image.astype(float), image[:4]):
        with pytest.raises(InvalidInputError, match="uint8"):
            square(bad, 5)
