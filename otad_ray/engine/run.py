"""Compute what is missing of sharded results, on Ray actors or in this process."""

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from otad_ray.artifacts import remove_abandoned
from otad_ray.engine.shards import Shard
from otad_ray.engine.task import RunSummary, ShardDone, ShardTask, Unit
from otad_ray.options import PoolRequest

logger = logging.getLogger(__name__)

# Seconds between two lines of the log where no progress bar can be drawn.
_REPORT_SECONDS = 30.0

# A shard that is to be computed, by the position of its unit.
Todo = tuple[int, Shard]


class Backend(Protocol):
    """Workers that compute shards."""

    num_workers: int

    def compute(self) -> Iterator[ShardDone]:
        """Compute the shards, and yield each when it is on disk; RetryableError if one cannot be written."""
        ...

    def report_progress(self, rows: int, rows_per_second: float) -> None:
        """Publish how many rows are through, and the average rate so far."""
        ...


def run_shards(
    units: Sequence[Unit[ShardTask]], pool: PoolRequest, *, retryable: frozenset[str] = frozenset()
) -> RunSummary:
    """Compute the shards that the units' directories lack, in the order of the units.

    Ray is started, or a cluster joined, only if there is work and the pool is not local.

    Args:
        units: directories and the tasks that fill them.
        pool: the workers to compute on.
        retryable: statuses of rows that are to be computed again.

    Returns:
        What this run computed.

    Raises:
        RetryableError: if shards cannot be written, or if actors keep dying. Finished shards are kept.
    """
    todo = [(place, shard) for place, unit in enumerate(units) for shard in unit.output.unfinished(retryable)]
    if not todo:
        return RunSummary()
    changed = [units[place].output for place in sorted({place for place, _ in todo})]
    for output in changed:
        output.update(complete=False)
    with (
        _remove_leftovers([output.directory for output in changed]),
        _open_backend(units, todo, pool, retryable) as backend,
    ):
        largest = max(shard.stop - shard.start for _, shard in todo)
        there = sum(1 for unit in units for _ in unit.output.shards) - len(todo)
        where = "in this process" if pool.local else f"on {backend.num_workers} actors"
        logger.info(f"computing {len(todo)} shards of up to {largest} rows {where}; {there} are there")
        summary = _follow(backend, sum(shard.stop - shard.start for _, shard in todo))
    if summary.rows == 0:
        # Another driver computed them meanwhile, and may have finished the manifests too.
        for output in changed:
            output.reload()
    return summary


def check_pool(pool: PoolRequest) -> None:
    """Refuse, before any work, a cluster that does not answer or cannot take so many actors."""
    if not pool.local:
        from otad_ray.engine.capacity import check_num_actors

        check_num_actors(pool)


@contextmanager
def open_session(pool: PoolRequest) -> Iterator[None]:
    """Keep one Ray session open for several runs; a local pool needs none."""
    if pool.local:
        yield
        return
    from otad_ray.engine.ray_session import ray_session

    with ray_session(pool.address):
        yield


def _open_backend(
    units: Sequence[Unit[ShardTask]], todo: Sequence[Todo], pool: PoolRequest, retryable: frozenset[str]
) -> AbstractContextManager[Backend]:
    if pool.local:
        from otad_ray.engine.local import open_local_backend

        return open_local_backend(units, todo, retryable)
    from otad_ray.engine.ray_pool import open_actor_backend

    return open_actor_backend(units, todo, pool, retryable)


def _follow(backend: Backend, total: int) -> RunSummary:
    """Wait for all shards, and show how many of the `total` rows are through."""
    rows, through, first, last = 0, 0, float("inf"), 0.0
    summary = RunSummary(num_actors=backend.num_workers)
    # Ray Data's own bars count blocks; people wait for rows.
    with tqdm(total=total, unit="row", unit_scale=True, disable=not sys.stderr.isatty()) as bar:
        reported = time.monotonic()
        for done in backend.compute():
            through += done.rows
            bar.update(done.rows)
            if bar.disable and time.monotonic() - reported > _REPORT_SECONDS:
                logger.info(f"{through} of {total} rows")
                reported = time.monotonic()
            rows += done.computed
            first, last = min(first, done.started), max(last, done.finished)
            summary = RunSummary(rows, last - first, backend.num_workers)
            backend.report_progress(through, summary.rows_per_second)
    return summary


@contextmanager
def _remove_leftovers(directories: Sequence[Path]) -> Iterator[None]:
    """Remove, after the block, the temporary files of actors that died in it."""
    try:
        yield
    finally:
        for directory in directories:
            remove_abandoned(directory)
