"""Tensors as columns of Arrow tables."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from torch import Tensor


def make_column(values: Tensor | Sequence[object], kind: pa.DataType) -> pa.Array:
    """Return values as a column.

    Args:
        values: a tensor (n, ...) or n values; for a list type each row becomes one list.
        kind: type of the column: a number, a list of numbers, or a list of fixed length.
    """
    if not isinstance(values, Tensor):
        return pa.array(values, kind)
    array = values.detach().cpu().numpy()
    if not (pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)):
        return pa.array(array.astype(kind.to_pandas_dtype()), kind)
    rows = np.ascontiguousarray(array.reshape(len(array), -1), dtype=kind.value_type.to_pandas_dtype())
    flat = pa.array(rows.reshape(-1), kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(flat, type=kind)
    return pa.ListArray.from_arrays(pa.array(np.arange(0, rows.size + 1, rows.shape[1], dtype=np.int32)), flat)


def make_list_column(values: Tensor) -> pa.Array:
    """Return a tensor (n, ...) as a column of lists of fixed length, in its own precision."""
    rows = values.flatten(1)
    return make_column(values, pa.list_(pa.from_numpy_dtype(rows.numpy().dtype), rows.shape[1]))
