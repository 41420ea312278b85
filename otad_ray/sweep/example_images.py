"""Adversarial images beside the training points they were moved to, out of a sweep's records."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch

from otad_ray.defenses import MemoryDefense
from otad_ray.engine.task import Unit
from otad_ray.evaluation import NO_PREDICTION, example_figure
from otad_ray.recipes.workspace import Workspace
from otad_ray.sweep.plan import SweepPlan
from otad_ray.sweep.tasks import AttackTask

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 4
_NEIGHBORS = 5
_COLUMNS = ("id", "attack", "label", "l2", "linf", "success", "prediction")


def adversarial_figure(
    workspace: Workspace, plan: SweepPlan, units: Sequence[Unit[AttackTask]], title: str
) -> "Figure | None":
    """The samples that the least perturbations broke; None where nothing was broken, or where samples are no images."""
    shape = workspace.definition.shape
    source = units[0].task.source
    surrogate = source.open_surrogate(source.open())
    if len(shape) != 3 or shape[0] not in (1, 3):
        return None
    examples = _least(units, plan.norm)
    if not examples:
        return None
    adversarial = torch.tensor([_example(example) for example in examples]).view(-1, *shape)
    clean = plan.samples.take(np.array([example.place for example in examples])).x
    names = workspace.definition.class_names
    captions = [
        (
            names[example.row["label"]],
            f"{names[example.row['prediction']]}: {example.row['attack']}, l2 {example.row['l2']:.2f}",
        )
        for example in examples
    ]
    return example_figure(
        clean.numpy(),
        adversarial.numpy(),
        _neighbors(workspace, surrogate, clean),
        _neighbors(workspace, surrogate, adversarial),
        captions=captions,
        title=title,
        bounds=workspace.definition.bounds or (float(clean.min()), float(clean.max())),
    )


class _Example(NamedTuple):
    """A row of a record, where its example is, and its place in the list of samples."""

    row: dict[str, Any]
    file: Path
    offset: int
    place: int


def _least(units: Sequence[Unit[AttackTask]], norm: str) -> list[_Example]:
    """Successes of the smallest norms, one of each sample."""
    found = [example for unit in units for example in _successes(unit)]
    least: dict[int, _Example] = {}
    for example in sorted(found, key=lambda example: example.row[norm]):
        least.setdefault(example.row["id"], example)
    return list(least.values())[:_SHOWN]


def _successes(unit: Unit[AttackTask]) -> Iterator[_Example]:
    for shard, table in unit.output.tables(_COLUMNS):
        for offset in table["success"].fill_null(False).to_numpy().nonzero()[0].tolist():
            row = table.slice(offset, 1).to_pylist()[0]
            if row["prediction"] != NO_PREDICTION:
                yield _Example(row, shard.path(unit.output.directory), offset, shard.start + offset)


def _example(example: _Example) -> list[float]:
    return pq.read_table(example.file, columns=["x_adv"], partitioning=None)["x_adv"][example.offset].as_py()


@torch.no_grad()
def _neighbors(workspace: Workspace, surrogate: MemoryDefense, inputs: torch.Tensor) -> np.ndarray:
    """Training images (n, k, *shape) whose keys are nearest to those of images (n, *shape)."""
    near, _ = surrogate.memory.search(surrogate.keys(inputs), min(_NEIGHBORS, len(surrogate.memory)))
    # A memory holds the rows in their order.
    positions, place = near.unique(return_inverse=True)
    rows = workspace.rows(workspace.preset.training.rows)
    return rows.take(positions.numpy()).x[place].numpy()
