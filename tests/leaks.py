"""A watch over shared memory, for tests that must leave none behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
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
