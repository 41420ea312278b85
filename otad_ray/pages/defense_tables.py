"""Tables of one defense: its accuracy under every attack, its errors as a regression, its flags."""

from collections.abc import Sequence
from math import isfinite

from otad_ray.evaluation import Bracket, Flag, RegressionReport
from otad_ray.pages.cells import number_cell, share_cell, text_cell
from otad_ray.pages.layout import Cell, Table


def tabulate_attacks(bracket: Bracket, norm: str) -> Table:
    """Return a table with a row per attack and a column per budget, in percent."""
    budgets = [budget for budget in bracket.budgets if budget.norm == norm and isfinite(budget.eps)]
    shares = {(item.attack, item.eps): item.robust for item in bracket.attacks if item.norm == norm}
    whole = max((budget.worst_case.n for budget in budgets), default=None)
    mark = "~" if bracket.probabilistic else ""
    rows = [
        [text_cell("standard"), *(share_cell(bracket.standard, whole=whole) for _ in budgets)],
        [text_cell("worst case"), *(share_cell(budget.worst_case, whole=whole) for budget in budgets)],
        [text_cell("certified"), *(share_cell(budget.certified, whole=whole, mark=mark) for budget in budgets)],
        *(
            [text_cell(attack), *(share_cell(shares.get((attack, budget.eps)), whole=whole) for budget in budgets)]
            for attack in sorted({attack for attack, _ in shares})
            if any((attack, budget.eps) in shares for budget in budgets)
        ),
        # An attack that chooses the norm has no budget.
        *(
            [text_cell(f"{attack}, any norm"), share_cell(share, whole=whole), *([Cell(text="")] * (len(budgets) - 1))]
            for (attack, eps), share in shares.items()
            if not isfinite(eps)
        ),
    ]
    return Table(
        title=f"accuracy in %, with its 95 % interval, under {norm} perturbations",
        columns=("attack", *(f"eps {budget.eps:g}" for budget in budgets)),
        rows=rows,
        notes=_write_notes(bracket),
    )


def _write_notes(bracket: Bracket) -> list[str]:
    notes = []
    if bracket.probabilistic:
        notes.append(f"~ The certificate is no proof but {bracket.probabilistic}.")
    if bracket.early_stop:
        notes.append("Each attack was spared what another had broken: its row contains the others'.")
    failed = max((budget.unevaluated for budget in bracket.budgets), default=0)
    if failed:
        notes.append(f"Up to {failed} samples count as broken because an attack raised an error.")
    return notes


def tabulate_errors(report: RegressionReport, norm: str) -> Table:
    """Return a table of a regression's errors with a row per budget and attack."""
    rows = [
        [text_cell("none"), number_cell(None), Cell(text=""), number_cell(report.clean_mse), *([number_cell(None)] * 2)]
    ]
    for budget in report.budgets:
        if budget.norm == norm:
            cells = [number_cell(budget.eps), Cell(text=str(budget.n), key=budget.n), number_cell(budget.worst_mse)]
            rows.append([text_cell("worst case"), *cells, *([number_cell(None)] * 2)])
    for item in report.attacks:
        if item.norm == norm:
            errors = item.errors
            measured = [number_cell(value) for value in (errors.mse, errors.e, errors.smape)]
            rows.append(
                [text_cell(item.attack), number_cell(item.eps), Cell(text=str(errors.n), key=errors.n), *measured]
            )
    return Table(
        title=f"errors under {norm} perturbations; lower is better",
        columns=("attack", "eps", "n", "MSE", "E", "SMAPE"),
        rows=rows,
    )


def tabulate_flags(flags: Sequence[Flag]) -> Table:
    """Return a table of what speaks against the numbers, in its order."""
    rows = [
        [
            *(text_cell(text) for text in (flag.severity, flag.name, flag.attack)),
            number_cell(flag.eps),
            text_cell(flag.message),
        ]
        for flag in flags
    ]
    return Table(title="flags", columns=("severity", "flag", "attack", "eps", "what was found"), rows=rows)
