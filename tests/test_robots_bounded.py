"""Calls with a time-out."""

from __future__ import annotations

import threading
import time

import pytest

from latent_mpc.robots.bounded import within


def test_results_and_errors_come_through() -> None:
    assert within(5.0, lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        within(5.0, lambda: 1 / 0)


def test_a_call_that_blocks_is_given_up() -> None:
    ended, begin = threading.Event(), time.monotonic()
    with pytest.raises(TimeoutError, match=r"no answer within 0\.1 s"):
        within(0.1, lambda: ended.wait(30))
    assert time.monotonic() - begin < 5.0
    ended.set()


def test_a_time_out_of_the_call_is_its_own() -> None:
    def call() -> None:
        raise TimeoutError("the socket's")

    with pytest.raises(TimeoutError, match="the socket's"):
        within(5.0, call)
