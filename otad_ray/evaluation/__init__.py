"""Records of attacks and of samples as they are, the bracket and the flags that follow from them, and diagnostics."""

from otad_ray.evaluation.bracket.certified import broken_certificates, certified_samples, required_radius
from otad_ray.evaluation.bracket.curves import BracketCurves, compute_curves
from otad_ray.evaluation.bracket.distributions import RadiusCounts, count_radii, count_relaxations
from otad_ray.evaluation.bracket.figures import example_figure, radius_figure, relaxation_figure, robustness_figure
from otad_ray.evaluation.bracket.night_to_night import Worsening, find_worsenings
from otad_ray.evaluation.bracket.overview import overview_figure, overview_table, ranking_table
from otad_ray.evaluation.bracket.per_sample import Comparison, compare_defenses, sample_outcomes
from otad_ray.evaluation.bracket.proportions import Proportion, mcnemar, mcnemar_less, wilson_interval
from otad_ray.evaluation.bracket.regression_errors import (
    RegressionReport,
    compute_regression_report,
    regression_errors,
)
from otad_ray.evaluation.bracket.report import AttackSummary, Bracket, BudgetResult, compute_bracket
from otad_ray.evaluation.bracket.tables import bracket_table, eps_text, regression_table, robustbench_entry
from otad_ray.evaluation.diagnostics.label_statistics import LabelStatistics, label_figure
from otad_ray.evaluation.diagnostics.neighbor_accuracy import neighbor_accuracy
from otad_ray.evaluation.diagnostics.transport import transport_diagnostics
from otad_ray.evaluation.flags.checklist import find_flags
from otad_ray.evaluation.flags.flag import Evidence, Flag, format_flags
from otad_ray.evaluation.front_door import evaluate_robustness
from otad_ray.evaluation.records.attack import (
    SKIPPED_COLUMNS,
    AttackRun,
    attack_records,
    failed_records,
    record_attack,
    skipped_records,
)
from otad_ray.evaluation.records.clean import (
    clean_records,
    evaluation_records,
    failed_clean_records,
    relative_error,
)
from otad_ray.evaluation.records.schema import METRIC_COLUMNS, RecordStatus, record_schema
from otad_ray.evaluation.records.standard import StandardMetrics
from otad_ray.evaluation.records.verification import EPS_TOLERANCE, NO_PREDICTION, DetailedDefense
from otad_ray.evaluation.robustness_report import RobustnessReport, build_report

__all__ = [
    "EPS_TOLERANCE",
    "METRIC_COLUMNS",
    "NO_PREDICTION",
    "SKIPPED_COLUMNS",
    "AttackRun",
    "AttackSummary",
    "Bracket",
    "BracketCurves",
    "BudgetResult",
    "Comparison",
    "DetailedDefense",
    "Evidence",
    "Flag",
    "LabelStatistics",
    "Proportion",
    "RadiusCounts",
    "RecordStatus",
    "RegressionReport",
    "RobustnessReport",
    "StandardMetrics",
    "Worsening",
    "attack_records",
    "bracket_table",
    "broken_certificates",
    "build_report",
    "certified_samples",
    "clean_records",
    "compare_defenses",
    "compute_bracket",
    "compute_curves",
    "compute_regression_report",
    "count_radii",
    "count_relaxations",
    "eps_text",
    "evaluate_robustness",
    "evaluation_records",
    "example_figure",
    "failed_clean_records",
    "failed_records",
    "find_flags",
    "find_worsenings",
    "format_flags",
    "label_figure",
    "mcnemar",
    "mcnemar_less",
    "neighbor_accuracy",
    "overview_figure",
    "overview_table",
    "radius_figure",
    "ranking_table",
    "record_attack",
    "record_schema",
    "regression_errors",
    "regression_table",
    "relative_error",
    "relaxation_figure",
    "required_radius",
    "robustbench_entry",
    "robustness_figure",
    "sample_outcomes",
    "skipped_records",
    "transport_diagnostics",
    "wilson_interval",
]
