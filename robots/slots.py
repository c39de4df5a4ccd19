"""Latest-value slots in shared memory: one writer, any number of readers, nobody ever waits for another.

A slot holds one record and a counter that is odd while the record is being written (a sequence lock). A reader copies
the record and takes it when the counter was even and unchanged. No queue: an old value is replaced, not delivered.
"""

from __future__ import annotations

import time
from multiprocessing import shared_memory

import numpy as np
from numpy.typing import NDArray

from latent_mpc.types import InvalidInputError

HEADER = 16  # bytes before the record: the counter, and the record's size
ATTEMPTS = 200
WRAP = 1 << 63  # of the counter


class Slot:
    """A record of a NumPy structured dtype in shared memory, readable by this user only.

    Attributes:
        name: of the memory; hand it to another process, which attaches with the same dtype.
    """

    def __init__(self, dtype: np.dtype, name: str | None = None) -> None:
        """Create a slot, or attach to the one called `name`.

        Raises:
            InvalidInputError: there is no such slot, or its record has another size.
        """
        self.dtype = np.dtype(dtype)
        self._owner = name is None
        try:
            self._memory = shared_memory.SharedMemory(name, create=self._owner, size=HEADER + self.dtype.itemsize)
        except FileNotFoundError as error:
            raise InvalidInputError(f"there is no slot {name!r}; its owner is gone") from error
        buffer = self._memory.buf
        assert buffer is not None  # only after close
        self._header = np.frombuffer(buffer, np.int64, 2)
        if self._owner:
            self._header[:] = 0, self.dtype.itemsize
        elif self._header[1] != self.dtype.itemsize:
            size = int(self._header[1])
            self.close()
            raise InvalidInputError(f"slot {name!r} holds {size} bytes, not the {self.dtype.itemsize} of {self.dtype}")
        self._record = np.frombuffer(buffer, self.dtype, 1, HEADER)

    @property
    def name(self) -> str:
        return self._memory.name

    def write(self, record: NDArray[np.void]) -> None:
        """Replace the record; only ever from one process and thread.

        A record that an earlier writer left half written, because it was killed, is whole again afterwards; so is one
        that somebody else wrote into.
        """
        writing = int(self._header[0]) | 1
        self._header[0] = writing
        self._record[0] = record
        self._header[0] = (writing + 1) % WRAP or 2  # 0 is for never

    def read(self) -> tuple[NDArray[np.void], int] | None:
        """A copy of the record and how often it was written; None before the first time.

        Also None when its writer died while writing: then no value can be trusted.
        """
        for _ in range(ATTEMPTS):
            before = int(self._header[0])
            if before % 2 == 0:
                record = self._record[0].copy()
                if int(self._header[0]) == before:
                    return (record, before // 2) if before else None
            time.sleep(0)
        return None

    def close(self) -> None:
        """Let go of the memory; the one who created it also removes it. May be called twice."""
        if self._memory is None:
            return
        del self._header  # its buffer would keep the memory open
        if hasattr(self, "_record"):
            del self._record
        self._memory.close()
        if self._owner:
            self._memory.unlink()
        self._memory = None  # type: ignore[assignment]
