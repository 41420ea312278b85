"""Exact nearest neighbors in l2, whatever rules the others out.

A search passes over bounds on the distances to all keys and keeps, for each query, the keys whose lower bound is within
what the last neighbor can be away. Those are measured in float64 and ordered by distance and then position. So every
search returns the same neighbors, for any batch size, and certificates may rest on them.

The first bounds are those of sketches. A query for which they rule out too little to pay goes on to products with the
keys themselves, and one with a great many keys at the same distance from it is given room for all of them.
"""

import logging
import time
from collections.abc import Iterator
from functools import cache, cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from otad_ray.memory.search import portable
from otad_ray.memory.search.bounds import Bounds, SearchStrip, SketchBounds, WholeBounds
from otad_ray.memory.search.costs import PruningRecord, choose_room, measure_seconds_without
from otad_ray.memory.search.distances import take_root
from otad_ray.memory.search.sketch import Sketch
from otad_ray.memory.search.threads import map_on_threads

logger = logging.getLogger(__name__)

# Queries of a strip: many share each block of keys that is read, and their products stay in a core's cache.
_SKETCH_STRIP, _WHOLE_STRIP = 256, 512
# Bytes of the candidates of a strip that has room for all keys.
_ROOM_BYTES = 256 << 20
_CANDIDATE_BYTES = 12

Nearest = tuple[Tensor, Tensor]


class _Stage(NamedTuple):
    """One way to answer queries: by which bounds, with how many candidates each, and how many queries at a time."""

    bounds: Bounds
    room: int
    strip: int


class ExactSearch:
    """Exact search over keys."""

    def __init__(self, keys: Tensor, sketch: Sketch | None = None) -> None:
        """Prepare nothing yet: what is needed is made at the first search.

        Args:
            keys: (N, E) float32.
            sketch: of the keys, if there is one.
        """
        self._keys = keys
        self._sketch = sketch
        self._rooms: dict[int, int] = {}

    def nearest(self, queries: Tensor, count: int) -> Nearest:
        """Return the nearest keys.

        Args:
            queries: (B, E) float32, on the device of the keys.
            count: neighbors sought, at most N.

        Returns:
            Positions (B, count) int64 and distances (B, count) float64, ordered by distance and then position.
        """
        positions = torch.empty(len(queries), count, dtype=torch.int64, device=queries.device)
        squares = torch.empty(len(queries), count, dtype=torch.float64, device=queries.device)
        rows = torch.arange(len(queries), device=queries.device)
        if not len(rows):
            return positions, squares
        for stage in self._stages(count):
            found, measured, answered = self._search(stage, queries[rows], count)
            positions[rows[answered]], squares[rows[answered]] = found[answered], measured[answered]
            rows = rows[~answered]
            if not len(rows):
                break
        return positions, take_root(squares)

    def _stages(self, count: int) -> Iterator[_Stage]:
        size = len(self._keys)
        room = self._choose_room(count)
        if self._sketch is not None and self._pruning.is_worth_trying():
            yield _Stage(self._sketch_bounds, room, _SKETCH_STRIP)
        if room < size:
            yield _Stage(self._whole_bounds, room, _WHOLE_STRIP)
        yield _Stage(self._whole_bounds, size, max(1, min(_WHOLE_STRIP, _ROOM_BYTES // (_CANDIDATE_BYTES * size))))

    def _search(self, stage: _Stage, queries: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return positions and squared distances (B, count), and which queries (B,) were answered."""
        search_strip = _choose_search(queries.device.type)
        strips = queries.split(_even_strip(len(queries), stage.strip))
        start = time.perf_counter()
        parts = map_on_threads(lambda strip: search_strip(self._keys, stage.bounds, strip, count, stage.room), strips)
        found, squares, answered = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        if isinstance(stage.bounds, SketchBounds):
            seconds = time.perf_counter() - start
            self._pruning.note(seconds=seconds, num_tried=len(queries), num_answered=int(answered.sum()))
        return found, squares, answered

    def _choose_room(self, count: int) -> int:
        if count not in self._rooms:
            self._rooms[count] = choose_room(self._keys, count)
        return self._rooms[count]

    @cached_property
    def _pruning(self) -> PruningRecord:
        return PruningRecord(measure_seconds_without(self._keys))

    @cached_property
    def _sketch_bounds(self) -> SketchBounds:
        assert self._sketch is not None
        return SketchBounds(self._sketch)

    @cached_property
    def _whole_bounds(self) -> WholeBounds:
        return WholeBounds(self._keys, None if self._sketch is None else self._sketch.squared_norms)


def _even_strip(size: int, largest: int) -> int:
    """Return how many queries a strip takes, so that all threads have equally much to do."""
    threads = torch.get_num_threads()
    rounds = -(-size // (largest * threads))
    return max(1, -(-size // (rounds * threads)))


@cache
def _choose_search(device: str) -> SearchStrip:
    """Return the compiled search on the CPU if it can be had, else the portable one; they find the same."""
    if device != "cpu":
        return portable.search_strip
    try:
        from otad_ray.memory.search import compiled

        # Compiled now, if it was not before.
        compiled.search_strip(torch.zeros(1, 1), WholeBounds(torch.zeros(1, 1)), torch.zeros(1, 1), 1, 1)
    except Exception as error:
        # A broken installation of numba or LLVM fails in many ways.
        logger.info("search without compiled loops, which is slower and finds the same: %s", error)
        return portable.search_strip
    return compiled.search_strip


def nearest_others(points: Tensor, rows: Tensor, k: int) -> Tensor:
    """Return the positions (n, k) of the nearest points of points (N, D) at positions rows (n,), without themselves."""
    index, distance = ExactSearch(points).nearest(points[rows], k + 1)
    return leave_out(index == rows.unsqueeze(1), index, distance)[0]


def leave_out(excluded: Tensor, index: Tensor, distance: Tensor) -> Nearest:
    """Return the k nearest of k + 1 (B, k + 1) without the one that is excluded, or else without the last."""
    # Stable: the excluded one goes behind the k that stay in order.
    order = excluded.to(torch.int8).argsort(dim=1, stable=True)[:, :-1]
    return index.gather(1, order), distance.gather(1, order)
