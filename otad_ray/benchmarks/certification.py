"""Certificates against predictions of the same samples."""

import torch
from torch import Tensor, nn

from otad_ray.benchmarks.measurement import Measurement, best_of
from otad_ray.certification import certified_radius

# A certificate may cost as much as this many predictions.
_FORWARDS = 20


def measure_certificates(defense: nn.Module, inputs: Tensor, *, goal: float) -> Measurement:
    """Milliseconds a sample of the certificates of inputs (B, *shape), and of 20 forward passes of them.

    Both have the threads torch has now. What is computed once for a memory is computed before.
    """
    certified_radius(defense, inputs[:1])
    with torch.no_grad():
        forward, _ = best_of(2, lambda: defense(inputs))
    ours, certificate = best_of(2, lambda: certified_radius(defense, inputs))
    count = len(inputs)
    share = float((certificate.radius > 0).double().mean())
    return Measurement(
        name=f"certificates_of_{count}",
        unit="ms/sample",
        ours=1e3 * ours / count,
        reference=1e3 * _FORWARDS * forward / count,
        ratio=_FORWARDS * forward / ours,
        goal=goal,
        note=f"{count} samples, {torch.get_num_threads()} threads, against {_FORWARDS} forwards; "
        f"radius above 0 for {100 * share:.1f} %, median {float(certificate.radius.median()):.3f}",
    )
