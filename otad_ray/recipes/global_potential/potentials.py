"""A preset's potentials: the graph of all training rows by shards, and the least squares over it in the driver."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from otad_ray.artifacts import MANIFEST, atomic_file
from otad_ray.engine.shards import ShardedDirectory, sum_stage_seconds
from otad_ray.engine.task import RunSummary, Unit
from otad_ray.memory import NeighborMemory, PotentialConfig, check_compression, fit_graph, measure_graph_rows
from otad_ray.memory.array_files import map_array
from otad_ray.recipes.approximate_search import describe_label_search, identify_search, mark_rows, recall_metric
from otad_ray.recipes.memory import ensure_memory
from otad_ray.recipes.shard_job import ShardJob, Units, check_workers, run_shard_job
from otad_ray.recipes.workspace import Workspace
from otad_ray.tracking import DataRecord, RunRecord

logger = logging.getLogger(__name__)

_KIND = "potential"
_POTENTIALS = "potentials.npy"
_ROWS_PER_SHARD = 2048


@dataclass(frozen=True)
class GraphTask:
    """Rows of the graph over a memory.

    Attributes:
        preset: name of the preset.
        memory: the memory's directory.
        search: how it is searched.
        config: the graph.
    """

    preset: str
    memory: str
    search: str
    config: PotentialConfig

    job_name = "fit_potential"

    @property
    def metric_labels(self) -> Mapping[str, str]:
        return {"kind": _KIND, "preset": self.preset}

    def setup(self) -> "GraphProcessor":
        return GraphProcessor(NeighborMemory.load(self.memory, search=self.search), self.config)


@dataclass(frozen=True)
class GraphProcessor:
    """An open memory, whose edges are measured."""

    memory: NeighborMemory
    config: PotentialConfig

    def process(self, positions: np.ndarray) -> pa.Table:
        return mark_rows(measure_graph_rows(self.memory, positions, self.config), str(self.memory.search_name))


class PotentialJob(ShardJob):
    """Potentials of every row of a preset's memory."""

    retryable = frozenset()

    def __init__(self, workspace: Workspace, *, rows_per_shard: int = _ROWS_PER_SHARD) -> None:
        """Plan the potentials of a preset, in shards of so many rows."""
        super().__init__(workspace)
        self._rows_per_shard = rows_per_shard

    def prepare(self) -> Sequence[Units]:
        workspace, config = self.workspace, self.workspace.preset.potential
        self.memory = ensure_memory(workspace)
        check_compression(self.memory, config)
        self.memory.check_neighbors(config.graph_neighbors, leave_one_out=True)
        self._search = describe_label_search(self.memory, config.graph_neighbors)
        identity = _identify(self.memory, config)
        self.output = ShardedDirectory.start(
            workspace.directory(_KIND, identity),
            kind=_KIND,
            identity=identity,
            rows=len(self.memory),
            rows_per_shard=self._rows_per_shard,
        )
        task = GraphTask(workspace.preset.name, str(self.memory.directory), workspace.search, config)
        return [[Unit(self.output, task)]]

    def describe(self, output: ShardedDirectory, summary: RunSummary) -> Mapping[str, Any]:
        tables = []
        for shard, table in output.tables():
            output.check_ids(shard, table, self.memory.ids[shard.start : shard.stop].numpy())
            tables.append(table)
        fitted = fit_graph(pa.concat_tables(tables), self.workspace.preset.potential)
        with atomic_file(output.directory / _POTENTIALS) as temporary, temporary.open("wb") as file:
            np.save(file, fitted.potentials.numpy())
        return {
            **self._search,
            "near_residual": fitted.near_residual,
            "far_residual": fitted.far_residual,
            "stage_seconds": sum_stage_seconds(output),
            "memory": {"directory": str(self.memory.directory), "fingerprint": self.memory.fingerprint},
            "num_actors": summary.num_actors or output.manifest["num_actors"],
            "rows_per_second": summary.rows_per_second or output.manifest["rows_per_second"],
        }

    def report(self, summary: RunSummary) -> dict[str, Any]:
        if self.output.manifest["run_id"] is None:
            self.output.update(run_id=self.workspace.track(self._make_record(summary)))
        manifest = self.output.manifest
        logger.info("potentials: %s", self.output.directory)
        return {
            "potential": str(self.output.directory),
            "rows": manifest["rows"],
            "rows_computed": summary.rows,
            "near_residual": manifest["near_residual"],
            "far_residual": manifest["far_residual"],
            "run_id": manifest["run_id"],
        }

    def _make_record(self, summary: RunSummary) -> RunRecord:
        """Return the tracked run of finished potentials."""
        manifest, memory, preset = self.output.manifest, self.memory, self.workspace.preset
        residuals = {name: manifest[name] for name in ("near_residual", "far_residual")}
        return RunRecord(
            experiment=preset.name,
            kind=_KIND,
            name=f"potentials of {manifest['rows']} rows",
            job=GraphTask.job_name,
            result={"directory": self.output.directory},
            outcome=residuals,
            params={**manifest["identity"], "data_set": preset.data_set, "memory_directory": memory.directory.name},
            metrics={
                "rows": manifest["rows"],
                "rows_computed": summary.rows,
                **residuals,
                **recall_metric(self._search),
            },
            data=DataRecord(
                name=f"{preset.data_set}/{memory.manifest.get('split')}",
                digest=memory.fingerprint,
                origin=str(memory.directory),
                rows=len(memory),
            ),
            artifacts=(self.output.directory / MANIFEST,),
            tags={"otad.directory": str(self.output.directory)},
        )


def ensure_potentials(workspace: Workspace) -> Tensor:
    """Return the potentials (N,), float64, of the preset's memory; fit them first if they are missing."""
    return workspace.open_once("potentials", lambda: _open_potentials(workspace))


def _open_potentials(workspace: Workspace) -> Tensor:
    memory = ensure_memory(workspace)
    directory = workspace.directory(_KIND, _identify(memory, workspace.preset.potential))
    if not (directory.is_dir() and ShardedDirectory.open(directory, kind=_KIND).manifest["complete"]):
        workspace.refuse_to_build("potentials", directory, GraphTask.job_name)
        check_workers(workspace)
        run_shard_job(PotentialJob(workspace))
    return map_array(directory / _POTENTIALS, (len(memory),)).to(torch.float64)


def _identify(memory: NeighborMemory, config: PotentialConfig) -> dict[str, Any]:
    """Return what potentials depend on, of JSON types."""
    return {"memory": memory.fingerprint, **config.graph, **identify_search(str(memory.search_name))}
