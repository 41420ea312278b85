"""How certified radii and relaxations are distributed, as counts that do not grow with the number of samples."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_BINS = 30


@dataclass(frozen=True, kw_only=True)
class RadiusCounts:
    """Finite certified l2 radii of the samples that are right.

    Attributes:
        edges: of the bins, ascending, one more than there are bins.
        counts: by method the number of samples in each bin.
        right: number of samples that are right, those with an infinite radius included.
    """

    edges: tuple[float, ...]
    counts: dict[str, tuple[int, ...]]
    right: int


def count_radii(certificates: pa.Table) -> RadiusCounts | None:
    """Return the distribution of certified radii; None if there are none.

    Args:
        certificates: as described in `otad_ray.evaluation.bracket.certified`.
    """
    right = certificates.filter(certificates["clean_correct"])
    finite = right.filter(pc.is_finite(right["radius"]))
    if not len(finite):
        return None
    radius, method = finite["radius"].to_numpy(), np.array(finite["method"].to_pylist(), dtype=object)
    edges = np.histogram_bin_edges(radius, bins=_BINS)
    # A method without a name proved nothing.
    counts = {
        name or "nothing proven": tuple(np.histogram(radius[method == name], bins=edges)[0].tolist())
        for name in sorted(set(method))
    }
    return RadiusCounts(edges=tuple(edges.tolist()), counts=counts, right=len(right))


def count_relaxations(records: pa.Table) -> dict[str, tuple[float, ...]] | None:
    """Return by number of relaxations of (l, L) the share of records, "clean" and "adversarial"; None without any."""
    columns = {"clean": "clean_relaxations", "adversarial": "relaxations"}
    values = {name: records[column].drop_null().to_numpy() for name, column in columns.items()}
    solved = {name: found[found >= 0].astype(np.int64) for name, found in values.items()}
    if not all(map(len, solved.values())):
        return None
    return {name: tuple((np.bincount(found) / len(found)).tolist()) for name, found in solved.items()}
