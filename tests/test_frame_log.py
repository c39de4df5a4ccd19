"""Frames are read back bit for bit, also after a kill; a bad disk ends the log alone, and delays nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from latent_mpc import frame_log
from latent_mpc.frame_log import BACKLOG, FrameLog, frame_dtype, read_frames
from latent_mpc.robots.camera import Frame, Image
from latent_mpc.types import InvalidInputError

SIZE = (6, 8)
RECORD = frame_dtype(*SIZE).itemsize


def picture(seed: int) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)


def keep(log: FrameLog, count: int) -> None:
    for k in range(count):
        log.add(Frame(picture(k), 10 + k, 0.1 * k, 0.1 * k + 0.03, motion_s=k / 7 if k % 2 else None), energy=k / 3)


def same_as_kept(folder: Path, count: int) -> bool:
    frames = read_frames(folder)
    assert frames is not None
    k, r = np.arange(count), frames.records
    motion_s = np.where(k % 2, k / 7, np.nan)
    return (
        np.array_equal(frames.goal, picture(99))
        and np.array_equal(r["image"], [picture(i) for i in k])
        and r["sequence"].tolist() == (10 + k).tolist()
        and np.array_equal(r["captured_s"], 0.1 * k)
        and np.array_equal(r["motion_s"], motion_s, equal_nan=True)
        and np.array_equal(r["energy"], k / 3)
    )


def onto(monkeypatch: pytest.MonkeyPatch, file: BinaryIO) -> None:
    """The next log writes into `file`."""
    monkeypatch.setattr(frame_log, "open", lambda *_, **__: file, raising=False)


def test_frames_are_read_back_bit_for_bit(tmp_path: Path) -> None:
    log = FrameLog(tmp_path / "runs" / "monday", picture(99))
    keep(log, 40)
    log.close()
    log.close()
    assert log.dropped == 0
    assert same_as_kept(tmp_path / "runs" / "monday", 40)


def test_a_last_record_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    log = FrameLog(tmp_path, picture(99))
    keep(log, 5)
    log.close()
    for left, whole in ((5 * RECORD - 1, 4), (4 * RECORD + 1, 4), (4 * RECORD, 4), (RECORD, 1)):
        os.truncate(tmp_path / "frames.bin", left)
        assert same_as_kept(tmp_path, whole)
    for left in (RECORD - 1, 0):
        os.truncate(tmp_path / "frames.bin", left)
        assert read_frames(tmp_path) is None
    assert read_frames(tmp_path / "elsewhere") is None


def test_what_was_added_before_a_kill_is_there(tmp_path: Path) -> None:
    code = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_frame_log import *
log = FrameLog(Path({str(tmp_path)!r}), picture(99))
keep(log, 30)
while (Path({str(tmp_path)!r}) / "frames.bin").stat().st_size < 30 * RECORD:
    time.sleep(0.01)
print("ready", flush=True)
time.sleep(1000)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
        writer.send_signal(signal.SIGKILL)
    assert same_as_kept(tmp_path, 30)


def test_a_full_disk_ends_the_log_with_one_warning_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onto(monkeypatch, open("/dev/full", "wb", buffering=0))  # every write says: no space left on device
    log = FrameLog(tmp_path, picture(99))
    assert log._thread is not None
    with pytest.warns(RuntimeWarning, match="No space left") as warned:
        keep(log, 1)
        log._thread.join(5)
        keep(log, 3 * BACKLOG)
        log.close()
    assert len(warned) == 1
    assert log.dropped == 3 * BACKLOG


def test_the_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_log, "MAX_BYTES", 3 * RECORD + 5)
    log = FrameLog(tmp_path, picture(99))
    with pytest.warns(RuntimeWarning, match="exceed") as warned:
        keep(log, 10)
        log.close()
    assert len(warned) == 1
    assert same_as_kept(tmp_path, 3)


def test_a_disk_that_hangs_delays_no_plan_and_takes_no_more_memory_than_the_backlog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()  # full, and nobody reads it: a write waits for ever
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while os.write(writer, b"x"):
            pass
    os.set_blocking(writer, True)
    onto(monkeypatch, open(writer, "wb", buffering=0))
    log = FrameLog(tmp_path, picture(99))
    slowest = 0.0
    for _ in range(2):
        began_s = time.perf_counter()
        keep(log, 2 * BACKLOG)
        slowest = max(slowest, time.perf_counter() - began_s)
    assert log.dropped > 0 and log._queue.qsize() <= BACKLOG
    assert slowest < 2.0
    began_s = time.perf_counter()
    log.close()
    assert time.perf_counter() - began_s < 4
    assert log._thread is not None
    with pytest.warns(RuntimeWarning, match="end here"):
        os.close(reader)
        log._thread.join(5)


def test_frames_of_another_size_are_left_out(tmp_path: Path) -> None:
    log = FrameLog(tmp_path, picture(99))
    log.add(Frame(np.zeros((8, 6, 3), np.uint8), 1, 0.0, 0.0))
    keep(log, 3)
    log.close()
    assert log.dropped == 1 and same_as_kept(tmp_path, 3)


@pytest.mark.parametrize("there", ["a file in place of the folder", "frames of another run"])
def test_a_folder_that_cannot_be_logged_to_gives_a_warning_and_stays_as_it_is(tmp_path: Path, there: str) -> None:
    folder, kept = tmp_path / "run", tmp_path / "run"
    if there == "frames of another run":
        folder.mkdir()
        kept = folder / "frames.bin"
    kept.write_bytes(b"kept")
    with pytest.warns(RuntimeWarning, match="end here"):
        log = FrameLog(folder, picture(99))
    keep(log, 2)
    log.close()
    assert log.dropped == 2
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [kept] and kept.read_bytes() == b"kept"


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(b"no picture")])
def test_frames_without_their_goal_image_are_refused(tmp_path: Path, damage: Any) -> None:
    log = FrameLog(tmp_path, picture(99))
    keep(log, 2)
    log.close()
    damage(tmp_path / "frames_goal.png")
    with pytest.raises(InvalidInputError, match=r"frames_goal.png tells the frames' size"):
        read_frames(tmp_path)
