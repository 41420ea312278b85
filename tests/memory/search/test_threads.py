"""Strips on several threads."""

import threading

import pytest
import torch

from otad_ray.memory.search.threads import map_on_threads


@pytest.fixture
def _three_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_three_threads")
def test_each_thread_computes_alone_and_the_callers_threads_stay() -> None:
    together = threading.Barrier(3, timeout=20)

    def look(item: int) -> tuple[int, int]:
        together.wait()
        return item, torch.get_num_threads()

    assert map_on_threads(look, [5, 6, 7]) == [(5, 1), (6, 1), (7, 1)]
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("_three_threads")
def test_errors_reach_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        map_on_threads(lambda item: 1 // item, [1, 0])
