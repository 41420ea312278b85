"""How long a sweep will take, from the times of a few samples."""

import sys
from collections.abc import Sequence

from otad_ray.sweep.tasks import RETRYABLE_RECORDS
from otad_ray.sweep.units import DefenseUnits

# Forward passes that verify an example: as it was, as it is, and that once more.
_VERIFICATION = 3
# Units that take less are not listed in the estimate.
_LISTED_SECONDS = 60.0


def print_cost(defenses: Sequence[DefenseUnits], num_workers: int) -> None:
    """Print an estimate of the work that is left, as if no sample were broken."""
    lines, total = [], 0.0
    for defense in defenses:
        for unit in defense.attacks:
            left = len(unit.output.unfinished(RETRYABLE_RECORDS)) / sum(1 for _ in unit.output.shards)
            cost = unit.task.named.attack.cost
            forwards = cost.forwards + _VERIFICATION
            gradients = cost.gradients * defense.probe.draws
            each = forwards * defense.probe.forward_seconds + gradients * defense.probe.gradient_seconds
            seconds = left * unit.task.samples.count * (each + cost.own_seconds) / num_workers
            total += seconds
            if seconds >= _LISTED_SECONDS:
                eps = unit.task.budget.eps
                lines.append(f"  {defense.source.name:<16}{unit.task.name:<20} eps {eps:<6g}{seconds / 60:8.1f} min")
    head = f"cost: about {total / 60:.1f} min on {num_workers} actors{', of it:' if lines else ''}"
    print("\n".join([head, *lines]), file=sys.stderr)
