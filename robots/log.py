"""What happened in a run, in a folder: every tick in binary, events as lines, and what it was run with.

    run.yaml      joints, limits, settings, the clocks at the start
    ticks.bin     records of `tick_dtype(J)`, one after another; a last one that was cut off is left out on reading
    events.jsonl  {"now_s", "kind", "text"} a line

A thread of its own writes ten times a second, so that a slow disk never delays a tick, and what is not written yet is
bounded: past that, ticks are dropped and counted. A disk that refuses ends the log with one warning, not the control.
"""

from __future__ import annotations

import json
import threading
import time
import warnings
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from latent_mpc.robots.channels import tick_dtype
from latent_mpc.types import InvalidInputError

FORMAT = 1
FLUSH_S = 0.1
BACKLOG = 3000  # records; half a minute at 100 Hz


class RunLog:
    """Writes a run's folder; no call of it waits for the disk or raises, but the first.

    Attributes:
        folder: of the run.
        dropped: ticks and events that the backlog had no room for, or that came after the disk refused.
    """

    def __init__(self, folder: Path, joint_names: tuple[str, ...], run: Mapping[str, Any]) -> None:
        """Args:
            folder: created; must not hold a run yet.
            run: anything YAML can hold, kept in run.yaml.
        Raises:
            InvalidInputError: the folder cannot be written, or holds a run.
        """
        self.folder, self.dropped = folder, 0
        header = {
            "format": FORMAT,
            "joint_names": list(joint_names),
            "started": datetime.now(UTC).isoformat(),
            "started_monotonic_s": time.monotonic(),
            "run": dict(run),
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / "run.yaml", "x", encoding="utf-8") as file:
                yaml.safe_dump(header, file, sort_keys=False, allow_unicode=True)
            self._ticks_file = open(folder / "ticks.bin", "xb", buffering=0)
            self._events_file = open(folder / "events.jsonl", "xb", buffering=0)
        except FileExistsError as error:
            raise InvalidInputError(f"{folder} holds a run already; give another folder") from error
        except OSError as error:
            raise InvalidInputError(f"cannot log to {folder}: {error}; give another folder") from error
        self._ticks: deque[bytes] = deque()
        self._events: deque[bytes] = deque()
        self._closing = threading.Event()
        self._failed = False
        self._thread = threading.Thread(target=self._write_all, name="run log", daemon=True)
        self._thread.start()

    def tick(self, record: NDArray[np.void]) -> None:
        """Keep a record of `tick_dtype`."""
        self._keep(self._ticks, record.tobytes())

    def event(self, now_s: float, kind: str, text: str) -> None:
        """Keep an event: its time on the monotonic clock, its kind, and what a person should read."""
        self._keep(self._events, _line(now_s, kind, text))

    def close(self) -> None:
        """Write what is left; waits for the disk a second at most. May be called twice."""
        self._closing.set()
        self._thread.join(1.0)

    def _keep(self, queue: deque[bytes], item: bytes) -> None:
        if self._failed or len(queue) >= BACKLOG:
            self.dropped += 1
        else:
            queue.append(item)

    def _write_all(self) -> None:
        with self._ticks_file, self._events_file:
            closing = False
            while not closing:
                closing = self._closing.wait(FLUSH_S)
                try:
                    for queue, file in ((self._ticks, self._ticks_file), (self._events, self._events_file)):
                        _append(file, b"".join([queue.popleft() for _ in range(len(queue))]))
                except OSError as error:
                    self._failed = True
                    warnings.warn(f"the log {self.folder} ends here: {error}", RuntimeWarning, stacklevel=1)
                    return


def append_event(folder: Path, now_s: float, kind: str, text: str) -> None:
    """Add what became of a run whose writer is gone; a disk that refuses is left alone."""
    try:
        with open(folder / "events.jsonl", "ab", buffering=0) as file:
            file.write(b"\n" + _line(now_s, kind, text))  # the line before may be cut off
    except OSError as error:
        warnings.warn(f"the log {folder} ends here: {error}", RuntimeWarning, stacklevel=2)


def _line(now_s: float, kind: str, text: str) -> bytes:
    return json.dumps({"now_s": now_s, "kind": kind, "text": text}, ensure_ascii=False).encode() + b"\n"


def _whole(lines: bytes) -> tuple[dict[str, Any], ...]:
    """The events of a file but for lines that were cut off."""
    events = []
    for line in lines.split(b"\n"):
        try:
            events.append(json.loads(line))
        except ValueError:  # empty, or cut off
            continue
    return tuple(events)


def _append(file: Any, data: bytes) -> None:
    """All of it: an unbuffered file may take a part only."""
    while data:
        data = data[file.write(data) :]


@dataclass(frozen=True)
class Run:
    """A run as read back.

    Attributes:
        ticks: (n,) of `tick_dtype`.
        events: in order.
        joint_names: J names. run: what it was run with. started_monotonic_s: the clock of `now_s` when it began.
    """

    ticks: NDArray[np.void]
    events: tuple[dict[str, Any], ...]
    joint_names: tuple[str, ...]
    run: dict[str, Any]
    started_monotonic_s: float


def read_run(folder: Path) -> Run:
    """Read a run's folder, also one whose writer was killed: a last record or line that was cut off is left out.

    Raises:
        InvalidInputError: it holds no run, or one of another format.
    """
    try:
        header = yaml.safe_load((folder / "run.yaml").read_text(encoding="utf-8"))
        data, lines = (folder / "ticks.bin").read_bytes(), (folder / "events.jsonl").read_bytes()
    except (OSError, yaml.YAMLError) as error:
        raise InvalidInputError(f"{folder} holds no run: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InvalidInputError(f"{folder}/run.yaml is not of format {FORMAT}")
    dtype = tick_dtype(len(header["joint_names"]))
    whole = len(data) // dtype.itemsize
    return Run(
        ticks=np.frombuffer(data, dtype, whole),
        events=_whole(lines),
        joint_names=tuple(header["joint_names"]),
        run=header["run"],
        started_monotonic_s=header["started_monotonic_s"],
    )
