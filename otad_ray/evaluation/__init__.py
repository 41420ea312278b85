"""Metrics and figures of labels and defenses."""

from otad_ray.evaluation.label_statistics import LabelStatistics, label_figure
from otad_ray.evaluation.metrics import relative_error
from otad_ray.evaluation.standard import StandardMetrics, evaluate_batch
from otad_ray.evaluation.transport import transport_diagnostics

__all__ = [
    "LabelStatistics",
    "StandardMetrics",
    "evaluate_batch",
    "label_figure",
    "relative_error",
    "transport_diagnostics",
]
