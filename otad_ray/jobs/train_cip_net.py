"""Train the CIP-net of a preset, which approximates the solver, on its labels, unless it is there already.

python jobs/train_cip_net.py digits_vit
python jobs/train_cip_net.py digits_vit --cip-net.head feature --cip-net-training.alpha 0.5
"""

from dataclasses import dataclass
from typing import Any

from otad_ray.jobs.train import run_train_job
from otad_ray.options import TrainJobConfig
from otad_ray.recipes.cip_net import CipNetRecipe, ensure_cip_net


@dataclass(frozen=True, kw_only=True)
class CipNetJobConfig(TrainJobConfig):
    """What to train, on which workers, and from which labels.

    Attributes:
        labels: a label directory to train on instead of the preset's own.
    """

    labels: str | None = None


def run_cip_net_training(config: CipNetJobConfig) -> dict[str, Any]:
    """Train a preset's CIP-net, and return the job's summary."""
    return run_train_job(
        config, CipNetRecipe.kind, lambda workspace, trainer: ensure_cip_net(workspace, trainer, labels=config.labels)
    )
