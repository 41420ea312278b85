"""Which columns of a user's Parquet files are samples, and how they are decoded."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from otad_ray.data.images import image_pixels, image_shape, is_encoded, raw_pixels
from otad_ray.data.own.numbers import find_numbers_in_text
from otad_ray.data.parquet.files import open_parquet, refusing_damage, require_columns
from otad_ray.data.parquet.rows import Columns, Decoder
from otad_ray.data.parquet.types import NUMBERS, find_kind, is_list, is_permuted
from otad_ray.data.tables import feature_values, list_values
from otad_ray.errors import InputError

_IMAGE = "image"
_LISTS = ("x", "counts")
# Names, in small letters, of columns that are meant as the samples: they are never left out.
_SAMPLE_NAMES = frozenset((_IMAGE, *_LISTS, "img", "images", "features", "pixels", "pixel_values", "inputs"))
_INDEX_NOTE = "the index that pandas keeps"


@dataclass(frozen=True, kw_only=True)
class SampleColumns:
    """How the samples of a user's files are read.

    Attributes:
        columns: the columns that are read.
        decode: turns a table of them into samples.
        shape: shape of a sample.
        is_image: whether samples are pixels.
        left_out: the other columns, "name (type)" each.
    """

    columns: Columns
    decode: Decoder
    shape: tuple[int, ...]
    is_image: bool
    left_out: tuple[str, ...]


def choose_samples(path: Path, schema: pa.Schema, *, label_column: str, aside: Sequence[str]) -> SampleColumns:
    """Choose the columns that are the samples.

    These are a column `image`; or a column `x` or `counts` of lists or fixed-shape tensors of numbers; or all other
    columns of numbers, a feature each.

    Args:
        path: the first file with rows.
        schema: its columns.
        label_column: the column of classes or targets.
        aside: columns that are not samples, whatever they hold, such as the one that says the split.

    Raises:
        InputError: for a column that is meant as samples, or that may be, and is of a form that is not read.
    """
    id_column = "id" if "id" in schema.names and label_column != "id" else None
    require_columns(path, schema, [name for name in ("id", _IMAGE, *_LISTS) if name in schema.names])
    index = _index_columns(schema)
    names = [name for name in schema.names if name not in (id_column, label_column, *index, *aside)]
    sample, decode, shape = _choose(path, schema, names)
    types = dict(zip(schema.names, schema.types, strict=True))
    others = dict.fromkeys(names).keys() - set(sample)
    left_out = [f"{name} ({kind})" for name, kind in types.items() if name in others]
    left_out += [f"{name} ({_INDEX_NOTE})" for name in index if name in schema.names]
    return SampleColumns(
        columns=Columns(id_column, sample, label_column),
        decode=decode,
        shape=shape,
        is_image=sample == (_IMAGE,),
        left_out=tuple(left_out),
    )


def _choose(path: Path, schema: pa.Schema, names: list[str]) -> tuple[tuple[str, ...], Decoder, tuple[int, ...]]:
    """Return the sample's columns, their decoder, and the shape of a sample."""
    if _IMAGE in names:
        return ((_IMAGE,), *_describe_images(path, schema.field(_IMAGE).type))
    for name in _LISTS:
        # A single number is a feature like others, whatever it is called.
        if name in names and find_kind(schema.field(name).type) not in (*NUMBERS, "flag", "date", "null"):
            shape = _find_list_shape(path, name, schema.field(name).type)
            return (name,), list_values(name, shape), shape
    features = _choose_features(path, schema, names)
    return features, feature_values(features), (len(features),)


def _choose_features(path: Path, schema: pa.Schema, names: list[str]) -> tuple[str, ...]:
    """Return the columns of numbers; refuse what is no number, unless it is text that is no sample."""
    features, texts = [], []
    chosen = set(names)
    for name, arrow_type in zip(schema.names, schema.types, strict=True):
        if name not in chosen:
            continue
        kind = find_kind(arrow_type)
        if kind in NUMBERS or kind == "flag":
            features.append(name)
        elif kind == "text" and name.lower() not in _SAMPLE_NAMES:
            texts.append(name)
        elif kind != "null":
            raise InputError(f"{path}: column {name!r} holds {arrow_type}, {_ADVICE.get(kind, _ADVICE[''])}")
    require_columns(path, schema, features)
    found = find_numbers_in_text(path, [name for name, count in Counter(texts).items() if count == 1])
    if found is not None:
        name, value = found
        raise InputError(
            f"{path}: column {name!r} holds numbers as text, such as {value!r}; write them as numbers, or "
            "remove the column"
        )
    if not features:
        raise InputError(
            f"{path} has no samples: need a column image (bytes), x or counts (lists of numbers), or columns of "
            f"numbers; it has {', '.join(schema.names)}"
        )
    return tuple(features)


# What to do with a column that is no number, by its kind.
_ADVICE = {
    "date": "which is no feature; write it as a number that means something, such as days since a start, or remove it",
    "": "which is read neither as a sample nor as a feature; write samples as a column x of lists of numbers, or as a "
    "column image of JPEG or PNG bytes, or remove the column",
}


def _describe_images(path: Path, kind: pa.DataType) -> tuple[Decoder, tuple[int, ...]]:
    """Return the decoder and the shape of a column of images, by the first one."""
    if find_kind(kind) not in ("bytes", "image"):
        raise InputError(f"{path}: column 'image' holds {kind}, need bytes, or the Hub's struct of bytes and path")
    value = _first_value(path, _IMAGE)
    image = value["bytes"] if isinstance(value, dict) else value
    try:
        shape = image_shape(image)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    return (image_pixels(shape) if is_encoded(image) else raw_pixels(shape)), shape


def _find_list_shape(path: Path, name: str, kind: pa.DataType) -> tuple[int, ...]:
    """Return the shape of a sample: that of the tensors, or the length of the first list."""
    if isinstance(kind, pa.FixedShapeTensorType):
        if _holds_numbers(kind) and not is_permuted(kind) and all(kind.shape):
            return tuple(kind.shape)
        raise InputError(f"{path}: column {name!r} holds {kind}, need tensors of numbers in row-major order")
    if not (is_list(kind) and _holds_numbers(kind)):
        raise InputError(f"{path}: column {name!r} holds {kind}, need lists of numbers or a fixed-shape tensor")
    dimension = len(_first_value(path, name))
    if dimension == 0:
        raise InputError(f"{path}: the first list of column {name!r} is empty")
    return (dimension,)


def _holds_numbers(kind: Any) -> bool:
    return find_kind(kind.value_type) in ("integer", "real") and not pa.types.is_dictionary(kind.value_type)


def _first_value(path: Path, column: str) -> Any:
    with open_parquet(path) as file, refusing_damage(path):
        batch = next(file.iter_batches(batch_size=1, columns=[column]))
        if batch[column].null_count:
            raise InputError(f"{path}: the first value of column {column!r} is missing")
        return batch[column][0].as_py()


def _index_columns(schema: pa.Schema) -> list[str]:
    """Return the columns in which pandas keeps its index: positions or names of rows, not measurements."""
    described = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
    return [name for name in described.get("index_columns", []) if isinstance(name, str)]
