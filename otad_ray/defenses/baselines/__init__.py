"""The defenses that OTAD is compared with, one file each."""

from otad_ray.defenses.base import Defense
from otad_ray.defenses.baselines.baseline import Baseline, Purifier
from otad_ray.defenses.baselines.trained_net import TrainedNet

# Those that `load_defense` knows.
BASELINE_DEFENSES: tuple[type[Defense], ...] = (TrainedNet,)

__all__ = ["BASELINE_DEFENSES", "Baseline", "Purifier", "TrainedNet"]
