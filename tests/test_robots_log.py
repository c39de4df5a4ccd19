"""What was written is read back, also after the writer was killed; a disk that refuses ends only the log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from latent_mpc.robots.channels import tick_dtype
from latent_mpc.robots.log import BACKLOG, RunLog, append_event, read_run
from latent_mpc.types import InvalidInputError

NAMES = ("a", "b")


def records(count: int, start: int = 0) -> np.ndarray:
    ticks = np.zeros(count, tick_dtype(2))
    ticks["tick"] = np.arange(start, start + count)
    ticks["now_s"] = np.arange(start, start + count) * 0.01
    ticks["q_rad"] = np.random.default_rng(start).normal(size=(count, 2))
    return ticks


def test_a_run_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run", NAMES, {"arm": "fake", "factor": 0.5})
    ticks = records(250)
    for tick in ticks:
        log.tick(tick)
    log.event(1.5, "phase", "HOLD: Ω «expired»\nnext line")
    log.close()
    log.close()
    run = read_run(tmp_path / "run")
    assert run.ticks.tobytes() == ticks.tobytes() and run.ticks.dtype == tick_dtype(2)
    assert run.events == ({"now_s": 1.5, "kind": "phase", "text": "HOLD: Ω «expired»\nnext line"},)
    assert run.joint_names == NAMES and run.run == {"arm": "fake", "factor": 0.5}
    assert abs(run.started_monotonic_s - time.monotonic()) < 60


def test_a_last_record_and_line_that_were_cut_off_are_left_out(tmp_path: Path) -> None:
    log = RunLog(tmp_path, NAMES, {})
    for tick in records(10):
        log.tick(tick)
    log.event(0.0, "phase", "first")
    log.event(0.1, "phase", "second")
    log.close()
    for name, cut in (("ticks.bin", 7), ("events.jsonl", 5)):
        with open(tmp_path / name, "r+b") as file:
            file.truncate(file.seek(0, os.SEEK_END) - cut)
    run = read_run(tmp_path)
    assert run.ticks["tick"].tolist() == list(range(9))
    assert [event["text"] for event in run.events] == ["first"]
    append_event(tmp_path, 0.2, "supervisor", "the controller ended")
    assert [event["text"] for event in read_run(tmp_path).events] == ["first", "the controller ended"]


def test_what_was_written_before_a_kill_is_there(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_robots_log import NAMES, records
from latent_mpc.robots.log import RunLog
log = RunLog(Path({str(tmp_path)!r}), NAMES, {{}})
for tick in records(300):
    log.tick(tick)
time.sleep(1.0)
print("ready", flush=True)
time.sleep(1000)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
        writer.send_signal(signal.SIGKILL)
    assert read_run(tmp_path).ticks.tobytes() == records(300).tobytes()


def test_a_full_disk_ends_the_log_with_one_warning_and_nothing_else(tmp_path: Path) -> None:
    log = RunLog(tmp_path, NAMES, {})
    log._ticks_file.close()
    log._ticks_file = open("/dev/full", "wb", buffering=0)  # every write says: no space left on device
    with pytest.warns(RuntimeWarning, match="No space left") as warned:
        log.tick(records(1)[0])
        log._thread.join(5)
        for tick in records(3 * BACKLOG):
            log.tick(tick)
        log.event(0.0, "phase", "still running")
        log.close()
    assert len(warned) == 1
    assert log.dropped == 3 * BACKLOG + 1


def test_a_disk_that_hangs_delays_no_tick_and_takes_no_more_memory_than_the_backlog(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    log = RunLog(tmp_path, NAMES, {})
    log._ticks_file.close()
    log._ticks_file = open(writer, "wb", buffering=0)  # nobody reads it: a write beyond 64 KB waits for ever
    slowest = 0.0
    for tick in records(3 * BACKLOG):
        began = time.perf_counter()
        log.tick(tick)
        slowest = max(slowest, time.perf_counter() - began)
    until = time.monotonic() + 1
    while time.monotonic() < until and not log.dropped:
        log.tick(records(1)[0])
    assert log.dropped > 0 and len(log._ticks) <= BACKLOG
    assert slowest < 0.1
    began = time.perf_counter()
    log.close()
    assert time.perf_counter() - began < 2
    with pytest.warns(RuntimeWarning, match="ends here"):
        os.close(reader)
        log._thread.join(5)


def test_a_folder_with_a_run_is_not_written_over_and_one_without_is_not_read(tmp_path: Path) -> None:
    RunLog(tmp_path, NAMES, {}).close()
    with pytest.raises(InvalidInputError, match="holds a run already"):
        RunLog(tmp_path, NAMES, {})
    with pytest.raises(InvalidInputError, match="holds no run"):
        read_run(tmp_path / "other")
    (tmp_path / "run.yaml").write_text("format: 99\n")
    with pytest.raises(InvalidInputError, match="not of format 1"):
        read_run(tmp_path)
