"""Run a function over many inputs in processes that end with their parent and leave Ctrl-C to it."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import TypeVar

import torch

from latent_mpc.types import InvalidInputError, LatentMPCError

Input = TypeVar("Input")
Output = TypeVar("Output")


def run_in_processes(
    function: Callable[[Input], Output], inputs: Sequence[Input], workers: int
) -> Generator[tuple[int, Output], None, None]:
    """Yield `(index, function(inputs[index]))` as each becomes ready.

    Closing the iterator, or an exception in one call, ends the workers at once: wrap it in `contextlib.closing`.
    Workers are spawned, so `function` must be importable, and a script that calls this needs the
    `if __name__ == "__main__":` guard.

    Args:
        function: a module's function, or a `functools.partial` of one.
        inputs: picklable.
        workers: processes, each with one torch thread; 0 for one a core; 1 runs everything here, in order.
    Raises:
        InvalidInputError: `workers` is negative.
        LatentMPCError: a worker was killed.
    """
    if workers < 0:
        raise InvalidInputError(f"workers must be at least 0, got {workers}")
    workers = min(workers or os.cpu_count() or 1, len(inputs))
    if workers <= 1:
        yield from ((index, function(item)) for index, item in enumerate(inputs))
        return
    context = multiprocessing.get_context("spawn")  # forked processes would share one OpenGL context
    lifeline, ours = context.Pipe(duplex=False)  # its end tells the workers to die; so does our death
    with contextlib.closing(lifeline), contextlib.closing(ours):
        pool = ProcessPoolExecutor(workers, context, _start_worker, (lifeline,))
        try:
            with _interrupts_ignored():  # workers inherit that, so Ctrl-C reaches only this process
                futures = {pool.submit(function, item): index for index, item in enumerate(inputs)}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise LatentMPCError(
                "a worker process was killed or could not start (out of memory?); try fewer workers"
            ) from error
        except BaseException:
            ours.close()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main one may set handlers
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _start_worker(lifeline: Connection) -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_exit_with, args=(lifeline,), daemon=True).start()


def _exit_with(lifeline: Connection) -> None:
    multiprocessing.connection.wait([lifeline])
    os._exit(1)
