"""Metrics and figures of labels and defenses, and honest records of attacks on them."""

from otad_ray.evaluation.bracket.certified import broken_certificates, certified_samples, required_radius
from otad_ray.evaluation.bracket.figures import example_figure, radius_figure, relaxation_figure, robustness_figure
from otad_ray.evaluation.bracket.night_to_night import Regression, find_regressions
from otad_ray.evaluation.bracket.per_sample import Comparison, compare_defenses, sample_outcomes
from otad_ray.evaluation.bracket.proportions import Proportion, mcnemar, mcnemar_less, wilson_interval
from otad_ray.evaluation.bracket.regression_errors import RegressionReport, regression_errors, regression_report
from otad_ray.evaluation.bracket.report import RobustnessReport, robustness_report
from otad_ray.evaluation.bracket.tables import eps_text, regression_table, report_table, robustbench_entry
from otad_ray.evaluation.diagnostics.label_statistics import LabelStatistics, label_figure
from otad_ray.evaluation.diagnostics.neighbor_accuracy import neighbor_accuracy
from otad_ray.evaluation.diagnostics.transport import transport_diagnostics
from otad_ray.evaluation.flags.checklist import find_flags
from otad_ray.evaluation.flags.flag import AttackKind, Evidence, Flag
from otad_ray.evaluation.records.attack import SKIPPED_COLUMNS, attack_records, failed_records, skipped_records
from otad_ray.evaluation.records.clean import clean_records, failed_clean_records
from otad_ray.evaluation.records.relative_error import relative_error
from otad_ray.evaluation.records.schema import METRIC_COLUMNS, RecordStatus, record_schema
from otad_ray.evaluation.records.standard import NO_PREDICTION, StandardMetrics, evaluate_batch, evaluation_records
from otad_ray.evaluation.records.verification import EPS_TOLERANCE, DetailedDefense, Norm

__all__ = [
    "EPS_TOLERANCE",
    "METRIC_COLUMNS",
    "NO_PREDICTION",
    "SKIPPED_COLUMNS",
    "AttackKind",
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
    "evaluation_records",
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
