"""Which columns are samples: what is read, what is left out by name, and what is refused by name and type."""

import datetime
import io
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from otad_ray.data import DataSet, data_set, load_all, open_split
from otad_ray.errors import InputError

ROWS = np.arange(10)
X = np.random.default_rng(0).random((10, 8), dtype=np.float32)


def own(folder: Path, **columns: object) -> DataSet:
    pq.write_table(pa.table({"label": ROWS % 2, **columns}), folder / "a.parquet")
    return data_set(str(folder))


def read(definition: DataSet) -> np.ndarray:
    """Return all samples in the order of the file."""
    batches = [load_all(open_split(definition, part)) for part in ("train", "test")]
    order = np.argsort(np.concatenate([batch.ids for batch in batches]))
    return np.concatenate([batch.x for batch in batches])[order]


def encode(form: str = "PNG", value: int = 7) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(stream, form)
    return stream.getvalue()


@pytest.mark.parametrize("name", ["x", "counts"])
def test_fixed_shape_tensors_are_read(tmp_path: Path, name: str) -> None:
    definition = own(tmp_path, **{name: pa.FixedShapeTensorArray.from_numpy_ndarray(X), "weight": np.ones(10)})
    np.testing.assert_array_equal(read(definition), X)
    assert definition.notes.left_out == ("weight (double)",)


def test_tensors_keep_their_shape(tmp_path: Path) -> None:
    images = X.reshape(10, 2, 2, 2)
    definition = own(tmp_path, x=pa.FixedShapeTensorArray.from_numpy_ndarray(images))
    assert definition.shape == (2, 2, 2)
    np.testing.assert_array_equal(read(definition), images)


def test_tensors_in_another_order_are_refused(tmp_path: Path) -> None:
    kind = pa.fixed_shape_tensor(pa.float32(), [2, 4], permutation=[1, 0])
    tensors = pa.ExtensionArray.from_storage(kind, pa.array(X.tolist(), kind.storage_type))
    with pytest.raises(InputError, match=r"column .x. holds extension<.*row-major order"):
        own(tmp_path, x=tensors)


def test_the_hubs_images_are_read_like_bytes(tmp_path: Path) -> None:
    images = [encode(value=int(row)) for row in ROWS]
    definition = own(tmp_path, image=[{"bytes": image, "path": "a.png"} for image in images])
    assert definition.shape == (3, 8, 8)
    np.testing.assert_array_equal(read(definition)[:, 0, 0, 0], ROWS.astype(np.float32) / 255)


def test_images_of_which_only_the_path_is_stored_are_refused(tmp_path: Path) -> None:
    images = [{"bytes": encode(), "path": None}] * 9 + [{"bytes": None, "path": "a.png"}]
    with pytest.raises(InputError, match="holds an image without bytes, only its path"):
        read(own(tmp_path, image=images))
    with pytest.raises(InputError, match="column 'image' holds string, need bytes"):
        own(tmp_path, image=["a.png"] * 10)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("x", [str(row) for row in X.tolist()]),
        ("x", [row.tobytes() for row in X]),
        ("counts", [{"a": 1.0}] * 10),
        ("X", X.tolist()),
        ("features", X.tolist()),
        ("img", [encode()] * 10),
        ("pixels", ["0 0 1 1"] * 10),
        ("since", [datetime.date(2020, 1, 1)] * 10),
        ("since", pa.array(ROWS, pa.timestamp("us"))),
        ("lasted", pa.array(ROWS, pa.duration("s"))),
        ("number", ["1.5", "2"] * 5),
        ("number", ["1,5", ""] * 5),
        ("number", pa.array(["1.5", "2"] * 5).dictionary_encode()),
    ],
)
def test_what_may_be_the_sample_is_refused_by_name(tmp_path: Path, name: str, values: object) -> None:
    with pytest.raises(InputError, match=rf"a\.parquet: column '{name}' holds \w+"):
        own(tmp_path, **{name: values, "weight": np.ones(10)})


def test_decimals_and_numbers_in_dictionaries_are_features(tmp_path: Path) -> None:
    prices = [Decimal(int(row)) / 4 for row in ROWS]
    definition = own(tmp_path, price=prices, level=pa.array(ROWS / 2).dictionary_encode(), note=["ab"] * 10)
    np.testing.assert_array_equal(read(definition), np.stack([ROWS / 4, ROWS / 2], 1).astype(np.float32))
    assert definition.notes.left_out == ("note (string)",)


@pytest.mark.parametrize("names", [["a", "a", "label"], ["a", "label", "label"], ["id", "id", "a", "label"]])
def test_repeated_columns_are_refused_by_name(tmp_path: Path, names: list[str]) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array(ROWS % 2) for _ in names], names=names), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"has 2 columns called '(a|label|id)'"):
        data_set(str(tmp_path))


def test_repeated_columns_that_are_not_read_do_not_matter(tmp_path: Path) -> None:
    values = [pa.array(["x"] * 10)] * 2 + [pa.array(ROWS * 0.5), pa.array(ROWS % 2)]
    pq.write_table(pa.Table.from_arrays(values, names=["note", "note", "a", "label"]), tmp_path / "a.parquet")
    np.testing.assert_array_equal(read(data_set(str(tmp_path)))[:, 0], ROWS * 0.5)


@pytest.mark.parametrize("form", ["WEBP", "GIF", "BMP", "TIFF"])
def test_images_of_other_forms_are_refused_by_form(tmp_path: Path, form: str) -> None:
    with pytest.raises(InputError, match=f"column 'image' holds {'WebP' if form == 'WEBP' else form} files"):
        own(tmp_path, image=[encode(form)] * 10)


def test_a_file_of_a_square_length_is_not_read_as_pixels(tmp_path: Path) -> None:
    webp = encode("WEBP")
    side = int(np.ceil(np.sqrt(len(webp))))
    padded = webp + bytes(side**2 - len(webp))
    with pytest.raises(InputError, match="holds WebP files"):
        own(tmp_path, image=[padded] * 10)
    with pytest.raises(InputError, match="holds WebP files"):
        read(own(tmp_path, image=[bytes(side**2)] * 9 + [padded]))
