"""Exact search against the exhaustive indexes of FAISS, on the same keys and queries."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from otad_ray.benchmarks.measurement import Measurement, Result, best_of, threads
from otad_ray.memory.search.faiss_index import import_faiss

# Queries that are searched at a time, as in a job.
_BATCH_ROWS = 512
# A measurement is repeated for so many seconds: other machines on the same host disturb some of the calls.
_SECONDS, _MOST_REPEATS = 3.0, 20

# Positions (B, K) and distances (B, K) of the nearest keys of queries (B, E).
Nearest = Callable[[Tensor, int], tuple[Tensor, Tensor]]


def measure_search(
    name: str,
    keys: Tensor,
    nearest: Nearest,
    queries: Tensor,
    num_neighbors: int,
    *,
    num_threads: int,
    goal: float | None,
    batch_rows: int = _BATCH_ROWS,
    index: str = "Flat",
) -> Measurement:
    """Measure the milliseconds of a query.

    Args:
        name: of the measurement.
        keys: (N, E) float32.
        nearest: our search over them.
        queries: (B, E) float32.
        num_neighbors: K.
        num_threads: of either side.
        goal: the least ratio wanted.
        batch_rows: queries of a call, of either side.
        index: FAISS's factory string of an exact index.
    """
    batches = queries.split(batch_rows)
    with threads(num_threads):
        ours, found = _best_within(lambda: torch.cat([nearest(batch, num_neighbors)[0] for batch in batches]))
        reference, positions = search_flat(keys, batches, num_neighbors, index=index)
    same = float((np.sort(found.numpy(), 1) == np.sort(positions, 1)).all(1).mean())
    return Measurement(
        name=name,
        unit="ms/query",
        ours=1e3 * ours / len(queries),
        reference=1e3 * reference / len(queries),
        ratio=reference / ours,
        goal=goal,
        note=f"{len(queries)} queries in batches of {min(batch_rows, len(queries))}, {len(keys)} keys of "
        f"{keys.shape[1]}, K = {num_neighbors}, {num_threads} threads, FAISS {index}; {100 * same:.2f} % the same "
        "neighbor sets",
    )


def time_flat_search(keys: Tensor, num_neighbors: int) -> float:
    """Return the seconds of `IndexFlatL2.search` of every key, in one call, with the threads FAISS has."""
    return search_flat(keys, [keys], num_neighbors)[0]


def search_flat(
    keys: Tensor,
    batches: Sequence[Tensor],
    num_neighbors: int,
    *,
    index: str = "Flat",
) -> tuple[float, np.ndarray]:
    """Return the seconds that a FAISS index takes for all batches, the best of some, and the positions found."""
    flat = import_faiss().index_factory(keys.shape[1], index)
    flat.train(keys.numpy())
    flat.add(keys.numpy())
    seconds, found = _best_within(lambda: [flat.search(batch.numpy(), num_neighbors)[1] for batch in batches])
    return seconds, np.concatenate(found)


def _best_within(function: Callable[[], Result]) -> tuple[float, Result]:
    """Return the least seconds of a call, of as many as take a few seconds together, and what the last one returned."""
    first, _ = best_of(1, function)
    repeats = max(1, min(_MOST_REPEATS, int(_SECONDS / first)))
    seconds, result = best_of(repeats, function)
    return min(first, seconds), result
