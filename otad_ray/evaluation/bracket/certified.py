"""Certified accuracy from radii, and certificates that an example refutes.

Certificates are tables with columns id, radius (float64, of the open l2 ball in which the prediction is proven
constant), method (string) and clean_correct (bool). A defense with a proof of its own in linf has a column linf_radius
too, of the open linf ball.
"""

from math import inf, sqrt

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from otad_ray.evaluation.records.schema import RecordStatus
from otad_ray.evaluation.records.verification import EPS_TOLERANCE

# The column of a defense's own radii in linf.
LINF_RADIUS = "linf_radius"


def find_certified(certificates: pa.Table, ids: np.ndarray, eps: float, norm: str, dimension: int) -> np.ndarray:
    """Return which samples are right and certified against all perturbations of at most eps (1 + 1e-6).

    In linf the l2 ball counts that holds the linf ball, or the defense's own proof, whichever reaches farther.

    Args:
        certificates: the radii.
        ids: samples (n,), ascending.
        eps: the budget.
        norm: l2 or linf.
        dimension: values of a sample.

    Returns:
        (n,) bool.
    """
    certified = certified_samples(certificates, ids, required_radius(eps, norm, dimension))
    if norm == "linf" and LINF_RADIUS in certificates.column_names:
        own = certificates.set_column(certificates.column_names.index("radius"), "radius", certificates[LINF_RADIUS])
        certified |= certified_samples(own, ids, required_radius(eps, "l2", dimension))
    return certified


def required_radius(eps: float, norm: str, dimension: int) -> float:
    """The l2 radius that a certificate must exceed to cover all perturbations of at most eps (1 + 1e-6).

    The ball is open, so a radius of eps would not do. The l2 ball of radius `eps sqrt(d)` holds the linf ball of radius
    eps. A budget of 0 leaves the sample itself, which needs no certificate.
    """
    if eps == 0:
        return -inf
    return eps * (1 + EPS_TOLERANCE) * (sqrt(dimension) if norm == "linf" else 1.0)


def certified_samples(certificates: pa.Table, ids: np.ndarray, radius: float) -> np.ndarray:
    """(n,) bool: samples with ids (n,) ascending that are right and certified beyond a radius.

    A sample without a certificate is not certified; of several certificates of a sample the largest counts.
    """
    beyond = certificates["clean_correct"].to_numpy() & (certificates["radius"].to_numpy() > radius)
    return np.isin(ids, certificates["id"].to_numpy()[beyond])


def broken_certificates(records: pa.Table, certificates: pa.Table) -> tuple[int, ...]:
    """Ids of samples, certified and right, with a verified example inside the ball that changes the prediction.

    There can be none unless a certificate is wrong, or the defense is not the one that was certified.
    """
    changed = pc.not_equal(records["prediction"], records["clean_prediction"])
    verified = pc.and_(pc.equal(records["status"], RecordStatus.OK.value), pc.and_(records["clean_correct"], changed))
    examples = records.filter(verified)
    inside = _are_inside(examples, certificates, norm="l2", radius="radius")
    if LINF_RADIUS in certificates.column_names:
        inside |= _are_inside(examples, certificates, norm="linf", radius=LINF_RADIUS)
    return tuple(np.unique(examples["id"].to_numpy()[inside]).tolist())


def _are_inside(examples: pa.Table, certificates: pa.Table, *, norm: str, radius: str) -> np.ndarray:
    """Return which examples (n,) lie within the certified ball of their sample; of several the largest counts."""
    order = np.argsort(certificates["id"].to_numpy(), kind="stable")
    ids, first = np.unique(certificates["id"].to_numpy()[order], return_index=True)
    radii = np.where(certificates["clean_correct"].to_numpy(), certificates[radius].to_numpy(), 0.0)[order]
    largest = np.maximum.reduceat(radii, first) if len(ids) else radii
    place = np.searchsorted(ids, examples["id"].to_numpy())
    known = np.append(ids, -1)[place] == examples["id"].to_numpy()
    return known & (examples[norm].to_numpy() < np.append(largest, 0.0)[place])
