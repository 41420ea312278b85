"""Metrics and figures of labels and defenses, and honest records of attacks on them."""

from otad_ray.evaluation.certified import broken_certificates, certified_samples, required_radius
from otad_ray.evaluation.clean_records import clean_records, failed_clean_records
from otad_ray.evaluation.flags import AttackKind, Evidence, Flag
from otad_ray.evaluation.honesty import find_flags
from otad_ray.evaluation.label_statistics import LabelStatistics, label_figure
from otad_ray.evaluation.metric_nets import neighbor_accuracy
from otad_ray.evaluation.metrics import relative_error
from otad_ray.evaluation.proportions import Proportion, mcnemar, mcnemar_less, wilson_interval
from otad_ray.evaluation.record_schema import METRIC_COLUMNS, RecordStatus, record_schema
from otad_ray.evaluation.records import SKIPPED_COLUMNS, attack_records, failed_records, skipped_records
from otad_ray.evaluation.regression import RegressionReport, regression_errors, regression_report
from otad_ray.evaluation.regressions import Regression, find_regressions
from otad_ray.evaluation.report import eps_text, regression_table, report_table, robustbench_entry
from otad_ray.evaluation.robustness import RobustnessReport, robustness_report
from otad_ray.evaluation.robustness_figures import example_figure, radius_figure, relaxation_figure, robustness_figure
from otad_ray.evaluation.sample_outcomes import Comparison, compare_defenses, sample_outcomes
from otad_ray.evaluation.standard import NO_PREDICTION, StandardMetrics, evaluate_batch
from otad_ray.evaluation.transport import transport_diagnostics
from otad_ray.evaluation.verification import EPS_TOLERANCE, DetailedDefense, Norm

__all__ = [
    "EPS_TOLERANCE",
    "METRIC_COLUMNS",
    "NO_PREDICTION",
    "SKIPPED_COLUMNS",
    "AttackKind",
    "AttackResult",
    "BudgetResult",
    "Comparison",
    "DetailedDefense",
    "Evidence",
    "Flag",
    "LabelStatistics",
    "Norm",
    "Proportion",
    "RecordStatus",
    "Regression",
    "RegressionReport",
    "RobustnessReport",
    "StandardMetrics",
    "attack_records",
    "broken_certificates",
    "certified_samples",
    "clean_records",
    "compare_defenses",
    "eps_text",
    "evaluate_batch",
    "example_figure",
    "failed_clean_records",
    "failed_records",
    "find_flags",
    "find_regressions",
    "label_figure",
    "mcnemar",
    "mcnemar_less",
    "neighbor_accuracy",
    "radius_figure",
    "record_schema",
    "regression_errors",
    "regression_report",
    "regression_table",
    "relative_error",
    "relaxation_figure",
    "report_table",
    "required_radius",
    "robustbench_entry",
    "robustness_figure",
    "robustness_report",
    "sample_outcomes",
    "skipped_records",
    "transport_diagnostics",
    "wilson_interval",
]
