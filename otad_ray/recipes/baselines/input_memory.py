"""The memory of a preset's training samples as they are, which needs no backbone."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import functional

from otad_ray.artifacts import MANIFEST
from otad_ray.data import Rows
from otad_ray.data.rows import iterate
from otad_ray.errors import InputError
from otad_ray.memory import NeighborMemory
from otad_ray.recipes.memory import split_columns
from otad_ray.recipes.workspace import Workspace, describe_data, track_once
from otad_ray.tracking import RunRecord

logger = logging.getLogger(__name__)

_KIND = "input_memory"
_BATCH_ROWS, _BATCH_BYTES = 1024, 64 << 20


def ensure_input_memory(workspace: Workspace) -> NeighborMemory:
    """Return the memory of the preset's training samples; build it first if it is missing.

    Its keys are the samples, flattened. Its points and its features are their classes, one-hot: points must have as
    many columns as features, and neither is used by what searches the samples.

    Raises:
        InputError: if the data set is a regression.
    """
    return workspace.open_once(_KIND, lambda: _open_memory(workspace))


def _open_memory(workspace: Workspace) -> NeighborMemory:
    """Build the memory if it is missing, and open it."""
    definition = workspace.definition
    if definition.task != "classification":
        raise InputError(f"a memory of samples with their classes needs classes, and {definition.name} is a regression")
    rows = workspace.rows(workspace.preset.training.rows)
    directory = workspace.directory(_KIND, {"data": rows.fingerprint, "num_classes": definition.num_outputs})
    if not directory.is_dir():
        workspace.refuse_to_build("memory of the training samples", directory, "attack_sweep")
        _build_memory(workspace, rows, directory)
    track_once(workspace, directory, "memory", lambda place, manifest: _make_record(workspace, place, manifest))
    return NeighborMemory.load(directory, search=workspace.search)


def _build_memory(workspace: Workspace, rows: Rows, directory: Path) -> None:
    """Write the rows, a batch at a time."""
    rows.check()
    logger.info("building the memory of %d training samples in %s", len(rows), directory)
    definition = workspace.definition
    batch_rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // (4 * definition.dimension)))
    columns = split_columns(_read_samples(rows, definition.num_outputs, batch_rows), _Samples._fields)
    provenance = {
        "data_set": workspace.preset.data_set,
        "split": workspace.preset.training.rows,
        "data": rows.fingerprint,
    }
    NeighborMemory.build(
        directory,
        columns["keys"],
        columns["points"],
        columns["features"],
        columns["labels"],
        columns["ids"],
        provenance=provenance,
    )


class _Samples(NamedTuple):
    """A batch of what the memory is made of."""

    keys: Tensor
    points: Tensor
    features: Tensor
    labels: Tensor
    ids: Tensor


def _read_samples(rows: Rows, num_classes: int, batch_rows: int) -> Iterator[_Samples]:
    """Yield the rows, flattened, with their classes."""
    for batch in iterate(rows, batch_rows):
        classes = functional.one_hot(batch.y, num_classes).float()
        yield _Samples(batch.x.flatten(1), classes, classes, batch.y, batch.ids)


def _make_record(workspace: Workspace, directory: Path, manifest: dict[str, Any]) -> RunRecord:
    """Return the tracked run of a finished memory."""
    rows, dimension = manifest["shapes"]["keys"]
    return RunRecord(
        experiment=workspace.preset.name,
        kind=_KIND,
        name=f"memory of samples {rows} x {dimension}",
        job="attack_sweep",
        result={"directory": directory},
        outcome=manifest["sha256"],
        params={"data_set": workspace.preset.data_set},
        metrics={"rows": rows, "dimension": dimension},
        data=describe_data(workspace, workspace.preset.training.rows),
        artifacts=(directory / MANIFEST,),
        tags={"otad.directory": str(directory)},
    )
