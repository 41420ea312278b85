"""All defenses of a sweep side by side: one table, one ranking, one figure."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from otad_ray.evaluation.bracket.per_sample import Comparison
from otad_ray.evaluation.bracket.report import Bracket, BudgetResult
from otad_ray.evaluation.bracket.tables import align_columns, format_percent
from otad_ray.evaluation.empty_figure import make_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROW_HEIGHT = 0.32
_PANEL_WIDTH = 2.6
_BAR_COLOR, _EDGE_COLOR = "#0072B2", "#000000"


def overview_table(brackets: Mapping[str, Bracket], flags: Mapping[str, Sequence[str]], *, norm: str) -> str:
    """Return plain text with a row per defense: its brackets, its accuracy under every attack, and its flags.

    Args:
        brackets: by defense.
        flags: for each defense the names of what speaks against its numbers.
        norm: norm of the budgets.
    """
    eps = _list_eps(brackets, norm)
    attacks = sorted({result.attack for bracket in brackets.values() for result in bracket.attacks})
    header = ["defense", "n", "standard", *(f"eps {value:g}" for value in eps), *attacks, "flags"]
    rows = [
        [
            name,
            str(bracket.standard.n),
            format_percent(bracket.standard),
            *(_format_bracket(bracket, norm, value) for value in eps),
            *(_format_attack(bracket, norm, attack, eps) for attack in attacks),
            ", ".join(dict.fromkeys(flags.get(name, ()))) or "-",
        ]
        for name, bracket in brackets.items()
    ]
    notes = (
        [f"  eps columns: certified to worst case in %; attack columns: accuracy in % at eps {eps[-1]:g}"]
        if eps
        else []
    )
    if any(bracket.probabilistic for bracket in brackets.values()):
        notes.append("  ~ the certificate is probabilistic")
    return "\n".join(
        [f"all defenses: accuracy in % under {norm} perturbations", *align_columns([header, *rows]), *notes]
    )


def ranking_table(
    brackets: Mapping[str, Bracket], comparisons: Sequence[Comparison], *, norm: str, reference: str
) -> str:
    """Return plain text that ranks the defenses by their worst case at each budget, and tests each against one of them.

    Args:
        brackets: by defense.
        comparisons: of pairs of defenses, on the samples that both have.
        norm: norm of the budgets.
        reference: the defense that the others are tested against, by McNemar's exact test.
    """
    tests = {
        (comparison.eps, other): comparison
        for comparison in comparisons
        if reference in (comparison.first, comparison.second)
        for other in {comparison.first, comparison.second} - {reference}
    }
    lines = [f"ranking by the worst case, each tested against {reference} on the samples that both have (McNemar)"]
    for eps in _list_eps(brackets, norm):
        found = {name: budget for name, bracket in brackets.items() if (budget := _find(bracket, norm, eps))}
        ranked = sorted(found, key=lambda name: -found[name].worst_case.value)
        lines.append(f"  eps {eps:g}")
        rows = [
            [str(place), name, format_percent(found[name].worst_case), _format_test(tests.get((eps, name)))]
            for place, name in enumerate(ranked, start=1)
        ]
        lines += [f"  {line}" for line in align_columns(rows)]
    return "\n".join(lines)


def overview_figure(brackets: Mapping[str, Bracket], *, norm: str, eps_unit: str, title: str) -> "Figure":
    """Draw the bracket of every defense: a bar from its certified share to its worst case, a panel for each budget.

    Args:
        brackets: by defense.
        norm: norm of the budgets.
        eps_unit: unit of eps, in words.
        title: title of the figure.
    """
    eps = _list_eps(brackets, norm)
    names = list(brackets)
    figure = make_figure(1.8 + _PANEL_WIDTH * max(1, len(eps)), 1.3 + _ROW_HEIGHT * len(names))
    panels = figure.subplots(1, max(1, len(eps)), sharey=True, squeeze=False)[0]
    for axes, value in zip(panels, eps, strict=False):
        for row, name in enumerate(names):
            budget = _find(brackets[name], norm, value)
            if budget is None:
                continue
            worst = 100 * budget.worst_case.value
            certified = 0.0 if budget.certified is None else 100 * budget.certified.value
            hatch = "////" if brackets[name].probabilistic else None
            axes.barh(row, worst - certified, left=certified, height=0.6, color=_BAR_COLOR, alpha=0.35, hatch=hatch)
            axes.plot([worst, worst], [row - 0.35, row + 0.35], color=_EDGE_COLOR, linewidth=2)
            if budget.certified is not None:
                axes.plot([certified, certified], [row - 0.35, row + 0.35], color=_BAR_COLOR, linewidth=2)
            standard = 100 * brackets[name].standard.value
            axes.plot(standard, row, marker=".", color="0.5", markersize=4)
        axes.set_title(f"{norm} eps {value:g}", fontsize="small")
        axes.set_xlim(-2, 102)
        axes.set_xlabel("accuracy in %")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    figure.suptitle(
        f"{title}\nbar: certified share (blue) to worst case (black); dot: standard; hatched: probabilistic\n"
        f"eps: {eps_unit}",
        fontsize="small",
    )
    return figure


def _list_eps(brackets: Mapping[str, Bracket], norm: str) -> list[float]:
    """Return the finite budgets of a norm, ascending."""
    found = {budget.eps for bracket in brackets.values() for budget in bracket.budgets if budget.norm == norm}
    return sorted(value for value in found if value < float("inf"))


def _find(bracket: Bracket, norm: str, eps: float) -> BudgetResult | None:
    return next((budget for budget in bracket.budgets if (budget.norm, budget.eps) == (norm, eps)), None)


def _format_bracket(bracket: Bracket, norm: str, eps: float) -> str:
    budget = _find(bracket, norm, eps)
    if budget is None:
        return "-"
    mark = "~" if bracket.probabilistic else ""
    return f"{format_percent(budget.certified)}{mark} to {format_percent(budget.worst_case)}"


def _format_attack(bracket: Bracket, norm: str, attack: str, eps: Sequence[float]) -> str:
    found = [item for item in bracket.attacks if (item.attack, item.norm) == (attack, norm) and item.eps == eps[-1]]
    found = found or [item for item in bracket.attacks if item.attack == attack and item.eps == float("inf")]
    return format_percent(found[0].robust) if found else "-"


def _format_test(comparison: Comparison | None) -> str:
    return "" if comparison is None else f"p = {comparison.p:.2g}, n = {comparison.n}"
