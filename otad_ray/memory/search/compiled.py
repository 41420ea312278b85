"""The passes of a search by compiled loops; `portable.py` finds the same neighbors by operations of PyTorch."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from otad_ray.memory.search.bounds import Bounds, Strip
from otad_ray.memory.search.compiled_loops import FAR, UP, measure_candidates, select, start_limits

# Bytes of a block of products, which should stay in a core's cache, and the fewest keys in it.
_BLOCK_BYTES = 1 << 19
_LEAST_BLOCK = 256


class _Candidates(NamedTuple):
    """What a pass over the bounds leaves: see `select`."""

    nearest: np.ndarray
    positions: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    counts: np.ndarray


def search_strip(keys: Tensor, bounds: Bounds, queries: Tensor, count: int, room: int) -> tuple[Tensor, Tensor, Tensor]:
    """Find the nearest keys of a few queries, as `SearchStrip` says.

    What the first pass rules out, it rules out by a guess of the last neighbor's distance. Where that neighbor, once
    found, proves to lie beyond the guess, a second pass rules out by its distance.
    """
    strip = bounds.prepare(queries)
    candidates = _scan(bounds, strip, np.full((len(queries), count), FAR, dtype=np.float32), room, guess=True)
    found, squares = _measure_all(keys, queries, candidates)
    answered = candidates.counts >= 0
    beyond = answered & (np.sqrt(squares[:, -1]) * UP > candidates.nearest[:, 0])
    if beyond.any():
        rows = torch.from_numpy(beyond.nonzero()[0])
        part = strip.take(rows)
        start = np.repeat((np.sqrt(squares[beyond, -1:]) * UP).astype(np.float32), count, 1)
        candidates = _scan(bounds, part, start, room, guess=False)
        found[beyond], squares[beyond] = _measure_all(keys, queries[rows], candidates)
        answered[beyond] = candidates.counts >= 0
    return torch.from_numpy(found), torch.from_numpy(squares), torch.from_numpy(answered)


def _scan(bounds: Bounds, strip: Strip, nearest: np.ndarray, room: int, *, guess: bool) -> _Candidates:
    """Pass over all keys; nearest (B, K) bounds the distances of the neighbors from the start."""
    size, terms = len(nearest), strip.terms.numpy()
    positions = np.empty((size, room), dtype=np.int32)
    lower, upper = (np.empty((size, room), dtype=np.float32) for _ in range(2))
    counts = np.zeros(size, dtype=np.int64)
    limits = np.empty((4, size), dtype=np.float32)
    start_limits(limits, nearest, terms, strip.slack, strip.lost)
    block = max(_LEAST_BLOCK, _BLOCK_BYTES // (4 * size))
    buffer = torch.empty(min(block, bounds.num_keys), size, dtype=bounds.dtype)
    for first in range(0, bounds.num_keys, block):
        rows = slice(first, min(first + block, bounds.num_keys))
        products = buffer[: rows.stop - first]
        bounds.multiply(rows, strip, products)
        select(
            products.numpy(),
            bounds.terms(rows).numpy(),
            first,
            terms,
            strip.slack,
            strip.lost,
            np.float32(bounds.rounding),
            guess,
            limits,
            nearest,
            positions,
            lower,
            upper,
            counts,
        )
        if (counts < 0).all():
            break
    return _Candidates(nearest, positions, lower, upper, counts)


def _measure_all(keys: Tensor, queries: Tensor, candidates: _Candidates) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest candidates of each query: positions and squared distances (B, K)."""
    shape = candidates.nearest.shape
    found, squares = np.zeros(shape, dtype=np.int64), np.full(shape, np.inf)
    measure_candidates(keys.numpy(), queries.numpy(), *candidates, found, squares)
    return found, squares
