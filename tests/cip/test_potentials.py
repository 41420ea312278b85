"""Potentials against a linear-programming solver, and the relaxation against plain stepping."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from helpers.instances import neighborhoods
from otad_ray.cip import Regularity, brenier_potentials


def bounds_of_the_paper(points: np.ndarray, features: np.ndarray, smoothness: float, low: float) -> np.ndarray:
    """Right side of (15) less `u_j`, as printed, for all i, j."""
    count = len(points)
    bounds = np.zeros((count, count))
    for i in range(count):
        for j in range(count):
            dx, dz = points[i] - points[j], features[i] - features[j]
            bracket = dz @ dz / smoothness + low * dx @ dx - 2 * low / smoothness * (dz @ dx)
            bounds[i, j] = features[j] @ dx + bracket / (2 * (1 - low / smoothness))
    return bounds


def solve_linear_program(bounds: np.ndarray):
    """`min max_i u_i` subject to (15) and `u >= 0`, the program of the authors' code."""
    count = len(bounds)
    rows, right = [], []
    for i in range(count):
        for j in range(count):
            if i != j:
                row = np.zeros(count + 1)
                row[j], row[i] = 1, -1
                rows.append(row)
                right.append(-bounds[i, j])
        top = np.zeros(count + 1)
        top[i], top[count] = 1, -1
        rows.append(top)
        right.append(0.0)
    objective = np.append(np.zeros(count), 1.0)
    return linprog(objective, A_ub=np.array(rows), b_ub=right, bounds=[(0, None)] * (count + 1), method="highs")


@pytest.mark.parametrize("low", [-0.5, 0.0, 0.3])
def test_attains_the_optimum_of_the_linear_program(low: float) -> None:
    _, points, features = neighborhoods(6, 8, 10, seed=1, roughness=0.8)
    found = brenier_potentials(points, features, Regularity(smoothness=2.0, strong_convexity=low))
    assert found.feasible.all()
    for row in range(6):
        bounds = bounds_of_the_paper(
            points[row].numpy(),
            features[row].numpy(),
            float(found.smoothness_used[row]),
            float(found.strong_convexity_used[row]),
        )
        potentials = found.potentials[row].numpy()
        assert (potentials[None, :] + bounds - potentials[:, None]).max() < 1e-12
        assert potentials.max() == pytest.approx(solve_linear_program(bounds).fun, abs=1e-9)


def test_relaxes_to_the_first_step_that_the_linear_program_finds_feasible() -> None:
    _, points, features = neighborhoods(12, 6, 5, seed=2, roughness=2.0)
    regularity = Regularity(smoothness=1.2, relax_smoothness=0.3, relax_strong_convexity=0.1)
    found = brenier_potentials(points, features, regularity)
    steps = []
    for row in range(12):
        step = 0
        while not solve_linear_program(
            bounds_of_the_paper(points[row].numpy(), features[row].numpy(), 1.2 + 0.3 * step, -0.1 * step)
        ).success:
            step += 1
        steps.append(step)
    assert found.relaxations.tolist() == steps
    assert len(set(steps)) > 2
    torch.testing.assert_close(found.smoothness_used, 1.2 + 0.3 * torch.tensor(steps, dtype=torch.float64))
    torch.testing.assert_close(found.strong_convexity_used, -0.1 * torch.tensor(steps, dtype=torch.float64))


def test_potentials_are_the_least() -> None:
    """No other nonnegative solution lies below in any entry: lowering one alone breaks (15) or the sign."""
    _, points, features = neighborhoods(1, 7, 9, seed=3)
    potentials = brenier_potentials(points, features, Regularity()).potentials[0].numpy()
    bounds = bounds_of_the_paper(points[0].numpy(), features[0].numpy(), 2.0, 0.0)
    np.fill_diagonal(bounds, -np.inf)
    for i in range(7):
        assert potentials[i] < 1e-12 or np.isclose(potentials[i], (potentials + bounds[i]).max())


def test_a_gradient_of_a_smooth_convex_function_needs_no_relaxation() -> None:
    """The features of f(x) = x' A x / 2 with eigenvalues in [0.5, 1.5] satisfy (15) at exactly these constants."""
    generator = torch.Generator().manual_seed(4)
    basis = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64)).Q
    matrix = basis * torch.linspace(0.5, 1.5, 8, dtype=torch.float64) @ basis.T
    points = torch.randn(50, 10, 8, generator=generator, dtype=torch.float64)
    tight = Regularity(smoothness=1.5, strong_convexity=0.5, max_relaxations=0)
    assert brenier_potentials(points, points @ matrix, tight).feasible.all()
    assert brenier_potentials(points.float(), (points @ matrix).float(), tight).feasible.all()
    too_smooth = Regularity(smoothness=1.3, strong_convexity=0.5, max_relaxations=0)
    assert not brenier_potentials(points, points @ matrix, too_smooth).feasible.all()


def test_without_room_to_relax_a_rough_row_is_infeasible() -> None:
    _, points, features = neighborhoods(4, 6, 5, seed=5, roughness=3.0)
    found = brenier_potentials(points, features, Regularity(smoothness=1.0, max_relaxations=0))
    assert not found.feasible.all()
    assert found.potentials[~found.feasible].isnan().all()
    stuck = Regularity(smoothness=1.0, relax_smoothness=0.0, relax_strong_convexity=0.0)
    assert not brenier_potentials(points, features, stuck).feasible.all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"smoothness": 0.0}, "need smoothness > 0, got 0.0"),
        ({"smoothness": -1.0}, "need smoothness > 0"),
        ({"smoothness": float("nan")}, "smoothness must be finite"),
        ({"strong_convexity": 2.0}, "need strong_convexity < smoothness, got strong_convexity=2.0 and smoothness=2.0"),
        ({"relax_smoothness": -0.1}, "need relax_smoothness >= 0"),
        ({"max_relaxations": -1}, "need max_relaxations >= 0"),
        ({"max_relaxations": 2.5}, "must be a whole number"),
    ],
)
def test_regularity_refuses_bad_values(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Regularity(**change)


def test_refuses_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="K >= 1"):
        brenier_potentials(torch.zeros(2, 0, 3), torch.zeros(2, 0, 3), Regularity())
    with pytest.raises(ValueError, match="must agree"):
        brenier_potentials(torch.zeros(2, 4, 3), torch.zeros(2, 4, 5), Regularity())


def test_gradcheck() -> None:
    _, points, features = neighborhoods(3, 5, 4, seed=6)
    inputs = (points.requires_grad_(), features.requires_grad_())
    assert torch.autograd.gradcheck(lambda *tensors: brenier_potentials(*tensors, Regularity()).potentials, inputs)
