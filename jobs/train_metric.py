"""Train the metric net of a preset, by whose keys neighbors are searched, unless it is there already.

python jobs/train_metric.py digits_vit
python jobs/train_metric.py cifar10_vit --metric.architecture orthogonal     # 1-Lipschitz: predictions can be certified
"""

from otad_ray.jobs.cli import main
from otad_ray.jobs.train_metric import run_metric_training
from otad_ray.options import TrainJobConfig

if __name__ == "__main__":
    main(TrainJobConfig, run_metric_training, description=__doc__ or "", default_preset="digits_vit")
