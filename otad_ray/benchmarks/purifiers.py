"""A purifying defense's forward pass against the net's alone."""

import torch
from torch import Tensor, nn

from otad_ray.benchmarks.measurement import Measurement, best_of, threads

_BATCH_ROWS = 64


def measure_purifier(name: str, defense: nn.Module, net: nn.Module, inputs: Tensor, *, num_threads: int) -> Measurement:
    """Measure milliseconds a sample of a defense, and of the net that it stands before.

    Args:
        name: of the defense.
        defense: maps inputs (B, *shape) to logits.
        net: the undefended net.
        inputs: (N, *shape).
        num_threads: threads of PyTorch.
    """
    batches = inputs.split(_BATCH_ROWS)
    with threads(num_threads), torch.no_grad():
        ours, _ = best_of(2, lambda: [defense(batch) for batch in batches])
        reference, _ = best_of(2, lambda: [net(batch) for batch in batches])
    return Measurement(
        name=f"forward_{name}",
        unit="ms/sample",
        ours=1e3 * ours / len(inputs),
        reference=1e3 * reference / len(inputs),
        ratio=reference / ours,
        goal=None,
        note=f"{len(inputs)} samples in batches of {_BATCH_ROWS}, against the net alone, {num_threads} threads",
    )
