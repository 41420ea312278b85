"""Train the backbone of a preset, equation (14), unless it is there already.

python jobs/train_backbone.py mnist --training.epochs 20 --training.energy-weight 0.001
python jobs/train_backbone.py mnist --num-workers 2      # the same backbone; killed, the same command goes on
"""

from typing import Any

from otad_ray.jobs.train import run_train_job
from otad_ray.options import TrainJobConfig
from otad_ray.recipes.backbone import BackboneRecipe, ensure_backbone


def run_backbone_training(config: TrainJobConfig) -> dict[str, Any]:
    """Train a preset's backbone, and return the job's summary."""
    return run_train_job(config, BackboneRecipe.kind, ensure_backbone)
