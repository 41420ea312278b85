"""Potentials by least squares, and the potential of given gradients beside POT's."""

import numpy as np
import ot
import pytest
import torch

from otad_ray.cip import BrenierPotential, fit_potentials
from otad_ray.cip.global_program import find_neighbors
from otad_ray.errors import InputError


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_potentials_of_a_quadratic_are_exact() -> None:
    """The trapezoidal rule is exact for a linear gradient, so the least squares have no residual."""
    points = normal(200, 5)
    root = normal(5, 5, seed=1)
    matrix = root @ root.T
    potentials = fit_potentials(points, points @ matrix, find_neighbors(points, 8))
    expected = 0.5 * (points @ matrix * points).sum(1)
    torch.testing.assert_close(potentials, expected - expected.mean(), rtol=0, atol=1e-5)


def test_neighbors_are_the_nearest_others() -> None:
    points = normal(50, 3)
    expected = torch.cdist(points, points).fill_diagonal_(torch.inf).topk(4, largest=False).indices
    assert torch.equal(find_neighbors(points, 4).sort(1).values, expected.sort(1).values)
    assert find_neighbors(points[:3], 10).shape == (3, 2)


def test_coinciding_points_get_one_potential_and_a_mixed_feature() -> None:
    points, gradients = normal(40, 3), normal(40, 3, seed=1)
    points[1] = points[0]
    potential = BrenierPotential(points, gradients, 3.0).fit()
    assert float((potential.potentials[0] - potential.potentials[1]).abs()) < 1e-3
    assert torch.isfinite(potential.transport(points[:1])).all()


def test_gradients_of_a_smooth_convex_function_are_kept() -> None:
    points = normal(300, 4)
    gradients = points + torch.tanh(points)
    potential = BrenierPotential(points, gradients, 2.0).fit()
    error = (potential.transport(points) - gradients).norm(dim=1).mean() / gradients.norm(dim=1).mean()
    assert error < 0.05
    x = normal(5, 4, seed=2).requires_grad_()
    (slope,) = torch.autograd.grad(potential.value(x).sum(), x)
    torch.testing.assert_close(slope, potential.transport(x.detach()), rtol=0, atol=1e-9)


@pytest.mark.parametrize("strong_convexity", [0.0, 0.3])
def test_agrees_with_pot_at_its_gradients_and_potentials(strong_convexity: float) -> None:
    generator = np.random.default_rng(0)
    points = generator.normal(size=(9, 2))
    targets = np.tanh(points) + points + 0.1 * generator.normal(size=points.shape)
    # POT takes no l = 0.
    constants = {"strongly_convex_constant": max(strong_convexity, 1e-9), "gradient_lipschitz_constant": 1.7}
    potentials, gradients = ot.mapping.nearest_brenier_potential_fit(
        points, targets, its=1, init_method="target", solver="CLARABEL", **constants
    )
    query = generator.normal(size=(6, 2))
    values, carried = ot.mapping.nearest_brenier_potential_predict_bounds(
        points, potentials, gradients, query, solver="CLARABEL", **constants
    )
    potential = BrenierPotential(
        torch.from_numpy(points),
        torch.from_numpy(gradients),
        1.7,
        strong_convexity=strong_convexity,
        potentials=torch.from_numpy(potentials),
    )
    value = potential.value(torch.from_numpy(query)).numpy()
    np.testing.assert_allclose(value, values[0], atol=1e-6)
    assert (value <= values[1] + 1e-6).all()
    np.testing.assert_allclose(potential.transport(torch.from_numpy(query)).numpy(), carried[0], atol=2e-3)


def test_refuses_bad_input() -> None:
    points, gradients = normal(10, 3), normal(10, 3, seed=1)
    with pytest.raises(InputError, match="smoothness L > 0"):
        BrenierPotential(points, gradients, 0.0)
    with pytest.raises(InputError, match="strong_convexity < smoothness"):
        BrenierPotential(points, gradients, 1.0, strong_convexity=1.0)
    with pytest.raises(InputError, match="must be"):
        BrenierPotential(points, gradients[:5], 1.0)
    with pytest.raises(InputError, match="one potential for each of 10 points"):
        BrenierPotential(points, gradients, 1.0, potentials=torch.zeros(9, dtype=torch.float64))
    with pytest.raises(InputError, match="gradients hold NaN or infinite values, first in row 4"):
        BrenierPotential(points, gradients.index_fill(0, torch.tensor([4]), torch.nan), 1.0)
    with pytest.raises(InputError, match="call fit"):
        BrenierPotential(points, gradients, 1.0).value(points)
    with pytest.raises(InputError, match="both be float32 or float64"):
        BrenierPotential(points, gradients.float(), 1.0)
    with pytest.raises(InputError, match="neighbors must be"):
        fit_potentials(points, gradients, torch.full((10, 1), 10))
