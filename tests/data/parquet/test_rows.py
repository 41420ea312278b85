"""Rows of Parquet files that differ in what does not matter, or are damaged behind a good footer."""

import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from otad_ray.data import data_set, load_all, open_split
from otad_ray.errors import InputError

ROWS = np.arange(40)
LISTS = [[float(row), 1.0] for row in ROWS]


def fields(nullable: bool, **metadata: str) -> pa.Table:
    schema = pa.schema(
        [
            pa.field("a", pa.float64(), nullable=nullable, metadata=metadata),
            pa.field("label", pa.int64(), nullable=nullable),
        ]
    )
    return pa.table([ROWS / 40, ROWS % 2], schema=schema)


def lists(kind: pa.DataType) -> pa.Table:
    return pa.table({"x": pa.array(LISTS, kind), "label": ROWS % 2})


DIFFERING = {
    "nullability": (fields(False), fields(True)),
    "metadata": (fields(True), fields(True, k="v").replace_schema_metadata({"k": "v"})),
    "order": (pa.table({"a": ROWS / 40, "label": ROWS % 2}), pa.table({"label": ROWS % 2, "a": ROWS / 40})),
    "width": (
        pa.table({"a": ROWS / 4, "label": ROWS % 2}),
        pa.table({"a": (ROWS / 4).astype(np.float32), "label": (ROWS % 2).astype(np.int32)}),
    ),
    "sign": (
        pa.table({"a": ROWS, "label": ROWS % 2}),
        pa.table({"a": ROWS.astype(np.uint64), "label": (ROWS % 2).astype(np.uint8)}),
    ),
    "large lists": (lists(pa.list_(pa.float64())), lists(pa.large_list(pa.float64()))),
    "fixed lists": (lists(pa.list_(pa.float64())), lists(pa.list_(pa.float32(), 2))),
    "item": (lists(pa.list_(pa.float64())), lists(pa.list_(pa.field("element", pa.float64(), nullable=False)))),
    "dictionary": (
        pa.table({"a": ROWS / 4, "label": ROWS % 2}),
        pa.table({"a": pa.array(ROWS / 4).dictionary_encode(), "label": ROWS % 2}),
    ),
}


@pytest.mark.parametrize("name", DIFFERING)
@pytest.mark.parametrize("split", ["parts", "whole"])
def test_files_that_differ_in_what_does_not_matter_are_read_together(tmp_path: Path, name: str, split: str) -> None:
    one, two = DIFFERING[name]
    for folder in (tmp_path / "train", tmp_path / "test") if split == "parts" else (tmp_path,):
        folder.mkdir(exist_ok=True)
        keep = 30 if folder.name == "test" else 40
        pq.write_table(one.slice(0, keep), folder / "a.parquet")
        pq.write_table(two.slice(0, keep), folder / "b.parquet")
    rows = open_split(data_set(str(tmp_path)), "train")
    rows.check()
    batch = load_all(rows)
    column = one["x" if "x" in one.column_names else "a"].to_pylist()
    expected = np.array(column, dtype=np.float32).reshape(40, -1)
    np.testing.assert_array_equal(batch.x, expected[batch.ids % 40])
    np.testing.assert_array_equal(batch.y, batch.ids % 2)


@pytest.mark.parametrize(
    "empty",
    [
        lists(pa.list_(pa.float64())).slice(0, 0),
        pa.table({"x": pa.nulls(0), "label": pa.array([], pa.int64())}),
        pa.table({"other": pa.nulls(0)}),
    ],
)
def test_a_first_part_without_rows_is_no_error(tmp_path: Path, empty: pa.Table) -> None:
    pq.write_table(empty, tmp_path / "part-0.parquet")
    if "label" not in empty.column_names:
        (tmp_path / "labels.csv").write_text("label,name\n0,a\n1,b\n")
    pq.write_table(lists(pa.list_(pa.float64())), tmp_path / "part-1.parquet")
    rows = open_split(data_set(str(tmp_path)), "train")
    assert load_all(rows).x.shape == (32, 2)


def test_a_part_without_rows_is_refused(tmp_path: Path) -> None:
    for part, keep in (("train", 40), ("test", 0)):
        (tmp_path / part).mkdir()
        pq.write_table(fields(True).slice(0, keep), tmp_path / part / "a.parquet")
    with pytest.raises(InputError, match=r"test/a\.parquet holds no rows"):
        open_split(data_set(str(tmp_path)), "test")


@pytest.fixture
def few_files() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.usefixtures("few_files")
def test_more_files_than_may_be_open_are_read(tmp_path: Path) -> None:
    table = pa.table({"a": [0.0, 1.0], "label": [0, 1]})
    for number in range(300):
        pq.write_table(table, tmp_path / f"part-{number:05d}.parquet")
    rows = open_split(data_set(str(tmp_path)), "train")
    rows.check()
    assert load_all(rows).x[:, 0].mean() == 0.5


@pytest.mark.parametrize("column", ["x", "label"])
def test_damaged_pages_are_refused_by_the_files_name(tmp_path: Path, column: str) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(lists(pa.list_(pa.float64())), path)
    content = bytearray(path.read_bytes())
    group = pq.ParquetFile(path).metadata.row_group(0)
    chunks = [group.column(index) for index in range(group.num_columns)]
    chunk = next(chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] == column)
    start = min(offset for offset in (chunk.dictionary_page_offset, chunk.data_page_offset) if offset)
    content[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"^[^\n]*a\.parquet: a part of it cannot be read [^\n]*$"):
        open_split(data_set(str(tmp_path)), "train").check()


def test_checksums_of_pages_are_verified(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"a": ROWS * 0.5, "label": ROWS % 2})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
    content = path.read_bytes()
    value = np.float64(3.5).tobytes()
    assert content.count(value) == 1
    path.write_bytes(content.replace(value, np.float64(4.5).tobytes()))
    with pytest.raises(InputError, match=r"a\.parquet: a part of it cannot be read .*CRC"):
        open_split(data_set(str(tmp_path)), "train").check()
