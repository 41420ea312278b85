"""Train the CIP-net of a preset, which approximates the solver, on its labels, unless it is there already.

python jobs/train_cip_net.py digits_vit
python jobs/train_cip_net.py digits_vit --cip-net.head feature --cip-net-training.alpha 0.5
"""

from otad_ray.recipes.cip_net import CipNetJobConfig, run_cip_net_training

__all__ = ["CipNetJobConfig", "run_cip_net_training"]
