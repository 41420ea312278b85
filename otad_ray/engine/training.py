"""The training of a network as a task: small, and carried out in this process or on Ray Train."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from torch import nn

from otad_ray.training import EpochMetrics, LoopConfig, TrainingStore

logger = logging.getLogger(__name__)

_EPOCHS_REPORTED = 12


@dataclass(frozen=True, kw_only=True)
class TrainingTask(ABC):
    """The training of one network: small and picklable, so it names its files by path.

    Attributes:
        num_rows: rows that it is trained on.
        state: directory of the checkpoints that a rerun goes on from; the last epoch's holds the result.
        checkpoint_every: epochs between checkpoints.
    """

    num_rows: int
    state: Path = Path()
    checkpoint_every: int = 1

    @property
    @abstractmethod
    def config(self) -> LoopConfig:
        """Settings of the training loop."""

    @abstractmethod
    def new_network(self) -> nn.Module:
        """Return the network as it is before the first epoch, the same in every process."""

    @abstractmethod
    def tables(self) -> Iterator[pa.Table]:
        """Yield the rows, a block at a time, with a column `position`; called in the job's own process."""

    @abstractmethod
    def train(self, tables: Iterable[pa.Table], device: torch.device) -> None:
        """Train to the end, from the latest checkpoint, on the rows of `tables`, in any order.

        Raises:
            FloatingPointError: if the loss diverges.
        """

    @property
    def store(self) -> TrainingStore:
        """The checkpoints on disk."""
        return TrainingStore(self.state, every=self.checkpoint_every)

    def result(self) -> tuple[nn.Module, tuple[EpochMetrics, ...]]:
        """Return the trained network, on the CPU, and the metrics of all epochs, also those before a restart."""
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


def check_complete(seen: int, num_rows: int) -> None:
    """Raise RuntimeError unless every row was delivered."""
    if seen != num_rows:
        raise RuntimeError(f"{seen} of {num_rows} rows were delivered")


# Carries a task out; raises FloatingPointError if the loss diverges.
Trainer = Callable[[TrainingTask], None]


def train_here(task: TrainingTask) -> None:
    """Train in this process, on its GPU if it has one."""
    task.train(task.tables(), torch.device("cuda" if torch.cuda.is_available() else "cpu"))
