"""The batched active-set solver on well-posed, degenerate and tiny programs."""

import pytest
import torch

from helpers.instances import exhaustive_dual
from otad_ray.cip.simplex_qp import solve_simplex_qp


def gap(quadratic: torch.Tensor, linear: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    gradient = linear - 2 * (quadratic @ weights.unsqueeze(2)).squeeze(2)
    scale = linear.amax(1) - linear.amin(1) + quadratic.diagonal(dim1=1, dim2=2).amax(1)
    return (gradient.amax(1) - (weights * gradient).sum(1)) / scale


@pytest.mark.parametrize(("size", "rank"), [(2, 1), (7, 3), (7, 20), (10, 784), (40, 12)])
def test_reaches_the_optimum(size: int, rank: int) -> None:
    generator = torch.Generator().manual_seed(size)
    vectors = torch.randn(300, size, rank, generator=generator, dtype=torch.float64)
    quadratic = vectors @ vectors.mT
    linear = quadratic.diagonal(dim1=1, dim2=2) + rank * torch.rand(300, size, generator=generator, dtype=torch.float64)
    weights = solve_simplex_qp(quadratic, linear)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(300, dtype=torch.float64))
    assert gap(quadratic, linear, weights).max() < 1e-12
    if size <= 7:
        for row in range(20):
            expected = torch.from_numpy(exhaustive_dual(quadratic[row].numpy(), linear[row].numpy()))
            torch.testing.assert_close(vectors[row].T @ weights[row], vectors[row].T @ expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_repeated_and_affinely_dependent_vectors(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = scale * torch.randn(200, 4, 2, generator=generator, dtype=torch.float64)
    vectors = torch.cat([vectors, vectors, vectors.mean(1, keepdim=True)], 1)
    quadratic = vectors @ vectors.mT
    linear = quadratic.diagonal(dim1=1, dim2=2).clone()
    assert gap(quadratic, linear, solve_simplex_qp(quadratic, linear)).max() < 1e-12


def test_zero_programs_and_no_programs() -> None:
    weights = solve_simplex_qp(torch.zeros(2, 3, 3, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64))
    torch.testing.assert_close(weights.sum(1), torch.ones(2, dtype=torch.float64))
    empty = solve_simplex_qp(torch.zeros(0, 3, 3, dtype=torch.float64), torch.zeros(0, 3, dtype=torch.float64))
    assert empty.shape == (0, 3)


def test_many_random_programs_of_many_shapes() -> None:
    """Wide search for a program on which the active set never settles; the rows are cheap."""
    generator = torch.Generator().manual_seed(1)
    for size in (3, 5, 10, 15):
        for rank in (1, 2, 5, 30):
            vectors = torch.randn(4000, size, rank, generator=generator, dtype=torch.float64)
            # A common direction makes programs in which the first indices to enter are the first to leave.
            vectors += 3 * torch.randn(4000, 1, rank, generator=generator, dtype=torch.float64)
            vectors -= vectors.mean(1, keepdim=True)
            quadratic = vectors @ vectors.mT
            levels = torch.randn(4000, size, generator=generator, dtype=torch.float64) * rank**0.5
            linear = quadratic.diagonal(dim1=1, dim2=2) + levels
            assert gap(quadratic, linear, solve_simplex_qp(quadratic, linear)).max() < 1e-12


def test_starting_from_the_optimum_over_fewer_indices_reaches_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(100, 12, 8, generator=generator, dtype=torch.float64)
    quadratic, linear = vectors @ vectors.mT, torch.rand(100, 12, generator=generator, dtype=torch.float64)
    fewer = solve_simplex_qp(quadratic[:, :7, :7], linear[:, :7])
    start = torch.cat([fewer, torch.zeros(100, 5, dtype=torch.float64)], 1)
    found = solve_simplex_qp(quadratic, linear, start=start)
    assert gap(quadratic, linear, found).max() < 1e-12
    torch.testing.assert_close(found, solve_simplex_qp(quadratic, linear), rtol=0, atol=1e-9)
    # Where it is optimal already, nothing is changed.
    assert torch.equal(solve_simplex_qp(quadratic, linear, start=found), found)
