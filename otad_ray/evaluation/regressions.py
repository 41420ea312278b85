"""Two sweeps of the same samples against each other: what became significantly worse."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from otad_ray.errors import InputError
from otad_ray.evaluation.certified import required_radius
from otad_ray.evaluation.proportions import mcnemar_less
from otad_ray.evaluation.robustness import worst_case

# Of wrongly naming any regression of a preset, shared out among its comparisons (Bonferroni).
SIGNIFICANCE = 0.01


@dataclass(frozen=True, kw_only=True)
class Regression:
    """A share that moved the wrong way: of n samples before and now; p: one-sided, by McNemar's exact test."""

    defense: str
    quantity: str
    before: float
    after: float
    n: int
    p: float

    def __str__(self) -> str:
        return (
            f"{self.defense}: {self.quantity} went from {self.before:.1%} to {self.after:.1%} of {self.n} samples "
            f"(McNemar p = {self.p:.1g})"
        )


def find_regressions(
    before: pa.Table, after: pa.Table, *, eps: Sequence[float], norm: str, dimension: int, undefended: str
) -> list[Regression]:
    """Regressions of outcomes, tables with columns defense, id, clean_correct, breaking_distance and radius.

    Compared are the standard, worst-case and certified accuracies of every defense, on the same ids. Of the net called
    `undefended` a worst case that rises is a regression too: the attacks have become weaker.
    Raises InputError where the ids differ, or a defense is missing.
    """
    names = before["defense"].unique().to_pylist()
    missing = sorted(set(names) - set(after["defense"].unique().to_pylist()))
    if missing:
        raise InputError(f"no outcomes of {', '.join(missing)}, which the earlier sweep has; sweep the same defenses")
    pairs = [pair for name in names for pair in _pairs(name, before, after, eps, norm, dimension, undefended)]
    found = []
    for defense, quantity, earlier, later in pairs:
        p = mcnemar_less(earlier, later)
        if p < SIGNIFICANCE / len(pairs):
            shares = (float(np.mean(values)) for values in (earlier, later))
            # Reversed pairs ask whether the opposite share fell.
            first, second = shares if not quantity.startswith(_WEAKER) else (1 - share for share in shares)
            found.append(
                Regression(defense=defense, quantity=quantity, before=first, after=second, n=len(earlier), p=p)
            )
    return found


_WEAKER = "attacks weaker: "


def _pairs(
    name: str, before: pa.Table, after: pa.Table, eps: Sequence[float], norm: str, dimension: int, undefended: str
) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Defense, quantity, and whether each sample had it before and now."""
    earlier, later = (_sorted(table, name) for table in (before, after))
    if not np.array_equal(earlier["id"].to_numpy(), later["id"].to_numpy()):
        raise InputError(f"the sweeps of {name} have different samples; compare those of the same seed and number")
    yield name, "standard accuracy", _right(earlier), _right(later)
    for value in eps:
        radius = required_radius(value, norm, dimension)
        unbroken = [worst_case(table["breaking_distance"].to_numpy(), value) for table in (earlier, later)]
        certified = [_right(table) & (table["radius"].to_numpy() > radius) for table in (earlier, later)]
        if name == undefended:
            # What the attacks do to the net says something of the attacks alone.
            yield name, f"{_WEAKER}worst case at eps {value:g}", ~unbroken[0], ~unbroken[1]
        else:
            yield name, f"worst case at eps {value:g}", unbroken[0], unbroken[1]
        yield name, f"certified accuracy at eps {value:g}", certified[0], certified[1]


def _sorted(table: pa.Table, name: str) -> pa.Table:
    rows = table.filter(pa.array([defense == name for defense in table["defense"].to_pylist()]))
    return rows.take(pa.array(np.argsort(rows["id"].to_numpy())))


def _right(table: pa.Table) -> np.ndarray:
    return table["clean_correct"].to_numpy(zero_copy_only=False)
