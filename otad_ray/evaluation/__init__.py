"""Metrics and figures of labels and defenses, and honest records of attacks on them."""

from otad_ray.evaluation.label_statistics import LabelStatistics, label_figure
from otad_ray.evaluation.metrics import relative_error
from otad_ray.evaluation.record_schema import METRIC_COLUMNS, RecordStatus, record_schema
from otad_ray.evaluation.records import attack_records, failed_records, skipped_records
from otad_ray.evaluation.standard import StandardMetrics, evaluate_batch
from otad_ray.evaluation.transport import transport_diagnostics
from otad_ray.evaluation.verification import EPS_TOLERANCE, DetailedDefense

__all__ = [
    "EPS_TOLERANCE",
    "METRIC_COLUMNS",
    "DetailedDefense",
    "LabelStatistics",
    "RecordStatus",
    "StandardMetrics",
    "attack_records",
    "evaluate_batch",
    "failed_records",
    "label_figure",
    "record_schema",
    "relative_error",
    "skipped_records",
    "transport_diagnostics",
]
