"""What a sweep found of each sample: the smallest form in which sweeps and defenses can be compared."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from otad_ray.evaluation.bracket.proportions import mcnemar
from otad_ray.evaluation.bracket.report import breaking_distances, is_robust


def sample_outcomes(defense: str, records: pa.Table, clean: pa.Table, norm: str, *, by_attack: bool) -> pa.Table:
    """A row per sample: defense, attack, id, clean_correct, breaking_distance (least norm known to break it), radius.

    attack "" stands for all attacks together; by_attack adds rows for each. records, clean: of one defense.
    """
    parts = {"": records}
    if by_attack:
        names = sorted(set(records["attack"].to_pylist()))
        parts |= {name: records.filter(pc.equal(records["attack"], name)) for name in names}
    return pa.concat_tables(_outcomes(defense, name, part, clean, norm) for name, part in parts.items())


def select_outcomes(outcomes: pa.Table, defense: str, attack: str = "") -> pa.Table:
    """The rows of one defense and attack, by ascending id."""
    chosen = pc.and_(pc.equal(outcomes["defense"], defense), pc.equal(outcomes["attack"], attack))
    return outcomes.filter(chosen).sort_by("id")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Shares of n samples that two defenses keep in the worst case at an eps; p: McNemar's exact test, two-sided."""

    first: str
    second: str
    eps: float
    first_robust: float
    second_robust: float
    n: int
    p: float

    def __str__(self) -> str:
        return (
            f"eps {self.eps:g}: {self.first} {self.first_robust:.1%}, {self.second} {self.second_robust:.1%} "
            f"of {self.n} samples, McNemar p = {self.p:.2g}"
        )


def compare_defenses(outcomes: pa.Table, eps: Sequence[float]) -> Iterator[Comparison]:
    """Every pair of defenses at every eps, on the samples that both have."""
    tables: Mapping[str, pa.Table] = {
        name: select_outcomes(outcomes, name) for name in dict.fromkeys(outcomes["defense"].to_pylist())
    }
    for (first, ours), (second, theirs) in combinations(tables.items(), 2):
        ids = np.intersect1d(ours["id"].to_numpy(), theirs["id"].to_numpy())
        if not len(ids):
            continue
        for value in eps:
            robust = [
                is_robust(table["breaking_distance"].to_numpy()[np.isin(table["id"].to_numpy(), ids)], value)
                for table in (ours, theirs)
            ]
            yield Comparison(
                first=first,
                second=second,
                eps=value,
                first_robust=float(robust[0].mean()),
                second_robust=float(robust[1].mean()),
                n=len(ids),
                p=mcnemar(*robust),
            )


def _outcomes(defense: str, attack: str, records: pa.Table, clean: pa.Table, norm: str) -> pa.Table:
    ids, distance = breaking_distances(records, norm)
    known = clean["id"].to_numpy()
    order = np.argsort(known)
    own = clean.take(pa.array(order[np.searchsorted(known, ids, sorter=order)]))
    return pa.table(
        {
            "defense": pa.repeat(defense, len(ids)),
            "attack": pa.repeat(attack, len(ids)),
            "id": ids,
            "clean_correct": own["clean_correct"],
            "breaking_distance": distance,
            "radius": own["radius"],
        }
    )
