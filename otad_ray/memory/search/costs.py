"""What the parts of a search cost on this machine, and which of them pay. No result depends on it."""

import time
from collections.abc import Callable
from math import inf

import torch
from torch import Tensor

# Memories so small that all keys may be candidates.
_SMALL = 4096
_LEAST_ROOM, _LARGEST_ROOM = 512, 1 << 15
# Keys and queries that costs are measured on.
_MEASURED_KEYS, _MEASURED_QUERIES = 4096, 64
# A stage that did not pay is tried again after so many calls.
_TRIED_AGAIN = 16


def measure_seconds_without(keys: Tensor) -> float:
    """Return the seconds that a query takes which is multiplied with all keys."""
    return len(keys) * _time_products(keys)


def choose_room(keys: Tensor, count: int) -> int:
    """Return how many candidates of a query are worth measuring, rather than to multiply it with all keys.

    Args:
        keys: (N, E).
        count: neighbors sought.
    """
    if len(keys) <= _SMALL:
        return len(keys)
    affordable = int(measure_seconds_without(keys) / _time_pairs(keys))
    return min(len(keys), max(_LEAST_ROOM, 4 * count, min(affordable, _LARGEST_ROOM)))


def _time_products(keys: Tensor) -> float:
    """Return the seconds that the product of a key with a query takes."""
    some = keys[:_MEASURED_KEYS]
    columns = some[:_MEASURED_QUERIES].T.contiguous()
    return _time(lambda: some @ columns) / (len(some) * columns.shape[1])


def _time_pairs(keys: Tensor) -> float:
    """Return the seconds that it takes to read a key anywhere, and measure its distance."""
    anywhere = torch.randint(len(keys), (_MEASURED_KEYS,), generator=torch.Generator().manual_seed(0))
    anywhere = anywhere.to(keys.device)
    query = keys[:1]
    return _time(lambda: (keys.index_select(0, anywhere) - query).square_().sum(1)) / _MEASURED_KEYS


def _time(function: Callable[[], object]) -> float:
    """Return the seconds of a call after the first."""
    function()
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


class PruningRecord:
    """Remembers whether it paid to rule keys out by their sketches, and says whether to try it."""

    def __init__(self, seconds_without: float) -> None:
        """Start with the belief that it pays.

        Args:
            seconds_without: what a query takes without sketches.
        """
        self._seconds_without = seconds_without
        self._pays = True
        self._calls_without = 0
        self._least_seconds = inf
        self._calls = 0

    def is_worth_trying(self) -> bool:
        """Return whether the next search should use the sketches."""
        if not self._pays:
            self._calls_without = (self._calls_without + 1) % _TRIED_AGAIN
        return self._pays or self._calls_without == 0

    def note(self, *, seconds: float, num_tried: int, num_answered: int) -> None:
        """Take down how long the sketches took for so many queries, and how many of them they answered."""
        self._calls += 1
        # The first call compiles, and reads files; any call may have been interrupted.
        if self._calls > 1:
            self._least_seconds = min(self._least_seconds, seconds / num_tried)
            self._pays = self._least_seconds * num_tried < num_answered * self._seconds_without
