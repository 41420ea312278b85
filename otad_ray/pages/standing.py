"""Where a defense stands: its bracket at each budget, and a ranking of several in the manner of RobustBench."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from otad_ray.evaluation import Comparison, Proportion
from otad_ray.pages.cells import number_cell, share_cell, text_cell
from otad_ray.pages.layout import Bar, Cell, Table

_RANKING = (
    "rank",
    "defense",
    "bracket",
    "standard %",
    "certified %",
    "worst case %",
    "strongest attack",
    "n",
    "flags",
)


@dataclass(frozen=True, kw_only=True)
class StandingAt:
    """A defense at one budget.

    Attributes:
        eps: the budget.
        certified: right and proven robust; None without certificates.
        worst_case: robust against every attack.
        strongest: the attack that alone breaks most, of those that ran on all samples; None if there is none.
    """

    eps: float
    certified: Proportion | None
    worst_case: Proportion
    strongest: str | None


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A defense in a ranking.

    Attributes:
        defense: its name.
        standard: accuracy without an attack.
        probabilistic: what its certificates say that hold with a probability only; None for proofs.
        flags: names of what speaks against its numbers.
        budgets: its brackets, eps ascending.
    """

    defense: str
    standard: Proportion
    probabilistic: str | None
    flags: tuple[str, ...]
    budgets: tuple[StandingAt, ...]


def read_proportion(described: Mapping[str, Any]) -> Proportion:
    """Return a share from its description in JSON."""
    return Proportion(**described)


def read_standing(defense: str, bracket: Mapping[str, Any], flags: Iterable[Mapping[str, Any]], norm: str) -> Standing:
    """Return where a defense stands.

    Args:
        defense: its name.
        bracket: a `Bracket` as a sweep's manifest describes it in JSON.
        flags: its flags, described likewise.
        norm: of the budgets that count.
    """
    budgets = [item for item in bracket["budgets"] if item["norm"] == norm and isinstance(item["eps"], float | int)]
    return Standing(
        defense=defense,
        standard=read_proportion(bracket["standard"]),
        probabilistic=bracket.get("probabilistic"),
        flags=tuple(dict.fromkeys(flag["name"] for flag in flags if flag["severity"] != "info")),
        budgets=tuple(_read_budget(item, bracket["attacks"]) for item in budgets),
    )


def _read_budget(described: Mapping[str, Any], attacks: Iterable[Mapping[str, Any]]) -> StandingAt:
    worst_case = read_proportion(described["worst_case"])
    own = [
        item
        for item in attacks
        if (item["norm"], item["eps"]) == (described["norm"], described["eps"]) and item["robust"]["n"] == worst_case.n
    ]
    certified = described["certified"]
    return StandingAt(
        eps=float(described["eps"]),
        certified=None if certified is None else read_proportion(certified),
        worst_case=worst_case,
        strongest=min(own, key=lambda item: item["robust"]["count"])["attack"] if own else None,
    )


def rank_defenses(
    standings: Sequence[Standing], *, norm: str, comparisons: Sequence[Comparison] = (), reference: str | None = None
) -> list[Table]:
    """Return a ranking by the worst case for each budget.

    Args:
        standings: the defenses.
        norm: of the budgets.
        comparisons: of pairs of defenses, on the samples that both have.
        reference: the defense that the others are tested against; None for a ranking without tests.
    """
    notes = [
        "The bar reaches from the certified share (green) to the worst case (black); the dot is the standard accuracy. "
        "A hatched bar has no certificate."
    ]
    if any(standing.probabilistic for standing in standings):
        notes.append("~ The certificate holds with a probability only.")
    columns = _RANKING if reference is None else (*_RANKING, f"McNemar p against {reference}")
    tables = []
    for eps in sorted({budget.eps for standing in standings for budget in standing.budgets}):
        found = [(standing, budget) for standing in standings for budget in standing.budgets if budget.eps == eps]
        ranked = sorted(found, key=lambda pair: -pair[1].worst_case.value)
        rows = [_ranking_row(place, *pair) for place, pair in enumerate(ranked, start=1)]
        if reference is not None:
            tests = _find_tests(comparisons, reference, eps)
            rows = [[*row, number_cell(tests.get(pair[0].defense), 2)] for row, pair in zip(rows, ranked, strict=True)]
        tables.append(Table(title=f"{norm} eps {eps:g}", columns=columns, rows=rows))
    # One explanation for all tables.
    return [*tables[:-1], *(replace(table, notes=notes) for table in tables[-1:])]


def _find_tests(comparisons: Iterable[Comparison], reference: str, eps: float) -> dict[str, float]:
    """Return the p-value of each defense against the reference at a budget."""
    return {
        item.first if item.second == reference else item.second: item.p
        for item in comparisons
        if item.eps == eps and reference in (item.first, item.second)
    }


def _ranking_row(place: int, standing: Standing, budget: StandingAt) -> list[Cell]:
    low = 0.0 if budget.certified is None else budget.certified.value
    high = budget.worst_case.value
    span = f"{100 * low:.1f} to {100 * high:.1f}" if budget.certified is not None else f"at most {100 * high:.1f}"
    text = f"{span} %, standard {100 * standing.standard.value:.1f} %"
    # A certificate that was broken leaves no bar, not one of negative width.
    bar = Bar(low=min(low, high), high=high, mark=standing.standard.value, is_certified=budget.certified is not None)
    return [
        Cell(text=str(place), key=place),
        text_cell(standing.defense),
        Cell(text=text, key=high, note=span, bar=bar),
        share_cell(standing.standard),
        share_cell(budget.certified, mark="~" if standing.probabilistic else ""),
        share_cell(budget.worst_case),
        text_cell(budget.strongest),
        Cell(text=str(budget.worst_case.n), key=budget.worst_case.n),
        text_cell(", ".join(standing.flags)),
    ]
