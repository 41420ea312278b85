"""What the three training jobs share: the workers that train, and the summary."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from otad_ray.artifacts import read_manifest
from otad_ray.engine.training import Trainer, TrainingTask, train_here
from otad_ray.options import TrainJobConfig
from otad_ray.recipes.networks import Trained
from otad_ray.recipes.workspace import Workspace


def run_train_job(
    config: TrainJobConfig, kind: str, ensure: Callable[[Workspace, Trainer], Trained[Any]]
) -> dict[str, Any]:
    """Train a network of a preset, on Ray Train or in this process, unless it is there already.

    Args:
        config: the job's options.
        kind: kind of network.
        ensure: returns the network, trained by the given trainer if it is missing.

    Returns:
        The job's summary: what the last line of its output says.
    """
    directory = ensure(Workspace(config), _choose_trainer(config)).directory
    manifest = read_manifest(directory, kind=kind)
    return {kind: str(directory), "rows": manifest["rows"], **manifest["metrics"]}


def _choose_trainer(config: TrainJobConfig) -> Trainer:
    """Return what trains a network; refuse, before any work, a cluster that cannot take the workers."""
    workers = config.workers
    if workers.local:
        return lambda task: train_here(_with_checkpoints(task, config))
    from otad_ray.engine.ray_session import check_num_workers
    from otad_ray.engine.ray_train import train_on_ray

    check_num_workers(workers.num_workers, workers.address, use_gpu=workers.use_gpu, waits=workers.wait > 0)
    return lambda task: train_on_ray(_with_checkpoints(task, config), workers=workers)


def _with_checkpoints(task: TrainingTask, config: TrainJobConfig) -> TrainingTask:
    return replace(task, checkpoint_every=config.checkpoint_every)
