"""Training a network: in this process, or on Ray Train. The only place where training meets Ray."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import ray
import ray.train.torch
import torch
from ray.data import DataContext, Dataset
from ray.train import DataConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from torch import Tensor, nn

from otad_ray.data import DataFolders, open_split
from otad_ray.data.rows import iterate
from otad_ray.distributed.capacity import capacity_wait, wait_for_room
from otad_ray.distributed.cluster import WorkerResources, quiet_ray_data, ray_session, worker_resources
from otad_ray.distributed.options import TrainJobConfig
from otad_ray.distributed.workspace import Workspace
from otad_ray.errors import InputError
from otad_ray.presets import Preset
from otad_ray.training import EpochMetrics, LoopConfig, TrainingStore

logger = logging.getLogger(__name__)

# A worker that dies is replaced and its epoch trained again; one that always dies fails the job.
_MAX_FAILURES = 3
_EPOCHS_REPORTED = 12
_ROWS_PER_BLOCK = 4096
_ROWS = "rows"


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


def train_on_ray(task: TrainingTask, *, config: TrainJobConfig) -> None:
    """Train on Ray Train workers, with gradients averaged by DDP.

    Every worker holds all rows, decoded, because batches do not depend on the number of workers: N x D x 4 bytes
    (188 MB for MNIST, 614 MB for CIFAR-10; of labels K weights), and as much once in Ray's object store.

    States are the task's own files rather than Ray's checkpoints: they are there when an epoch ends (Ray registers a
    checkpoint some time later, and a worker that dies meanwhile costs more epochs), a damaged one is stepped over, and
    the loop without Ray goes on from the same ones.
    """
    task = replace(task, checkpoint_every=config.checkpoint_every)
    with ray_session(config.address, dashboard=True):
        if seconds := capacity_wait(config.capacity_wait):
            wait_for_room(config.num_workers, use_gpu=bool(config.use_gpu), seconds=seconds)
        resources = worker_resources(config.num_workers, use_gpu=config.use_gpu)
        logger.info("%d workers with %s each", config.num_workers, resources)
        trainer = _trainer(task, config.num_workers, resources)
        refused = trainer.fit().return_value  # type: ignore[attr-defined]
    if refused is not None:
        raise refused


# The ignored types are those of Ray Train's first version, which its second replaces where the module is run.
def _trainer(task: TrainingTask, num_workers: int, resources: WorkerResources) -> ray.train.torch.TorchTrainer:
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return ray.train.torch.TorchTrainer(
        _train_worker,  # type: ignore[arg-type]
        train_loop_config={"task": task, "num_threads": resources.num_cpus},
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            use_gpu=resources.use_gpu,
            resources_per_worker={"CPU": resources.num_cpus, **({"GPU": 1} if resources.use_gpu else {})},
        ),
        run_config=RunConfig(  # type: ignore[call-arg]
            name=task.state.name,
            storage_path=str(task.state.parent),
            failure_config=FailureConfig(max_failures=_MAX_FAILURES),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
        datasets={_ROWS: _ray_dataset(task)},
        # Each worker reads all rows: equal splits would drop some, and batches would depend on the split.
        dataset_config=DataConfig(datasets_to_split=[], execution_options=context.execution_options),
    )


def _train_worker(arguments: dict[str, Any]) -> Exception | None:
    """One worker; what a training that cannot succeed said. Raising it would only have it tried again."""
    task: TrainingTask = arguments["task"]
    logging.basicConfig(format="%(message)s")
    logging.getLogger("otad_ray").setLevel(logging.INFO)
    quiet_ray_data()
    torch.set_num_threads(arguments["num_threads"])
    tables = ray.train.get_dataset_shard(_ROWS).iter_batches(batch_size=None, batch_format="pyarrow")
    try:
        task.train(tables, ray.train.torch.get_device())
    except (FloatingPointError, InputError) as error:
        return type(error)(*error.args)
    return None


def _ray_dataset(task: TrainingTask) -> Dataset:
    """The task's rows in Ray's object store; this process holds a block at a time."""
    return ray.data.from_arrow_refs([ray.put(table) for table in task.tables()])  # type: ignore[misc]
