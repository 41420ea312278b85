"""Transport diagnostics against maps whose answers are known."""

import math

import pytest
import torch
from torch import Tensor, nn

from otad_ray.cip import Regularity
from otad_ray.errors import InputError
from otad_ray.evaluation import transport_diagnostics
from otad_ray.models import Backbone, BackboneConfig, build_backbone

REGULARITY = Regularity(
    smoothness=2.0, strong_convexity=0.0, relax_smoothness=0.2, relax_strong_convexity=0.2, max_relaxations=100
)


class LinearMap(Backbone):
    """x -> A x in one step."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)
        self.dimension, self.num_outputs, self.config = len(matrix), 1, None

    def embed(self, inputs: Tensor) -> Tensor:
        return inputs

    def transport(self, points: Tensor) -> tuple[Tensor, Tensor]:
        moved = points @ self.matrix.T
        return moved, (moved - points).square().sum(1)

    def head(self, features: Tensor) -> Tensor:
        return features


@pytest.fixture
def points() -> Tensor:
    return torch.randn(1500, 4, generator=torch.Generator().manual_seed(0))


def diagnose(matrix: Tensor, points: Tensor) -> dict[str, float]:
    return transport_diagnostics(LinearMap(matrix), points, num_neighbors=6, regularity=REGULARITY)


def test_the_gradient_of_a_convex_function_is_optimal(points: Tensor) -> None:
    eigenvalues = torch.tensor([0.1, 0.5, 1.2, 1.9])
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1))).Q
    found = diagnose(rotation @ torch.diag(eigenvalues) @ rotation.T, points)
    assert found["assignment_cost"] == pytest.approx(found["transport_cost"], rel=1e-6)
    assert found["transport_energy"] == pytest.approx(found["transport_cost"], rel=1e-6)
    assert found["share_satisfied"] == 1
    assert found["relaxations_of_the_rest"] == 0
    assert found["lipschitz_max"] == pytest.approx(1.9, rel=1e-3)
    expected = ((eigenvalues - 1) ** 2).sum()
    assert found["transport_cost"] == pytest.approx(float(expected), rel=0.1)


def test_a_rotation_is_not_optimal(points: Tensor) -> None:
    turn = torch.block_diag(torch.tensor([[0.0, -1.0], [1.0, 0.0]]), torch.eye(2))
    found = diagnose(turn, points)
    assert found["assignment_cost"] < 0.25 * found["transport_cost"]
    assert found["share_satisfied"] < 0.05
    assert found["lipschitz_mean"] == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize(("scale", "relaxations"), [(3.0, 5), (-1.0, 5), (2.5, 3)])
def test_relaxations_are_those_the_scale_needs(points: Tensor, scale: float, relaxations: int) -> None:
    """`scale * x` is the gradient of a function that is |scale|-smooth, and convex down to `scale`."""
    found = diagnose(scale * torch.eye(4), points)
    assert found["share_satisfied"] == 0
    assert found["relaxations_of_the_rest"] == relaxations
    assert found["lipschitz_mean"] == pytest.approx(abs(scale), rel=1e-4)


def test_a_constant_map_has_lipschitz_constant_zero(points: Tensor) -> None:
    found = diagnose(torch.zeros(4, 4), points)
    assert found["lipschitz_mean"] == found["lipschitz_max"] == 0
    assert found["share_satisfied"] == 1


def test_neighborhoods_without_potentials_are_not_satisfied(points: Tensor) -> None:
    never = Regularity(smoothness=2.0, strong_convexity=0.0, max_relaxations=0)
    found = transport_diagnostics(LinearMap(-5 * torch.eye(4)), points, num_neighbors=6, regularity=never)
    assert found["share_satisfied"] == 0


def test_refuses_fewer_points_than_a_neighborhood_needs(points: Tensor) -> None:
    with pytest.raises(InputError, match="neighbors must be at most 5, the other points, got 6"):
        diagnose(torch.eye(4), points[:6])


def test_an_untrained_residual_net_is_the_identity(points: Tensor) -> None:
    backbone = build_backbone(BackboneConfig(), shape=(4,), num_outputs=2)
    found = transport_diagnostics(backbone, points, num_neighbors=6, regularity=REGULARITY)
    assert found["transport_energy"] == found["transport_cost"] == 0
    assert found["assignment_cost"] == pytest.approx(0, abs=1e-9)
    assert found["share_satisfied"] == 1
    assert math.isclose(found["lipschitz_max"], 1, rel_tol=1e-5)
    again = transport_diagnostics(backbone, points, num_neighbors=6, regularity=REGULARITY)
    assert again == found
