"""Strips of queries on several threads, each of which computes by itself."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch

# If a thread cannot be started, the others must not wait for it.
_SECONDS_TO_START = 60.0

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_on_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return what a function makes of each item, computed on as many threads as PyTorch uses, in the items' order."""
    num_threads = torch.get_num_threads()
    if num_threads == 1 or len(items) == 1:
        return [function(item) for item in items]
    # A forked process has none of its parent's threads. (PyTorch's own do not survive a fork either.)
    return list(_open_pool(num_threads, os.getpid()).map(function, items))


@cache
def _open_pool(num_threads: int, process: int) -> ThreadPoolExecutor:
    """Return threads in each of which PyTorch computes on that thread alone."""
    started = Barrier(num_threads + 1, timeout=_SECONDS_TO_START)

    def start() -> None:
        # PyTorch gives a thread the common number when it first asks, also if another was set before.
        torch.get_num_threads()
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="otad-search", initializer=start)
    for _ in range(num_threads):
        pool.submit(lambda: None)
    started.wait()
    # What a thread sets is also what threads get that are started later.
    torch.set_num_threads(num_threads)
    return pool
