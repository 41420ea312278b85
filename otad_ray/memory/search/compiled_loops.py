"""The loops of a search, compiled: what passes over each block of bounds, and what measures the candidates.

Importing this module compiles nothing; the first call does, and keeps the result on disk for later processes.
"""

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np

from otad_ray.memory.search.sketch import ERROR, SCALE, SQUARE, TAIL

logger = logging.getLogger(__name__)

# Bounds that are looked at together: if all rule their pair out, nothing more is done.
_CHUNK = 64
# Fewer than this are looked at one by one.
_FEW = 8
# Above all distances, with a square that float32 can hold.
FAR = 1e19
# Below all bounds; not infinite, which the loops may take as not occurring.
_NEVER = -3e38
_SLACK = 32 * float(np.finfo(np.float32).eps)
# Lower bounds are kept rounded down and upper bounds rounded up.
_DOWN, UP = 1 - 2.0**-22, 1 + 2.0**-22
# What is ruled out must be farther by more than distances are rounded.
_FARTHER = 1 + 1e-9
# Candidates of a query that the nearest ones must leave free, as a share of the room, once the others are dropped.
_FREE = 0.25
# The rows of the limits: factors of the products, the tails and the errors, and what the sum is held against.
_PRODUCT, _TAIL, _ERROR, _LIMIT = range(4)
# A guess of a distance takes these shares of what an upper bound adds for tails and errors. Tails hardly ever point in
# opposite directions, and those of neighbors rather in the same.
_GUESSED_TAILS, _GUESSED_ERRORS = 0.3, 0.1
_f32 = np.float32
# Bounds are never NaN, and their rounding is allowed for, whatever the order of operations.
_FAST = {"nnan", "ninf", "nsz", "contract", "reassoc"}


def _do_nothing() -> None:
    """Stand for any function that is to be kept."""


@cache
def _is_kept() -> bool:
    """Return whether there is a folder that compiled functions can be kept in; say so once if there is none."""
    try:
        numba.njit(cache=True)(_do_nothing)
    except RuntimeError as error:
        logger.info("the compiled search cannot be kept on disk, so each process compiles it again: %s", error)
        return False
    return True


def _compile(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that compiles a function at its first call, and keeps the result for later processes."""
    return numba.njit(cache=_is_kept(), nogil=True, error_model="numpy", **options)


@_compile(fastmath=_FAST)
def _lower_square(product, by_product, by_tail, by_error, square, scale, tail, error, rounding):
    """Return what is held against a query's limit: a bound on the squared distance, less what only the query adds."""
    product = _f32(product)
    product += rounding * abs(product)
    return square - by_product * (scale * product) - by_tail * tail - by_error * error


@_compile(fastmath=_FAST)
def _count(products, by_product, by_tail, by_error, limit, square, scale, tail, error, rounding):
    """Return how many bounds of a key do not rule their query out, as a float: those are added up in vectors."""
    found = _f32(0)
    for i in range(products.shape[0]):
        low = _lower_square(products[i], by_product[i], by_tail[i], by_error[i], square, scale, tail, error, rounding)
        found += _f32(1) if low <= limit[i] else _f32(0)
    return found


@_compile()
def _set_limit(limits, query, bound, terms, slack, small):
    """Let pairs pass whose lower bound may be below a bound on the distance of the query's last neighbor."""
    square, error = float(terms[query, SQUARE]), float(terms[query, ERROR])
    reach = (bound + error) ** 2
    limits[_ERROR, query] = 2 * (bound + error)
    limits[_LIMIT, query] = reach - square + slack * square + _SLACK * (reach + square) + small


@_compile()
def start_limits(limits, nearest, terms, slack, small):
    """Set the limits of all queries."""
    for query in range(terms.shape[0]):
        limits[_PRODUCT, query] = 2 * terms[query, SCALE]
        limits[_TAIL, query] = 2 * terms[query, TAIL]
        _set_limit(limits, query, float(nearest[query, 0]), terms, slack, small)


@_compile()
def _replace_largest(heap, value):
    """Put a value in place of the largest of a heap (K,), whose first is its largest."""
    place, size = 0, heap.shape[0]
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] > heap[child]:
            child += 1
        if heap[child] <= value:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = value


@_compile()
def _drop_far(positions, lower, upper, count, bound):
    """Drop candidates whose lower bound is beyond a bound, and return how many are left."""
    left = 0
    for i in range(count):
        if lower[i] <= bound:
            positions[left], lower[left], upper[left] = positions[i], lower[i], upper[i]
            left += 1
    return left


@_compile()
def select(
    products,
    key_terms,
    first,
    query_terms,
    slack,
    small,
    rounding,
    guess,
    limits,
    nearest,
    positions,
    lower,
    upper,
    counts,
):
    """Pass over the products (R, B) of a block of keys, and keep the pairs that may be neighbors.

    nearest (B, K) are heaps of the least upper bounds so far. positions, lower and upper (B, C) are the candidates, and
    counts (B,) how many there are, or -1 once a query has had more than there is room for.
    """
    num_keys, num_queries = products.shape
    room = positions.shape[1]
    by_product, by_tail, by_error, limit = limits[_PRODUCT], limits[_TAIL], limits[_ERROR], limits[_LIMIT]
    for row in range(num_keys):
        square, scale, tail, error = key_terms[row, 0], key_terms[row, 1], key_terms[row, 2], key_terms[row, 3]
        least_square = _f32(square * (1 - slack - _SLACK) - float(error) * float(error))
        for start in range(0, num_queries, _CHUNK):
            stop = min(start + _CHUNK, num_queries)
            part = slice(start, stop)
            if (
                stop - start >= _FEW
                and _count(
                    products[row, part],
                    by_product[part],
                    by_tail[part],
                    by_error[part],
                    limit[part],
                    least_square,
                    scale,
                    tail,
                    error,
                    rounding,
                )
                == 0
            ):
                continue
            for query in range(start, stop):
                low = _lower_square(
                    products[row, query],
                    by_product[query],
                    by_tail[query],
                    by_error[query],
                    least_square,
                    scale,
                    tail,
                    error,
                    rounding,
                )
                if low > limit[query]:
                    continue
                total = float(square) + float(query_terms[query, SQUARE])
                doubled = 2 * float(scale) * float(query_terms[query, SCALE]) * float(products[row, query])
                tails = 2 * float(tail) * float(query_terms[query, TAIL])
                lost = slack * total + rounding * abs(doubled) + small
                errors = float(error) + float(query_terms[query, ERROR])
                low = _f32((np.sqrt(max(total - doubled - tails - lost, 0.0)) - errors) * _DOWN)
                if low > nearest[query, 0]:
                    continue
                if counts[query] == room:
                    counts[query] = _drop_far(positions[query], lower[query], upper[query], room, nearest[query, 0])
                    if counts[query] > (1 - _FREE) * room:
                        counts[query] = -1
                        limits[_LIMIT, query] = _NEVER
                        continue
                if guess:
                    high = _f32(
                        (np.sqrt(max(total - doubled + _GUESSED_TAILS * tails + lost, 0.0)) + _GUESSED_ERRORS * errors)
                        * UP
                    )
                else:
                    high = _f32((np.sqrt(max(total - doubled + tails + lost, 0.0)) + errors) * UP)
                place = counts[query]
                positions[query, place], lower[query, place], upper[query, place] = first + row, low, high
                counts[query] = place + 1
                if high < nearest[query, 0]:
                    _replace_largest(nearest[query], high)
                    _set_limit(limits, query, float(nearest[query, 0]), query_terms, slack, small)


@_compile()
def _measure(key, query, squares):
    """Return the squared distance of a key (E,) from a query (E,) float64, as `distances.py` defines it."""
    left = key.shape[0]
    for i in range(left):
        difference = float(key[i]) - query[i]
        squares[i] = difference * difference
    while left > 1:
        half = (left + 1) // 2
        # Slices, whose loop is computed in vectors.
        lower, upper = squares[: left // 2], squares[half:left]
        for i in range(left // 2):
            lower[i] += upper[i]
        left = half
    return squares[0]


@_compile()
def _insert(found, squares, position, square):
    """Insert a key into the nearest so far (K,), which are ordered by distance and then position."""
    place = found.shape[0] - 1
    if square > squares[place] or (square == squares[place] and position > found[place]):
        return
    while place > 0 and (squares[place - 1] > square or (squares[place - 1] == square and found[place - 1] > position)):
        found[place], squares[place] = found[place - 1], squares[place - 1]
        place -= 1
    found[place], squares[place] = position, square


@_compile()
def measure_candidates(keys, queries, nearest, positions, lower, upper, counts, found, squares):
    """Measure the candidates of each query, but for those that others rule out; fill found and squares (B, K)."""
    work = np.empty(keys.shape[1])
    for query in range(queries.shape[0]):
        if counts[query] < 0:
            continue
        found[query], squares[query] = np.iinfo(np.int64).max, np.inf
        exact = queries[query].astype(np.float64)
        bound = nearest[query, 0]
        # First those that are near for certain: as many as are sought, and no more unless they tie.
        for i in range(counts[query]):
            if upper[query, i] <= bound:
                position = positions[query, i]
                _insert(found[query], squares[query], position, _measure(keys[position], exact, work))
        for i in range(counts[query]):
            low = float(lower[query, i])
            if upper[query, i] <= bound or low > bound:
                continue
            if low > 0 and low * low > squares[query, -1] * _FARTHER:
                continue
            position = positions[query, i]
            _insert(found[query], squares[query], position, _measure(keys[position], exact, work))
