"""The bracket as two curves over the radius, not only at the budgets."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import pyarrow as pa

from otad_ray.evaluation.bracket.attack_outcomes import read_flags
from otad_ray.evaluation.bracket.certified import LINF_RADIUS
from otad_ray.evaluation.bracket.report import breaking_distances
from otad_ray.evaluation.records.verification import EPS_TOLERANCE

# Radii of a curve beside the budgets, whatever the number of samples.
_POINTS = 201


@dataclass(frozen=True, kw_only=True)
class BracketCurves:
    """Shares of samples over the radius of the perturbations.

    Attributes:
        radii: ascending, from 0 to the largest budget; the budgets are among them.
        certified: right and proven robust within each radius; None without certificates.
        worst_case: right and broken by nothing that is known within each radius.
    """

    radii: tuple[float, ...]
    certified: tuple[float, ...] | None
    worst_case: tuple[float, ...]


def compute_curves(
    records: pa.Table, clean: pa.Table, *, norm: str, dimension: int, eps: Sequence[float], certified: bool
) -> BracketCurves:
    """Return both sides of a classifier's bracket over the radius.

    Args:
        records: attack records of the classifier.
        clean: its samples without an attack, with their certified radii.
        norm: of the radii, l2 or linf.
        dimension: values of a sample.
        eps: the budgets, finite.
        certified: whether the radii of `clean` count.
    """
    radii = np.union1d(np.linspace(0.0, max(eps), _POINTS), eps)
    reached = radii * (1 + EPS_TOLERANCE)
    worst = _count_beyond(breaking_distances(records, norm)[1], reached)
    proven = _count_beyond(_find_radii(clean, norm, dimension), reached) if certified else None
    return BracketCurves(
        radii=tuple(radii.tolist()),
        certified=None if proven is None else tuple(proven.tolist()),
        worst_case=tuple(worst.tolist()),
    )


def _find_radii(clean: pa.Table, norm: str, dimension: int) -> np.ndarray:
    """Return the radius (n,) within which each sample is proven right, in the norm; -inf for one that is not right."""
    radius = clean["radius"].to_numpy()
    if norm == "linf":
        # The l2 ball that holds the linf ball, or the defense's own proof, whichever reaches farther.
        radius = radius / sqrt(dimension)
        if LINF_RADIUS in clean.column_names:
            radius = np.fmax(radius, clean[LINF_RADIUS].to_numpy())
    # A sample that is right needs no proof at radius 0.
    radius = np.fmax(radius, np.finfo(np.float64).tiny)
    return np.where(read_flags(clean, "clean_correct"), radius, -np.inf)


def _count_beyond(values: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Return for each radius (m,) the share of values (n,) beyond it; an infinite value lies beyond every radius."""
    if not len(values):
        return np.zeros(len(radii))
    return (len(values) - np.searchsorted(np.sort(values), radii, side="right")) / len(values)
