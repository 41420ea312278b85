"""A preset's labels: leave-one-out convex integration of every training row, to Parquet."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from otad_ray.artifacts import MANIFEST, atomic_file, to_jsonable
from otad_ray.cip import Status, solver_fingerprint
from otad_ray.defenses.base import check_backbone, check_metric
from otad_ray.engine.shards import ShardedDirectory, sum_stage_seconds
from otad_ray.engine.task import RunSummary, Unit
from otad_ray.evaluation import LabelStatistics, label_figure
from otad_ray.locations import resolve_path
from otad_ray.memory import RETRYABLE_LABELS, IntegrationConfig, NeighborMemory, label_rows
from otad_ray.recipes.approximate_search import describe_label_search, identify_search, mark_rows, recall_metric
from otad_ray.recipes.backbone import find_backbone
from otad_ray.recipes.memory import ensure_memory
from otad_ray.recipes.metric_net import find_metric
from otad_ray.recipes.shard_job import ShardJob, Units, check_workers, run_shard_job
from otad_ray.recipes.workspace import Workspace
from otad_ray.tracking import DataRecord, RunRecord

logger = logging.getLogger(__name__)

_KIND = "labels"
_FIGURE = "label-statistics.png"
_SOLVER_FILE = "solver_file"
_ROWS_PER_SHARD = 512
# What labels depend on, whoever solved them: parts of a label directory's identity.
LABEL_IDENTITY = ("memory", "neighbors", "regularity", "cross_term")


@dataclass(frozen=True)
class LabelTask:
    """Labels of rows of a memory.

    Attributes:
        preset: name of the preset.
        memory: the memory's directory.
        search: how it is searched.
        integration: the problem, and its solver.
        dense: whether labels hold the features too.
    """

    preset: str
    memory: str
    search: str
    integration: IntegrationConfig
    dense: bool

    job_name = "label_qcp"

    @property
    def metric_labels(self) -> Mapping[str, str]:
        return {"kind": _KIND, "preset": self.preset}

    def setup(self) -> "LabelProcessor":
        return LabelProcessor(NeighborMemory.load(self.memory, search=self.search), self.integration, self.dense)


@dataclass(frozen=True)
class LabelProcessor:
    """An open memory, whose rows are labeled."""

    memory: NeighborMemory
    integration: IntegrationConfig
    dense: bool

    def process(self, positions: np.ndarray) -> pa.Table:
        rows = label_rows(self.memory, positions, self.integration, dense=self.dense)
        return mark_rows(rows, str(self.memory.search_name))


class LabelJob(ShardJob):
    """Labels of every row of a memory."""

    retryable = RETRYABLE_LABELS

    def __init__(
        self,
        workspace: Workspace,
        *,
        rows_per_shard: int = _ROWS_PER_SHARD,
        dense: bool = False,
        memory: str | None = None,
        directory: str | None = None,
    ) -> None:
        """Plan the labels of a preset.

        Args:
            workspace: the preset.
            rows_per_shard: rows of a shard.
            dense: store the features too.
            memory: directory of the memory to label; None for the preset's.
            directory: where labels go; None for the place that their identity names.
        """
        super().__init__(workspace)
        self._rows_per_shard = rows_per_shard
        self._dense = dense
        self._memory_directory = None if memory is None else resolve_path(memory, "--memory")
        self._directory = None if directory is None else resolve_path(directory, "--labels")

    def prepare(self) -> Sequence[Units]:
        if self._directory is not None:
            ShardedDirectory.check(self._directory)
        self.memory = self._open_memory()
        integration = self.workspace.preset.integration
        identity = label_identity(self.memory, integration, dense=self._dense)
        self.output = ShardedDirectory.start(
            self._directory or self.workspace.directory(_KIND, identity),
            kind=_KIND,
            identity=identity,
            rows=len(self.memory),
            rows_per_shard=self._rows_per_shard,
            may_differ=("solver", _SOLVER_FILE),
        )
        self._search = describe_label_search(self.memory, integration.num_neighbors)
        preset, search = self.workspace.preset.name, self.workspace.search
        task = LabelTask(preset, str(self.memory.directory), search, integration, self._dense)
        return [[Unit(self.output, task)]]

    def describe(self, output: ShardedDirectory, summary: RunSummary) -> Mapping[str, Any]:
        statistics = _count_labels(output, self.memory)
        figure = label_figure(statistics, f"{self.workspace.preset.name}: {statistics.rows} labels")
        with atomic_file(output.directory / _FIGURE) as temporary:
            figure.savefig(temporary, dpi=150, format="png")
        retryable = sum(statistics.statuses[status] for status in RETRYABLE_LABELS)
        if retryable:
            logger.warning("%d rows were interrupted and can be tried again: run the same command", retryable)
        return {
            "statistics": statistics.as_dict(),
            **self._search,
            "stage_seconds": sum_stage_seconds(output),
            "memory": {"directory": str(self.memory.directory), "fingerprint": self.memory.fingerprint},
            "data": self.memory.manifest.get("data"),
            "num_actors": summary.num_actors or output.manifest["num_actors"],
            "rows_per_second": summary.rows_per_second or output.manifest["rows_per_second"],
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }

    def report(self, summary: RunSummary) -> dict[str, Any]:
        if self.output.manifest["run_id"] is None:
            self.output.update(run_id=self.workspace.track(self._make_record(summary)))
        if not summary.rows:
            logger.info("every row is labeled already in %s", self.output.directory)
        logger.info("labels: %s", self.output.directory)
        manifest = self.output.manifest
        return {
            "labels": str(self.output.directory),
            "rows": manifest["rows"],
            "rows_computed": summary.rows,
            "rows_per_second": manifest["rows_per_second"],
            "solver": self.workspace.preset.integration.solver,
            "statuses": manifest["statistics"]["statuses"],
            "run_id": manifest["run_id"],
        }

    def _open_memory(self) -> NeighborMemory:
        """Open the memory to label; InputError if it was built with other networks than the preset's."""
        workspace = self.workspace
        if self._memory_directory is None:
            return ensure_memory(workspace)
        memory = NeighborMemory.load(self._memory_directory, search=workspace.search)
        memory.check_neighbors(workspace.preset.integration.num_neighbors, leave_one_out=True)
        check_backbone(memory, find_backbone(workspace))
        check_metric(memory, find_metric(workspace))
        return memory

    def _make_record(self, summary: RunSummary) -> RunRecord:
        """Return the tracked run of finished labels."""
        manifest, memory, preset = self.output.manifest, self.memory, self.workspace.preset
        statistics, rows = manifest["statistics"], manifest["rows"]
        statuses: Mapping[str, int] = statistics["statuses"]
        rate = {"rows_per_second": manifest["rows_per_second"]} if manifest["rows_per_second"] else {}
        return RunRecord(
            experiment=preset.name,
            kind=_KIND,
            name=f"labels {preset.integration.solver} K={preset.integration.num_neighbors}",
            job="label_qcp",
            result={"directory": self.output.directory},
            outcome=statistics,
            params={
                **manifest["identity"],
                "data_set": preset.data_set,
                "memory_directory": memory.directory.name,
                "rows_per_shard": manifest["rows_per_shard"],
            },
            metrics={
                "rows": rows,
                "rows_computed": summary.rows,
                **recall_metric(self._search),
                "num_actors": manifest["num_actors"],
                "share_relaxed": statuses.get(Status.RELAXED.label, 0) / rows,
                "share_infeasible": statuses.get(Status.INFEASIBLE.label, 0) / rows,
                **rate,
                **{f"rows_{status}": count for status, count in statuses.items()},
            },
            # A chart of rows over the number of relaxations: the step is that number.
            series={
                "rows_by_relaxations": sorted(
                    (int(number), count) for number, count in statistics["relaxations"].items()
                )
            },
            data=DataRecord(
                name=f"{preset.data_set}/{memory.manifest.get('split')}",
                digest=memory.fingerprint,
                origin=str(memory.directory),
                rows=len(memory),
            ),
            artifacts=(self.output.directory / MANIFEST, self.output.directory / _FIGURE),
            tags={"otad.directory": str(self.output.directory)},
        )


def identify_integration(integration: IntegrationConfig) -> dict[str, Any]:
    """Return what solutions depend on, of JSON types: the problem, the solver and, of a user's own, its file."""
    file = solver_fingerprint(integration.solver)
    return to_jsonable(integration) | ({} if file is None else {_SOLVER_FILE: file})


def label_identity(memory: NeighborMemory, integration: IntegrationConfig, *, dense: bool) -> dict[str, Any]:
    """Return what labels depend on, of JSON types."""
    search = identify_search(str(memory.search_name))
    return {"memory": memory.fingerprint, "dense": dense, **identify_integration(integration), **search}


def ensure_labels(workspace: Workspace) -> ShardedDirectory:
    """Return the preset's labels; make them first if they are missing or not complete."""
    identity = label_identity(ensure_memory(workspace), workspace.preset.integration, dense=False)
    directory = workspace.directory(_KIND, identity)
    if not (directory.is_dir() and open_labels(directory).manifest["complete"]):
        workspace.refuse_to_build(_KIND, directory, LabelTask.job_name)
        check_workers(workspace)
        run_shard_job(LabelJob(workspace))
    return open_labels(directory)


def open_labels(directory: Path) -> ShardedDirectory:
    """Open a directory of labels; InputError if there is none."""
    return ShardedDirectory.open(directory, kind=_KIND)


def _count_labels(output: ShardedDirectory, memory: NeighborMemory) -> LabelStatistics:
    """Count the labels, a shard at a time; RetryableError unless every id of the memory is there exactly once."""
    statistics = LabelStatistics()
    for shard, table in output.tables(LabelStatistics.COLUMNS):
        output.check_ids(shard, table, memory.ids[shard.start : shard.stop].numpy())
        statistics.add(table)
    return statistics
