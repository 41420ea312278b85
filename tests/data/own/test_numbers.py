"""Numbers that float32 cannot tell apart are refused; large numbers that it can are read."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from otad_ray.data import data_set, load_all, open_split
from otad_ray.errors import InputError

ROWS = np.arange(40)
NOW = 1_700_000_000_000_000


def write(folder: Path, statistics: bool = True, **columns: object) -> None:
    pq.write_table(pa.table({"label": ROWS % 2, **columns}), folder / "a.parquet", write_statistics=statistics)


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("kind", ["int64", "float64", "uint64"])
def test_time_stamps_in_microseconds_are_refused(tmp_path: Path, kind: str, statistics: bool) -> None:
    write(tmp_path, statistics, a=ROWS * 0.5, seen=(NOW + ROWS * 1_000_000).astype(kind))
    with pytest.raises(InputError, match=r"column 'seen' lies between 17000.* of which float32 resolves 0 steps"):
        data_set(str(tmp_path))


def test_a_time_stamp_within_a_list_is_refused_by_its_place(tmp_path: Path) -> None:
    write(tmp_path, x=[[0.5, float(NOW + row)] for row in ROWS])
    with pytest.raises(InputError, match="column 'x', value 1 lies between"):
        data_set(str(tmp_path))


def test_large_numbers_of_a_wide_range_are_read(tmp_path: Path) -> None:
    incomes = ROWS * 1_000_003
    counts = (ROWS + 1).astype(np.uint64) << np.uint64(58)
    write(tmp_path, income=incomes, constant=np.full(40, NOW), count=counts)
    batch = load_all(open_split(data_set(str(tmp_path)), "train"))
    expected = np.stack([incomes, np.full(40, NOW), counts], 1)[batch.ids].astype(np.float32)
    np.testing.assert_array_equal(batch.x, expected)


def test_ids_beyond_64_bits_with_a_sign_are_refused(tmp_path: Path) -> None:
    write(tmp_path, a=ROWS * 0.5, id=ROWS.astype(np.uint64) + np.uint64(2**63))
    with pytest.raises(InputError, match=r"column .id. holds 92233720368547758.*, which does not fit"):
        load_all(open_split(data_set(str(tmp_path)), "train"))
