"""Training loops in plain PyTorch, callable from a script, a notebook or Ray Train."""

from otad_ray.training.backbone import TrainingConfig, train_backbone
from otad_ray.training.objectives import accuracy, held_out_metric, mean_squared_error
from otad_ray.training.state import EpochMetrics, TrainingState, TrainingStore

__all__ = [
    "EpochMetrics",
    "TrainingConfig",
    "TrainingState",
    "TrainingStore",
    "accuracy",
    "held_out_metric",
    "mean_squared_error",
    "train_backbone",
]
