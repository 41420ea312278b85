"""A user's own directory of Parquet files: what its columns are taken for, and what is refused."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from otad_ray.data import DataSet, data_set, load_all, open_split
from otad_ray.errors import InputError

GENERATOR = np.random.default_rng(0)


def write(path: Path, **columns: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Files with equal rows are not byte copies of each other, which are refused.
    pq.write_table(pa.table(columns).replace_schema_metadata({"path": str(path)}), path)


def own(folder: Path, label_column: str = "label") -> DataSet:
    return data_set(str(folder), label_column=label_column)


def both_parts(folder: Path, count: int = 6, **columns: object) -> None:
    for part in ("train", "test"):
        write(folder / part / "a.parquet", label=np.arange(count) % 3, **columns)


def png(size: int, value: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (size, size), (value, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def test_features_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "iris"
    columns = {"id": np.arange(6) + 10, "a": np.arange(6), "word": list("abcdef"), "b": np.arange(6) / 7}
    both_parts(folder, **columns)
    definition = own(folder)
    assert definition.name == "iris"
    assert definition.class_names == ("0", "1", "2")
    assert (definition.shape, definition.bounds) == ((2,), None)
    rows = open_split(definition, "train")
    rows.check()
    batch = load_all(rows)
    assert batch.ids.tolist() == list(range(10, 16))
    np.testing.assert_allclose(batch.x, np.stack([np.arange(6), np.arange(6) / 7], 1), rtol=1e-6)
    assert batch.y.tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.list_(pa.float32(), 3), pa.large_list(pa.int64())])
def test_lists_of_numbers(tmp_path: Path, kind: pa.DataType) -> None:
    values = [[1, 2, 3], [4, 5, 6]] * 3
    both_parts(tmp_path, x=pa.array(values, kind), other=np.arange(6))
    definition = own(tmp_path)
    assert definition.shape == (3,)
    assert load_all(open_split(definition, "test")).x.tolist() == values


def test_raw_images(tmp_path: Path) -> None:
    pixels = GENERATOR.integers(0, 256, (6, 3, 4, 4), dtype=np.uint8)
    both_parts(tmp_path, image=[image.tobytes() for image in pixels])
    definition = own(tmp_path)
    assert (definition.shape, definition.bounds) == ((3, 4, 4), (0.0, 1.0))
    np.testing.assert_allclose(load_all(open_split(definition, "train")).x, pixels / 255, atol=1e-7)


def test_encoded_images_and_class_names(tmp_path: Path) -> None:
    both_parts(tmp_path, image=[png(4, 10 * row) for row in range(6)])
    (tmp_path / "labels.csv").write_text("label,name\n2,cat\n0,dog\n1,fox\n")
    definition = own(tmp_path)
    assert definition.class_names == ("dog", "fox", "cat")
    assert definition.shape == (3, 4, 4)
    batch = load_all(open_split(definition, "train"))
    np.testing.assert_allclose(batch.x[:, 0, 1, 2] * 255, 10 * np.arange(6), atol=1e-4)


def test_real_labels_are_a_regression(tmp_path: Path) -> None:
    for part, name in (("train", "a"), ("train", "b"), ("test", "a")):
        write(tmp_path / part / f"{name}.parquet", price=np.arange(4) / 4, x=[[1.0]] * 4)
    definition = own(tmp_path, "price")
    assert (definition.task, definition.num_outputs, definition.class_names) == ("regression", 1, ())
    rows = open_split(definition, "train")
    rows.check()
    batch = load_all(rows)
    assert batch.y.dtype == torch.float32
    assert batch.ids.tolist() == list(range(8))
    np.testing.assert_allclose(batch.y, np.tile(np.arange(4) / 4, 2))


def test_one_part_is_split_by_class(tmp_path: Path) -> None:
    labels = np.repeat([0, 1], [80, 20])
    write(tmp_path / "a.parquet", label=labels[:60], a=np.arange(60.0))
    write(tmp_path / "b.parquet", label=labels[60:], a=np.arange(60.0, 100))
    parts = [load_all(open_split(own(tmp_path), part)) for part in ("train", "test", "fit", "validation")]
    assert [np.bincount(batch.y).tolist() for batch in parts[:2]] == [[64, 16], [16, 4]]
    assert [len(batch.ids) for batch in parts[2:]] == [72, 8]
    for batch in parts:
        np.testing.assert_array_equal(batch.x[:, 0].long(), batch.ids)
        np.testing.assert_array_equal(labels[batch.ids], batch.y)
    assert sorted([*parts[0].ids.tolist(), *parts[1].ids.tolist()]) == list(range(100))


def test_one_part_of_real_targets_is_split(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", label=np.arange(50) / 3, a=np.arange(50))
    sizes = [len(open_split(own(tmp_path), part)) for part in ("train", "test")]
    assert sizes == [40, 10]


def test_a_relative_path_is_the_same_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both_parts(tmp_path / "iris", a=np.arange(6))
    monkeypatch.chdir(tmp_path)
    definitions = [data_set(name) for name in ("iris", "./iris", "iris/")]
    monkeypatch.chdir("/")
    assert len({open_split(definition, "train").fingerprint for definition in definitions}) == 1


def test_the_catalog_comes_before_a_folder_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert len(open_split(data_set("digits"), "train")) == 1437


SAMPLES = {"label": [0, 1] * 5, "a": np.arange(10)}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({**SAMPLES, "label": None}, "lacks the label column 'label'; it has a: name one of them with --label-column"),
        ({**SAMPLES, "a": None}, "has no samples: .* it has label"),
        ({**SAMPLES, "a": list("abcdefghij")}, "has no samples"),
        ({**SAMPLES, "label": list("abcdefghij")}, "holds string, need integers .* or real numbers"),
        (
            {**SAMPLES, "label": [-1, 1] * 5},
            "needs labels 0 .. C-1 of at least 2 classes, each of which occurs, found -1, 1;",
        ),
        ({**SAMPLES, "label": [0] * 10}, "found 0; number the classes so"),
        ({**SAMPLES, "label": [3, 70_000] * 5}, "each of which occurs, found 3, 70000; .* write the targets of a regr"),
        ({**SAMPLES, "label": [0] * 9 + [1]}, "class '1' has 1 row"),
        ({**SAMPLES, "label": [0, 1, None] + [1] * 7}, "1 rows have no label"),
        ({**SAMPLES, "image": [1.0] * 10}, "column 'image' holds double, need bytes"),
        ({**SAMPLES, "image": [b"abcde"] * 10}, "found 5 bytes"),
        ({**SAMPLES, "image": [bytes(4)] * 9 + [bytes(9)]}, "needs 4 bytes a sample .* found 9 bytes"),
        ({**SAMPLES, "image": [png(4)] * 9 + [png(5)]}, "needs images of 4 x 4 .* found an image of 5 x 5"),
        ({**SAMPLES, "image": [None] + [bytes(4)] * 9}, "the first value of column 'image' is missing"),
        ({**SAMPLES, "x": [[1.0, 2.0]] * 9 + [[1.0]]}, "column 'x' needs 2 values a row, found 1"),
        ({**SAMPLES, "x": [["a"]] * 10}, "need lists of numbers"),
        ({**SAMPLES, "x": [[1.0]] * 9 + [[float("nan")]]}, "id 9 holds NaN"),
        ({**SAMPLES, "a": [1.0] * 9 + [None]}, "column 'a' has 1 missing"),
        ({**SAMPLES, "id": [1, 2] * 5}, r"2 ids occur more than once, first \[1, 2\]"),
        ({**SAMPLES, "id": list("abcdefghij")}, "column 'id' holds string, need integers"),
    ],
)
def test_refusals(tmp_path: Path, columns: dict, message: str) -> None:
    write(tmp_path / "a.parquet", **{name: values for name, values in columns.items() if values is not None})
    with pytest.raises(InputError, match=message):
        open_split(own(tmp_path), "train").check()


def test_refuses_folders_without_rows(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no \*\.parquet file"):
        own(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        own(tmp_path / "missing")
    both_parts(tmp_path, count=0, a=np.arange(0))
    with pytest.raises(InputError, match="found none"):
        own(tmp_path)
    (tmp_path / "test" / "a.parquet").unlink()
    with pytest.raises(InputError, match=r"test holds no \*\.parquet file"):
        own(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="is a file; give the folder"):
        own(tmp_path / "a.parquet")


def test_another_label_column_is_another_data_set(tmp_path: Path) -> None:
    both_parts(tmp_path, a=np.arange(6), other=np.arange(6) % 2)
    first, second = (open_split(own(tmp_path, name), "train").fingerprint for name in ("label", "other"))
    assert first != second
    (tmp_path / "labels.csv").write_text("label,name\n0,a\n1,b\n2,c\n")
    assert open_split(own(tmp_path), "train").fingerprint != first


def test_the_index_that_pandas_keeps_is_no_feature(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": np.arange(10.0), "flag": [True, False] * 5, "label": [0, 1] * 5})
    frame.sample(frac=1, random_state=0).to_parquet(tmp_path / "a.parquet")
    assert "__index_level_0__" in pq.read_schema(tmp_path / "a.parquet").names
    definition = own(tmp_path)
    assert definition.shape == (2,)
    x = load_all(open_split(definition, "train")).x
    assert set(x[:, 1].tolist()) == {0.0, 1.0}


def test_too_few_rows_for_a_validation_part(tmp_path: Path) -> None:
    both_parts(tmp_path, a=np.arange(6))
    for split in ("fit", "validation"):
        with pytest.raises(InputError, match="6 training rows are too few for a validation tenth"):
            open_split(own(tmp_path), split)


def test_files_of_other_types_are_refused(tmp_path: Path) -> None:
    both_parts(tmp_path, a=np.arange(6))
    write(tmp_path / "train" / "b.parquet", a=[0.5, 1.5], label=[0, 1])
    with pytest.raises(
        InputError, match=r"b\.parquet: column 'a' holds double, in a\.parquet int64; write both as one"
    ):
        open_split(own(tmp_path), "train")


def test_class_names_as_a_spreadsheet_writes_them(tmp_path: Path) -> None:
    both_parts(tmp_path, a=np.arange(6))
    (tmp_path / "labels.csv").write_bytes("label,name\n0,a\n1,b\n2,c\n".encode("utf-8-sig"))
    assert own(tmp_path).class_names == ("a", "b", "c")


def test_ids_repeated_across_files(tmp_path: Path) -> None:
    both_parts(tmp_path, id=np.arange(6), a=np.arange(6))
    write(tmp_path / "train" / "b.parquet", id=[5], a=[1], label=[0])
    with pytest.raises(InputError, match=r"1 ids occur more than once, first \[5\]"):
        open_split(own(tmp_path), "train").check()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,words\n0,a\n1,b\n", "needs the columns label and name, it has label, words"),
        ("label,name\n0,a\n2,b\n", "needs the labels 0 .. C-1, each once and at least 2, it has 0, 2"),
        ("label,name\n0,a\n1,b\n1,c\n", "each once"),
        ("label,name\n0,a\n1\n", "label 1 has no name"),
        ("", "needs the columns label and name"),
    ],
)
def test_refuses_bad_class_names(tmp_path: Path, text: str, message: str) -> None:
    both_parts(tmp_path, a=np.arange(6))
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        own(tmp_path)


def test_refuses_labels_that_have_no_name(tmp_path: Path) -> None:
    both_parts(tmp_path / "parts", a=np.arange(6))
    write(tmp_path / "whole" / "a.parquet", **SAMPLES | {"label": [0, 1, 2, 2, 2] * 2})
    for folder in ("parts", "whole"):
        (tmp_path / folder / "labels.csv").write_text("label,name\n0,a\n1,b\n")
        with pytest.raises(InputError, match=r"label 2 .*is outside 0\.\.1"):
            open_split(own(tmp_path / folder), "train").check()


def test_a_label_column_is_for_own_data_only() -> None:
    with pytest.raises(InputError, match="label_column 'quality' is for your own data, not for the data set 'digits'"):
        data_set("digits", label_column="quality")
