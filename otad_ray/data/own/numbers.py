"""Numbers that would change on the way: those written as text, and those that float32 cannot tell apart."""

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from math import isfinite, prod
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from otad_ray.data.parquet.files import open_parquet, refusing_damage
from otad_ray.data.parquet.types import NUMBERS, find_kind, read_lists, read_numbers
from otad_ray.errors import InputError

# Values of a column of text that are looked at.
_LOOKED_AT = 200
# From here on float32 skips integers.
_FIRST_SKIPPED = 2.0**24
# A column that float32 resolves into fewer steps than this has lost what it said.
_MIN_STEPS = 1000


def find_numbers_in_text(path: Path, columns: Sequence[str]) -> tuple[str, str] | None:
    """Return the first column of text most of whose first values are numbers, with one of them; None without one."""
    if not columns:
        return None
    with open_parquet(path) as file, refusing_damage(path):
        batch = next(file.iter_batches(batch_size=_LOOKED_AT, columns=list(columns)))
    for name in columns:
        values = [value for value in batch[name].to_pylist() if value is not None and value.strip()]
        numbers = [value for value in values if _is_number(value)]
        if numbers and 2 * len(numbers) >= len(values):
            return name, numbers[0]
    return None


def check_resolution(files: Sequence[Path], columns: Sequence[str], shape: tuple[int, ...]) -> None:
    """Refuse features whose differences float32 rounds away, such as time stamps in microseconds.

    Args:
        files: Parquet files that are read together.
        columns: one column of numbers a feature, or a single column of lists.
        shape: of a sample.

    Raises:
        InputError: for the first such feature.
    """
    ranges: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for path in files:
        for name, low, high in _find_ranges(path, set(columns), shape):
            least, greatest = ranges.get(name, (low, high))
            ranges[name] = np.minimum(least, low), np.maximum(greatest, high)
    for name, (least, greatest) in ranges.items():
        _check_range(name, np.atleast_1d(least), np.atleast_1d(greatest), files[0].parent)


def _check_range(name: str, least: np.ndarray, greatest: np.ndarray, folder: Path) -> None:
    """Refuse a column of which float32 resolves too few steps between the least and greatest values (D,)."""
    largest = np.maximum(np.abs(least), np.abs(greatest))
    with np.errstate(over="ignore", invalid="ignore"):
        steps = (greatest - least) / np.spacing(largest.astype(np.float32)).astype(np.float64)
    lost = np.isfinite(steps) & (largest >= _FIRST_SKIPPED) & (steps > 0) & (steps < _MIN_STEPS)
    if lost.any():
        index = int(lost.argmax())
        feature = f"column {name!r}" + (f", value {index}" if len(lost) > 1 else "")
        raise InputError(
            f"{folder}: {feature} lies between {least[index]:.17g} and {greatest[index]:.17g}, of which float32 "
            f"resolves {int(steps[index])} steps; subtract a start (time stamps), or remove what only numbers the rows"
        )


def _find_ranges(path: Path, columns: set[str], shape: tuple[int, ...]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield the columns of a file with the least and the greatest value of each feature, a row group at a time."""
    with open_parquet(path) as file:
        kinds = {
            name: find_kind(kind)
            for name, kind in zip(file.schema_arrow.names, file.schema_arrow.types, strict=True)
            if name in columns
        }
        for group in range(file.metadata.num_row_groups):
            statistics = _read_statistics(file, group)
            for name, kind in kinds.items():
                is_list = kind not in NUMBERS
                known = statistics.get(name)
                if kind == "flag":
                    continue
                # The statistics of lists are of all features together: small ones need no closer look.
                if known is not None and (not is_list or max(map(abs, known)) < _FIRST_SKIPPED):
                    yield name, np.array(known[0]), np.array(known[1])
                    continue
                with refusing_damage(path):
                    column = file.read_row_group(group, columns=[name])[name].drop_null()
                if len(column):
                    yield name, *_measure(column, name, shape if is_list else None, path)


def _measure(
    column: pa.ChunkedArray, name: str, shape: tuple[int, ...] | None, path: Path
) -> tuple[np.ndarray, np.ndarray]:
    try:
        values = read_numbers(column) if shape is None else read_lists(column, name, prod(shape))
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    values = values.astype(np.float64)
    return values.min(0), values.max(0)


def _read_statistics(file: pq.ParquetFile, group: int) -> dict[str, tuple[float, float]]:
    """Return the least and greatest value of each column of which the footer knows them."""
    metadata = file.metadata.row_group(group)
    known = {}
    for index in range(metadata.num_columns):
        column = metadata.column(index)
        statistics = column.statistics
        if statistics is not None and statistics.has_min_max and isinstance(statistics.min, int | float | Decimal):
            name = re.sub(r"\.list\.\w+$", "", column.path_in_schema)
            known[name] = float(statistics.min), float(statistics.max)
    return known


def _is_number(text: str) -> bool:
    """Return whether a text is a number, with a decimal point or a decimal comma."""
    try:
        return isfinite(float(text.strip().replace(",", ".", 1)))
    except ValueError:
        return False
