"""Checks of the records of single attacks; each yields its flags."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import inf

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from otad_ray.evaluation.bracket.attack_outcomes import find_shared, has_status, read_flags
from otad_ray.evaluation.bracket.certified import broken_certificates, certified_samples, required_radius
from otad_ray.evaluation.bracket.proportions import SIGNIFICANCE, mcnemar_less
from otad_ray.evaluation.bracket.report import breaking_distances, is_robust
from otad_ray.evaluation.flags.flag import Evidence, Flag, describe_place, make_flag
from otad_ray.evaluation.records.schema import RecordStatus

_ZERO_GRADIENT_SHARE = 0.5
_UNBOUNDED_ROBUST = 0.05
_NAMED_IDS = 10


def broken_certificate(evidence: Evidence) -> Iterator[Flag]:
    """A verified example inside a certified ball: the proof, its code or the certified defense is wrong."""
    ids = () if evidence.certificates is None else broken_certificates(evidence.records, evidence.certificates)
    if ids:
        yield Flag(
            name="broken_certificate",
            severity="grave",
            value=len(ids),
            threshold=0,
            message=f"{len(ids)} certificates are refuted by examples inside their balls; ids {_list_ids(ids)}",
        )


def invalid_examples(evidence: Evidence) -> Iterator[Flag]:
    """Examples that do not keep to the budget: they count as failures of the attack, which is then too weak."""
    yield from _share_of_status(
        evidence, RecordStatus.INVALID, "invalid_examples", "examples exceed eps, leave the bounds or are not finite"
    )


def attack_errors(evidence: Evidence) -> Iterator[Flag]:
    """Samples without a result; the worst case counts them as broken."""
    yield from _share_of_status(evidence, RecordStatus.ATTACK_ERROR, "attack_error", "samples could not be evaluated")


def unsolved_rows(evidence: Evidence) -> Iterator[Flag]:
    """Inputs for which the defense's solver gave no answer."""
    yield from _share_of_status(evidence, RecordStatus.UNSOLVED, "unsolved", "adversarial inputs were not solved")


def repeated_evaluations(evidence: Evidence) -> Iterator[Flag]:
    """A defense whose answers are random: robust accuracy then needs the expectation over its randomness."""
    differs = int(read_flags(evidence.records, "repeat_differs").sum())
    if differs:
        yield Flag(
            name="repeat_differs",
            severity="grave",
            value=differs,
            threshold=0,
            message=f"{differs} of {len(evidence.records)} inputs gave other logits when evaluated again",
        )


def zero_gradients(evidence: Evidence) -> Iterator[Flag]:
    """Attacks that asked for gradients and mostly got zeros; of each attack the budget where it is worst."""
    worst: dict[tuple[str, str], Flag] = {}
    for outcome in evidence.of_kind("gradient") + evidence.of_kind("one_step"):
        shares = outcome.rows["zero_gradient_share"].to_numpy()
        shares = shares[np.isfinite(shares)]
        share = float(shares.mean()) if len(shares) else 0.0
        found = worst.get((outcome.norm, outcome.attack))
        if share > _ZERO_GRADIENT_SHARE and (found is None or share > (found.value or 0.0)):
            worst[outcome.norm, outcome.attack] = make_flag(
                outcome,
                name="zero_gradients",
                severity="warning",
                value=share,
                threshold=_ZERO_GRADIENT_SHARE,
                message=f"{share:.0%} of the gradients of {describe_place(outcome)} are zero",
            )
    yield from worst.values()


def rising_curve(evidence: Evidence) -> Iterator[Flag]:
    """Robust accuracy that rises with the budget, beyond chance: the attack fails where it should be stronger."""
    for smaller, larger in pairwise(evidence.outcomes):
        if (smaller.norm, smaller.attack) != (larger.norm, larger.attack):
            continue
        ours, theirs = find_shared(smaller, larger)
        before, after = smaller.robust[ours], larger.robust[theirs]
        p_value = mcnemar_less(after, before)
        if p_value < SIGNIFICANCE:
            yield make_flag(
                larger,
                name="rising_curve",
                severity="warning",
                value=p_value,
                threshold=SIGNIFICANCE,
                message=f"{describe_place(larger)} leaves {after.sum()} of {len(after)} samples robust, "
                f"at eps {smaller.eps:g} only {before.sum()}",
            )


def zero_budget(evidence: Evidence) -> Iterator[Flag]:
    """At eps 0 nothing may change: what does is a fault of the evaluation or of the defense."""
    for outcome in evidence.outcomes:
        changed = int((outcome.right != outcome.robust).sum())
        if outcome.eps == 0 and changed:
            yield make_flag(
                outcome,
                name="eps_zero_differs",
                severity="grave",
                value=changed,
                threshold=0,
                message=f"{describe_place(outcome)} breaks {changed} samples that are right without an attack",
            )


def clean_differs(evidence: Evidence) -> Iterator[Flag]:
    """Predictions without an attack that are not the same in all records: then no two of them can be compared."""
    if evidence.clean is None:
        return
    known = pc.invert(pc.is_in(evidence.records["status"], pa.array([RecordStatus.ATTACK_ERROR.value])))
    records = evidence.records.filter(known)
    clean = evidence.clean.filter(pc.not_equal(evidence.clean["status"], RecordStatus.ATTACK_ERROR.value))
    ids = clean["id"].to_numpy()
    order = np.argsort(ids)
    place = np.searchsorted(ids, records["id"].to_numpy(), sorter=order).clip(max=max(len(ids) - 1, 0))
    if not len(ids):
        return
    there = ids[order[place]] == records["id"].to_numpy()
    other = clean["prediction"].to_numpy()[order[place]] != records["clean_prediction"].to_numpy()
    changed = np.unique(records["id"].to_numpy()[there & other])
    if len(changed):
        yield Flag(
            name="clean_differs",
            severity="grave",
            value=len(changed),
            threshold=0,
            message=f"{len(changed)} samples are predicted differently without an attack in different records; "
            f"ids {_list_ids(changed)}",
        )


def crossed_bracket(evidence: Evidence) -> Iterator[Flag]:
    """Certified samples that are broken by no example but by the lack of an answer: a proof should give one."""
    if evidence.certificates is None:
        return
    failed = np.unique(evidence.records["id"].to_numpy()[has_status(evidence.records, RecordStatus.ATTACK_ERROR)])
    excused = np.union1d(failed, broken_certificates(evidence.records, evidence.certificates))
    ids, distances = breaking_distances(evidence.records, "l2")
    for eps in sorted({outcome.eps for outcome in evidence.outcomes if outcome.norm == "l2" and outcome.eps > 0}):
        # The radius at l2 does not depend on the dimension.
        certified = certified_samples(evidence.certificates, ids, required_radius(eps, "l2", 1))
        crossed = ids[certified & ~is_robust(distances, eps) & ~np.isin(ids, excused)]
        if len(crossed):
            yield Flag(
                name="crossed_bracket",
                severity="grave",
                norm="l2",
                eps=eps,
                value=len(crossed),
                threshold=0,
                message=f"{len(crossed)} samples are certified and broken at l2 eps {eps:g}; ids {_list_ids(crossed)}",
            )


def unbounded_budget(evidence: Evidence) -> Iterator[Flag]:
    """At a budget that lets any input become any other, attacks that leave samples robust do not work."""
    for norm, unbounded in evidence.unbounded_eps.items():
        # An attack that chooses the norm has no budget that says what it must reach.
        of_norm = [item for item in evidence.outcomes if item.norm == norm and unbounded <= item.eps < inf]
        if not of_norm:
            message = f"robust_when_unbounded: no attack was run at {norm} eps {unbounded:g}"
            yield Flag(name="not_checked", severity="info", norm=norm, eps=unbounded, message=message)
            continue
        largest = max(outcome.eps for outcome in of_norm)
        attacked = [outcome.ids for outcome in of_norm if outcome.eps == largest]
        ids, distances = breaking_distances(evidence.records, norm)
        distances = distances[np.isin(ids, np.concatenate(attacked))]
        robust = float(is_robust(distances, largest).mean()) if len(distances) else 0.0
        if robust > _UNBOUNDED_ROBUST:
            yield Flag(
                name="robust_when_unbounded",
                severity="grave",
                norm=norm,
                eps=largest,
                value=robust,
                threshold=_UNBOUNDED_ROBUST,
                message=f"all attacks leave {robust:.1%} robust at {norm} eps {largest:g}, where nothing can be",
            )


def _list_ids(ids: Sequence[int] | np.ndarray) -> str:
    return ", ".join(str(int(sample)) for sample in ids[:_NAMED_IDS]) + (", ..." if len(ids) > _NAMED_IDS else "")


def _share_of_status(evidence: Evidence, status: RecordStatus, name: str, what: str) -> Iterator[Flag]:
    """A flag for each attack with rows of a status, over its budgets."""
    rows = evidence.records.filter(pa.array(has_status(evidence.records, status)))
    for attack in rows["attack"].unique().to_pylist():
        found, of = (pc.sum(pc.equal(table["attack"], attack)).as_py() for table in (rows, evidence.records))
        yield Flag(
            name=name,
            severity="warning",
            attack=attack,
            value=found / of,
            threshold=0.0,
            message=f"{attack}: {found} of {of} {what}",
        )
