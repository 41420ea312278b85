"""A measurement, and how it is timed."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

from otad_ray.memory.search.faiss_index import import_faiss

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One line of the benchmark.

    ours, reference: in `unit`. ratio: how many times better ours is, so that more is better; goal: the least
    ratio wanted, or None. note: what was compared, and whether the results agree.
    """

    name: str
    unit: str
    ours: float
    reference: float
    ratio: float
    goal: float | None
    note: str

    @property
    def met(self) -> bool | None:
        return None if self.goal is None else self.ratio >= self.goal


def best_of(repeats: int, function: Callable[[], Result]) -> tuple[float, Result]:
    """Least wall-clock seconds of several calls, and what the last one returned."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        best = min(best, time.perf_counter() - start)
    return best, result


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch, FAISS and BLAS on `count` threads within the block."""
    faiss = import_faiss()
    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(count)
    faiss.omp_set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before[0])
        faiss.omp_set_num_threads(before[1])
