"""Arrow's types, as far as a reader of samples tells them apart, and their values as arrays."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Kinds of columns that are one number a row.
NUMBERS = frozenset(("integer", "real", "decimal"))

_CHECKS = (
    ("null", pa.types.is_null),
    ("flag", pa.types.is_boolean),
    ("integer", pa.types.is_integer),
    ("real", pa.types.is_floating),
    ("decimal", pa.types.is_decimal),
    ("date", pa.types.is_temporal),
)
_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
_LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)


def find_kind(kind: pa.DataType) -> str:
    """Return what the values of an Arrow type are to a reader; types of one kind are read alike.

    Args:
        kind: the type of a column.

    Returns:
        "integer", "real", "flag", "decimal", "date" (also times and durations), "text", "bytes", "null", "list of
        KIND", "tensor [SHAPE] of KIND", "image" (the Hugging Face Hub's struct of bytes and path), or the type's own
        name. A dictionary-encoded column is of the kind of its values.
    """
    if pa.types.is_dictionary(kind):
        return find_kind(kind.value_type)
    if isinstance(kind, pa.FixedShapeTensorType):
        return f"tensor {list(kind.shape)} of {find_kind(kind.value_type)}"
    if is_list(kind):
        return f"list of {find_kind(kind.value_type)}"
    if pa.types.is_struct(kind):
        return "image" if _is_image_struct(kind) else str(kind)
    if any(is_kind(kind) for is_kind in _TEXT):
        return "text"
    if any(is_kind(kind) for is_kind in _BYTES):
        return "bytes"
    return next((name for name, is_kind in _CHECKS if is_kind(kind)), str(kind))


def is_list(kind: pa.DataType) -> bool:
    """Return whether a type is one of Arrow's flavours of lists."""
    return any(check(kind) for check in _LISTS)


def is_permuted(kind: pa.FixedShapeTensorType) -> bool:
    """Return whether a tensor's values lie in another order than its shape says."""
    permutation = kind.permutation
    return permutation is not None and list(permutation) != sorted(permutation)


def read_numbers(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column of numbers or flags (n,) in its own width; decimals as float64."""
    if pa.types.is_dictionary(column.type):
        column = pa.chunked_array([chunk.dictionary_decode() for chunk in column.chunks], column.type.value_type)
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    return column.to_numpy()


def read_lists(column: pa.ChunkedArray, name: str, size: int) -> np.ndarray:
    """Return a column of lists or tensors of numbers (n, size) in its own width.

    Args:
        column: its values.
        name: its name, for the error.
        size: values that each row must have.

    Raises:
        ValueError: for a row of another size.
    """
    lists = column.combine_chunks()
    if isinstance(lists, pa.ExtensionArray):
        lists = lists.storage
    if not (pa.types.is_list(lists.type) or pa.types.is_fixed_size_list(lists.type)):
        lists = lists.cast(pa.large_list(lists.type.value_type))
    lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    wrong = lengths[lengths != size]
    if len(wrong):
        raise ValueError(f"column {name!r} needs {size} values a row, found {wrong[0]:.0f}")
    return lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, size)


def read_bytes(column: pa.ChunkedArray) -> list[bytes | None]:
    """Return the bytes of each row of a column of bytes, or of the Hub's structs of bytes and path."""
    if pa.types.is_struct(column.type):
        return [None if value is None else value["bytes"] for value in column.to_pylist()]
    return column.to_pylist()


def _is_image_struct(kind: pa.StructType) -> bool:
    names = [kind.field(index).name for index in range(kind.num_fields)]
    return sorted(names) == ["bytes", "path"] and find_kind(kind.field(names.index("bytes")).type) == "bytes"
