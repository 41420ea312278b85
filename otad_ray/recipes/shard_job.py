"""The steps that labels, evaluations and sweeps share: each is a job whose results are shards."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from otad_ray.cip import check_solver
from otad_ray.engine.run import check_pool, run_shards
from otad_ray.engine.shards import ShardedDirectory
from otad_ray.engine.task import RunSummary, ShardTask, Unit
from otad_ray.machine import versions
from otad_ray.options import JobConfig
from otad_ray.recipes.workspace import Workspace
from otad_ray.tracking import how_to_look, redacted, runs_link

logger = logging.getLogger(__name__)

Units = Sequence[Unit[ShardTask]]
Job = TypeVar("Job", bound="ShardJob")


class ShardJob(ABC):
    """A job whose results are shards, as `run_shard_job` carries it out.

    Attributes:
        retryable: statuses of rows that a rerun computes again.
        workspace: what the job's steps share.
    """

    retryable: ClassVar[frozenset[str]]

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    @abstractmethod
    def prepare(self) -> Sequence[Units]:
        """Check the input, make what is missing of it, and return the units of work.

        Returns:
            Stages of units: a stage begins when the one before it is finished.
        """

    @abstractmethod
    def describe(self, output: ShardedDirectory, summary: RunSummary) -> Mapping[str, Any]:
        """Check the rows of an output, and return what its manifest says of them, of JSON types.

        Raises:
            RetryableError: if the rows are not those that belong there.
        """

    @abstractmethod
    def report(self, summary: RunSummary) -> dict[str, Any]:
        """Write files, log the result, and return the job's summary, of JSON types."""


def open_workspace(config: JobConfig) -> Workspace:
    """Refuse a solver or a pool that cannot work, before anything is written; then open the workspace of a job."""
    check_workers(config)
    return Workspace(config)


def check_workers(config: JobConfig | Workspace) -> None:
    """Refuse a solver that cannot run here, and a cluster that cannot take so many actors."""
    check_solver(config.preset.integration.solver)
    check_pool(config.pool)


def run_shard_job(job: ShardJob) -> dict[str, Any]:
    """Carry out a job: prepare, compute what is missing, describe it, report.

    Args:
        job: the job, in a workspace that `open_workspace` opened.

    Returns:
        The job's summary: what the last line of its output says.
    """
    workspace, summary = job.workspace, RunSummary()
    stages = job.prepare()
    for units in stages:
        summary = summary.then(run_shards(units, workspace.pool, retryable=job.retryable))
    for units in stages:
        for unit in units:
            _finish(job, unit.output, summary)
    result = job.report(summary)
    logger.info("MLflow: %s", how_to_look(workspace.tracking_uri))
    if result["run_id"] and (link := runs_link(workspace.tracking_uri, result["run_id"])):
        logger.info("runs: %s", link)
    return {**result, "tracking_uri": redacted(workspace.tracking_uri)}


def _finish(job: ShardJob, output: ShardedDirectory, summary: RunSummary) -> None:
    """Write what the shards say into the manifest, unless an earlier run did for the same shards."""
    output.refuse_foreign_shards()
    complete = not output.unfinished(job.retryable)
    if complete and output.manifest["complete"]:
        return
    # The rows are not those that were logged, if any were.
    output.update(complete=complete, run_id=None, **job.describe(output, summary), versions=versions())
