"""What the engine is given, a task with the directory for its results, and what it returns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from otad_ray.engine.shards import ShardedDirectory


class ShardProcessor(Protocol):
    """A task whose files are open."""

    def process(self, positions: np.ndarray) -> pa.Table:
        """Return one row for each of the positions (n,), in their order, with a `status` column."""
        ...


class ShardTask(Protocol):
    """Work on rows by position. It is small and picklable, so it names its files by path."""

    @property
    def job_name(self) -> str:
        """Name of the job that this work belongs to, for metrics of its progress."""
        ...

    @property
    def metric_labels(self) -> Mapping[str, str]:
        """Prometheus labels of the work's metrics: at least `kind` (of result) and `preset`."""
        ...

    def setup(self) -> ShardProcessor:
        """Open the task's files, in the process that computes."""
        ...


Task = TypeVar("Task", bound=ShardTask, covariant=True)


@dataclass(frozen=True)
class Unit(Generic[Task]):
    """One directory of results, and the task that fills it."""

    output: "ShardedDirectory"
    task: Task


@dataclass(frozen=True)
class ShardDone:
    """A shard that was computed.

    Attributes:
        unit: position of its unit in the list that the run was given.
        index: number of the shard in its directory.
        rows: rows of the shard.
        computed: rows that this run computed; the others were there.
        started: Unix time at which the work on it began.
        finished: Unix time at which it was on disk.
    """

    unit: int
    index: int
    rows: int
    computed: int
    started: float
    finished: float


@dataclass(frozen=True)
class RunSummary:
    """What a run did.

    Attributes:
        rows: rows that were computed.
        seconds: from the first shard's start to the last one's end.
        num_actors: workers that computed them.
    """

    rows: int = 0
    seconds: float = 0.0
    num_actors: int = 0

    @property
    def rows_per_second(self) -> float:
        """Rows a second, 0 for a run without work."""
        return self.rows / self.seconds if self.seconds > 0 else 0.0

    def then(self, later: "RunSummary") -> "RunSummary":
        """Return the summary of this run and a later one together."""
        return RunSummary(self.rows + later.rows, self.seconds + later.seconds, max(self.num_actors, later.num_actors))
