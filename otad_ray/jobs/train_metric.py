"""Train the metric net of a preset, by whose keys neighbors are searched, unless it is there already.

python jobs/train_metric.py digits_vit
python jobs/train_metric.py cifar10_vit --metric.architecture orthogonal     # 1-Lipschitz: predictions can be certified
"""

from typing import Any

from otad_ray.engine.training import Trainer
from otad_ray.errors import InputError
from otad_ray.jobs.train import run_train_job
from otad_ray.models import NO_METRIC, MetricNet
from otad_ray.options import TrainJobConfig
from otad_ray.recipes.metric_net import MetricNetRecipe, ensure_metric
from otad_ray.recipes.networks import Trained
from otad_ray.recipes.workspace import Workspace


def run_metric_training(config: TrainJobConfig) -> dict[str, Any]:
    """Train a preset's metric net, and return the job's summary.

    Raises:
        InputError: for a preset without a metric net.
    """
    if not config.preset.has_metric:
        raise InputError(
            f"preset {config.preset.name!r} has no metric net (metric.architecture is {NO_METRIC!r}): its points are "
            "searched themselves; give one with --metric.architecture"
        )
    return run_train_job(config, MetricNetRecipe.kind, _ensure_existing_metric)


def _ensure_existing_metric(workspace: Workspace, trainer: Trainer) -> Trained[MetricNet]:
    found = ensure_metric(workspace, trainer)
    assert found is not None
    return found
