"""Train the backbone of a preset, equation (14), unless it is there already.

python jobs/train_backbone.py mnist --training.epochs 20 --training.energy-weight 0.001
python jobs/train_backbone.py mnist --num-workers 2      # the same backbone; killed, the same command goes on
"""

from otad_ray.jobs.cli import main
from otad_ray.jobs.train_backbone import run_backbone_training
from otad_ray.options import TrainJobConfig

if __name__ == "__main__":
    main(TrainJobConfig, run_backbone_training, description=__doc__ or "")
