"""Checks that hold attacks against each other, on the samples that both ran on; each yields its flags."""

from collections.abc import Iterator

import numpy as np

from otad_ray.attacks import AttackKind
from otad_ray.evaluation.bracket.attack_outcomes import AttackOutcome, find_shared, has_status
from otad_ray.evaluation.bracket.proportions import SIGNIFICANCE, mcnemar_less
from otad_ray.evaluation.flags.flag import Evidence, Flag, Severity, describe_place, make_flag
from otad_ray.evaluation.records.schema import RecordStatus

# Noise comes close if it breaks more than this share of what gradient attacks do, and enough to tell.
_NOISE_SHARE = 0.5
_NOISE_BROKEN = 10
# Doubling the iterations moves a lot if robust accuracy falls by more, beyond chance.
_DOUBLED_DROP = 0.02
# An attack that leaves more of the undefended net robust is too weak to say anything of a defense.
_WEAK_ROBUST = 0.05


def masked_gradients(evidence: Evidence) -> Iterator[Flag]:
    """Masked gradients: an attack without the defense's gradients finds what those with them miss."""
    kinds: tuple[AttackKind, ...] = ("black_box", "surrogate")
    for kind in kinds:
        yield from _find_stronger(evidence, kind, "masked_gradients", "grave", "gradients may be masked")


def one_step_beats_iterative(evidence: Evidence) -> Iterator[Flag]:
    """An iterative attack must be at least as strong as one step of it."""
    yield from _find_stronger(
        evidence, "one_step", "one_step_beats_iterative", "warning", "its steps may be too small, or gradients masked"
    )


def noise_comes_close(evidence: Evidence) -> Iterator[Flag]:
    """Noise of the same norm breaks nearly as much: gradients lead nowhere. An unbounded budget is left out."""
    for noise in evidence.of_kind("noise"):
        found = _join_gradient_attacks(evidence, noise)
        if found is None or noise.eps >= evidence.unbounded_eps.get(noise.norm, np.inf):
            continue
        robust_noise, robust_gradient, right = found
        by_noise, by_gradient = (int((right & ~robust).sum()) for robust in (robust_noise, robust_gradient))
        if by_noise >= _NOISE_BROKEN and by_noise > _NOISE_SHARE * by_gradient:
            yield make_flag(
                noise,
                name="noise_comes_close",
                severity="warning",
                value=by_noise / by_gradient if by_gradient else None,
                threshold=_NOISE_SHARE,
                message=f"{describe_place(noise)} breaks {by_noise} samples, "
                f"the gradient attacks together {by_gradient}",
            )


def more_iterations(evidence: Evidence) -> Iterator[Flag]:
    """An attack that twice the iterations make clearly stronger has not converged."""
    by_key = {(outcome.attack, outcome.norm, outcome.eps): outcome for outcome in evidence.outcomes}
    for once, twice in evidence.doubled:
        for outcome in evidence.outcomes:
            longer = by_key.get((twice, outcome.norm, outcome.eps))
            if outcome.attack != once or longer is None:
                continue
            ours, theirs = find_shared(outcome, longer)
            before, after = outcome.robust[ours], longer.robust[theirs]
            drop = float(before.mean() - after.mean()) if len(before) else 0.0
            if drop > _DOUBLED_DROP and mcnemar_less(before, after) < SIGNIFICANCE:
                yield make_flag(
                    outcome,
                    name="more_iterations",
                    severity="warning",
                    value=drop,
                    threshold=_DOUBLED_DROP,
                    message=f"{describe_place(outcome)} leaves {before.mean():.1%} robust, "
                    f"with twice the iterations {after.mean():.1%}",
                )


def weak_attack(evidence: Evidence) -> Iterator[Flag]:
    """An attack that fails on the undefended net too, at the largest budget; noise and one step are no yardstick."""
    if evidence.net_records is None:
        yield Flag(name="not_checked", severity="info", message="weak_attack: the undefended net was not attacked")
        return
    on_net = {(outcome.attack, outcome.norm, outcome.eps): outcome for outcome in evidence.net_outcomes}
    # Ordered by eps: the last outcome of an attack is the one at its largest budget. Without bounds all are strong.
    bounded = (item for item in evidence.outcomes if item.eps != evidence.unbounded_eps.get(item.norm))
    largest = {(outcome.attack, outcome.norm): outcome for outcome in bounded}
    for (attack, norm), outcome in largest.items():
        if evidence.kinds[attack] in ("noise", "one_step"):
            continue
        net = on_net.get((attack, norm, outcome.eps))
        if net is None or not len(net.ids) or has_status(net.rows, RecordStatus.SKIPPED).any():
            yield Flag(
                name="not_checked",
                severity="info",
                attack=attack,
                norm=norm,
                eps=outcome.eps,
                message=f"weak_attack: {describe_place(outcome)} was not run on the undefended net, "
                "or not on all samples",
            )
        elif (robust := float(net.robust.mean())) >= _WEAK_ROBUST:
            yield make_flag(
                outcome,
                name="weak_attack",
                severity="warning",
                value=robust,
                threshold=_WEAK_ROBUST,
                message=f"{describe_place(outcome)} leaves {robust:.1%} of the undefended net robust",
            )


def _find_stronger(evidence: Evidence, kind: AttackKind, name: str, severity: Severity, advice: str) -> Iterator[Flag]:
    for other in evidence.of_kind(kind):
        found = _join_gradient_attacks(evidence, other)
        if found is None:
            continue
        robust_other, robust_gradient, _ = found
        p_value = mcnemar_less(robust_gradient, robust_other)
        if p_value < SIGNIFICANCE:
            yield make_flag(
                other,
                name=name,
                severity=severity,
                value=p_value,
                threshold=SIGNIFICANCE,
                message=f"{describe_place(other)} leaves {robust_other.sum()} of {len(robust_other)} samples robust, "
                f"the gradient attacks together {robust_gradient.sum()}: {advice}",
            )


def _join_gradient_attacks(
    evidence: Evidence, other: AttackOutcome
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """All gradient attacks together beside another attack at its budget; None where none ran.

    Of the samples that it and any of them ran on, (m,) bool: robust under the other, under all of them, right.
    """
    right, robust = other.right.copy(), np.ones(len(other.ids), dtype=bool)
    ran = np.zeros(len(other.ids), dtype=bool)
    for outcome in evidence.of_kind("gradient"):
        if (outcome.norm, outcome.eps) != (other.norm, other.eps):
            continue
        ours, theirs = find_shared(other, outcome)
        ran[ours] = True
        robust[ours] &= outcome.robust[theirs]
        right[ours] &= outcome.right[theirs]
    return (other.robust[ran], robust[ran], right[ran]) if ran.any() else None
