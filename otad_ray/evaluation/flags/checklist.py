"""The checklist of an honest evaluation, run on a sweep's records: add a check to one of the tuples."""

from collections.abc import Iterator
from typing import Protocol, get_args

from otad_ray.evaluation.flags.between_attacks import (
    masked_gradients,
    more_iterations,
    noise_comes_close,
    one_step_beats_iterative,
    weak_attack,
)
from otad_ray.evaluation.flags.flag import Evidence, Flag, Severity
from otad_ray.evaluation.flags.single_attack import (
    attack_errors,
    broken_certificate,
    clean_differs,
    crossed_bracket,
    invalid_examples,
    repeated_evaluations,
    rising_curve,
    unbounded_budget,
    unsolved_rows,
    zero_budget,
    zero_gradients,
)


class Check(Protocol):
    """A function from the evidence to the flags that it finds."""

    __name__: str

    def __call__(self, evidence: Evidence, /) -> Iterator[Flag]: ...


# Of all records, of regressions too.
ROW_CHECKS: tuple[Check, ...] = (repeated_evaluations, invalid_examples, attack_errors, unsolved_rows, zero_gradients)
# Of classifiers.
CLASSIFIER_CHECKS: tuple[Check, ...] = (
    broken_certificate,
    crossed_bracket,
    clean_differs,
    zero_budget,
    unbounded_budget,
    rising_curve,
)
# Between the attacks on a classifier, each on its own: not where an attack was spared what another had broken.
COMPARISONS: tuple[Check, ...] = (
    masked_gradients,
    noise_comes_close,
    one_step_beats_iterative,
    more_iterations,
    weak_attack,
)


def find_flags(evidence: Evidence) -> tuple[Flag, ...]:
    """All flags that a sweep of one defense raises, grave ones first."""
    checks = ROW_CHECKS if evidence.regression else CLASSIFIER_CHECKS + ROW_CHECKS
    flags = [flag for check in checks for flag in check(evidence)]
    if not evidence.regression:
        flags += _comparisons(evidence)
    order = get_args(Severity)
    return tuple(sorted(flags, key=lambda flag: order.index(flag.severity)))


def _comparisons(evidence: Evidence) -> list[Flag]:
    if not evidence.early_stop:
        return [flag for check in COMPARISONS for flag in check(evidence)]
    names = ", ".join(check.__name__ for check in COMPARISONS)
    message = f"attacks were spared the samples that earlier ones broke, so they cannot be compared: {names}"
    return [Flag(name="not_checked", severity="info", message=message)]
