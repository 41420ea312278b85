"""The defenses that OTAD is compared with, one file each."""

from otad_ray.defenses.base import Defense
from otad_ray.defenses.baselines.ape_gan import ApeGan
from otad_ray.defenses.baselines.baseline import Baseline, Purifier
from otad_ray.defenses.baselines.diffpure import DiffPure
from otad_ray.defenses.baselines.linf_dist import LinfDist
from otad_ray.defenses.baselines.median_filter import MedianFilter
from otad_ray.defenses.baselines.nearest_neighbor import NearestNeighbor
from otad_ray.defenses.baselines.smoothing import PROBABILISTIC, Smoothing
from otad_ray.defenses.baselines.soc_plus import SocPlus
from otad_ray.defenses.baselines.stl import Stl
from otad_ray.defenses.baselines.trained_net import TrainedNet

# Those that `load_defense` knows.
BASELINE_DEFENSES: tuple[type[Defense], ...] = (
    TrainedNet,
    MedianFilter,
    Stl,
    ApeGan,
    DiffPure,
    LinfDist,
    SocPlus,
    NearestNeighbor,
    Smoothing,
)

__all__ = [
    "BASELINE_DEFENSES",
    "PROBABILISTIC",
    "ApeGan",
    "Baseline",
    "DiffPure",
    "LinfDist",
    "MedianFilter",
    "NearestNeighbor",
    "Purifier",
    "Smoothing",
    "SocPlus",
    "Stl",
    "TrainedNet",
]
