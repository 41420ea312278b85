"""Training tasks on Ray Train: the only place where training meets Ray."""

import logging
from typing import Any

import ray
import ray.train.torch
import torch
from ray.data import DataContext, Dataset
from ray.train import DataConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig

from otad_ray.engine.capacity import wait_for_room
from otad_ray.engine.ray_session import WorkerResources, quiet_ray_data, ray_session, worker_resources
from otad_ray.engine.training import TrainingTask
from otad_ray.errors import InputError
from otad_ray.options import WorkerRequest

logger = logging.getLogger(__name__)

# A worker that dies is replaced and its epoch trained again; one that always dies fails the job.
_MAX_FAILURES = 3
_ROWS = "rows"


def train_on_ray(task: TrainingTask, *, workers: WorkerRequest) -> None:
    """Train on Ray Train workers, with gradients averaged by DDP.

    Every worker holds all rows, decoded, because batches do not depend on the number of workers: N x D x 4 bytes
    (188 MB for MNIST, 614 MB for CIFAR-10; of labels K weights), and as much once in Ray's object store.

    Checkpoints are the task's own files rather than Ray's: they are there when an epoch ends (Ray registers a
    checkpoint some time later, and a worker that dies meanwhile costs more epochs), a damaged one is stepped over, and
    a training without Ray goes on from the same ones.
    """
    with ray_session(workers.address, dashboard=True):
        if workers.wait:
            wait_for_room(workers.num_workers, use_gpu=bool(workers.use_gpu), seconds=workers.wait)
        resources = worker_resources(workers.num_workers, use_gpu=workers.use_gpu)
        logger.info("%d workers with %s each", workers.num_workers, resources)
        trainer = _make_trainer(task, workers.num_workers, resources)
        refused = trainer.fit().return_value  # type: ignore[attr-defined]
    if refused is not None:
        raise refused


# The ignored types are those of Ray Train's first version, which its second replaces where the module is run.
def _make_trainer(task: TrainingTask, num_workers: int, resources: WorkerResources) -> ray.train.torch.TorchTrainer:
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
        datasets={_ROWS: _make_dataset(task)},
        # Each worker reads all rows: equal splits would drop some, and batches would depend on the split.
        dataset_config=DataConfig(datasets_to_split=[], execution_options=context.execution_options),
    )


def _train_worker(arguments: dict[str, Any]) -> Exception | None:
    """Train in one worker.

    An error that a retry cannot mend is returned rather than raised, so that Ray Train does not restart the worker.
    """
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


def _make_dataset(task: TrainingTask) -> Dataset:
    """Put the task's rows into Ray's object store; this process holds one block at a time."""
    return ray.data.from_arrow_refs([ray.put(table) for table in task.tables()])  # type: ignore[misc]
