"""What is said of a data set: rows, columns, memory, and rows that repeat."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from otad_ray.data import data_set, describe_data_set
from otad_ray.data.description import count_repeats
from otad_ray.data.rows import ArrayRows


def make_rows(values: list[float]) -> ArrayRows:
    x = np.array(values)[:, None]
    return ArrayRows(np.arange(len(x)), x, np.zeros(len(x), np.int64), origin="")


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        ([1, 2, 3], [4], (0, 0)),
        ([1, 1, 1], [2], (2, 0)),
        ([1, 2], [2, 2, 3], (2, 2)),
        ([1], [2, 2], (1, 0)),
    ],
)
def test_repeats_are_counted_in_and_between_parts(train: list, test: list, expected: tuple[int, int]) -> None:
    assert count_repeats(make_rows(train), make_rows(test)) == expected


def test_digits_are_described_as_they_are() -> None:
    description = describe_data_set(data_set("digits"))
    assert description.rows == {"train": 1437, "validation": 143, "test": 360}
    assert description.sample_bytes == 1437 * 64 * 4
    assert (description.repeated_rows, description.test_rows_in_train, description.warnings) == (0, 0, ())
    assert sum(description.class_rows) == 1437
    assert "train 1437, validation 143, test 360" in str(description)


def test_a_folder_is_described_with_what_to_know_before_trusting_it(tmp_path: Path) -> None:
    images = [bytes([row]) * 4 for row in range(10)]
    for part, rows in (("train", range(10)), ("test", [0, 0, 1, 200])):
        chosen = [images[row] if row < 10 else bytes([row]) * 4 for row in rows]
        table = pa.table({"image": chosen, "note": ["a"] * len(chosen), "label": [0, 1] * (len(chosen) // 2)})
        pq.write_table(table, tmp_path / f"{part}-00000-of-00001.parquet")
    description = describe_data_set(data_set(str(tmp_path)))
    assert description.layout == "train and test by file names"
    assert description.used == ("image (binary)", "label (int64)")
    assert description.warnings == (
        "not read: note (string)",
        "3 rows repeat the sample of an earlier row",
        "3 of 4 test rows occur in train",
    )
    assert json.loads(json.dumps(description.to_json()))["test_rows_in_train"] == 3


def test_a_description_fits_on_a_screen(tmp_path: Path) -> None:
    columns = {f"{'feature' * 5}_{number}": np.arange(400.0) for number in range(300)}
    notes = {f"note_{number}": ["a"] * 400 for number in range(300)}
    pq.write_table(pa.table({**columns, **notes, "label": np.arange(400) % 80}), tmp_path / "a.parquet")
    lines = str(describe_data_set(data_set(str(tmp_path)))).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 160
    assert any("and 292 more" in line or "more" in line for line in lines)
