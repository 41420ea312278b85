"""Records as arrays: what each attack left of the samples at each budget."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from otad_ray.evaluation.records.schema import RecordStatus


@dataclass(frozen=True, eq=False)
class AttackOutcome:
    """One attack at one budget; of several seeds, the worst for each sample.

    ids (n,): samples that were evaluated, ascending. right (n,) bool: right without an attack.
    robust (n,) bool: right, and not broken by any row. rows: all its records, those that could not be evaluated too.
    """

    attack: str
    norm: str
    eps: float
    ids: np.ndarray
    right: np.ndarray
    robust: np.ndarray
    rows: pa.Table


def attack_outcomes(records: pa.Table) -> tuple[AttackOutcome, ...]:
    """Outcomes of a classifier's records, ordered by norm, attack and eps."""
    return tuple(_outcome(records, *group) for group in list_groups(records))


def list_groups(records: pa.Table) -> list[tuple[str, str, float]]:
    """Norm, attack and eps of the records, each combination once, in order."""
    names = ["norm", "attack", "eps"]
    keys = records.select(names).group_by(names).aggregate([]).to_pylist()
    return sorted((key["norm"], key["attack"], key["eps"]) for key in keys)


def select_rows(records: pa.Table, norm: str, attack: str, eps: float) -> pa.Table:
    """The rows of one attack at one budget."""
    chosen = pc.and_(pc.equal(records["norm"], norm), pc.equal(records["attack"], attack))
    return records.filter(pc.and_(chosen, pc.equal(records["eps"], eps)))


def find_shared(first: AttackOutcome, second: AttackOutcome) -> tuple[np.ndarray, np.ndarray]:
    """Positions (m,) in the one and in the other of the samples that both evaluated."""
    _, ours, theirs = np.intersect1d(first.ids, second.ids, assume_unique=True, return_indices=True)
    return ours, theirs


def read_flags(table: pa.Table, column: str, *, null: bool = False) -> np.ndarray:
    """A boolean column (n,), nulls as `null`."""
    return pc.fill_null(table[column], null).to_numpy()


def has_status(table: pa.Table, status: RecordStatus) -> np.ndarray:
    """(n,) bool: rows of a status."""
    return pc.equal(table["status"], status.value).to_numpy()


def _outcome(records: pa.Table, norm: str, attack: str, eps: float) -> AttackOutcome:
    rows = select_rows(records, norm, attack, eps)
    evaluated = rows.filter(pa.array(~has_status(rows, RecordStatus.ATTACK_ERROR)))
    ids, sample = np.unique(evaluated["id"].to_numpy(), return_inverse=True)
    right, broken = np.ones(len(ids), dtype=bool), np.zeros(len(ids), dtype=bool)
    np.logical_and.at(right, sample, read_flags(evaluated, "clean_correct"))
    np.logical_or.at(broken, sample, read_flags(evaluated, "broken"))
    return AttackOutcome(attack, norm, eps, ids, right, right & ~broken, rows)
