"""The compiled loops: where they are kept, and that the first filter of pairs lets none pass by."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from otad_ray.memory.search import compiled_loops


def test_without_a_folder_for_compiled_code_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(cache: bool = False, **options: Any) -> Callable[[Callable[..., Any]], Any]:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(compiled_loops.numba, "njit", refuse)
    compiled_loops._is_kept.cache_clear()
    try:
        with caplog.at_level("INFO"):
            loops = [compiled_loops._compile()(str) for _ in range(3)]
    finally:
        compiled_loops._is_kept.cache_clear()
    assert loops == [str, str, str]
    assert len(caplog.records) == 1
    assert "each process compiles it again: cannot cache function" in caplog.text


@pytest.mark.parametrize("rounding", [0.0, 2.0**-8])
@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_no_pair_within_the_limit_is_filtered_out(scale: float, rounding: float) -> None:
    """Products are off by all that their rounding allows, and the limit is the pair's own distance."""
    generator = np.random.default_rng(0)
    for _ in range(4000):
        (width, key_tail, query_tail) = generator.integers(1, 40), *generator.exponential(scale, 2)
        codes = generator.integers(-127, 128, (2, width))
        scales = (scale * generator.exponential(size=2)).astype(np.float32).astype(float)
        tails = np.array([key_tail, query_tail], dtype=np.float32).astype(float)
        squares = scales**2 * np.square(codes).sum(1) + tails**2
        product = float(codes[0] @ codes[1])
        distance = np.sqrt(max(squares.sum() - 2 * scales.prod() * product - 2 * tails.prod(), 0.0))
        errors = (generator.exponential(0.01 * scale, 2)).astype(np.float32).astype(float)
        bound = np.float32(max(distance - errors.sum(), 0.0))
        while float(bound) + errors.sum() < distance:
            bound = np.nextafter(bound, np.float32(np.inf))
        terms = np.array([[squares[1], scales[1], tails[1], errors[1]]], dtype=np.float32)
        limits = np.empty((4, 1), dtype=np.float32)
        slack = 4 * float(np.finfo(np.float32).eps)
        compiled_loops.start_limits(limits, np.array([[bound]]), terms, slack, 1e-30)
        least = np.float32(squares[0]) * (1 - slack - compiled_loops._SLACK) - errors[0] ** 2
        given = np.float32(product - rounding / (1 + rounding) * abs(product))
        low = compiled_loops._lower_square(
            given,
            *limits[:3, 0],
            np.float32(least),
            np.float32(scales[0]),
            np.float32(tails[0]),
            np.float32(errors[0]),
            np.float32(rounding),
        )
        assert low <= limits[3, 0]
