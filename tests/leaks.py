"""A watch over shared memory and processes, for tests that must leave none behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

from latent_mpc.robots import slots


@contextmanager
def no_memory_left() -> Iterator[set[str]]:
    """Yields the names of all shared memory that this process creates or attaches to; none may exist in the end."""
    names: set[str] = set()
    original = slots.shared_memory.SharedMemory

    def recorded(*args, **kwargs):
        made = original(*args, **kwargs)
        names.add(made.name)
        return made

    with mock.patch.object(slots.shared_memory, "SharedMemory", recorded):
        yield names
    assert names, "nothing was recorded: the watch would see no leak"
    assert not names & set(os.listdir("/dev/shm"))


def session(leader: int) -> list[int]:
    """Processes of a session that are not dead."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, sid = stat.read_text().rsplit(")", 1)[1].split()[:4]
            if int(sid) == leader and state != "Z":
                found.append(int(stat.parent.name))
    return found


def shared_memory(pids: list[int]) -> set[str]:
    """Files of shared memory that the processes have mapped."""
    found = set()
    for pid in pids:
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
            found |= {line.split()[-1] for line in lines if "/dev/shm/psm_" in line and "(deleted)" not in line}
    return found
