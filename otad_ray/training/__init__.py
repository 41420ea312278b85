"""Training loops in plain PyTorch, callable from a script, a notebook or Ray Train."""

from otad_ray.training.backbone import EpochMetrics, TrainingConfig, accuracy, train_backbone

__all__ = ["EpochMetrics", "TrainingConfig", "accuracy", "train_backbone"]
