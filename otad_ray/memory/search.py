"""Exact nearest neighbors in l2, whatever proposes the candidates.

A search proposes candidates by distances in float32. These are measured again in float64, ordered by distance
and then position, and accepted only if rounding cannot hide a nearer key; else more candidates are asked for.
So every search returns the same neighbors, for any batch size, and certificates may rest on them.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from otad_ray.errors import InputError

# Candidates proposed beyond those asked for, and the factor by which a row's candidates grow if they do not suffice.
_SPARE = 8
_GROWTH = 4
# Bytes of one block of distances, and of one block of float64 differences.
_BLOCK_BYTES = 32 << 20


class CandidateSearch(Protocol):
    """Proposes nearest keys by float32 distances."""

    def nearest(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Positions (B, count) and squared distances (B, count), ascending, of queries (B, D) float32."""
        ...


class TorchSearch:
    """Matrix products and top-k in torch, on the device of the keys."""

    def __init__(self, keys: Tensor) -> None:
        self._keys = keys
        self._squares = _squared_norms(keys).float()

    def nearest(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        block = max(count, _BLOCK_BYTES // (4 * max(1, len(queries))))
        squares = _squared_norms(queries).float().unsqueeze(1)
        best = torch.full((len(queries), 0), torch.inf, device=queries.device)
        where = torch.empty((len(queries), 0), dtype=torch.int64, device=queries.device)
        for start in range(0, len(self._keys), block):
            keys = self._keys[start : start + block]
            distances = torch.addmm(self._squares[start : start + block], queries, keys.T, alpha=-2.0) + squares
            near, position = distances.topk(min(count, len(keys)), largest=False)
            best, order = torch.cat([best, near], 1).topk(min(count, best.shape[1] + near.shape[1]), largest=False)
            where = torch.cat([where, position + start], 1).gather(1, order)
        return where, best


class FaissSearch:
    """FAISS's exhaustive search on the memory-mapped keys: no index file, no copy per actor."""

    def __init__(self, keys: Tensor) -> None:
        try:
            import faiss
        except ImportError as error:
            raise InputError("search 'faiss' needs the package faiss-cpu; or use --search torch") from error
        if keys.device.type != "cpu":
            raise InputError(f"search 'faiss' works on the CPU, the keys are on {keys.device}; use search 'torch'")
        self._knn = faiss.knn
        self._keys = keys.numpy()

    def nearest(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        distances, positions = self._knn(queries.numpy(), self._keys, count)
        return torch.from_numpy(positions), torch.from_numpy(distances)


SEARCHES: Mapping[str, Callable[[Tensor], CandidateSearch]] = {"torch": TorchSearch, "faiss": FaissSearch}


def check_search(name: str) -> None:
    """InputError, listing the known names, for an unknown search."""
    if name not in SEARCHES:
        raise InputError(f"unknown search {name!r}; known: {', '.join(SEARCHES)}")


def exact_nearest(
    keys: Tensor, search: CandidateSearch, queries: Tensor, count: int, *, largest_key_norm: float
) -> tuple[Tensor, Tensor]:
    """The `count` nearest keys of each query: positions (B, count), distances (B, count) float64.

    keys (N, D) and queries (B, D) float32, count <= N. Ordered by distance, then position.
    """
    rounding = _distance_rounding(queries, largest_key_norm)
    positions = torch.empty((len(queries), count), dtype=torch.int64, device=queries.device)
    squared = torch.empty((len(queries), count), dtype=torch.float64, device=queries.device)
    rows = torch.arange(len(queries), device=queries.device)
    proposed = min(len(keys), count + _SPARE)
    while rows.numel():
        uncertain = []
        for part in rows.split(max(1, _BLOCK_BYTES // (32 * proposed))):
            candidates, approximate = search.nearest(queries[part], proposed)
            measured, order = _sorted_by_distance(keys, queries[part], candidates)
            positions[part] = candidates.gather(1, order)[:, :count]
            squared[part] = measured[:, :count]
            # A key not proposed lies at least `approximate[-1] - rounding` away.
            certain = measured[:, count - 1] < approximate[:, -1].double() - rounding[part]
            uncertain.append(part[~certain])
        if proposed == len(keys):
            break
        rows = torch.cat(uncertain)
        proposed = min(len(keys), proposed * _GROWTH)
    return positions, squared.sqrt()


def _sorted_by_distance(keys: Tensor, queries: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances in float64, ascending, and the order that sorts the candidates so."""
    block = max(1, _BLOCK_BYTES // (8 * candidates.shape[1] * keys.shape[1]))
    squared = torch.cat(
        [
            (keys[near].double() - rows.double().unsqueeze(1)).square().sum(2)
            for near, rows in zip(candidates.split(block), queries.split(block), strict=True)
        ]
    )
    by_position = candidates.argsort(1)
    by_distance = squared.gather(1, by_position).argsort(dim=1, stable=True)
    order = by_position.gather(1, by_distance)
    return squared.gather(1, order), order


def _distance_rounding(queries: Tensor, largest_key_norm: float) -> Tensor:
    """Bound (B,) on the error of `|q|^2 + |x|^2 - 2 <q, x>` in float32, for any order of summation."""
    terms = queries.shape[1] + 8
    single = torch.finfo(torch.float32)
    norms = _squared_norms(queries).sqrt() + largest_key_norm
    # Products below the smallest normal number may be lost altogether.
    return terms * (0.5 * single.eps * norms.square() + 4 * single.tiny)


def _squared_norms(vectors: Tensor) -> Tensor:
    """(N,) float64, without a float64 copy of all vectors."""
    block = max(1, _BLOCK_BYTES // (8 * max(1, vectors.shape[1])))
    return torch.cat([part.double().square().sum(1) for part in vectors.split(block)])
