"""A preset's neighbor memory: where it lies, and how a missing one is made."""

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from otad_ray.artifacts import MANIFEST
from otad_ray.data import Rows
from otad_ray.data.rows import iterate
from otad_ray.memory import NeighborMemory
from otad_ray.models import Backbone, MetricNet
from otad_ray.recipes.backbone import ensure_backbone
from otad_ray.recipes.metric_net import check_metric_options, ensure_metric
from otad_ray.recipes.workspace import Workspace, describe_data, track_once
from otad_ray.tracking import RunRecord

logger = logging.getLogger(__name__)

_BATCH_ROWS, _BATCH_BYTES = 1024, 64 << 20


def ensure_memory(workspace: Workspace) -> NeighborMemory:
    """Return the memory of the backbone's own training rows; build it first if it is missing."""
    return workspace.open_once("memory", lambda: _open_memory(workspace))


def _open_memory(workspace: Workspace) -> NeighborMemory:
    """Build the memory if it is missing, and open it."""
    check_metric_options(workspace)
    backbone = ensure_backbone(workspace)
    rows = workspace.rows(workspace.preset.training.rows)
    metric = ensure_metric(workspace)
    identity = {"backbone": backbone.network.fingerprint(), "data": rows.fingerprint}
    provenance = {"backbone": backbone.network.fingerprint(), "backbone_directory": backbone.directory.name}
    if metric is not None:
        identity["metric"] = metric.network.fingerprint()
        provenance |= {"metric": metric.network.fingerprint(), "metric_directory": metric.directory.name}
    directory = workspace.directory("memory", identity)
    if not directory.is_dir():
        workspace.refuse_to_build("memory", directory, "build_memory")
        _build_memory(workspace, rows, backbone.network, metric and metric.network, directory, provenance)
    track_once(workspace, directory, "memory", lambda place, manifest: _make_record(workspace, place, manifest))
    return NeighborMemory.load(directory, search=workspace.search)


def _build_memory(
    workspace: Workspace,
    rows: Rows,
    backbone: Backbone,
    metric: MetricNet | None,
    directory: Path,
    provenance: Mapping[str, Any],
) -> None:
    """Embed the rows, a batch at a time, and write the memory."""
    rows.check()
    logger.info("building the memory of %d rows in %s", len(rows), directory)
    names = [*_Embedded._fields[1:], *(["keys"] if metric is not None else [])]
    columns = split_columns(_embed_rows(rows, backbone, metric), names)
    NeighborMemory.build(
        directory,
        columns.pop("keys", None),
        **columns,
        provenance={
            **provenance,
            "data_set": workspace.preset.data_set,
            "split": workspace.preset.training.rows,
            "data": rows.fingerprint,
        },
        point_space=backbone.point_space,
    )


def _make_record(workspace: Workspace, directory: Path, manifest: dict[str, Any]) -> RunRecord:
    """Return the tracked run of a finished memory."""
    rows, dimension = manifest["shapes"]["features"]
    return RunRecord(
        experiment=workspace.preset.name,
        kind="memory",
        name=f"memory {rows} x {dimension}",
        job="build_memory",
        result={"directory": directory},
        outcome=manifest["sha256"],
        params={"data_set": workspace.preset.data_set, "backbone": manifest["backbone_directory"]},
        metrics={"rows": rows, "dimension": dimension},
        data=describe_data(workspace, workspace.preset.training.rows),
        artifacts=(directory / MANIFEST,),
        tags={"otad.directory": str(directory)},
    )


class _Embedded(NamedTuple):
    """A batch of what a memory is made of."""

    keys: Tensor
    points: Tensor
    features: Tensor
    labels: Tensor
    ids: Tensor


def split_columns(batches: Iterator[Any], names: Sequence[str]) -> dict[str, Iterator[Tensor]]:
    """Return fields of the batches, which are named tuples of tensors, each as an iterator.

    If all are consumed in lockstep, one batch is held at a time; `itertools.tee` would hold 57 of them, which it frees
    together.
    """
    waiting: dict[str, deque[Tensor]] = {name: deque() for name in names}

    def column(name: str) -> Iterator[Tensor]:
        while True:
            if not waiting[name]:
                batch = next(batches, None)
                if batch is None:
                    return
                for other, queue in waiting.items():
                    queue.append(getattr(batch, other))
                del batch
            yield waiting[name].popleft()

    return {name: column(name) for name in names}


@torch.no_grad()
def _embed_rows(rows: Rows, backbone: Backbone, metric: MetricNet | None) -> Iterator[_Embedded]:
    """Yield the rows embedded, a few at a time: a batch of a transformer's features is a hundred megabytes."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # Copies: the networks are shared with whoever else opened them in this job, and stay where they are.
    backbone = deepcopy(backbone).to(device)
    metric = metric and deepcopy(metric).to(device)
    for batch in iterate(rows, max(1, min(_BATCH_ROWS, _BATCH_BYTES // (4 * backbone.dimension)))):
        inputs = batch.x.to(device)
        points = backbone.coordinates(inputs)
        # Queries are embedded elsewhere, in float32.
        with torch.backends.cudnn.flags(allow_tf32=False):
            keys = points if metric is None else metric(inputs)
        features = backbone.features(backbone.points_of(points))
        yield _Embedded(keys.cpu(), points.cpu(), features.cpu(), batch.y, batch.ids)
