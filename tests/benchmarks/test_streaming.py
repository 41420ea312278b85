"""The measurement of a streamed memory, on few rows."""

import os
from pathlib import Path

import pytest

from otad_ray.benchmarks import StreamedRows, measure_streaming, peak_private_bytes
from otad_ray.memory import NeighborMemory

ROWS = StreamedRows(count=50, num_patches=3, num_coordinates=4, width=8, num_keys=6, batch_rows=20)


def test_rows_differ_and_have_the_shapes_of_a_transformer(tmp_path: Path) -> None:
    ROWS.build(tmp_path / "memory")
    memory = NeighborMemory.load(tmp_path / "memory")
    assert (memory.keys.shape, memory.points.shape, memory.features.shape) == ((50, 6), (50, 12), (50, 32))
    assert memory.point_space is not None
    assert len(memory.keys.unique(dim=0)) == 50


def test_the_memory_is_measured_and_deleted(tmp_path: Path) -> None:
    measurement = measure_streaming(tmp_path / "memory", ROWS, limit_mib=1000)
    assert not list(tmp_path.iterdir())
    assert (measurement.name, measurement.unit, measurement.reference) == ("streamed_memory", "MiB", 1000)
    # Python and torch alone take tens of MiB.
    assert 20 < measurement.ours < 2000
    assert measurement.ratio == pytest.approx(1000 / measurement.ours)
    assert "50 rows of 32 features and 6 keys" in measurement.note


def test_a_failed_process_is_no_measurement() -> None:
    with pytest.raises(RuntimeError, match="ended with exit code 3"):
        peak_private_bytes(os._exit, 3)
