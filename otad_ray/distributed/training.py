"""Training a backbone: in this process, or on Ray Train. The only place where training meets Ray."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.train.torch
import torch
from ray.data import DataContext, Dataset
from ray.train import DataConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from torch import Tensor

from otad_ray.data import DataFolders, Rows, load_all, open_split
from otad_ray.data.rows import iterate
from otad_ray.distributed.capacity import capacity_wait, wait_for_room
from otad_ray.distributed.cluster import WorkerResources, quiet_ray_data, ray_session, worker_resources
from otad_ray.distributed.options import TrainJobConfig
from otad_ray.models import Backbone, build_backbone
from otad_ray.presets import Preset
from otad_ray.training import EpochMetrics, TrainingStore, train_backbone

logger = logging.getLogger(__name__)

# A worker that dies is replaced and its epoch trained again; one that always dies fails the job.
_MAX_FAILURES = 3
_EPOCHS_REPORTED = 12
_ROWS_PER_BLOCK = 4096
_ROWS = "rows"


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """A preset's training: small and picklable, so it names its files by path.

    shape: of a sample. num_outputs: C. Workers need not open the data set's own files, which may not be where they are.
    state: directory of the states that a rerun goes on from; the last epoch's holds the result.
    """

    preset: Preset
    folders: DataFolders
    shape: tuple[int, ...]
    num_outputs: int
    state: Path
    checkpoint_every: int = 1

    @property
    def store(self) -> TrainingStore:
        return TrainingStore(self.state, every=self.checkpoint_every)

    def new_backbone(self) -> Backbone:
        """The backbone as it is before the first epoch: the same in every process."""
        torch.manual_seed(self.preset.training.seed)
        return build_backbone(self.preset.backbone, dimension=prod(self.shape), num_outputs=self.num_outputs)

    def rows(self) -> Rows:
        """The rows to train on."""
        return open_split(self.preset.definition, self.preset.training.rows, self.folders)

    def train(self, inputs: Tensor, targets: Tensor, device: torch.device) -> None:
        """Train to the end, from the store's latest state; FloatingPointError where the loss diverges."""
        config = self.preset.training
        backbone = self.new_backbone().to(device)
        train_backbone(backbone, inputs, targets, config, on_epoch=self._report, store=self.store)

    def result(self) -> tuple[Backbone, tuple[EpochMetrics, ...]]:
        """The trained backbone, on the CPU, and the history of all epochs, also those before a restart."""
        state = self.store.load(self.preset.training.epochs)
        backbone = self.new_backbone()
        backbone.load_state_dict(state.backbone)
        return backbone.eval(), state.history

    def _report(self, metrics: EpochMetrics) -> None:
        epochs = self.preset.training.epochs
        if metrics.epoch % max(1, epochs // _EPOCHS_REPORTED) == 0:
            values = ", ".join(f"{name} {value:.4f}" for name, value in metrics.values().items())
            logger.info(f"epoch {metrics.epoch} of {epochs}: {values}")


# Brings a task to its end; FloatingPointError where the loss diverges.
Trainer = Callable[[TrainingTask], None]


def train_here(task: TrainingTask) -> None:
    """Train in this process, on its GPU if it has one."""
    rows = load_all(task.rows())
    task.train(rows.x, rows.y, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def train_on_ray(task: TrainingTask, *, config: TrainJobConfig) -> None:
    """Train on Ray Train workers, with gradients averaged by DDP.

    Every worker holds all rows, decoded, because batches do not depend on the number of workers: N x D x 4 bytes
    (188 MB for MNIST, 614 MB for CIFAR-10), and as much once in Ray's object store.

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
        trainer = _trainer(task, task.rows(), config.num_workers, resources)
        diverged = trainer.fit().return_value  # type: ignore[attr-defined]
    if diverged is not None:
        raise FloatingPointError(diverged)


# The ignored types are those of Ray Train's first version, which its second replaces where the module is run.
def _trainer(
    task: TrainingTask, rows: Rows, num_workers: int, resources: WorkerResources
) -> ray.train.torch.TorchTrainer:
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return ray.train.torch.TorchTrainer(
        _train_worker,  # type: ignore[arg-type]
        train_loop_config={"task": task, "num_rows": len(rows), "num_threads": resources.num_cpus},
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
        datasets={_ROWS: _ray_dataset(rows)},
        # Each worker reads all rows: equal splits would drop some, and batches would depend on the split.
        dataset_config=DataConfig(datasets_to_split=[], execution_options=context.execution_options),
    )


def _train_worker(arguments: dict[str, Any]) -> str | None:
    """One worker; what a diverging training said. Raising it would only have it tried again."""
    task: TrainingTask = arguments["task"]
    logging.basicConfig(format="%(message)s")
    logging.getLogger("otad_ray").setLevel(logging.INFO)
    quiet_ray_data()
    torch.set_num_threads(arguments["num_threads"])
    inputs, targets = _read_shard(arguments["num_rows"], task.shape)
    try:
        task.train(inputs, targets, ray.train.torch.get_device())
    except FloatingPointError as error:
        return str(error)
    return None


def _read_shard(num_rows: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """All rows in order of position, whatever order they come in: inputs (num_rows, *shape), targets (num_rows,)."""
    inputs, targets, seen = torch.empty(num_rows, *shape), torch.empty(0), 0
    for table in ray.train.get_dataset_shard(_ROWS).iter_batches(batch_size=None, batch_format="pyarrow"):
        # Copied, because Ray's memory is read-only.
        position, y = (torch.tensor(table[name].to_numpy()) for name in ("position", "y"))
        if not seen:
            targets = torch.empty(num_rows, dtype=y.dtype)
        targets[position] = y
        inputs[position] = torch.tensor(table["x"].combine_chunks().flatten().to_numpy()).reshape(-1, *shape)
        seen += len(position)
    if seen != num_rows:
        raise RuntimeError(f"Ray Data delivered {seen} of {num_rows} rows")
    return inputs, targets


def _ray_dataset(rows: Rows) -> Dataset:
    """Columns position, x (D floats) and y, in Ray's object store; this process holds a block at a time."""
    blocks = []
    for number, batch in enumerate(iterate(rows, _ROWS_PER_BLOCK)):
        x = batch.x.flatten(1)
        columns = {
            "position": number * _ROWS_PER_BLOCK + np.arange(len(x)),
            "x": pa.FixedSizeListArray.from_arrays(x.flatten().numpy(), x.shape[1]),
            "y": batch.y.numpy(),
        }
        blocks.append(ray.put(pa.table(columns)))
    return ray.data.from_arrow_refs(blocks)  # type: ignore[arg-type]
