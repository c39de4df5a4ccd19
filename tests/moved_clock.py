"""A wall clock that really moves, for the processes that are started with it: a library that is loaded before the C
library, and adds an offset to every answer of CLOCK_REALTIME. The monotonic clock is left as it is.

What waits until a time of the wall clock does not know of the offset and waits wrongly, as after a real jump.
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from pathlib import Path

COMPILER = shutil.which("gcc") or shutil.which("cc")
SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile double *offset_s;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("MOVED_CLOCK");
    int fd = path ? open(path, O_RDONLY) : -1;
    if (fd < 0) return;
    void *page = mmap(0, sizeof(double), PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (page != MAP_FAILED) offset_s = page;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int error = (int)syscall(SYS_clock_gettime, clock, now);
    if (!error && offset_s && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += (time_t)*offset_s;
    return error;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec t;
    int error = clock_gettime(CLOCK_REALTIME, &t);
    (void)zone;
    now->tv_sec = t.tv_sec;
    now->tv_usec = t.tv_nsec / 1000;
    return error;
}

time_t time(time_t *now) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (now) *now = t.tv_sec;
    return t.tv_sec;
}
"""


class MovedClock:
    """Compiled into a folder.

    Attributes:
        environment: for the processes that are to see it.
    """

    def __init__(self, folder: Path) -> None:
        assert COMPILER is not None
        source, library, self._file = folder / "clock.c", folder / "clock.so", folder / "offset"
        source.write_text(SOURCE)
        subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
        self._file.write_bytes(struct.pack("d", 0.0))
        with self._file.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), 8)
        self.environment = {"LD_PRELOAD": str(library), "MOVED_CLOCK": str(self._file)}

    def move(self, offset_s: float) -> None:
        """The wall clock is off by so much from now on."""
        self._page[:8] = struct.pack("d", offset_s)
