"""Exact nearest neighbors in l2, whatever proposes the candidates.

A search proposes candidates with lower bounds on their distances, below which no other key lies. Those that may be
among the nearest are measured again in float64 and ordered by distance and then position; a row whose last neighbor is
nearer than the last bound is certain, and the others ask for more candidates. So every search returns the same
neighbors, for any batch size, and certificates may rest on them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from otad_ray.errors import InputError
from otad_ray.memory.sketch import Sketch, SketchSearch

# The factor by which a row's candidates grow if they do not suffice.
_GROWTH = 4
# Bytes of a block of distances.
_BLOCK_BYTES = 32 << 20
# Bytes of candidates measured at a time: on a processor few enough, for each thread, for its second-level cache.
_MEASURED_BYTES_A_THREAD = 2 << 20
_MEASURED_BYTES_ELSEWHERE = 256 << 20

# Candidates beyond those asked for that are measured before bounds rule out others.
_MEASURED_FIRST = 8

_SINGLE = torch.finfo(torch.float32)


class CandidateSearch(Protocol):
    """Proposes nearest keys. largest_count: it is not worth asking for more than this many."""

    largest_count: int

    def first_count(self, count: int) -> int:
        """Candidates that usually suffice for `count` neighbors."""
        ...

    def nearest(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Positions (B, count) of candidates for queries (B, E) float32, and bounds (B, count) float64, ascending.

        A candidate lies at least as far as its bound, and every key that is not proposed as the last one.
        """
        ...


class BruteForce:
    """Distances to every key by matrix products in float32, on the device of the keys."""

    def __init__(self, keys: Tensor, largest_key_norm: float) -> None:
        self._keys = keys
        self._largest_key_norm = largest_key_norm
        self.largest_count = len(keys)

    def first_count(self, count: int) -> int:
        return count + 8

    def nearest(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        block = max(count, _BLOCK_BYTES // (4 * max(1, len(queries))))
        best = torch.full((len(queries), 0), torch.inf, device=queries.device)
        where = torch.empty((len(queries), 0), dtype=torch.int64, device=queries.device)
        for start in range(0, len(self._keys), block):
            keys = self._keys[start : start + block]
            # Less |q|^2, which does not change the order.
            distances = torch.addmm(keys.square().sum(1), queries, keys.T, alpha=-2.0)
            near, position = distances.topk(min(count, len(keys)), largest=False)
            best, order = torch.cat([best, near], 1).topk(min(count, best.shape[1] + near.shape[1]), largest=False)
            where = torch.cat([where, position + start], 1).gather(1, order)
        squared = best.double() + queries.double().square().sum(1, keepdim=True)
        return where, _lower_bounds(squared, queries, self._largest_key_norm)


class FaissSearch:
    """FAISS's exhaustive search on the memory-mapped keys: no index file, no copy per actor."""

    def __init__(self, keys: Tensor, largest_key_norm: float) -> None:
        try:
            import faiss
        except ImportError as error:
            raise InputError("search 'faiss' needs the package faiss-cpu; or use --search torch") from error
        if keys.device.type != "cpu":
            raise InputError(f"search 'faiss' works on the CPU, the keys are on {keys.device}; use search 'torch'")
        self._knn = faiss.knn
        self._keys = keys.numpy()
        self._largest_key_norm = largest_key_norm
        self.largest_count = len(keys)

    def first_count(self, count: int) -> int:
        return count + 8

    def nearest(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        distances, positions = self._knn(queries.numpy(), self._keys, count)
        squared = torch.from_numpy(distances).double()
        return torch.from_numpy(positions), _lower_bounds(squared, queries, self._largest_key_norm)


# Each name gives the searches that are tried in turn; the last one can propose every key.
Searches = Callable[[Tensor, float, Sketch], Sequence[CandidateSearch]]
SEARCHES: Mapping[str, Searches] = {
    "torch": lambda keys, norm, sketch: (SketchSearch(sketch), BruteForce(keys, norm)),
    "faiss": lambda keys, norm, sketch: (FaissSearch(keys, norm),),
}


def check_search(name: str) -> None:
    """InputError, listing the known names, for an unknown search."""
    if name not in SEARCHES:
        raise InputError(f"unknown search {name!r}; known: {', '.join(SEARCHES)}")


def exact_nearest(
    keys: Tensor, searches: Sequence[CandidateSearch], queries: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """The `count` nearest keys of each query: positions (B, count), distances (B, count) float64.

    keys (N, E) and queries (B, E) float32, count <= N. Ordered by distance, then position.
    """
    positions = torch.empty((len(queries), count), dtype=torch.int64, device=queries.device)
    distances = torch.empty((len(queries), count), dtype=torch.float64, device=queries.device)
    rows = torch.arange(len(queries), device=queries.device)
    for search in searches:
        proposed = min(search.first_count(count), len(keys))
        while rows.numel() and proposed <= max(search.largest_count, count):
            uncertain = []
            for part in rows.split(max(1, _BLOCK_BYTES // (32 * proposed))):
                candidates, bounds = search.nearest(queries[part], proposed)
                positions[part], distances[part] = _nearest_of(keys, queries[part], candidates, bounds, count)
                certain = distances[part, -1] < bounds[:, -1]
                uncertain.append(part[~certain])
            if proposed == len(keys):
                return positions, distances
            remaining = torch.cat(uncertain)
            # Where most rows need more, a search that prunes does not pay.
            pays = search is searches[-1] or 2 * len(remaining) <= len(rows)
            rows = remaining
            if not pays:
                break
            proposed = min(proposed * _GROWTH, len(keys))
    return positions, distances


def nearest_others(points: Tensor, rows: Tensor, k: int) -> Tensor:
    """Positions (n, k) of the nearest points of the points (N, D) at positions `rows` (n,), themselves left out."""
    largest = float(points.norm(dim=1).max()) * (1 + 1e-6)
    queries = points[rows]
    index, distance = exact_nearest(points, (BruteForce(points, largest),), queries, k + 1)
    return leave_out(index == rows.unsqueeze(1), index, distance)[0]


def leave_out(excluded: Tensor, index: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
    """The k + 1 nearest less one: that which is excluded (B, k + 1), or else the last."""
    # Stable: the excluded one goes behind the k that stay in order.
    order = excluded.to(torch.int8).argsort(dim=1, stable=True)[:, :-1]
    return index.gather(1, order), distance.gather(1, order)


def _nearest_of(keys: Tensor, queries: Tensor, candidates: Tensor, bounds: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` nearest of each row's candidates: positions, and distances in float64."""
    row_bytes = 4 * min(count + _MEASURED_FIRST, candidates.shape[1]) * keys.shape[1]
    block = max(1, _measured_bytes(keys.device) // row_bytes)
    blocks = zip(queries.split(block), candidates.split(block), bounds.split(block), strict=True)
    parts = [_nearest_of_block(keys, *tensors, count) for tensors in blocks]
    return torch.cat([positions for positions, _ in parts]), torch.cat([distances for _, distances in parts])


def _nearest_of_block(
    keys: Tensor, queries: Tensor, candidates: Tensor, bounds: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    measure = _Measure(keys, queries, candidates)
    single = measure.single_precision(bounds, count)
    # Those that may be among the nearest, in float64.
    chosen = single <= measure.at_least(single.topk(count, largest=False).values[:, -1:])
    squared = torch.full(single.shape, torch.inf, dtype=torch.float64, device=keys.device)
    measure.fill(squared, chosen)
    by_position = candidates.argsort(1)
    by_distance = squared.gather(1, by_position).argsort(dim=1, stable=True)[:, :count]
    order = by_position.gather(1, by_distance)
    return candidates.gather(1, order), squared.gather(1, order).sqrt()


def _measured_bytes(device: torch.device) -> int:
    return _MEASURED_BYTES_A_THREAD * torch.get_num_threads() if device.type == "cpu" else _MEASURED_BYTES_ELSEWHERE


class _Measure:
    """Squared distances of queries (n, E) to candidates (n, P), in float32 and in float64."""

    def __init__(self, keys: Tensor, queries: Tensor, candidates: Tensor) -> None:
        self._keys, self._queries, self._candidates = keys, queries, candidates
        dimension = keys.shape[1]
        # A difference of two floats is rounded once, so these are right to a few roundings of their own size.
        self._relative = 1 + 2 * (dimension + 4) * _SINGLE.eps
        self._absolute = 8 * dimension * _SINGLE.tiny

    def at_least(self, single: Tensor) -> Tensor:
        """Above the float32 measure of whatever is as near as something that measures `single`."""
        return self._relative * single + self._absolute

    def single_precision(self, bounds: Tensor, count: int) -> Tensor:
        """(n, P) float32, infinite for candidates whose bounds rule them out: most are not read at all."""
        first = min(count + _MEASURED_FIRST, self._candidates.shape[1])
        near = self._candidates[:, :first]
        # index_select copies whole rows; indexing by a matrix is several times slower.
        differences = self._keys.index_select(0, near.reshape(-1)).view(*near.shape, -1)
        differences -= self._queries.unsqueeze(1)
        measured = differences.square_().sum(2)
        rest = torch.full_like(bounds[:, first:], torch.inf, dtype=torch.float32)
        farthest = self.at_least(measured.topk(count, largest=False).values[:, -1:])
        single = torch.cat([measured, rest], 1)
        possible = bounds.square() <= farthest
        possible[:, :first] = False
        self.fill(single, possible)
        return single

    def fill(self, squared: Tensor, chosen: Tensor) -> None:
        """Measure the chosen pairs (n, P) in the precision of `squared`, and put them there."""
        row, column = chosen.nonzero(as_tuple=True)
        pairs = max(1, _BLOCK_BYTES // (8 * self._keys.shape[1]))
        for rows, columns in zip(row.split(pairs), column.split(pairs), strict=True):
            differences = self._keys.index_select(0, self._candidates[rows, columns]).to(squared.dtype)
            differences -= self._queries.index_select(0, rows)
            squared[rows, columns] = differences.square_().sum(1)


def _lower_bounds(squared: Tensor, queries: Tensor, largest_key_norm: float) -> Tensor:
    """Least distances that float32 may have taken for the squared ones (B, P)."""
    rounding = _distance_rounding(queries, largest_key_norm).unsqueeze(1)
    return (squared - rounding).clamp_min(0).sqrt()


def _distance_rounding(queries: Tensor, largest_key_norm: float) -> Tensor:
    """Bound (B,) on the error of `|q|^2 + |x|^2 - 2 <q, x>` in float32, for any order of summation."""
    terms = queries.shape[1] + 8
    # TensorFloat-32, where a user allows it, has ten bits of a float's significand.
    epsilon = 2.0**-10 if queries.is_cuda and torch.backends.cuda.matmul.allow_tf32 else _SINGLE.eps
    norms = queries.double().square().sum(1).sqrt() + largest_key_norm
    # Products below the smallest normal number may be lost altogether.
    return terms * (0.5 * epsilon * norms.square() + 4 * _SINGLE.tiny)
