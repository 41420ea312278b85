"""The compiled loops: where they are kept."""

from collections.abc import Callable
from typing import Any

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
