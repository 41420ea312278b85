"""The global program against all its pieces at once, with its gradients, its smoothness and what it refuses."""

import pytest
import torch

from otad_ray.cip import CuttingPlanes, Pieces, Regularity, Status, integrate, integrate_globally, make_pieces
from otad_ray.cip.global_program.product_oracle import ProductOracle
from otad_ray.cip.global_program.table_oracle import TableOracle
from otad_ray.errors import InputError

SMOOTHNESS = 2.0


@pytest.fixture(autouse=True, params=["table", "products"])
def _oracle(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Solve by the table of few pieces, and as many pieces are."""
    if request.param == "products":
        monkeypatch.setattr("otad_ray.cip.global_program.cutting_planes.TABLE_PIECES", 0)


def cloud(count: int, dimension: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Points, features that are no gradient, and rough potentials, float64."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, dimension, generator=generator, dtype=torch.float64)
    features = 1.2 * points + 0.5 * torch.randn(count, dimension, generator=generator, dtype=torch.float64)
    potentials = 0.6 * points.square().sum(1) + torch.rand(count, generator=generator, dtype=torch.float64)
    return points, features, potentials


def queries(count: int, dimension: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dimension, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("count", "dimension"), [(1, 3), (5, 1), (40, 2), (150, 20)])
def test_agrees_with_the_local_program_over_all_points(count: int, dimension: int) -> None:
    points, features, potentials = cloud(count, dimension)
    query = queries(12, dimension)
    found = integrate_globally(query, make_pieces(points, features, potentials, SMOOTHNESS), SMOOTHNESS)
    shape = (len(query), -1, -1)
    reference = integrate(
        query,
        points.expand(shape),
        features.expand(shape),
        Regularity(smoothness=SMOOTHNESS),
        potentials=potentials.expand(len(query), -1),
    )
    assert set(found.status.tolist()) == {Status.SOLVED}
    torch.testing.assert_close(found.feature, reference.feature, rtol=0, atol=1e-7)
    torch.testing.assert_close(found.value, reference.value, rtol=0, atol=1e-10)
    assert found.gap.max() < 1e-11


def test_agrees_with_clarabel_over_all_pieces() -> None:
    points, features, potentials = cloud(60, 8)
    query = queries(3, 8)
    found = integrate_globally(query, make_pieces(points, features, potentials, SMOOTHNESS), SMOOTHNESS)
    shape = (len(query), -1, -1)
    conic = integrate(
        query,
        points.expand(shape),
        features.expand(shape),
        Regularity(smoothness=SMOOTHNESS),
        potentials=potentials.expand(len(query), -1),
        solver="clarabel",
    )
    torch.testing.assert_close(found.value, conic.value, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.feature, conic.feature, rtol=0, atol=1e-3)


def test_float32_pieces_are_solved_to_float64_accuracy() -> None:
    """Products in float32 lose the digits that decide between pieces; they must not decide."""
    points, features, potentials = cloud(3000, 30)
    near = features.float()
    pieces = make_pieces(points.float(), near, potentials, SMOOTHNESS)
    query = queries(20, 30)
    found = integrate_globally(query, pieces, SMOOTHNESS)
    exact = integrate_globally(query, Pieces(near.double(), pieces.offsets), SMOOTHNESS)
    assert set(found.status.tolist()) == {Status.SOLVED}
    torch.testing.assert_close(found.feature, exact.feature, rtol=0, atol=1e-6)
    values = pieces.values(found.proximal)
    level = (found.weights * values.gather(1, found.index)).sum(1)
    assert ((values.amax(1) - level) <= found.gap + 1e-11).all()


def test_both_oracles_find_the_same() -> None:
    points, features, potentials = cloud(600, 30)
    pieces = make_pieces(points.float(), features.float(), potentials, SMOOTHNESS)
    query, rows = queries(40, 30), torch.arange(40)
    oracles = (TableOracle(query, pieces, SMOOTHNESS, rows), ProductOracle(query, pieces, SMOOTHNESS, rows, 1e-12))
    assert torch.equal(*(oracle.find_first() for oracle in oracles))
    first, second = (oracle.solve(rows, oracle.find_first(), None) for oracle in oracles)
    for name in ("feature", "level", "size"):
        torch.testing.assert_close(getattr(first, name), getattr(second, name), rtol=1e-12, atol=1e-12)
    gap, expected = (
        oracle.find_largest(rows, current)[1] for oracle, current in zip(oracles, (first, second), strict=True)
    )
    torch.testing.assert_close(gap, expected, rtol=0, atol=1e-10)
    assert gap.max() > 0.01


def test_many_equal_pieces_hide_no_other() -> None:
    """More pieces tie than are looked at: the bound on the others is not tight, and values are formed in float64."""
    points, features, potentials = cloud(4, 5)
    copies = torch.arange(4).repeat(30)
    pieces = make_pieces(points[copies].float(), features[copies].float(), potentials[copies], SMOOTHNESS)
    query = queries(10, 5)
    found = integrate_globally(query, pieces, SMOOTHNESS)
    alone = Pieces(pieces.features[:4], pieces.offsets[:4])
    assert set(found.status.tolist()) == {Status.SOLVED}
    torch.testing.assert_close(found.feature, integrate_globally(query, alone, SMOOTHNESS).feature, rtol=0, atol=1e-6)


def test_a_row_does_not_depend_on_its_batch() -> None:
    points, features, potentials = cloud(300, 10)
    pieces = make_pieces(points, features, potentials, SMOOTHNESS)
    query = queries(270, 10)
    together = integrate_globally(query, pieces, SMOOTHNESS)
    alone = integrate_globally(query[260:261], pieces, SMOOTHNESS)
    torch.testing.assert_close(together.feature[260:261], alone.feature, rtol=0, atol=1e-9)
    combined = (together.weights.unsqueeze(2) * features[together.index]).sum(1)
    torch.testing.assert_close(combined, together.feature, rtol=0, atol=1e-12)


@pytest.mark.parametrize("count", [2, 5, 300])
def test_excluded_pieces_do_not_count(count: int) -> None:
    points, features, potentials = cloud(count, 6)
    rows = torch.arange(min(20, count))
    pieces = make_pieces(points.float(), features.float(), potentials, SMOOTHNESS)
    found = integrate_globally(points[rows], pieces, SMOOTHNESS, exclude=rows)
    assert set(found.status.tolist()) == {Status.SOLVED}
    for row in rows.tolist():
        others = torch.arange(count) != row
        alone = Pieces(pieces.features[others], pieces.offsets[others])
        expected = integrate_globally(points[row : row + 1], alone, SMOOTHNESS).feature[0]
        torch.testing.assert_close(found.feature[row], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("smoothness", [0.5, 2.0, 8.0])
def test_is_lipschitz_for_any_offsets(smoothness: float) -> None:
    points, features, potentials = cloud(400, 6)
    pieces = make_pieces(points, features, 10 * potentials, smoothness)
    query = torch.cat([queries(500, 6), points[:200], points[:200] + 1e-3 * queries(200, 6, seed=2)])
    found = integrate_globally(query, pieces, smoothness)
    ratio = torch.cdist(found.feature, found.feature, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(0)
    ratio /= torch.cdist(query, query, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(1)
    assert ratio.max() <= smoothness * (1 + 1e-6)
    assert ratio.max() > 0.5 * smoothness


def test_gradcheck() -> None:
    points, features, potentials = cloud(15, 4)
    offsets = make_pieces(points, features, potentials, SMOOTHNESS).offsets

    def solve(*inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        query, slopes, constants = inputs
        found = integrate_globally(query, Pieces(slopes, constants), SMOOTHNESS)
        return found.feature, found.value

    inputs = tuple(tensor.requires_grad_() for tensor in (queries(5, 4), features, offsets))
    assert torch.autograd.gradcheck(solve, inputs)


def test_gradient_reaches_potentials_through_the_offsets() -> None:
    points, features, potentials = cloud(15, 4)
    query = queries(3, 4)

    def solve(values: torch.Tensor) -> torch.Tensor:
        return integrate_globally(query, make_pieces(points, features, values, SMOOTHNESS), SMOOTHNESS).feature

    assert torch.autograd.gradcheck(solve, (potentials.requires_grad_(),))


def test_gradient_in_the_query_projects_on_the_active_differences() -> None:
    points, features, potentials = cloud(200, 12)
    pieces, query = make_pieces(points, features, potentials, SMOOTHNESS), queries(1, 12)
    jacobian = torch.autograd.functional.jacobian(
        lambda x: integrate_globally(x, pieces, SMOOTHNESS).feature[0], query
    )[:, 0]
    found = integrate_globally(query, pieces, SMOOTHNESS)
    active = features[found.index[0, found.weights[0] > 0]]
    differences = active[1:] - active[0]
    assert len(differences) > 1
    torch.testing.assert_close(jacobian, SMOOTHNESS * torch.linalg.pinv(differences) @ differences, rtol=0, atol=1e-9)


def test_float32_query_gets_a_float32_feature_and_gradient() -> None:
    points, features, potentials = cloud(100, 6)
    pieces = make_pieces(points.float(), features.float(), potentials, SMOOTHNESS)
    query = queries(4, 6).float().requires_grad_()
    feature = integrate_globally(query, pieces, SMOOTHNESS).feature
    feature.sum().backward()
    assert feature.dtype == query.grad.dtype == torch.float32
    assert (query.grad != 0).any()


def test_a_solve_that_is_cut_short_has_failed_and_stays_in_the_hull() -> None:
    points, features, potentials = cloud(500, 10)
    pieces, query = make_pieces(points, features, potentials, SMOOTHNESS), queries(30, 10)
    found = integrate_globally(query, pieces, SMOOTHNESS, solver=CuttingPlanes(max_rounds=1))
    exact = integrate_globally(query, pieces, SMOOTHNESS)
    failed = found.status == Status.FAILED
    assert failed.any()
    assert found.value[failed].isnan().all()
    torch.testing.assert_close(found.weights.sum(1), torch.ones(30, dtype=torch.float64))
    assert (found.weights >= 0).all()
    # The gap that is reported bounds the error of the feature.
    error = (found.feature - exact.feature).square().sum(1)
    assert (error <= SMOOTHNESS * found.gap + 1e-12).all()
    assert error.max() > 1e-4


def test_a_query_that_is_not_finite_fails_alone() -> None:
    points, features, potentials = cloud(30, 4)
    pieces, query = make_pieces(points, features, potentials, SMOOTHNESS), queries(3, 4)
    expected = integrate_globally(query, pieces, SMOOTHNESS).feature
    query[1, 2] = torch.nan
    found = integrate_globally(query, pieces, SMOOTHNESS)
    assert found.status.tolist() == [Status.SOLVED, Status.FAILED, Status.SOLVED]
    assert found.gap[1] == torch.inf
    assert found.value[1].isnan()
    assert torch.isfinite(found.feature).all()
    torch.testing.assert_close(found.feature[[0, 2]], expected[[0, 2]], rtol=0, atol=1e-12)


def test_no_rows() -> None:
    points, features, potentials = cloud(30, 4)
    found = integrate_globally(queries(0, 4), make_pieces(points, features, potentials, SMOOTHNESS), SMOOTHNESS)
    assert found.feature.shape == (0, 4)


def test_a_single_active_piece_has_its_feature_and_no_slope() -> None:
    features = torch.tensor([[1.0, 0], [0, 1]], dtype=torch.float64)
    pieces = Pieces(features, torch.tensor([100.0, 0], dtype=torch.float64))
    query = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    feature = integrate_globally(query, pieces, SMOOTHNESS).feature
    torch.testing.assert_close(feature[0], features[0])
    feature.sum().backward()
    assert not query.grad.any()


def test_working_sets_of_repeated_pieces() -> None:
    points, features, potentials = cloud(10, 4)
    pieces, query = make_pieces(points, features, potentials, SMOOTHNESS), queries(3, 4)
    for oracle in (ProductOracle(query, pieces, SMOOTHNESS, None, 1e-12), TableOracle(query, pieces, SMOOTHNESS, None)):
        once = oracle.solve(torch.arange(3), torch.arange(10).expand(3, -1), None)
        twice = oracle.solve(torch.arange(3), torch.arange(10).repeat(2).expand(3, -1), None)
        torch.testing.assert_close(once.feature, twice.feature, rtol=0, atol=1e-9)


@pytest.mark.parametrize("smoothness", [0.0, -1.0, float("nan"), float("inf")])
def test_refuses_a_smoothness_that_is_not_above_zero(smoothness: float) -> None:
    points, features, potentials = cloud(3, 2)
    with pytest.raises(InputError, match="smoothness L > 0"):
        make_pieces(points, features, potentials, smoothness)
    pieces = make_pieces(points, features, potentials, 1.0)
    with pytest.raises(InputError, match="smoothness L > 0"):
        integrate_globally(queries(2, 2), pieces, smoothness)


def test_refuses_what_does_not_fit() -> None:
    points, features, potentials = cloud(3, 2)
    pieces = make_pieces(points, features, potentials, 1.0)
    with pytest.raises(InputError, match="dimension 2"):
        integrate_globally(queries(2, 3), pieces, 1.0)
    with pytest.raises(InputError, match="float32 or float64"):
        integrate_globally(queries(2, 2).half(), pieces, 1.0)
    with pytest.raises(InputError, match="exclude must be whole numbers"):
        integrate_globally(queries(2, 2), pieces, 1.0, exclude=torch.zeros(3, dtype=torch.int64))
    alone = Pieces(features[:1], potentials[:1])
    with pytest.raises(InputError, match="at least two pieces"):
        integrate_globally(queries(1, 2), alone, 1.0, exclude=torch.zeros(1, dtype=torch.int64))
    with pytest.raises(InputError, match="one potential for each of 3 points"):
        make_pieces(points, features, potentials[:2], 1.0)
    with pytest.raises(InputError, match="one offset for each of 3 features"):
        Pieces(features, potentials[:2])
    with pytest.raises(InputError, match="NaN or infinite"):
        Pieces(features, torch.tensor([0, torch.nan, 0], dtype=torch.float64))
    with pytest.raises(InputError, match="NaN or infinite"):
        Pieces(torch.where(features == features[1, 0], torch.nan, features), potentials)
