"""Exact nearest neighbors in l2, whatever proposes the candidates.

A search proposes candidates and a radius within which there are no others. Candidates are measured again in
float64 and ordered by distance and then position; a row whose last neighbor lies inside the radius is certain, and
the others ask for more candidates. So every search returns the same neighbors, for any batch size, and
certificates may rest on them.
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
# Bytes of candidates measured at a time: on a processor few enough for its second-level cache.
_MEASURED_BYTES = {"cpu": 2 << 20}
_MEASURED_BYTES_ELSEWHERE = 256 << 20

_SINGLE = torch.finfo(torch.float32)


class CandidateSearch(Protocol):
    """Proposes nearest keys. largest_count: it is not worth asking for more than this many."""

    largest_count: int

    def first_count(self, count: int) -> int:
        """Candidates that usually suffice for `count` neighbors."""
        ...

    def nearest(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Positions (B, count) of candidates for queries (B, E) float32, and a radius (B,) float64.

        Every key that is not proposed lies at least `radius` away.
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
        farthest = best[:, -1].double() + queries.double().square().sum(1)
        return where, _radius(farthest, queries, self._largest_key_norm)


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
        farthest = torch.from_numpy(distances[:, -1]).double()
        return torch.from_numpy(positions), _radius(farthest, queries, self._largest_key_norm)


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
                candidates, radius = search.nearest(queries[part], proposed)
                positions[part], distances[part] = _nearest_of(keys, queries[part], candidates, count)
                certain = distances[part, -1] < radius
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


def _nearest_of(keys: Tensor, queries: Tensor, candidates: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` nearest of each row's candidates: positions, and distances in float64."""
    row_bytes = 4 * candidates.shape[1] * keys.shape[1]
    block = max(1, _MEASURED_BYTES.get(keys.device.type, _MEASURED_BYTES_ELSEWHERE) // row_bytes)
    parts = [
        _nearest_of_block(keys, rows, near, count)
        for rows, near in zip(queries.split(block), candidates.split(block), strict=True)
    ]
    return torch.cat([positions for positions, _ in parts]), torch.cat([distances for _, distances in parts])


def _nearest_of_block(keys: Tensor, queries: Tensor, candidates: Tensor, count: int) -> tuple[Tensor, Tensor]:
    dimension = keys.shape[1]
    # index_select copies whole rows; indexing by a matrix is several times slower.
    differences = keys.index_select(0, candidates.view(-1)).view(*candidates.shape, dimension)
    differences -= queries.unsqueeze(1)
    single = differences.square_().sum(2)
    # A difference of two floats is rounded once, so these are right to a few roundings of their own size.
    spread = (dimension + 4) * _SINGLE.eps
    farthest = single.topk(count, largest=False).values[:, -1:]
    row, column = (single <= (1 + 2 * spread) * farthest + 8 * dimension * _SINGLE.tiny).nonzero(as_tuple=True)
    squared = torch.full(single.shape, torch.inf, dtype=torch.float64, device=keys.device)
    pairs = max(1, _BLOCK_BYTES // (8 * dimension))
    for part_row, part_column in zip(row.split(pairs), column.split(pairs), strict=True):
        exact = keys.index_select(0, candidates[part_row, part_column]).double()
        exact -= queries[part_row]
        squared[part_row, part_column] = exact.square_().sum(1)
    by_position = candidates.argsort(1)
    by_distance = squared.gather(1, by_position).argsort(dim=1, stable=True)[:, :count]
    order = by_position.gather(1, by_distance)
    return candidates.gather(1, order), squared.gather(1, order).sqrt()


def _radius(farthest: Tensor, queries: Tensor, largest_key_norm: float) -> Tensor:
    """Distance from which on keys may not have been proposed, by the largest proposed squared distance in float32."""
    return (farthest - _distance_rounding(queries, largest_key_norm)).clamp_min(0).sqrt()


def _distance_rounding(queries: Tensor, largest_key_norm: float) -> Tensor:
    """Bound (B,) on the error of `|q|^2 + |x|^2 - 2 <q, x>` in float32, for any order of summation."""
    terms = queries.shape[1] + 8
    norms = queries.double().square().sum(1).sqrt() + largest_key_norm
    # Products below the smallest normal number may be lost altogether.
    return terms * (0.5 * _SINGLE.eps * norms.square() + 4 * _SINGLE.tiny)
