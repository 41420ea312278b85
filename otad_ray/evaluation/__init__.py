"""Metrics and figures of labels and defenses, and honest records of attacks on them."""

from otad_ray.evaluation.certified import broken_certificates, certified_samples, required_radius
from otad_ray.evaluation.flags import AttackKind, Evidence, Flag
from otad_ray.evaluation.honesty import find_flags
from otad_ray.evaluation.label_statistics import LabelStatistics, label_figure
from otad_ray.evaluation.metrics import relative_error
from otad_ray.evaluation.proportions import Proportion, mcnemar, mcnemar_less, wilson_interval
from otad_ray.evaluation.record_schema import METRIC_COLUMNS, RecordStatus, record_schema
from otad_ray.evaluation.records import attack_records, failed_records, skipped_records
from otad_ray.evaluation.regression import RegressionReport, regression_errors, regression_report
from otad_ray.evaluation.robustness import RobustnessReport, robustness_report
from otad_ray.evaluation.standard import StandardMetrics, evaluate_batch
from otad_ray.evaluation.transport import transport_diagnostics
from otad_ray.evaluation.verification import EPS_TOLERANCE, DetailedDefense

__all__ = [
    "EPS_TOLERANCE",
    "METRIC_COLUMNS",
    "AttackKind",
    "DetailedDefense",
    "Evidence",
    "Flag",
    "LabelStatistics",
    "Proportion",
    "RecordStatus",
    "RegressionReport",
    "RobustnessReport",
    "StandardMetrics",
    "attack_records",
    "broken_certificates",
    "certified_samples",
    "evaluate_batch",
    "failed_records",
    "find_flags",
    "label_figure",
    "mcnemar",
    "mcnemar_less",
    "record_schema",
    "regression_errors",
    "regression_report",
    "relative_error",
    "required_radius",
    "robustness_report",
    "skipped_records",
    "transport_diagnostics",
    "wilson_interval",
]
