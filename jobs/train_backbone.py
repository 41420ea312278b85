"""Train the backbone of a preset, equation (14), unless it is there already.

python jobs/train_backbone.py mnist --training.epochs 20 --training.energy-weight 0.001
"""

from otad_ray.distributed.cli import main
from otad_ray.distributed.options import JobConfig
from otad_ray.distributed.pipeline import run_training

if __name__ == "__main__":
    main(JobConfig, run_training, description=__doc__ or "")
