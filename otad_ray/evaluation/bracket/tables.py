"""A sweep's results as text for people, and as entries in RobustBench's format."""

from collections.abc import Sequence
from fractions import Fraction
from math import isclose, isfinite
from typing import Any

from otad_ray.errors import InputError
from otad_ray.evaluation.bracket.proportions import Proportion
from otad_ray.evaluation.bracket.regression_errors import RegressionReport
from otad_ray.evaluation.bracket.report import Bracket, BudgetResult

_THREAT_MODELS = {"l2": "L2", "linf": "Linf"}
_NONE = "-"


def bracket_table(name: str, report: Bracket, *, norm: str, eps_unit: str) -> str:
    """Return plain text with a row per budget of a norm, in percent, and notes.

    Attacks that ran on fewer samples than the worst case are marked with `*`, their numbers of samples in a note.
    """
    budgets = [budget for budget in report.budgets if budget.norm == norm]
    attacks = sorted({result.attack for result in report.attacks if result.norm == norm})
    shares = {(result.attack, result.eps): result.robust for result in report.attacks if result.norm == norm}
    certified = "certified~" if report.probabilistic else "certified"
    header = ["eps", "standard", certified, "worst case [95 %]", *attacks]
    rows = [
        [
            f"{budget.eps:g}",
            format_percent(report.standard),
            format_percent(budget.certified),
            _format_interval(budget.worst_case),
            *(_format_marked(shares.get((attack, budget.eps)), budget) for attack in attacks),
        ]
        for budget in budgets
    ]
    title = f"{name}: accuracy in % under {norm} perturbations, eps: {eps_unit}"
    return "\n".join([title, *align_columns([header, *rows]), *_write_notes(report, budgets, norm)])


def regression_table(name: str, report: RegressionReport, *, norm: str, eps_unit: str) -> str:
    """Return plain text with a row per attack and budget of a norm."""
    clean = _NONE if report.clean_mse is None else f"{report.clean_mse:.4f}"
    rows = [["eps", "attack", "n", "MSE", "E", "SMAPE"]]
    for result in report.attacks:
        if result.norm == norm:
            errors = result.errors
            means = (_NONE if value is None else f"{value:.4f}" for value in (errors.mse, errors.e, errors.smape))
            rows.append([f"{result.eps:g}", result.attack, str(errors.n), *means])
    for budget in report.budgets:
        if budget.norm == norm and budget.worst_mse is not None:
            rows.append([f"{budget.eps:g}", "worst case", str(budget.n), f"{budget.worst_mse:.4f}", _NONE, _NONE])
    title = f"{name}: errors under {norm} perturbations, eps: {eps_unit}; clean MSE {clean}"
    return "\n".join([title, *align_columns(rows)])


def robustbench_entry(
    report: Bracket,
    *,
    name: str,
    dataset: str,
    norm: str,
    eps: float,
    architecture: str | None = None,
    autoattack: str = "autoattack",
    footnote: str | None = None,
    unreliable: bool = False,
) -> dict[str, Any]:
    """Return the content of RobustBench's `model_info/<dataset>/<threat_model>/<name>.json` for a norm and budget.

    RobustBench's own fields: eps and accuracies are strings, accuracies in percent with two decimals ("83.68"), eps of
    images as a fraction ("8/255"); autoattack_acc is that of the attack called `autoattack`, null unless it ran on all;
    external is the best known evaluation beside it, here the worst case over all attacks; reported is the number that
    is claimed, here the worst case too; unreliable: whether flags speak against the numbers. link, authors and venue
    are null, for people to fill in. Ours: threat_model, num_samples, worst_case_interval, certified_acc.
    RobustBench evaluates 10,000 samples of CIFAR (5,000 of ImageNet): compare num_samples before comparing entries.

    Raises InputError for a budget that the report does not hold.
    """
    budget = next((found for found in report.budgets if (found.norm, found.eps) == (norm, eps)), None)
    if budget is None:
        known = ", ".join(f"{found.norm} {found.eps:g}" for found in report.budgets)
        raise InputError(f"no result at {norm} eps {eps:g}; there are: {known}")
    shares = {(result.attack, result.norm, result.eps): result.robust for result in report.attacks}
    worst = format_percent(budget.worst_case, 2)
    by_autoattack = shares.get((autoattack, norm, eps))
    return {
        "link": None,
        "name": name,
        "authors": None,
        "additional_data": False,
        "number_forward_passes": 1,
        "dataset": dataset,
        "venue": None,
        "architecture": architecture,
        "eps": eps_text(eps),
        "clean_acc": format_percent(report.standard, 2),
        "reported": worst,
        "autoattack_acc": format_percent(by_autoattack, 2)
        if by_autoattack and by_autoattack.n == budget.worst_case.n
        else None,
        "external": worst,
        "footnote": footnote or (f"certified_acc is {report.probabilistic}" if report.probabilistic else None),
        "unreliable": unreliable,
        "threat_model": _THREAT_MODELS[norm],
        "num_samples": budget.worst_case.n,
        "worst_case_interval": [_format_number(budget.worst_case.low, 2), _format_number(budget.worst_case.high, 2)],
        "certified_acc": None if budget.certified is None else format_percent(budget.certified, 2),
    }


def eps_text(eps: float) -> str:
    """Return eps as RobustBench writes it: "8/255" for a budget of whole pixel steps, else a decimal."""
    if not isfinite(eps):
        return f"{eps:g}"
    steps = round(255 * eps)
    # 0.2 is 51/255, and better said as 0.2.
    is_steps = isclose(255 * eps, steps, rel_tol=1e-6) and Fraction(steps, 255).denominator > 10
    return f"{steps}/255" if is_steps else f"{eps:g}"


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows of a table as lines, columns aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def _format_number(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}"


def format_percent(share: Proportion | None, digits: int = 1) -> str:
    """Return a share in percent; "-" if there is none."""
    return _NONE if share is None or not share.n else _format_number(share.value, digits)


def _format_interval(share: Proportion) -> str:
    """Return a share in percent with its interval."""
    return f"{format_percent(share)} [{_format_number(share.low)}, {_format_number(share.high)}]"


def _format_marked(share: Proportion | None, budget: BudgetResult) -> str:
    return format_percent(share) + ("*" if share is not None and share.n < budget.worst_case.n else "")


def _write_notes(report: Bracket, budgets: Sequence[BudgetResult], norm: str) -> list[str]:
    sizes = sorted({budget.worst_case.n for budget in budgets})
    notes = [f"  n = {' to '.join(map(str, sorted({sizes[0], sizes[-1]})))}" if sizes else "  no results"]
    for budget in budgets:
        fewer = [
            f"{result.attack} {result.robust.n}"
            for result in report.attacks
            if (result.norm, result.eps) == (norm, budget.eps) and result.robust.n < budget.worst_case.n
        ]
        if fewer:
            common = f"; where all ran, n = {budget.common.n}: worst case {format_percent(budget.common)}"
            notes.append(f"  * eps {budget.eps:g}: n of {', '.join(fewer)}{common}")
        if budget.unevaluated:
            notes.append(
                f"  eps {budget.eps:g}: {budget.unevaluated} samples count as broken because an attack raised an error"
            )
        if budget.unsolved:
            notes.append(f"  eps {budget.eps:g}: {budget.unsolved} samples had adversarial inputs that were not solved")
    if report.probabilistic:
        notes.append(f"  ~ the certificate is no proof but {report.probabilistic}")
    if report.early_stop:
        notes.append("  each attack was spared what another had broken: its column contains the others'")
    return notes
