"""A memory is streamed: what its builder holds does not grow with the rows."""

from dataclasses import replace
from pathlib import Path

import pytest

from otad_ray.benchmarks import StreamedRows, peak_private_bytes

FEW = StreamedRows(count=2048, num_patches=16, num_coordinates=16, width=128, num_keys=32, batch_rows=256)
MIB = 2**20


# The benchmark's own test builds a small one by default.
@pytest.mark.slow
def test_private_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    many = replace(FEW, count=8 * FEW.count)
    few_peak, many_peak = (peak_private_bytes(rows.build, tmp_path / f"memory_{rows.count}") for rows in (FEW, many))
    few_bytes, many_bytes = (
        (tmp_path / f"memory_{rows.count}" / "features.npy").stat().st_size for rows in (FEW, many)
    )
    assert many_bytes - few_bytes > 100 * MIB
    assert many_peak - few_peak < 25 * MIB
