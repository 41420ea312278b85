"""Columns of Arrow tables: each kind holds the tensor's values."""

import pyarrow as pa
import pytest
import torch

from otad_ray.memory import make_column, make_list_column


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float32(), 6)])
def test_rows_become_lists(kind: pa.DataType) -> None:
    values = torch.arange(24.0, dtype=torch.float64).view(4, 2, 3).transpose(1, 2).requires_grad_()
    column = make_column(values, kind)
    assert column.type == kind
    assert column.to_pylist() == values.detach().flatten(1).tolist()


def test_values_take_the_type_of_the_column() -> None:
    assert make_column(torch.tensor([1, 2]), pa.float64()).to_pylist() == [1.0, 2.0]
    assert make_column(["a", "b"], pa.string()).to_pylist() == ["a", "b"]
    assert make_column(torch.tensor([True, False]), pa.bool_()).to_pylist() == [True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_list_columns_keep_the_precision(dtype: torch.dtype) -> None:
    values = torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=dtype)
    column = make_list_column(values)
    assert column.type.list_size == 3
    assert torch.equal(torch.tensor(column.flatten().to_numpy()).view(2, 3), values)
