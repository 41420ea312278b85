"""Training loops in plain PyTorch, callable from a script, a notebook or Ray Train."""

from otad_ray.training.backbone import TrainingConfig, train_backbone
from otad_ray.training.cip_net import (
    CipNetTrainingConfig,
    SolvedRows,
    approximation_errors,
    gather,
    split_solved,
    train_cip_net,
)
from otad_ray.training.loop import LoopConfig
from otad_ray.training.metric import MetricTrainingConfig, train_metric_net
from otad_ray.training.objectives import accuracy, held_out_metric, mean_squared_error
from otad_ray.training.offsets import OffsetTrainingConfig, train_offsets
from otad_ray.training.state import EpochMetrics, TrainingState, TrainingStore

__all__ = [
    "CipNetTrainingConfig",
    "EpochMetrics",
    "LoopConfig",
    "MetricTrainingConfig",
    "OffsetTrainingConfig",
    "SolvedRows",
    "TrainingConfig",
    "TrainingState",
    "TrainingStore",
    "accuracy",
    "approximation_errors",
    "gather",
    "held_out_metric",
    "mean_squared_error",
    "split_solved",
    "train_backbone",
    "train_cip_net",
    "train_metric_net",
    "train_offsets",
]
