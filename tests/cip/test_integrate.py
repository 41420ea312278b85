"""Program (16) against solvers that we did not write, and its properties."""

import numpy as np
import ot
import pytest
import torch

from helpers.instances import exhaustive_dual, neighborhoods, primal_by_clarabel
from otad_ray.cip import Regularity, Status, gram_blocks, integrate, integrate_gram

CONVEXITIES = (-0.5, 0.0, 0.3)


def relative(found: torch.Tensor, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found.numpy() - expected) / np.linalg.norm(expected))


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")  # Clarabel ends a digit short of 1e-12.
@pytest.mark.parametrize("strong_convexity", CONVEXITIES)
@pytest.mark.parametrize(("dimension", "rows"), [(8, 4), (784, 2), (24960, 1)])
def test_matches_clarabel_on_the_primal(dimension: int, rows: int, strong_convexity: float) -> None:
    query, points, features = neighborhoods(rows, 10, dimension, seed=dimension)
    regularity = Regularity(smoothness=2.0, strong_convexity=strong_convexity)
    solution = integrate(query, points, features, regularity)
    assert set(solution.status.tolist()) <= {Status.SOLVED, Status.RELAXED}
    assert solution.residual.max() < 1e-12
    for row in range(rows):
        value, feature = primal_by_clarabel(
            query[row].numpy(),
            points[row].numpy(),
            features[row].numpy(),
            solution.potentials[row].numpy(),
            smoothness=2.0,
            strong_convexity=strong_convexity,
        )
        assert float(solution.value[row]) == pytest.approx(value, rel=1e-7)
        assert relative(solution.feature[row], feature) < 1e-5


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
@pytest.mark.parametrize("strong_convexity", CONVEXITIES)
def test_released_cross_term_has_coefficient_one(strong_convexity: float) -> None:
    query, points, features = neighborhoods(1, 10, 20, seed=5)
    regularity = Regularity(smoothness=2.0, strong_convexity=strong_convexity)
    solution = integrate(query, points, features, regularity, cross_term="released")
    value, feature = primal_by_clarabel(
        query[0].numpy(),
        points[0].numpy(),
        features[0].numpy(),
        solution.potentials[0].numpy(),
        smoothness=2.0,
        strong_convexity=strong_convexity,
        cross_coefficient=1.0,
    )
    assert float(solution.value) == pytest.approx(value, rel=1e-7)
    assert relative(solution.feature[0], feature) < 1e-5


@pytest.mark.parametrize("strong_convexity", CONVEXITIES)
def test_matches_an_exhaustive_dual(strong_convexity: float) -> None:
    smoothness = 2.0
    kappa = 1 / (2 * (smoothness - strong_convexity))
    query, points, features = neighborhoods(8, 8, 12, seed=3)
    regularity = Regularity(smoothness=smoothness, strong_convexity=strong_convexity)
    solution = integrate(query, points, features, regularity)
    for row in range(len(query)):
        steps = (query[row] - points[row]).numpy()
        targets = features[row].numpy()
        centers = targets + strong_convexity * steps
        levels = solution.potentials[row].numpy() + (targets * steps).sum(1) + strong_convexity / 2 * (steps**2).sum(1)
        weights = exhaustive_dual(kappa * centers @ centers.T, levels + kappa * (centers**2).sum(1))
        assert relative(solution.feature[row], weights @ centers) < 1e-8


@pytest.mark.parametrize("strong_convexity", [0.1, 0.6])
def test_matches_the_lower_bound_of_pot(strong_convexity: float) -> None:
    query, points, features = neighborhoods(1, 6, 5, seed=2)
    regularity = Regularity(smoothness=1.9, strong_convexity=strong_convexity)
    solution = integrate(query, points, features, regularity)
    assert int(solution.status) == Status.SOLVED
    values, gradients = ot.mapping.nearest_brenier_potential_predict_bounds(
        points[0].numpy(),
        solution.potentials[0].numpy(),
        features[0].numpy(),
        query.numpy(),
        strongly_convex_constant=strong_convexity,
        gradient_lipschitz_constant=1.9,
        solver="CLARABEL",
    )
    assert float(solution.value) == pytest.approx(float(values[0, 0]), rel=1e-6)
    np.testing.assert_allclose(solution.feature[0].numpy(), gradients[0, 0], atol=1e-4)


@pytest.mark.parametrize("solver", ["clarabel", "scs"])
def test_conic_solvers_by_name(solver: str) -> None:
    query, points, features = neighborhoods(3, 10, 16, seed=1)
    exact = integrate(query, points, features, Regularity())
    conic = integrate(query, points, features, Regularity(), solver=solver)
    assert conic.solver == solver
    assert conic.status.tolist() == exact.status.tolist()
    torch.testing.assert_close(conic.value, exact.value, rtol=1e-3 if solver == "scs" else 1e-6, atol=0)
    torch.testing.assert_close(conic.feature, exact.feature, rtol=0, atol=2e-2 if solver == "scs" else 1e-3)
    assert conic.residual.max() > exact.residual.max()


@pytest.mark.parametrize("cross_term", ["theory", "released"])
@pytest.mark.parametrize("strong_convexity", CONVEXITIES)
def test_gradcheck(strong_convexity: float, cross_term: str) -> None:
    query, points, features = neighborhoods(3, 5, 4, seed=7)
    regularity = Regularity(smoothness=1.8, strong_convexity=strong_convexity)

    def solve(*inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        solution = integrate(*inputs, regularity, cross_term=cross_term)  # type: ignore[arg-type]
        return solution.feature, solution.value

    inputs = tuple(tensor.requires_grad_() for tensor in (query, points, features))
    assert torch.autograd.gradcheck(solve, inputs)


def test_gradcheck_of_relaxed_rows() -> None:
    query, points, features = neighborhoods(4, 5, 4, seed=8, roughness=1.5)
    regularity = Regularity(smoothness=1.5)
    assert (integrate(query, points, features, regularity).status == Status.RELAXED).any()
    inputs = tuple(tensor.requires_grad_() for tensor in (query, points, features))
    assert torch.autograd.gradcheck(lambda *tensors: integrate(*tensors, regularity).feature, inputs)


@pytest.mark.parametrize("strong_convexity", CONVEXITIES)
def test_gradient_is_the_projection_of_the_design(strong_convexity: float) -> None:
    query, points, features = neighborhoods(1, 10, 30, seed=4)
    regularity = Regularity(smoothness=2.0, strong_convexity=strong_convexity)
    jacobian = torch.autograd.functional.jacobian(
        lambda x: integrate(x, points, features, regularity).feature[0], query
    )
    weights = integrate(query, points, features, regularity).weights[0]
    active = features[0, weights > 0] - strong_convexity * points[0, weights > 0]
    differences = active[1:] - active[0]
    projector = torch.linalg.pinv(differences) @ differences
    expected = strong_convexity * torch.eye(30, dtype=torch.float64) + (2.0 - strong_convexity) * projector
    torch.testing.assert_close(jacobian[:, 0], expected, rtol=0, atol=1e-9)


def test_gradient_where_weights_are_not_unique() -> None:
    """Crossing segments: two supports are optimal, and the gradient is that of all four points."""
    points = torch.tensor([[[1.0, 0], [-1, 0], [0, 1], [0, -1]]], dtype=torch.float64)
    query = torch.zeros(1, 2, dtype=torch.float64)
    potentials = torch.full((1, 4), 0.5, dtype=torch.float64)
    regularity = Regularity(smoothness=2.0)
    jacobian = torch.autograd.functional.jacobian(
        lambda x: integrate(x, points, points, regularity, potentials=potentials).feature[0], query
    )
    torch.testing.assert_close(jacobian[:, 0], 2.0 * torch.eye(2, dtype=torch.float64))


def test_float32_gradient_is_close_to_float64() -> None:
    query, points, features = neighborhoods(16, 10, 50, seed=6)
    gradients = []
    for dtype in (torch.float64, torch.float32):
        x = query.to(dtype, copy=True).requires_grad_()
        feature = integrate(x, points.to(dtype), features.to(dtype), Regularity()).feature
        feature.square().sum().backward()
        gradients.append(x.grad.double())
    assert (gradients[0] - gradients[1]).norm() / gradients[0].norm() < 1e-4


@pytest.mark.parametrize("strong_convexity", CONVEXITIES)
def test_lipschitz_for_a_fixed_neighbor_set(strong_convexity: float) -> None:
    _, points, features = neighborhoods(1, 10, 6, seed=9, roughness=1.0)
    regularity = Regularity(smoothness=2.0, strong_convexity=strong_convexity)
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(400, 6, generator=generator, dtype=torch.float64)
    shape = (len(queries), -1, -1)
    mapped = integrate(queries, points.expand(shape), features.expand(shape), regularity).feature
    ratio = torch.cdist(mapped, mapped).fill_diagonal_(0) / torch.cdist(queries, queries).fill_diagonal_(1)
    assert ratio.max() <= max(2.0, abs(strong_convexity)) * (1 + 1e-9)


@pytest.mark.parametrize("strong_convexity", CONVEXITIES)
def test_interpolates_where_nothing_was_relaxed(strong_convexity: float) -> None:
    _, points, features = neighborhoods(1, 6, 10, seed=10)
    regularity = Regularity(smoothness=2.5, strong_convexity=strong_convexity)
    shape = (6, -1, -1)
    solution = integrate(points[0], points.expand(shape), features.expand(shape), regularity)
    assert set(solution.status.tolist()) == {Status.SOLVED}
    torch.testing.assert_close(solution.feature, features[0], rtol=0, atol=1e-7)
    torch.testing.assert_close(solution.value, solution.potentials[0], rtol=0, atol=1e-12)


def test_a_row_does_not_depend_on_its_batch() -> None:
    query, points, features = neighborhoods(40, 10, 30, seed=11, roughness=1.0)
    together = integrate(query, points, features, Regularity())
    alone = integrate(query[17:18], points[17:18], features[17:18], Regularity())
    torch.testing.assert_close(together.feature[17:18], alone.feature, rtol=0, atol=1e-12)
    assert together.relaxations[17] == alone.relaxations[0]


def on_a_grid(values: torch.Tensor) -> torch.Tensor:
    """Rounded so that adding 1024 and storing as float32 loses nothing."""
    return (values * 4096).round() / 4096


@pytest.mark.parametrize("strong_convexity", CONVEXITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_from_the_origin_nothing_is_lost(dtype: torch.dtype, strong_convexity: float) -> None:
    """Products of shifted points are large; centering keeps their differences, in the solve and in the feature."""
    query, points, features = (on_a_grid(tensor) for tensor in neighborhoods(6, 10, 20, seed=12))
    regularity = Regularity(strong_convexity=strong_convexity)
    near = integrate(query, points, features, regularity)
    far = integrate((query + 1024).to(dtype), (points + 1024).to(dtype), features.to(dtype), regularity)
    tolerance = 2e-6 if dtype == torch.float32 else 1e-10
    assert far.relaxations.tolist() == near.relaxations.tolist()
    torch.testing.assert_close(far.feature.double(), near.feature, rtol=0, atol=tolerance)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
def test_conic_solvers_do_not_depend_on_the_scale(scale: float) -> None:
    query, points, features = (scale * tensor for tensor in neighborhoods(4, 10, 16, seed=1))
    exact = integrate(query, points, features, Regularity())
    conic = integrate(query, points, features, Regularity(), solver="clarabel")
    assert conic.status.tolist() == exact.status.tolist()
    torch.testing.assert_close(conic.feature / scale, exact.feature / scale, rtol=0, atol=1e-3)
    torch.testing.assert_close(conic.value, exact.value, rtol=1e-6, atol=0)


def test_other_solvers_refuse_a_gradient() -> None:
    query, points, features = neighborhoods(2, 5, 4)
    query.requires_grad_()
    with pytest.raises(ValueError, match="solver 'clarabel' has no gradient"):
        integrate(query, points, features, Regularity(), solver="clarabel")
    with torch.no_grad():
        assert integrate(query, points, features, Regularity(), solver="clarabel").feature.isfinite().all()


def test_float32_is_accepted() -> None:
    query, points, features = neighborhoods(20, 10, 100, seed=13)
    exact = integrate(query, points, features, Regularity())
    single = integrate(query.float(), points.float(), features.float(), Regularity())
    assert single.feature.dtype == torch.float32
    torch.testing.assert_close(single.feature.double(), exact.feature, rtol=0, atol=1e-5)


def test_coinciding_neighbors() -> None:
    query, points, features = neighborhoods(3, 5, 4, seed=14)
    points[0, 1] = points[0, 0]  # different features: no potentials at any (l, L)
    points[1, 1], features[1, 1] = points[1, 0], features[1, 0]  # an exact duplicate
    solution = integrate(query, points, features, Regularity())
    assert solution.status.tolist()[0] == Status.INFEASIBLE
    assert solution.relaxations[0] == 100
    torch.testing.assert_close(solution.feature[0], features[0].mean(0))
    assert solution.potentials[0].isnan().all()
    assert solution.value[0].isnan()
    assert set(solution.status.tolist()[1:]) <= {Status.SOLVED, Status.RELAXED}
    alone = integrate(query[2:], points[2:], features[2:], Regularity())
    torch.testing.assert_close(solution.feature[2:], alone.feature)


def test_all_neighbors_at_one_point() -> None:
    point = torch.ones(1, 4, 3)
    solution = integrate(torch.zeros(1, 3), point, 2 * point, Regularity())
    assert int(solution.status) == Status.SOLVED
    torch.testing.assert_close(solution.feature, torch.full((1, 3), 2.0))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e200])
def test_a_row_that_is_not_finite_fails_alone(bad: float) -> None:
    query, points, features = neighborhoods(3, 5, 4, seed=15)
    expected = integrate(query, points, features, Regularity())
    query[1, 0] = bad
    query.requires_grad_()
    solution = integrate(query, points, features, Regularity())
    assert solution.status.tolist()[1] == Status.FAILED
    torch.testing.assert_close(solution.feature[[0, 2]], expected.feature[[0, 2]])
    solution.feature[[0, 2]].sum().backward()
    assert query.grad[[0, 2]].isfinite().all()


def test_points_in_a_smaller_isometric_space() -> None:
    query, points, features = neighborhoods(5, 6, 4, seed=16)
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(30, 30, generator=generator, dtype=torch.float64)).Q
    inside, outside = basis[:, :4], basis[:, 4:]
    lifted = features @ inside.T + 0.1 * torch.randn(5, 6, 26, generator=generator, dtype=torch.float64) @ outside.T
    full = integrate(query @ inside.T, points @ inside.T, lifted, Regularity())
    blocks = gram_blocks(query, points, lifted, features_in_point_space=lifted @ inside)
    small = integrate_gram(blocks, Regularity())
    assert set(full.status.tolist()) <= {Status.SOLVED, Status.RELAXED}
    torch.testing.assert_close(small.weights, full.weights, rtol=0, atol=1e-10)
    torch.testing.assert_close(small.potentials, full.potentials, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": torch.zeros(2, 0, 3)}, "K >= 1"),
        ({"points": torch.zeros(2, 4, 0), "features": torch.zeros(2, 4, 0)}, "D >= 1"),
        ({"features": torch.zeros(2, 4, 5)}, "must agree"),
        ({"query": torch.zeros(3, 3)}, "query must be"),
        ({"query": torch.zeros(2, 3, dtype=torch.float64)}, "must all be float32 or all float64"),
        ({"potentials": torch.zeros(2, 3)}, "potentials must be"),
        ({"solver": "simplex"}, "unknown solver 'simplex'; known: dual, mosek, clarabel"),
        ({"cross_term": "paper"}, "unknown cross_term 'paper'; known: theory, released"),
    ],
)
def test_refuses_bad_input(change: dict, message: str) -> None:
    arguments = {
        "query": torch.zeros(2, 3),
        "points": torch.zeros(2, 4, 3),
        "features": torch.zeros(2, 4, 3),
        "regularity": Regularity(),
    }
    with pytest.raises(ValueError, match=message):
        integrate(**{**arguments, **change})
