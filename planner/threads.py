"""Small work runs on one thread: more of them only wait for each other, and split sums whose bits then differ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

LARGE = 100_000  # numbers in a batch of actions, B·S·H·A, from which a cost gets its caller's threads


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads for a while; half a microsecond."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
