"""Inner products in blocks: equal to the plain ones, with their gradients."""

import pytest
import torch

from helpers.instances import neighborhoods
from otad_ray.cip import Regularity, gram_blocks, integrate


def centered(vectors: torch.Tensor) -> torch.Tensor:
    return vectors - vectors.mean(1, keepdim=True)


@pytest.mark.parametrize("block_bytes", [1, 5000, 1 << 30])
def test_blocks_do_not_matter(block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otad_ray.cip.gram._BLOCK_BYTES", block_bytes)
    query, points, features = neighborhoods(7, 4, 6)
    blocks = gram_blocks(query, points, features)
    rows = torch.cat([centered(points), (query - points.mean(1)).unsqueeze(1)], 1)
    columns = torch.cat([centered(features), features.mean(1, keepdim=True)], 1)
    torch.testing.assert_close(blocks.points, rows @ rows.mT, rtol=0, atol=1e-14)
    torch.testing.assert_close(blocks.features, columns @ columns.mT, rtol=0, atol=1e-14)
    torch.testing.assert_close(blocks.cross, columns @ rows.mT, rtol=0, atol=1e-14)


def test_no_samples_are_no_error() -> None:
    query, points, features = (tensor[:0] for tensor in neighborhoods(3, 4, 6))
    assert gram_blocks(query, points, features).points.shape == (0, 5, 5)
    assert integrate(query, points, features, Regularity()).feature.shape == (0, 6)


def test_gradcheck_without_a_query() -> None:
    _, points, features = neighborhoods(3, 4, 5)

    def products(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        blocks = gram_blocks(None, *tensors)
        return blocks.points, blocks.features, blocks.cross

    assert torch.autograd.gradcheck(products, [points.requires_grad_(), features.requires_grad_()])


@pytest.mark.parametrize("projected", [False, True])
def test_gradcheck(projected: bool) -> None:
    query, points, features = neighborhoods(3, 4, 5)
    generator = torch.Generator().manual_seed(0)
    full = torch.randn(3, 4, 7, generator=generator, dtype=torch.float64) if projected else features
    inputs = [tensor.requires_grad_() for tensor in (query, points, full, features)]

    def products(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        blocks = gram_blocks(*tensors[:3], features_in_point_space=tensors[3] if projected else None)
        return blocks.points, blocks.features, blocks.cross

    assert torch.autograd.gradcheck(products, inputs if projected else inputs[:3])
