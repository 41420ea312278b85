"""Shards computed by a pool of Ray Data actors: the one place where shards meet Ray."""

import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

import numpy as np
import ray
import torch
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayActorError, RayError, RayTaskError

from otad_ray.engine.capacity import actor_pool
from otad_ray.engine.metrics_actor import JobProgress, Recorder
from otad_ray.engine.ray_session import choose_num_actors, ray_session
from otad_ray.engine.shards import Shard, compute_shard
from otad_ray.engine.task import ShardDone, ShardTask, Unit
from otad_ray.errors import InputError, RetryableError
from otad_ray.memory.search.faiss_index import import_faiss
from otad_ray.monitoring.counts import count_rows
from otad_ray.options import PoolRequest

logger = logging.getLogger(__name__)

# An actor that dies is replaced and its shard computed again; one that always dies fails the job.
_MAX_RESTARTS = 3
_MAX_TASK_RETRIES = 3


class ShardActor:
    """Opens its tasks once, then computes and writes the shards that it is given."""

    def __init__(self, units: Sequence[Unit[ShardTask]], retryable: frozenset[str], recorder: Recorder) -> None:
        # One thread each: actors are the unit of parallelism, and more threads than cores are slower.
        torch.set_num_threads(1)
        _limit_native_threads()
        self._units = units
        self._processors = [unit.task.setup() for unit in units]
        self._retryable = retryable
        self._recorder = recorder

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute shards, given as columns unit, index, start and stop.

        Returns:
            The same columns with `computed` (rows), `started` and `finished` (Unix times), and `error`: why a shard
            could not be written, or "".
        """
        computed, errors, started, finished = [], [], [], []
        columns = (batch[name].tolist() for name in ("unit", "index", "start", "stop"))
        for place, index, start, stop in zip(*columns, strict=True):
            started.append(time.time())
            try:
                computed.append(self._compute(place, Shard(index, start, stop)))
                errors.append("")
            except RetryableError as error:
                # As data: Ray would print an error of ours with pages of its own calls.
                computed.append(0)
                errors.append(str(error))
            finished.append(time.time())
        times = {"started": np.array(started), "finished": np.array(finished)}
        return {**batch, "computed": np.array(computed), "error": np.array(errors, dtype=object), **times}

    def _compute(self, place: int, shard: Shard) -> int:
        """Compute one shard, and count its new rows in the cluster's metrics."""
        unit = self._units[place]
        done = compute_shard(shard, unit.output.directory, self._processors[place], self._retryable)
        if len(done.rows):
            self._recorder.record(count_rows(done.rows).amounts(unit.task.metric_labels, done.seconds))
        return len(done.rows)


class ActorBackend:
    """A pool of actors in an open Ray session."""

    def __init__(
        self,
        units: Sequence[Unit[ShardTask]],
        todo: Sequence[tuple[int, Shard]],
        retryable: frozenset[str],
        *,
        num_actors: int,
        recorder: Recorder,
        progress: JobProgress,
    ) -> None:
        self.num_workers = num_actors
        self._todo = todo
        self._actor = {"units": list(units), "retryable": retryable, "recorder": recorder}
        self._progress = progress

    def compute(self) -> Iterator[ShardDone]:
        """Compute the shards, and yield each when it is on disk.

        A pool that is lost is followed by another, as long as each pool finishes some shards.

        Raises:
            RetryableError: if a shard cannot be written, or a pool is lost before it finished anything.
        """
        left = {(place, shard.index): (place, shard) for place, shard in self._todo}
        num_actors = self.num_workers
        while left:
            before = len(left)
            try:
                for done in _make_dataset(list(left.values()), self._actor, num_actors).iter_rows():
                    if done["error"]:
                        raise RetryableError(done["error"])
                    left.pop((done["unit"], done["index"]), None)
                    yield _read_row(done)
            except RayTaskError:
                # An error that the task itself raised, which is a fault of ours.
                raise
            except RayError as error:
                if isinstance(error, RayActorError) and error.actor_init_failed:
                    raise
                reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
                if len(left) == before:
                    raise RetryableError(
                        f"actors died again after {_MAX_RESTARTS} restarts ({reason}); where memory is short, take "
                        "fewer --num-actors, and run the same command again: what is finished is kept"
                    ) from error
                logger.warning("actors were lost (%s); going on with %d shards on others", reason, len(left))
                # A node may be gone with them.
                num_actors = min(num_actors, choose_num_actors(None, work=len(left)))

    def report_progress(self, rows: int, rows_per_second: float) -> None:
        """Publish how many rows are through, and the average rate so far, in the cluster's metrics."""
        self._progress.advance(rows, rows_per_second)


@contextmanager
def open_actor_backend(
    units: Sequence[Unit[ShardTask]],
    todo: Sequence[tuple[int, Shard]],
    pool: PoolRequest,
    retryable: frozenset[str],
) -> Iterator[ActorBackend]:
    """Open a Ray session and take the actors that the request asks for, until the block ends."""
    first = units[0].task
    rows = sum(shard.stop - shard.start for _, shard in todo)
    with ray_session(pool.address), actor_pool(pool, work=len(todo)) as num_actors:
        recorder = Recorder.open(pool.address)
        preset = first.metric_labels["preset"]
        with JobProgress(recorder, job_name=first.job_name, preset=preset, rows=rows) as progress:
            yield ActorBackend(units, todo, retryable, num_actors=num_actors, recorder=recorder, progress=progress)


def _read_row(done: Mapping[str, Any]) -> ShardDone:
    """Return what an actor says of a shard."""
    return ShardDone(
        unit=int(done["unit"]),
        index=int(done["index"]),
        rows=int(done["stop"] - done["start"]),
        computed=int(done["computed"]),
        started=float(done["started"]),
        finished=float(done["finished"]),
    )


def _make_dataset(todo: Sequence[tuple[int, Shard]], actor: Mapping[str, Any], num_actors: int) -> ray.data.Dataset:
    """Return a lazy data set that computes the shards, one a block, on `num_actors` actors made with `actor`."""
    items = [{"unit": place, **asdict(shard)} for place, shard in todo]
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with warnings.catch_warnings():
        # Restarts are bounded only through these arguments, and have no successor yet.
        warnings.filterwarnings("ignore", message=".*ray_remote_args.* is deprecated")
        return ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            ShardActor,
            fn_constructor_kwargs=dict(actor),
            compute=ActorPoolStrategy(size=num_actors),
            batch_size=1,
            batch_format="numpy",
            num_cpus=1,
            max_restarts=_MAX_RESTARTS,
            max_task_retries=_MAX_TASK_RETRIES,
        )


def _limit_native_threads() -> None:
    """Let BLAS and FAISS compute on one thread in this process from now on."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
    # Without FAISS there is nothing to limit.
    with suppress(InputError):
        import_faiss().omp_set_num_threads(1)
