"""Any Parquet file gives the right values or a clear refusal: schemas and values made at random."""

import datetime
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otad_ray.data import data_set, load_all, open_split
from otad_ray.errors import InputError

ROWS = 12
QUICK = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@dataclass(frozen=True, repr=False)
class Kind:
    """A kind of column.

    Attributes:
        types: Arrow types that hold the same values.
        values: values of one row.
        expected: what a row is as a sample; None if it cannot be one.
    """

    types: Sequence[pa.DataType]
    values: st.SearchStrategy
    expected: Callable[[Any], Sequence[float]] | None = None


def one(value: Any) -> list[float]:
    return [float(value)]


def pixels(value: bytes) -> list[float]:
    """Return an image of 2 x 2 raw pixels as a sample."""
    return (np.frombuffer(value, dtype=np.uint8).astype(np.float32) / 255).tolist()


def lists_of(kind: pa.DataType, size: int) -> list[pa.DataType]:
    not_null = pa.field("element", kind, nullable=False)
    return [pa.list_(kind), pa.large_list(kind), pa.list_(kind, size), pa.list_(not_null)]


SMALL = st.floats(-1e3, 1e3, width=32)
WORDS = st.sampled_from(["ab", "c", "", "x y"])
# Of these every file is read.
READABLE = {
    "integer": Kind([pa.int8(), pa.int16(), pa.int32(), pa.int64()], st.integers(-100, 100), one),
    "unsigned": Kind([pa.uint8(), pa.uint16(), pa.uint64()], st.integers(0, 200), one),
    "real": Kind([pa.float32(), pa.float64()], SMALL, one),
    "half": Kind([pa.float16()], st.sampled_from([0.5, -2.0, 3.25]), one),
    "flag": Kind([pa.bool_()], st.booleans(), one),
    "decimal": Kind([pa.decimal128(9, 2), pa.decimal256(40, 2)], st.sampled_from([Decimal("1.5"), Decimal(-7)]), one),
}
# These are samples if they are called x, and else refused or left out by name.
OTHERS = {
    "lists": Kind(lists_of(pa.float64(), 3), st.lists(SMALL, min_size=3, max_size=3), list),
    "integer_lists": Kind(lists_of(pa.int32(), 2), st.lists(st.integers(-9, 9), min_size=2, max_size=2), list),
    "ragged": Kind([pa.list_(pa.float64())], st.lists(SMALL, max_size=3), list),
    "tensor": Kind([pa.fixed_shape_tensor(pa.float32(), [2, 2])], st.lists(SMALL, min_size=4, max_size=4), list),
    "text": Kind([pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], WORDS),
    "numbers_in_text": Kind([pa.string()], st.sampled_from(["1.5", "2", "-3e1"])),
    "bytes": Kind([pa.binary(), pa.large_binary(), pa.binary(4)], st.binary(min_size=4, max_size=4), pixels),
    "date": Kind([pa.date32()], st.dates(datetime.date(2000, 1, 1), datetime.date(2030, 1, 1))),
    "time": Kind(
        [pa.timestamp("us"), pa.timestamp("ns", "UTC")],
        st.datetimes(datetime.datetime(2000, 1, 1), datetime.datetime(2030, 1, 1)),
    ),
    "struct": Kind([pa.struct({"a": pa.int64()})], st.fixed_dictionaries({"a": st.integers(0, 9)})),
    "big": Kind([pa.uint64()], st.integers(2**63, 2**64 - 1), one),
    "stamps": Kind([pa.int64()], st.integers(1_700_000_000_000_000, 1_700_000_000_000_999), one),
    "gaps": Kind([pa.float64()], st.none() | SMALL, lambda value: [np.nan if value is None else value]),
    "nothing": Kind([pa.null()], st.none()),
}
KINDS = READABLE | OTHERS
NAMES = st.sampled_from(["a", "b", "a.b", "x", "counts", "X", "image", "split", "weight"])


def build_array(kind: pa.DataType, values: list[Any]) -> pa.Array:
    if isinstance(kind, pa.FixedShapeTensorType):
        return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))
    if pa.types.is_float16(kind):
        return pa.array(np.array(values, dtype=np.float16))
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode()
    return pa.array(values, kind)


@st.composite
def data_sets(
    draw: st.DrawFn, kinds: dict[str, Kind], names: st.SearchStrategy
) -> tuple[dict[str, Kind], list[pa.Table]]:
    """Draw some columns, and the two files of a folder, which may hold them in different types and orders."""
    chosen = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    columns = {name: kinds[draw(st.sampled_from(sorted(kinds)))] for name in chosen}
    tables = []
    for _ in range(2):
        arrays = {}
        for name in draw(st.permutations(chosen)):
            kind = columns[name]
            values = draw(st.lists(kind.values, min_size=ROWS, max_size=ROWS))
            arrays[name] = build_array(draw(st.sampled_from(list(kind.types))), values)
        arrays["label"] = pa.array(np.arange(ROWS) % 2, draw(st.sampled_from([pa.int64(), pa.int32(), pa.uint8()])))
        tables.append(pa.table(arrays))
    return columns, tables


def read(tables: list[pa.Table]) -> tuple[Any, np.ndarray]:
    """Return the data set of a folder with these files, and its samples (rows, D) in their order."""
    folder = Path(tempfile.mkdtemp())
    try:
        for number, table in enumerate(tables):
            pq.write_table(table, folder / f"{number}.parquet", row_group_size=7)
        definition = data_set(str(folder))
        batches = []
        for part in ("train", "test"):
            rows = open_split(definition, part)
            rows.check()
            batches.append(load_all(rows))
    finally:
        shutil.rmtree(folder)
    ids = np.concatenate([batch.ids for batch in batches])
    x = np.concatenate([batch.x.flatten(1) for batch in batches])
    return definition, x[np.argsort(ids)]


def check_values(columns: dict[str, Kind], tables: list[pa.Table]) -> None:
    definition, x = read(tables)
    used = definition.source.columns.sample
    expected = []
    for table in tables:
        parts = [[columns[name].expected(value) for value in table[name].to_pylist()] for name in used]
        expected += [list(chain.from_iterable(row)) for row in zip(*parts, strict=True)]
    np.testing.assert_array_equal(x, np.array(expected, dtype=np.float64).astype(np.float32))
    left_out = " ".join(definition.notes.left_out)
    assert all(f"{name} (" in left_out for name in columns if name not in used and name != "split")


def find_refusal(columns: dict[str, Kind], tables: list[pa.Table]) -> str | None:
    """Return why a folder is refused; None if it is read, and rightly."""
    try:
        check_values(columns, tables)
    except InputError as error:
        return str(error)
    return None


@QUICK
@given(data_sets(READABLE, st.sampled_from(["a", "b", "c.d", "weight"])))
def test_numbers_of_one_kind_are_always_read(drawn: tuple[dict[str, Kind], list[pa.Table]]) -> None:
    columns, tables = drawn
    definition, _ = read(tables)
    assert set(definition.source.columns.sample) == set(columns)
    check_values(columns, tables)


@settings(QUICK, max_examples=120)
@given(data_sets(KINDS, NAMES))
def test_any_columns_are_read_right_or_refused(drawn: tuple[dict[str, Kind], list[pa.Table]]) -> None:
    columns, tables = drawn
    message = find_refusal(columns, tables)
    if message is not None:
        assert "\n" not in message
        assert any(name in message for name in (*columns, "no samples"))
