"""Shards computed in this process: the same work as an actor's, without Ray."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter

import torch

from otad_ray.engine.shards import Shard, compute_shard
from otad_ray.engine.task import ShardDone, ShardTask, Unit
from otad_ray.errors import InputError
from otad_ray.memory.search.faiss_index import import_faiss


class LocalBackend:
    """Computes shards one after the other; each task is opened for its first shard."""

    num_workers = 1

    def __init__(
        self, units: Sequence[Unit[ShardTask]], todo: Sequence[tuple[int, Shard]], retryable: frozenset[str]
    ) -> None:
        self._units = units
        self._todo = todo
        self._retryable = retryable

    def compute(self) -> Iterator[ShardDone]:
        """Compute the shards in their order, and yield each when it is on disk."""
        for place, shards in groupby(self._todo, key=itemgetter(0)):
            unit = self._units[place]
            processor = unit.task.setup()
            for _, shard in shards:
                started = time.time()
                computed = compute_shard(shard, unit.output.directory, processor, self._retryable)
                yield ShardDone(place, shard.index, shard.stop - shard.start, len(computed.rows), started, time.time())

    def report_progress(self, rows: int, rows_per_second: float) -> None:
        """Do nothing: only clusters have metrics."""


@contextmanager
def open_local_backend(
    units: Sequence[Unit[ShardTask]], todo: Sequence[tuple[int, Shard]], retryable: frozenset[str]
) -> Iterator[LocalBackend]:
    """Open this process as a backend; within the block it computes on one thread, as an actor does."""
    with single_thread():
        yield LocalBackend(units, todo, retryable)


@contextmanager
def single_thread() -> Iterator[None]:
    """Compute on one thread of PyTorch, BLAS and FAISS within the block: results then agree bit for bit with actors'.

    More threads than cores are slower, and how many there are decides how sums are rounded.
    """
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1), _single_faiss_thread():
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _single_faiss_thread() -> Iterator[None]:
    """Compute on one thread of FAISS within the block, if it is installed."""
    try:
        faiss = import_faiss()
    except InputError:
        yield
        return
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
