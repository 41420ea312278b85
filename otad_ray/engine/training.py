"""The training of a network as a task: small, and brought to its end in this process or on Ray Train."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from otad_ray.data import DataFolders, open_split
from otad_ray.data.rows import iterate
from otad_ray.presets import Preset
from otad_ray.recipes.workspace import Workspace
from otad_ray.training import EpochMetrics, LoopConfig, TrainingStore

logger = logging.getLogger(__name__)

_EPOCHS_REPORTED = 12
_ROWS_PER_BLOCK = 4096


@dataclass(frozen=True, kw_only=True)
class TrainingTask(ABC):
    """The training of one network: small and picklable, so it names its files by path.

    num_rows: of what it is trained on. state: directory of the states that a rerun goes on from; the last epoch's holds
    the result.
    """

    num_rows: int
    state: Path = Path()
    checkpoint_every: int = 1

    @property
    @abstractmethod
    def config(self) -> LoopConfig:
        """How it is trained."""

    @abstractmethod
    def new_network(self) -> nn.Module:
        """The network as it is before the first epoch: the same in every process."""

    @abstractmethod
    def tables(self) -> Iterator[pa.Table]:
        """The rows, a block at a time, with a column `position`; asked for in the job's own process."""

    @abstractmethod
    def train(self, tables: Iterable[pa.Table], device: torch.device) -> None:
        """Train to the end, from the store's latest state, on the rows of `tables`, in any order.

        Raises FloatingPointError where the loss diverges.
        """

    @property
    def store(self) -> TrainingStore:
        return TrainingStore(self.state, every=self.checkpoint_every)

    def result(self) -> tuple[nn.Module, tuple[EpochMetrics, ...]]:
        """The trained network, on the CPU, and the history of all epochs, also those before a restart."""
        state = self.store.load(self.config.epochs)
        network = self.new_network()
        network.load_state_dict(state.network)
        return network.eval(), state.history

    def report(self, metrics: EpochMetrics) -> None:
        """Log some of the epochs."""
        epochs = self.config.epochs
        if metrics.epoch % max(1, epochs // _EPOCHS_REPORTED) == 0:
            values = ", ".join(f"{name} {value:.4f}" for name, value in metrics.values().items())
            logger.info(f"epoch {metrics.epoch} of {epochs}: {values}")


@dataclass(frozen=True, kw_only=True)
class SampleTask(TrainingTask):
    """A network that is trained on a preset's training rows.

    shape: of a sample. num_outputs: C. Workers need not open the data set's own files, which may not be where they are.
    """

    preset: Preset
    folders: DataFolders
    shape: tuple[int, ...]
    num_outputs: int

    @classmethod
    def of(cls, workspace: Workspace) -> Self:
        """The task of a workspace's preset."""
        definition, preset = workspace.definition, workspace.preset
        return cls(
            num_rows=len(workspace.rows(preset.training.rows)),
            preset=preset,
            folders=workspace.folders,
            shape=definition.shape,
            num_outputs=definition.num_outputs,
        )

    def tables(self) -> Iterator[pa.Table]:
        """Columns position, x (values of a sample) and y."""
        rows = open_split(self.preset.definition, self.preset.training.rows, self.folders)
        for number, batch in enumerate(iterate(rows, _ROWS_PER_BLOCK)):
            x = batch.x.flatten(1)
            columns = {
                "position": number * _ROWS_PER_BLOCK + np.arange(len(x)),
                "x": pa.FixedSizeListArray.from_arrays(x.flatten().numpy(), x.shape[1]),
                "y": batch.y.numpy(),
            }
            yield pa.table(columns)

    def assemble(self, tables: Iterable[pa.Table]) -> tuple[Tensor, Tensor]:
        """All rows in order of position, whatever order they come in: inputs (N, *shape), targets (N,)."""
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


def check_complete(seen: int, num_rows: int) -> None:
    """RuntimeError unless every row came."""
    if seen != num_rows:
        raise RuntimeError(f"{seen} of {num_rows} rows were delivered")


# Brings a task to its end; FloatingPointError where the loss diverges.
Trainer = Callable[[TrainingTask], None]


def train_here(task: TrainingTask) -> None:
    """Train in this process, on its GPU if it has one."""
    task.train(task.tables(), torch.device("cuda" if torch.cuda.is_available() else "cpu"))
