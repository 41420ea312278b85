"""Shards computed on a pool of Ray Data actors: the one place where work meets Ray."""

import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayActorError, RayError, RayTaskError
from tqdm import tqdm

from otad_ray.artifacts import remove_abandoned
from otad_ray.engine.capacity import actor_pool
from otad_ray.engine.metrics_actor import JobProgress, Recorder
from otad_ray.engine.ray_session import choose_num_actors, ray_session
from otad_ray.engine.shard_seconds import with_seconds
from otad_ray.engine.shards import Shard, ShardedDirectory, merge_rows, read_finished_rows, write_shard
from otad_ray.errors import RetryableError
from otad_ray.monitoring.counts import count_rows
from otad_ray.options import ActorJobConfig
from otad_ray.stages import record_stages

logger = logging.getLogger(__name__)

# An actor that dies is replaced and its shard computed again; one that always dies fails the job.
_MAX_RESTARTS = 3
_MAX_TASK_RETRIES = 3

# Where no bar can be drawn, a line this often.
_REPORT_SECONDS = 30.0

# The job that makes shards of a kind.
_JOB_NAMES = {"labels": "label_qcp", "evaluation": "evaluate", "attack": "attack_sweep", "clean": "attack_sweep"}

Compute = Callable[[np.ndarray], pa.Table]


class ShardTask(Protocol):
    """Work on rows by position: small and picklable, so it names its files by path."""

    def open(self) -> Compute:
        """Open the files, in the actor; the result maps positions (n,) to a table with a `status` column."""
        ...

    @property
    def labels(self) -> Mapping[str, str]:
        """What its metrics are told apart by, beside the kind of its output and the preset."""
        ...


@dataclass(frozen=True)
class Work:
    """A task, the directory that its shards go to, and the labels of its metrics."""

    task: ShardTask
    directory: Path
    labels: Mapping[str, str]


@dataclass(frozen=True)
class RunSummary:
    """rows and actors of this run, and seconds from the first actor's first row to the last one's last."""

    rows: int
    seconds: float
    num_actors: int

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds if self.seconds > 0 else 0.0


class ShardActor:
    """Opens its tasks once, then computes the shards it is given and writes them."""

    def __init__(self, work: Sequence[Work], retryable: frozenset[str], recorder: Recorder) -> None:
        # One thread each: actors are the unit of parallelism, and more threads than cores are slower.
        torch.set_num_threads(1)
        _limit_native_threads()
        self._opened = [(item.task.open(), item) for item in work]
        self._retryable = retryable
        self._recorder = recorder

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Shards as columns task, index, start and stop; the same with rows computed and the times of start and end.

        error: why a shard could not be written, or nothing.
        """
        computed, errors, started, finished = [], [], [], []
        columns = (batch[name].tolist() for name in ("task", "index", "start", "stop"))
        for task, index, start, stop in zip(*columns, strict=True):
            started.append(time.time())
            try:
                computed.append(self._write(task, Shard(index, start, stop)))
                errors.append("")
            except RetryableError as error:
                # As data: Ray would print an error of ours with pages of its own calls.
                computed.append(0)
                errors.append(str(error))
            finished.append(time.time())
        times = {"started": np.array(started), "finished": np.array(finished)}
        return {**batch, "computed": np.array(computed), "error": np.array(errors, dtype=object), **times}

    def _write(self, task: int, shard: Shard) -> int:
        compute, work = self._opened[task]
        previous, positions = read_finished_rows(shard, work.directory, self._retryable)
        if len(positions):
            with record_stages() as seconds:
                computed = compute(positions)
            merged = merge_rows(previous, computed, shard, positions)
            write_shard(shard.path(work.directory), with_seconds(merged, previous, seconds))
            self._recorder.record(count_rows(computed).amounts(work.labels, seconds))
        return len(positions)


def run_unfinished(
    work: Sequence[tuple[ShardedDirectory, ShardTask]],
    config: ActorJobConfig,
    *,
    retryable: frozenset[str] = frozenset(),
) -> RunSummary:
    """Compute what directories lack, in their order, on one pool of actors; starts Ray only if there is work.

    Raises RetryableError where shards cannot be written, and where actors keep dying.
    """
    todo = [(place, shard) for place, (output, _) in enumerate(work) for shard in output.unfinished(retryable)]
    if not todo:
        return RunSummary(0, 0.0, 0)
    changed = sorted({place for place, _ in todo})
    for place in changed:
        work[place][0].update(complete=False)
    with (
        _without_leftovers([work[place][0].directory for place in changed]),
        ray_session(config.address),
        actor_pool(config.pool, work=len(todo)) as num_actors,
    ):
        largest = max(shard.stop - shard.start for _, shard in todo)
        there = sum(1 for output, _ in work for _ in output.shards) - len(todo)
        logger.info(f"computing {len(todo)} shards of up to {largest} rows on {num_actors} actors; {there} are there")
        preset, kinds = config.preset.name, [output.manifest["kind"] for output, _ in work]
        labeled = [
            Work(task, output.directory, {"kind": kind, "preset": preset, **task.labels})
            for (output, task), kind in zip(work, kinds, strict=True)
        ]
        recorder = Recorder.open(config.address)
        actor = {"work": labeled, "retryable": retryable, "recorder": recorder}
        rows = sum(shard.stop - shard.start for _, shard in todo)
        with JobProgress(recorder, job_name=_JOB_NAMES[kinds[0]], preset=preset, rows=rows) as progress:
            summary = _run(todo, actor, num_actors, progress)
    if summary.rows == 0:
        for place in changed:
            work[place][0].reload()
    return summary


def _run(
    todo: Sequence[tuple[int, Shard]], actor: Mapping[str, Any], num_actors: int, progress: JobProgress
) -> RunSummary:
    """actor: what each `ShardActor` is made with."""
    rows, first, last = 0, float("inf"), 0.0
    summary = RunSummary(0, 0.0, num_actors)
    # Ray Data's own bars count blocks; people wait for rows.
    total = sum(shard.stop - shard.start for _, shard in todo)
    with tqdm(total=total, unit="row", unit_scale=True, disable=not sys.stderr.isatty()) as bar:
        reported, through = time.monotonic(), 0
        for done in _done(todo, actor, num_actors):
            through += int(done["stop"] - done["start"])
            bar.update(int(done["stop"] - done["start"]))
            if bar.disable and time.monotonic() - reported > _REPORT_SECONDS:
                logger.info(f"{through} of {total} rows")
                reported = time.monotonic()
            rows += int(done["computed"])
            first, last = min(first, done["started"]), max(last, done["finished"])
            summary = RunSummary(rows, last - first, num_actors)
            progress.advance(through, summary.rows_per_second)
    return summary


def _done(todo: Sequence[tuple[int, Shard]], actor: Mapping[str, Any], num_actors: int) -> Iterator[dict[str, Any]]:
    """What actors say of each shard, as it is done; a pool that is lost is followed by another, while shards get done.

    Raises RetryableError for a shard that could not be written, and for a pool that was lost with nothing done.
    """
    left = {(place, shard.index): (place, shard) for place, shard in todo}
    while left:
        before = len(left)
        try:
            for done in _dataset(list(left.values()), actor, num_actors).iter_rows():
                if done["error"]:
                    raise RetryableError(done["error"])
                left.pop((done["task"], done["index"]), None)
                yield done
        except RayTaskError:
            # What an actor raised is an error of ours.
            raise
        except RayError as error:
            if isinstance(error, RayActorError) and error.actor_init_failed:
                raise
            reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            if len(left) == before:
                raise RetryableError(
                    f"actors died again after {_MAX_RESTARTS} restarts ({reason}); where memory is short, take fewer "
                    "--num-actors, and run the same command again: what is finished is kept"
                ) from error
            logger.warning("actors were lost (%s); going on with %d shards on others", reason, len(left))
            # A node may be gone with them.
            num_actors = min(num_actors, choose_num_actors(None, work=len(left)))


def _dataset(todo: Sequence[tuple[int, Shard]], actor: Mapping[str, Any], num_actors: int) -> ray.data.Dataset:
    items = [{"task": place, **asdict(shard)} for place, shard in todo]
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


@contextmanager
def _without_leftovers(directories: Sequence[Path]) -> Iterator[None]:
    """Remove, after the block, what actors that died in it were writing."""
    try:
        yield
    finally:
        for directory in directories:
            remove_abandoned(directory)


def _limit_native_threads() -> None:
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
    try:
        import faiss
    except ImportError:
        return
    faiss.omp_set_num_threads(1)
