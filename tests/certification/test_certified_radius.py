"""Certificates against closed forms, a reference in plain loops, and attacks."""

import numpy as np
import pytest
import torch
from torch import Tensor

from otad_ray.certification import certified_radius
from otad_ray.certification.solver_error import solver_error
from otad_ray.cip import Regularity, Status, gram_blocks
from otad_ray.cip.program import cip_program
from otad_ray.defenses import KNN, OTAD, MemoryDefense
from otad_ray.memory import IntegrationConfig

NEIGHBORS = 5
CONVEXITIES = [None, 0.0, -0.5, 0.3]


def defense_of(net, memory, low: float | None, num_neighbors: int = NEIGHBORS, **fields) -> MemoryDefense:
    """KNN, or OTAD where l is given."""
    if low is None:
        return KNN(net, memory, num_neighbors)
    return OTAD(
        net,
        memory,
        IntegrationConfig(num_neighbors=num_neighbors, regularity=Regularity(strong_convexity=low, **fields)),
    )


@torch.no_grad()
def predictions(defense: MemoryDefense, inputs: Tensor) -> Tensor:
    return defense(inputs).argmax(1)


@pytest.mark.parametrize("low", [None, 0.0])
@pytest.mark.parametrize("num_neighbors", [1, 3])
def test_on_a_line_the_radius_is_where_a_wrong_point_enters(build, low, num_neighbors: int) -> None:
    generator = torch.Generator().manual_seed(num_neighbors)
    points = torch.rand(60, 2, generator=generator) * torch.tensor([1.0, 0.0])
    features = torch.eye(2)[(points[:, 0] > 0.5).long()]
    # Two strays on either side.
    features[[10, 45]] = features[[10, 45]].flip(1)
    defense = defense_of(*build(points, features, 2), low, num_neighbors)
    queries = torch.rand(12, 2, generator=generator) * torch.tensor([1.0, 0.0])
    steps = torch.linspace(-0.7, 0.7, 4001)
    checked = 0
    for query, label, radius, method in zip(
        queries, predictions(defense, queries), *certified_radius(defense, queries), strict=True
    ):
        moved = query + torch.stack([steps, torch.zeros_like(steps)], 1)
        wrong = (defense.memory.labels[defense.memory.search(moved, num_neighbors)[0]] != label).any(1)
        if method == "constant_neighborhood":
            wrong = predictions(defense, moved) != label
            assert float(steps[wrong].abs().min()) >= radius - 5e-4
        else:
            assert float(radius) == pytest.approx(float(steps[wrong].abs().min()), abs=5e-4)
            checked += 1
    assert checked >= 8


def test_one_neighbor_is_certified_by_the_bisectors_of_its_class(build) -> None:
    points = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 3.0], [-4.0, -1.0]])
    net, memory = build(points, torch.eye(2)[[0, 1, 1, 0]], 2)
    queries = torch.tensor([[0.25, 0.0], [0.0, 1.25], [-4.0, -1.0]])
    radius, method = certified_radius(KNN(net, memory, 1), queries)
    assert method == ["knn"] * 3
    np.testing.assert_allclose(radius, [0.75, 0.25, np.sqrt(32) / 2], rtol=1e-9)


@pytest.mark.parametrize("low", CONVEXITIES)
def test_radii_are_the_formulas_never_above_them(clouds, reference, low) -> None:
    net, memory, queries = clouds
    defense = defense_of(net, memory, low)
    predicted = predictions(defense, queries)
    found = certified_radius(defense, queries)
    assert {"hull" if low is not None else "knn", "constant_neighborhood"} <= set(found.method)
    for row, (radius, method) in enumerate(zip(*found, strict=True)):
        expected = reference(defense, queries[row], int(predicted[row]), low or 0.0).radius()
        # Margins are lowered by what rounding may take of them in float32, and by the solver's error.
        allowance = 1e-6 * expected if not low and method != "constant_neighborhood" else 1e-3
        assert expected - allowance <= float(radius) <= expected


def attack(defense: MemoryDefense, queries: Tensor, radius: Tensor) -> Tensor:
    """Whether (B,) a step of this length (B,) changes the prediction: to other classes' points, or in any direction."""
    moved = torch.stack([_moved(defense, query, float(size)) for query, size in zip(queries, radius, strict=True)])
    changed = predictions(defense, moved.flatten(0, 1)).view(moved.shape[:2])
    return (changed != predictions(defense, queries).unsqueeze(1)).any(1)


def _moved(defense: MemoryDefense, query: Tensor, radius: float) -> Tensor:
    memory = defense.memory
    order = (memory.points - query).norm(dim=1).argsort()
    same = memory.labels[order] == predictions(defense, query.unsqueeze(0))
    others, own = memory.points[order[~same][:20]], memory.points[order[same][:10]]
    means = others.cumsum(0) / torch.arange(1, 21).unsqueeze(1)
    randoms = torch.randn(40, len(query), generator=torch.Generator().manual_seed(0))
    directions = [others - query, (others.unsqueeze(1) - own[:5]).flatten(0, 1), means - own.mean(0), randoms]
    unit = torch.nn.functional.normalize(torch.cat(directions))
    return query + torch.cat([0.7 * radius * unit, radius * unit])


@pytest.mark.parametrize("low", CONVEXITIES)
def test_no_attack_breaks_a_certificate_and_some_break_its_double(clouds, low) -> None:
    net, memory, queries = clouds
    defense = defense_of(net, memory, low)
    radius, _ = certified_radius(defense, queries)
    assert (radius > 0).sum() >= 17
    assert not attack(defense, queries, 0.999 * radius).any()
    assert attack(defense, queries, 2 * radius).sum() >= 3


@pytest.mark.parametrize("low", [-0.5, 0.0])
def test_infeasible_rows_have_certificates_that_hold(clouds, low: float) -> None:
    net, memory, queries = clouds
    defense = defense_of(net, memory, low, smoothness=0.5, max_relaxations=0)
    with torch.no_grad():
        infeasible = defense.integrate(queries)[1].status == Status.INFEASIBLE
    radius, _ = certified_radius(defense, queries)
    assert (infeasible & (radius > 0)).sum() >= 3
    assert not attack(defense, queries[infeasible], 0.999 * radius[infeasible]).any()


def test_failed_rows_have_no_radius(clouds, monkeypatch) -> None:
    net, memory, queries = clouds
    defense = defense_of(net, memory, 0.0)
    expected, _ = certified_radius(defense, queries)
    integrate = OTAD.integrate

    def with_a_failure(self, inputs):
        index, solution = integrate(self, inputs)
        solution.status[7:9] = torch.tensor([Status.FAILED, Status.INTERRUPTED])
        return index, solution

    monkeypatch.setattr(OTAD, "integrate", with_a_failure)
    radius, method = certified_radius(defense, queries)
    assert radius[7:9].eq(0).all()
    assert method[7:9] == ["", ""]
    kept = torch.arange(len(queries)).sub(7.5).abs() > 1
    torch.testing.assert_close(radius[kept], expected[kept], rtol=0, atol=0)


def test_radii_do_not_depend_on_the_batch(clouds) -> None:
    net, memory, queries = clouds
    for low in (0.0, -0.5):
        defense = defense_of(net, memory, low)
        together, methods = certified_radius(defense, queries)
        for row in (0, 5, 19):
            alone, method = certified_radius(defense, queries[row : row + 1])
            assert float(alone) == pytest.approx(float(together[row]), rel=1e-6)
            assert method == [methods[row]]


def test_ties_within_the_rounding_of_logits_are_not_certified(build) -> None:
    points = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    features = torch.ones(50, 4) + torch.tensor([2e-7, 0.0, 0.0, 0.0])
    net, memory = build(points, features, 2)
    for low in (None, 0.0):
        defense = defense_of(net, memory, low, 3)
        assert predictions(defense, points[:5]).eq(0).all()
        assert certified_radius(defense, points[:5]) == (pytest.approx([0.0] * 5), [""] * 5)


def test_equal_distances_are_not_certified(build) -> None:
    """Two classes at one point, and a query between two points of two classes."""
    points = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 9.0]])
    net, memory = build(points, torch.eye(2)[[0, 1, 1, 1]], 2)
    radius, _ = certified_radius(KNN(net, memory, 1), torch.tensor([[2.0, 0.0], [0.0, 0.0]]))
    assert radius.eq(0).all()


def test_without_wrong_points_the_radius_is_the_largest_given(build) -> None:
    points = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    features = torch.eye(3, 4)[torch.zeros(30, dtype=torch.int64)]
    net, memory = build(points, features)
    for low in (None, 0.0):
        radius, _ = certified_radius(defense_of(net, memory, low, 30), points[:4])
        expected = points[:4].norm(dim=1) + points.norm(dim=1).max()
        torch.testing.assert_close(radius, expected.double(), rtol=1e-5, atol=0)


def test_a_changed_head_changes_the_certificate(clouds) -> None:
    net, memory, queries = clouds
    defense = KNN(net, memory, NEIGHBORS)
    before, _ = certified_radius(defense, queries)
    with torch.no_grad():
        net.classifier.bias[1] -= 100.0
    radius, _ = certified_radius(defense, queries)
    assert predictions(defense, queries).ne(1).all()
    assert not torch.equal(radius, before)
    assert not attack(defense, queries, 0.999 * radius).any()


def test_the_solvers_error_covers_its_tolerance(clouds) -> None:
    net, memory, queries = clouds
    defense = defense_of(net, memory, -0.5)
    regularity = defense.config.regularity
    with torch.no_grad():
        neighbors, solution = defense.integrate(queries)
        near = (memory.points[neighbors], memory.features[neighbors])
        found = solver_error(
            memory, queries, neighbors, solution.potentials, regularity, within=torch.zeros(len(queries)).double()
        )
        program = cip_program(gram_blocks(queries, *near), solution.potentials, regularity, "theory")
    # kappa |z - z*|^2 <= 1e-9 scale
    assert (found >= (1e-9 * program.scale() / regularity.kappa).sqrt()).all()
    assert (found < 1e-2).all()
