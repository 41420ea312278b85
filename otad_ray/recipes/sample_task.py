"""The training of a network on samples: backbones and metric nets."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from otad_ray.data import DataFolders, open_split
from otad_ray.data.rows import iterate
from otad_ray.engine.training import TrainingTask, check_complete
from otad_ray.memory import make_list_column
from otad_ray.presets import Preset
from otad_ray.recipes.workspace import Workspace

_ROWS_PER_BLOCK = 4096


@dataclass(frozen=True, kw_only=True)
class SampleTask(TrainingTask):
    """The training of a network on a preset's training rows.

    Workers get the rows from the job: the data set's own files need not be where the workers are.

    Attributes:
        preset: the settings.
        folders: where the data set's files lie.
        shape: shape of a sample.
        num_outputs: outputs of the network: classes, or 1 for a regression.
    """

    preset: Preset
    folders: DataFolders
    shape: tuple[int, ...]
    num_outputs: int

    @classmethod
    def of(cls, workspace: Workspace) -> Self:
        """Return the task of a workspace's preset."""
        definition, preset = workspace.definition, workspace.preset
        return cls(
            num_rows=len(workspace.rows(preset.training.rows)),
            preset=preset,
            folders=workspace.folders,
            shape=definition.shape,
            num_outputs=definition.num_outputs,
        )

    def tables(self) -> Iterator[pa.Table]:
        """Yield blocks of rows with columns position, x (the values of a sample) and y."""
        rows = open_split(self.preset.definition, self.preset.training.rows, self.folders)
        for number, batch in enumerate(iterate(rows, _ROWS_PER_BLOCK)):
            columns = {
                "position": number * _ROWS_PER_BLOCK + np.arange(len(batch.x)),
                "x": make_list_column(batch.x),
                "y": batch.y.numpy(),
            }
            yield pa.table(columns)

    def assemble(self, tables: Iterable[pa.Table]) -> tuple[Tensor, Tensor]:
        """Return inputs (N, *shape) and targets (N,) in order of position, in whatever order the tables come."""
        inputs, targets, seen = torch.empty(self.num_rows, *self.shape), torch.empty(0), 0
        for table in tables:
            # Copied, because Ray's memory is read-only.
            position, y = (torch.tensor(table[name].to_numpy()) for name in ("position", "y"))
            if not seen:
                targets = torch.empty(self.num_rows, dtype=y.dtype)
            targets[position] = y
            inputs[position] = torch.tensor(table["x"].combine_chunks().flatten().to_numpy()).reshape(-1, *self.shape)
            seen += len(position)
        check_complete(seen, self.num_rows)
        return inputs, targets
