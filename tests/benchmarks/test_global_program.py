"""Measurements of the global program against other solvers."""

import sys

import pytest
import torch

from otad_ray.benchmarks import measure_global_clarabel, measure_global_pot
from otad_ray.cip import Pieces, make_pieces


def problem() -> tuple[torch.Tensor, torch.Tensor, Pieces]:
    """Queries, points and pieces."""
    generator = torch.Generator().manual_seed(0)
    query, points = (torch.randn(count, 3, generator=generator) for count in (5, 8))
    return query, points, make_pieces(points, 1.3 * points, 0.6 * points.double().square().sum(1), 2.0)


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")  # POT's by Clarabel; the note says how much.
def test_values_agree_with_clarabel_and_pot() -> None:
    query, points, pieces = problem()
    measured = [
        measure_global_clarabel(query, pieces, 2.0, goal=1.0),
        *measure_global_pot(query, points, pieces, 2.0, goal=1.0),
    ]
    assert [item.name for item in measured] == ["global_clarabel_8", "global_pot_8"]
    for item in measured:
        assert float(item.note.rpartition("agree to ")[2]) < 1e-5
        assert item.ratio == pytest.approx(item.reference / item.ours)


def test_without_pot_its_row_is_left_out_and_the_log_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "ot.mapping", None)
    query, points, pieces = problem()
    with caplog.at_level("WARNING"):
        assert not list(measure_global_pot(query, points, pieces, 2.0, goal=1.0))
    assert "POT, which is not installed" in caplog.text
