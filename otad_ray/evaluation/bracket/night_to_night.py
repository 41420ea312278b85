"""Two sweeps of the same samples against each other: what became significantly worse."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from otad_ray.errors import InputError
from otad_ray.evaluation.bracket.certified import required_radius
from otad_ray.evaluation.bracket.per_sample import select_outcomes
from otad_ray.evaluation.bracket.proportions import SIGNIFICANCE, mcnemar_less
from otad_ray.evaluation.bracket.report import is_robust


@dataclass(frozen=True, kw_only=True)
class Worsening:
    """A share that moved the wrong way.

    Attributes:
        defense: name of the defense.
        quantity: what got worse.
        before: its share of samples in the earlier sweep.
        after: its share in the later one.
        n: number of samples.
        p: one-sided p-value by McNemar's exact test.
    """

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


def find_worsenings(
    before: pa.Table, after: pa.Table, *, eps: Sequence[float], norm: str, dimension: int, undefended: str
) -> list[Worsening]:
    """Compare two sweeps of the same samples, and return what became significantly worse.

    Compared are the standard, worst-case and certified accuracies of every defense. Of the undefended net, a robust
    accuracy that rises counts too, under any attack: that attack has become weaker.

    Args:
        before: outcomes of the earlier sweep, a table of `sample_outcomes`.
        after: outcomes of the later one.
        eps: budgets to compare at.
        norm: their norm.
        dimension: values of a sample.
        undefended: name of the undefended net.

    Raises:
        InputError: if the samples differ, or a defense is missing.
    """
    groups = dict.fromkeys(zip(before["defense"].to_pylist(), before["attack"].to_pylist(), strict=True))
    there = set(zip(after["defense"].to_pylist(), after["attack"].to_pylist(), strict=True))
    missing = sorted({f"{defense} {attack}".strip() for defense, attack in groups if (defense, attack) not in there})
    if missing:
        raise InputError(f"no outcomes of {', '.join(missing)}, which the earlier sweep has; sweep the same")
    pairs = [
        pair
        for defense, attack in groups
        for pair in _pairs(defense, attack, before, after, eps, norm, dimension, weaker=defense == undefended)
    ]
    found = []
    for defense, quantity, earlier, later in pairs:
        p = mcnemar_less(earlier, later)
        # Shared out among all comparisons (Bonferroni), it bounds the chance of naming any worsening wrongly.
        if p < SIGNIFICANCE / len(pairs):
            first, second = (float(np.mean(values)) for values in (earlier, later))
            if quantity.startswith(_WEAKER):
                # What fell is the share that the attack breaks.
                first, second = 1 - first, 1 - second
            found.append(Worsening(defense=defense, quantity=quantity, before=first, after=second, n=len(earlier), p=p))
    return found


_WEAKER = "weaker attack: "


def _pairs(
    defense: str,
    attack: str,
    before: pa.Table,
    after: pa.Table,
    eps: Sequence[float],
    norm: str,
    dimension: int,
    *,
    weaker: bool,
) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Defense, quantity, and whether each sample had it before and now; attack: "" for all together."""
    earlier, later = (select_outcomes(table, defense, attack) for table in (before, after))
    if not np.array_equal(earlier["id"].to_numpy(), later["id"].to_numpy()):
        raise InputError(f"the sweeps of {defense} have different samples; compare those of the same seed and number")
    if not attack:
        yield defense, "standard accuracy", _right(earlier), _right(later)
    for value in eps:
        unbroken = [is_robust(table["breaking_distance"].to_numpy(), value) for table in (earlier, later)]
        if weaker:
            yield defense, f"{_WEAKER}{attack or 'all'} at eps {value:g}, robust", ~unbroken[0], ~unbroken[1]
        elif not attack:
            radius = required_radius(value, norm, dimension)
            certified = [_right(table) & (table["radius"].to_numpy() > radius) for table in (earlier, later)]
            yield defense, f"worst case at eps {value:g}", unbroken[0], unbroken[1]
            yield defense, f"certified accuracy at eps {value:g}", certified[0], certified[1]


def _right(table: pa.Table) -> np.ndarray:
    return table["clean_correct"].to_numpy(zero_copy_only=False)
