"""A preset's neighbor memory: where it lies, and how a missing one is made."""

import logging
from collections.abc import Iterator
from itertools import tee
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from otad_ray.artifacts import MANIFEST
from otad_ray.data import Rows
from otad_ray.data.rows import iterate
from otad_ray.distributed.backbones import ensure_backbone
from otad_ray.distributed.options import JobConfig
from otad_ray.distributed.workspace import Workspace, data_record, track_once
from otad_ray.memory import NeighborMemory
from otad_ray.models import Backbone
from otad_ray.tracking import RunRecord

logger = logging.getLogger(__name__)

_BATCH_ROWS = 1024


def ensure_memory(workspace: Workspace, *, search: str = "torch") -> NeighborMemory:
    """The memory of the backbone's own training rows; built first where it is missing."""
    rows = workspace.rows(workspace.preset.training.rows)
    backbone_directory, backbone = ensure_backbone(workspace)
    identity = {"backbone": backbone.fingerprint(), "data": rows.fingerprint}
    directory = workspace.directory("memory", identity)
    if not directory.is_dir():
        workspace.refuse_to_build("memory", directory, "build_memory")
        _build_memory(workspace, rows, backbone_directory, backbone, directory)
    track_once(workspace, directory, "memory", _memory_run)
    return NeighborMemory.load(directory, search=search)


def _build_memory(
    workspace: Workspace, rows: Rows, backbone_directory: Path, backbone: Backbone, directory: Path
) -> None:
    rows.check()
    logger.info("building the memory of %d rows in %s", len(rows), directory)
    # Consumed in lockstep, so each branch holds at most one batch.
    points, features, labels, ids = tee(_embedded(rows, backbone), 4)
    NeighborMemory.build(
        directory,
        None,
        (batch[0] for batch in points),
        (batch[1] for batch in features),
        (batch[2] for batch in labels),
        (batch[3] for batch in ids),
        provenance={
            "backbone": backbone.fingerprint(),
            "backbone_directory": backbone_directory.name,
            "data_set": workspace.preset.data_set,
            "split": workspace.preset.training.rows,
            "data": rows.fingerprint,
        },
    )


def _memory_run(workspace: Workspace, directory: Path, manifest: dict[str, Any]) -> RunRecord:
    rows, dimension = manifest["shapes"]["points"]
    return RunRecord(
        experiment=workspace.preset.name,
        kind="memory",
        result={"directory": directory},
        outcome=manifest["sha256"],
        params={"data_set": workspace.preset.data_set, "backbone": manifest["backbone_directory"]},
        metrics={"rows": rows, "dimension": dimension},
        data=data_record(workspace, workspace.preset.training.rows),
        artifacts=(directory / MANIFEST,),
        tags={"otad.directory": str(directory)},
    )


@torch.no_grad()
def _embedded(rows: Rows, backbone: Backbone) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    for batch in iterate(rows, _BATCH_ROWS):
        points = backbone.embed(batch.x)
        yield points, backbone.features(points), batch.y, batch.ids


def run_memory_build(config: JobConfig) -> dict[str, Any]:
    """The memory job; what the last line of its output says."""
    memory = ensure_memory(Workspace(config))
    return {"memory": str(memory.directory), "rows": len(memory), "dimension": memory.points.shape[1]}
