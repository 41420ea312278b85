"""Exact search against `faiss.IndexFlatL2` on the same keys and queries."""

import numpy as np
import torch
from torch import Tensor

from otad_ray.benchmarks.measurement import Measurement, best_of, threads
from otad_ray.memory import NeighborMemory

_BATCH_ROWS = 512


def measure_search(
    memory: NeighborMemory, queries: Tensor, num_neighbors: int, *, num_threads: int, goal: float
) -> Measurement:
    """Milliseconds a query; queries (B, E) float32. Ours is searched in batches as in a job, FAISS in one call."""
    batches = queries.split(_BATCH_ROWS)
    with threads(num_threads):
        ours, found = best_of(2, lambda: torch.cat([memory.search(batch, num_neighbors)[0] for batch in batches]))
        reference, positions = flat_search(memory, queries, num_neighbors, repeats=2)
    same = float((np.sort(found.numpy(), 1) == np.sort(positions, 1)).all(1).mean())
    return Measurement(
        name=f"search_{num_threads}_threads",
        unit="ms/query",
        ours=1e3 * ours / len(queries),
        reference=1e3 * reference / len(queries),
        ratio=reference / ours,
        goal=goal,
        note=f"{len(queries)} queries, {len(memory)} keys of {queries.shape[1]}, K = {num_neighbors}; "
        f"{100 * same:.2f} % the same neighbor sets",
    )


def flat_search_seconds(memory: NeighborMemory, num_neighbors: int) -> float:
    """Seconds of `IndexFlatL2.search` of every key of the memory, in one call, with the threads FAISS has."""
    return flat_search(memory, memory.keys, num_neighbors, repeats=1)[0]


def flat_search(
    memory: NeighborMemory, queries: Tensor, num_neighbors: int, *, repeats: int
) -> tuple[float, np.ndarray]:
    """Seconds of one call of `IndexFlatL2.search` on a memory's keys, the best of some, and the positions found."""
    import faiss

    index = faiss.IndexFlatL2(memory.keys.shape[1])
    index.add(memory.keys.numpy())
    seconds, (_, positions) = best_of(repeats, lambda: index.search(queries.numpy(), num_neighbors))
    return seconds, positions
