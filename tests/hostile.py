"""What nobody should send to a socket, and how to see that it did no harm."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

GIB = 1 << 30
GARBAGE = np.random.default_rng(0).bytes(4096)
NESTED = b"[" * 500_000  # deeper than a parser's stack
KIB_ALLOWED = 64 << 10  # far less than what is announced


class Trap:
    """Makes the folder `path` wherever its pickle is loaded."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self._path),)


@contextmanager
def unharmed(folder: Path, pid: int | None = None) -> Iterator[bytes]:
    """Yields pickle bytes; in the end they were not loaded, and the process `pid` has grown by little."""
    sprung = folder / "sprung"
    before_kib = anonymous_kib(pid)
    yield pickle.dumps(Trap(sprung))
    assert not sprung.exists(), "it was unpickled"
    grown_kib = anonymous_kib(pid) - before_kib
    assert grown_kib < KIB_ALLOWED, f"{grown_kib} KiB more"


def frame_header(size: int, *, masked: bool) -> bytes:
    """The head of a websocket's binary frame that announces `size` bytes."""
    return struct.pack("!BBQ", 0x82, 127 | (0x80 if masked else 0), size) + (bytes(4) if masked else b"")


def anonymous_kib(pid: int | None = None) -> int:
    """Memory of a process that no file is behind."""
    lines = Path(f"/proc/{pid or 'self'}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("RssAnon")))
