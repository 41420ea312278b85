"""The label job: leave-one-out convex integration of every training row, to Parquet."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from otad_ray.artifacts import MANIFEST, atomic_file, to_jsonable, versions
from otad_ray.cip import Status, check_solver
from otad_ray.defenses.base import check_backbone, check_metric
from otad_ray.engine.capacity import check_num_actors
from otad_ray.engine.run import Compute, RunSummary, run_unfinished
from otad_ray.engine.shard_seconds import stage_seconds
from otad_ray.engine.shards import ShardedDirectory
from otad_ray.errors import RetryableError
from otad_ray.evaluation import LabelStatistics, label_figure
from otad_ray.memory import RETRYABLE_LABELS, IntegrationConfig, NeighborMemory, label_rows
from otad_ray.options import ActorJobConfig
from otad_ray.recipes.backbone import find_backbone
from otad_ray.recipes.memory import ensure_memory
from otad_ray.recipes.metric_net import find_metric
from otad_ray.recipes.workspace import Workspace
from otad_ray.tracking import DataRecord, RunRecord, how_to_look, redacted

logger = logging.getLogger(__name__)

_FIGURE = "label-statistics.png"
# What labels depend on, whoever solved them: parts of a label directory's identity.
LABEL_IDENTITY = ("memory", "neighbors", "regularity", "cross_term")


@dataclass(frozen=True, kw_only=True)
class LabelJobConfig(ActorJobConfig):
    """Options of the label job.

    Attributes:
        dense: store the features too (D floats a row; the weights and the memory already say them).
        memory: a memory directory to label instead of the preset's.
        labels: directory to write to, or to continue: it may have been started with another solver.
    """

    dense: bool = False
    memory: str | None = None
    labels: str | None = None


@dataclass(frozen=True)
class LabelTask:
    """Labels of rows of a memory."""

    memory: str
    search: str
    integration: IntegrationConfig
    dense: bool

    def open(self) -> Compute:
        memory = NeighborMemory.load(self.memory, search=self.search)
        return lambda positions: label_rows(memory, positions, self.integration, dense=self.dense)

    @property
    def labels(self) -> Mapping[str, str]:
        return {}


def run_label_job(config: LabelJobConfig) -> dict[str, Any]:
    """Label every row of the memory; what the last line of the job's output says.

    A rerun computes what is missing or retryable, and nothing else.
    """
    check_solver(config.preset.integration.solver)
    check_num_actors(config.pool, config.address)
    workspace = Workspace(config)
    if config.labels:
        ShardedDirectory.check(Path(config.labels))
    memory = _open_memory(workspace, config)
    integration = config.preset.integration

    identity = _identity(memory, integration, dense=config.dense)
    output = ShardedDirectory.start(
        Path(config.labels).absolute() if config.labels else workspace.directory("labels", identity),
        kind="labels",
        identity=identity,
        rows=len(memory),
        rows_per_shard=config.rows_per_shard,
        may_differ=("solver",),
    )
    task = LabelTask(str(memory.directory), config.search, integration, config.dense)
    summary = run_unfinished([(output, task)], config, retryable=RETRYABLE_LABELS)
    if summary.rows or not output.manifest["complete"] or output.manifest["run_id"] is None:
        _finish(workspace, output, memory, summary)
    else:
        logger.info("every row is labeled already in %s", output.directory)
    manifest = output.manifest
    logger.info("labels: %s", output.directory)
    logger.info("MLflow: %s", how_to_look(workspace.tracking_uri))
    return {
        "labels": str(output.directory),
        "rows": manifest["rows"],
        "rows_computed": summary.rows,
        "rows_per_second": manifest["rows_per_second"],
        "solver": integration.solver,
        "statuses": manifest["statistics"]["statuses"],
        "run_id": manifest["run_id"],
        "tracking_uri": redacted(workspace.tracking_uri),
    }


def _identity(memory: NeighborMemory, integration: IntegrationConfig, *, dense: bool) -> dict[str, Any]:
    return {"memory": memory.fingerprint, "dense": dense, **to_jsonable(integration)}


def ensure_labels(workspace: Workspace, memory: NeighborMemory, *, search: str = "torch") -> Path:
    """The directory of the preset's labels; made first where they are missing or not complete."""
    identity = _identity(memory, workspace.preset.integration, dense=False)
    directory = workspace.directory("labels", identity)
    if not (directory.is_dir() and open_labels(directory).manifest["complete"]):
        workspace.refuse_to_build("labels", directory, "label_qcp")
        options = workspace.options_for("address", "num_actors", "capacity_wait", "mosek_tokens")
        run_label_job(LabelJobConfig(**options, search=search))
    return directory


def open_labels(directory: Path) -> ShardedDirectory:
    """A directory of labels; InputError where there is none."""
    return ShardedDirectory.open(directory, kind="labels")


def _open_memory(workspace: Workspace, config: LabelJobConfig) -> NeighborMemory:
    if config.memory is None:
        return ensure_memory(workspace, search=config.search)
    memory = NeighborMemory.load(config.memory, search=config.search)
    memory.check_neighbors(config.preset.integration.neighbors, leave_one_out=True)
    check_backbone(memory, find_backbone(workspace))
    check_metric(memory, find_metric(workspace))
    return memory


def _finish(workspace: Workspace, output: ShardedDirectory, memory: NeighborMemory, summary: RunSummary) -> None:
    statistics = _reconcile(output, memory)
    figure = label_figure(statistics, f"{workspace.preset.name}: {statistics.rows} labels")
    with atomic_file(output.directory / _FIGURE) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    retryable = sum(statistics.statuses[status] for status in RETRYABLE_LABELS)
    output.update(
        complete=retryable == 0,
        statistics=statistics.as_dict(),
        stage_seconds=stage_seconds(output),
        memory={"directory": str(memory.directory), "fingerprint": memory.fingerprint},
        data=memory.manifest.get("data"),
        num_actors=summary.num_actors or output.manifest["num_actors"],
        rows_per_second=summary.rows_per_second or output.manifest["rows_per_second"],
        versions=versions(),
        finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    if retryable:
        logger.warning("%d rows were interrupted and can be tried again: run the same command", retryable)
    output.update(run_id=workspace.track(_record(workspace, output, memory, statistics, summary)))


def _reconcile(output: ShardedDirectory, memory: NeighborMemory) -> LabelStatistics:
    """Count the rows, a shard at a time; RetryableError unless every id of the memory is there exactly once."""
    output.refuse_strangers()
    statistics = LabelStatistics()
    for shard, table in output.tables(LabelStatistics.COLUMNS):
        if not np.array_equal(table["id"].to_numpy(), memory.ids[shard.start : shard.stop].numpy()):
            path = shard.path(output.directory)
            raise RetryableError(f"{path} does not hold the ids it should; delete it and run again")
        statistics.add(table)
    return statistics


def _record(
    workspace: Workspace,
    output: ShardedDirectory,
    memory: NeighborMemory,
    statistics: LabelStatistics,
    summary: RunSummary,
) -> RunRecord:
    manifest = output.manifest
    rate = {"rows_per_second": manifest["rows_per_second"]} if manifest["rows_per_second"] else {}
    return RunRecord(
        experiment=workspace.preset.name,
        kind="labels",
        name=f"labels {workspace.preset.integration.solver} K={workspace.preset.integration.neighbors}",
        job="label_qcp",
        result={"directory": output.directory},
        outcome=statistics.as_dict(),
        params={
            **manifest["identity"],
            "data_set": workspace.preset.data_set,
            "memory_directory": memory.directory.name,
            "rows_per_shard": manifest["rows_per_shard"],
        },
        metrics={
            "rows": statistics.rows,
            "rows_computed": summary.rows,
            "num_actors": manifest["num_actors"],
            "share_relaxed": statistics.statuses[Status.RELAXED.label] / statistics.rows,
            "share_infeasible": statistics.statuses[Status.INFEASIBLE.label] / statistics.rows,
            **rate,
            **{f"rows_{status}": count for status, count in statistics.statuses.items()},
        },
        # A chart of rows over the number of relaxations: the step is that number.
        series={"rows_by_relaxations": sorted(statistics.relaxations.items())},
        data=DataRecord(
            name=f"{workspace.preset.data_set}/{memory.manifest.get('split')}",
            digest=memory.fingerprint,
            origin=str(memory.directory),
            rows=len(memory),
        ),
        artifacts=(output.directory / MANIFEST, output.directory / _FIGURE),
        tags={"otad.directory": str(output.directory)},
    )
