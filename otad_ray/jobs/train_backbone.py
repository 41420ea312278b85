"""Train the backbone of a preset, equation (14), unless it is there already.

python jobs/train_backbone.py mnist --training.epochs 20 --training.energy-weight 0.001
python jobs/train_backbone.py mnist --num-workers 2      # the same backbone; killed, the same command goes on
"""

from otad_ray.options import TrainJobConfig
from otad_ray.recipes.backbone import run_training as run_backbone_training

__all__ = ["TrainJobConfig", "run_backbone_training"]
