"""A defense's forward pass against the plain search that it contains."""

import torch
from torch import Tensor

from otad_ray.benchmarks.measurement import Measurement, best_of, threads
from otad_ray.benchmarks.search import search_flat
from otad_ray.defenses import OTAD

_BATCH_ROWS = 512


def measure_forward(defense: OTAD, inputs: Tensor, *, num_threads: int, goal: float) -> Measurement:
    """Milliseconds a sample of the whole defense, against `IndexFlatL2.search` of the same queries (B, *shape)."""
    with threads(num_threads), torch.no_grad():
        ours, _ = best_of(2, lambda: [defense(batch) for batch in inputs.split(_BATCH_ROWS)])
        queries = defense.keys(inputs)
        reference, _ = search_flat(defense.memory.keys, [queries], defense.config.num_neighbors)
    return Measurement(
        name=f"forward_{num_threads}_threads",
        unit="ms/sample",
        ours=1e3 * ours / len(inputs),
        reference=1e3 * reference / len(inputs),
        ratio=reference / ours,
        goal=goal,
        note=f"{len(inputs)} samples through OTAD, {len(defense.memory)} keys of {queries.shape[1]}, "
        f"K = {defense.config.num_neighbors}, against IndexFlatL2 alone",
    )
