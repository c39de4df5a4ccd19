"""Calls of a vendor's library that may block for ever, given up after a time.

They run in a daemon thread of their own, which is left to itself when it does not come back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def within(timeout_s: float, call: Callable[[], T]) -> T:
    """The result of `call`. Raises what it raises, or TimeoutError."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return future.result(timeout_s)
    except TimeoutError:
        if future.done():
            raise  # its own
        raise TimeoutError(f"no answer within {timeout_s} s") from None
