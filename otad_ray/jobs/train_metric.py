"""Train the metric net of a preset, by whose keys neighbors are searched, unless it is there already.

python jobs/train_metric.py digits_vit
python jobs/train_metric.py cifar10_vit --metric.architecture orthogonal     # 1-Lipschitz: predictions can be certified
"""

from otad_ray.options import TrainJobConfig
from otad_ray.recipes.metric_net import run_metric_training

__all__ = ["TrainJobConfig", "run_metric_training"]
