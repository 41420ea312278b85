"""Certificates through a metric net, whose keys say which training points are neighbors; and those of OTAD-T-NN."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from otad_ray.certification import certified_radius
from otad_ray.certification.motion import Geometry, Motion
from otad_ray.cip import Regularity
from otad_ray.defenses import KNN, OTAD, OTADNN, MemoryDefense
from otad_ray.errors import InputError
from otad_ray.memory import IntegrationConfig, NeighborMemory
from otad_ray.models import Backbone, CipNet, CipNetArchitecture, MetricNet

NEIGHBORS = 5
CONVEXITIES = [None, 0.0, -0.5, 0.3]


@dataclass(frozen=True)
class ProjectionConfig:
    values: int


class Projection(MetricNet):
    """0.7 times an orthogonal matrix, of which half the rows are kept."""

    def __init__(self, values: int, rounding: float | None = None) -> None:
        super().__init__()
        self.config, self.shape, self.num_keys = ProjectionConfig(values), (values,), values // 2
        square = torch.randn(values, values, generator=torch.Generator().manual_seed(0))
        self.register_buffer("matrix", 0.7 * torch.linalg.qr(square)[0][: self.num_keys])
        # Of sums of products in any order.
        proven = (values + 2) * 2.0**-23 * float(self.matrix.norm())
        self._rounding = proven if rounding is None else rounding
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1) @ self.matrix.T

    def lipschitz_bound(self) -> float | None:
        return 0.7 * (1 + 1e-6)

    def rounding(self) -> float:
        return self._rounding


def cip_net_of(memory: NeighborMemory, head: str) -> CipNet:
    """A CIP-net of random weights: for certificates its simplex head need not be near the solver."""
    torch.manual_seed(0)
    net = CipNet(
        CipNetArchitecture(
            num_neighbors=NEIGHBORS, num_coordinates=memory.points.shape[1], dimension=memory.features.shape[1],
            width=8, num_blocks=1, num_heads=2, hidden=8, dropout=0.0, head=head,
        )
    ).eval()  # fmt: skip
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)
    return net


def config_of(low: float) -> IntegrationConfig:
    return IntegrationConfig(num_neighbors=NEIGHBORS, regularity=Regularity(strong_convexity=low))


def defense_of(net, memory, low: float | None, metric: MetricNet | None) -> MemoryDefense:
    """KNN, or OTAD where l is given."""
    if low is None:
        return KNN(net, memory, NEIGHBORS, metric)
    return OTAD(net, memory, config_of(low), metric)


def lost_to_rounding(defense: MemoryDefense, inputs: Tensor, radius: Tensor) -> Tensor:
    """What rounding of keys and points may take of radii (B,) of inputs, a little more."""
    reached = 2 * inputs.flatten(1).double().norm(dim=1) + radius
    metric, net = defense.metric, defense.backbone
    errors = metric.rounding() / metric.lipschitz_bound() + net.embedding_rounding() / net.embedding_bound()
    return 1.01 * errors * reached


@pytest.fixture
def searched(tmp_path, clouds) -> tuple[Backbone, NeighborMemory, Tensor]:
    """The clouds, searched by their projections."""
    net, memory, queries = clouds
    keyed = NeighborMemory.build(
        tmp_path / "keyed",
        [Projection(8)(memory.points)],
        [memory.points],
        [memory.features],
        [memory.labels],
        [memory.ids],
        provenance={"backbone": net.fingerprint()},
    )
    return net, keyed, queries


@pytest.mark.parametrize("low", CONVEXITIES)
def test_radii_are_the_formulas_never_above_them(searched, reference, low) -> None:
    net, memory, queries = searched
    defense = defense_of(net, memory, low, Projection(8))
    with torch.no_grad():
        predicted = defense(queries).argmax(1)
    found = certified_radius(defense, queries)
    assert {"hull" if low is not None else "knn", "constant_neighborhood"} <= set(found.method)
    allowance = lost_to_rounding(defense, queries, found.radius)
    for row, (radius, method) in enumerate(zip(*found, strict=True)):
        expected = reference(defense, queries[row], int(predicted[row]), low or 0.0).radius()
        margin = 3e-6 * expected if not low and method != "constant_neighborhood" else 1e-3
        assert expected - margin - float(allowance[row]) <= float(radius) <= expected


@pytest.mark.parametrize("low", CONVEXITIES)
def test_no_attack_breaks_a_certificate_of_a_transformer(vision, images, broken, low) -> None:
    metric = Projection(64)
    defense = defense_of(*vision("mean", 2, metric), low, metric)
    radius, _ = certified_radius(defense, images.queries)
    assert (radius > 0).sum() >= 9
    assert not broken(defense, radius).any()
    assert broken(defense, 10 * radius).sum() >= 3


@pytest.mark.parametrize("low", CONVEXITIES)
@pytest.mark.parametrize(("pooling", "patch"), [("mean", 2), ("class_token", 4)])
def test_radii_of_a_transformer_are_the_formulas(vision, images, reference, pooling: str, patch: int, low) -> None:
    metric = Projection(64)
    net, memory = vision(pooling, patch, metric)
    defense = defense_of(net, memory, low, metric)
    with torch.no_grad():
        predicted = defense(images.queries).argmax(1)
    found = certified_radius(defense, images.queries)
    allowance = lost_to_rounding(defense, images.queries, found.radius)
    for row, (radius, _) in enumerate(zip(*found, strict=True)):
        expected = reference(defense, images.queries[row], int(predicted[row]), low or 0.0).radius()
        assert expected - (2e-3 if low else 1e-5) - float(allowance[row]) <= float(radius) <= expected


def test_a_metric_net_without_a_bound_is_refused(searched, monkeypatch) -> None:
    net, memory, queries = searched
    monkeypatch.setattr(Projection, "lipschitz_bound", lambda self: None)
    for low in (None, 0.0):
        with pytest.raises(InputError, match=r"Projection gives no lipschitz_bound\(\).*how far its keys move"):
            certified_radius(defense_of(net, memory, low, Projection(8)), queries)


def test_rounding_of_keys_is_taken_off_at_both_ends(searched) -> None:
    net, memory, queries = searched
    error, bound = 1e-3, Projection(8).lipschitz_bound()
    exact = certified_radius(KNN(net, memory, NEIGHBORS, Projection(8, 0.0)), queries)
    found = certified_radius(KNN(net, memory, NEIGHBORS, Projection(8, error)), queries)
    norms = queries.double().norm(dim=1)
    expected = ((exact.radius * bound - 2 * error * norms) / (bound + error)).clamp_min(0)
    torch.testing.assert_close(found.radius, expected, rtol=1e-9, atol=1e-12)
    assert found.method == [name if size > 0 else "" for name, size in zip(exact.method, expected, strict=True)]
    assert 10 <= (expected > 0).sum() < (exact.radius > 0).sum()


def test_within_its_radius_a_motion_covers_the_errors_of_both_ends() -> None:
    """`f(x) = bound x` on a line, computed with the largest errors there may be."""
    motion = Motion(bound=2.0, rounding=0.01)
    for position in (-3.0, 0.5, 4.0):
        norm = abs(position)
        radius = float(motion.radius(torch.tensor(1.0, dtype=torch.float64), norm))
        for moved in (position - radius, position + radius):
            farthest = 2 * radius + motion.rounding * (norm + abs(moved))
            assert farthest <= 1 + 1e-12
            if abs(moved) > norm:
                assert farthest == pytest.approx(1)
    assert float(motion.radius(torch.tensor(0.05), 3.0)) == 0.0


def test_distances_of_points_become_those_of_keys() -> None:
    geometry = Geometry(keys=Motion(bound=0.5, rounding=0.01), points=Motion(bound=4.0, rounding=0.02))
    distances = torch.tensor([0.0, 0.05, 3.0, torch.inf], dtype=torch.float64)
    keys = geometry.in_key_units(distances, 2.0)
    assert keys[:2].tolist() == [0.0, 0.0]
    torch.testing.assert_close(geometry.keys.radius(keys, 2.0), geometry.points.radius(distances, 2.0))


@pytest.mark.parametrize("low", [0.0, -0.5, 0.3])
@pytest.mark.parametrize("cross_term", ["theory", "released"])
def test_the_simplex_head_has_the_hull_radius(vision, images, broken, low: float, cross_term: str) -> None:
    metric = Projection(64)
    net, memory = vision("mean", 2, metric)
    # The released cross term moves the `w_i` by L - l.
    moved = low if cross_term == "theory" else 0.8 - low
    nets = OTADNN(
        net,
        memory,
        cip_net_of(memory, "simplex"),
        IntegrationConfig(
            num_neighbors=NEIGHBORS, regularity=Regularity(smoothness=0.8, strong_convexity=low), cross_term=cross_term
        ),
        metric,
    )
    regularity = Regularity(smoothness=3.0, strong_convexity=moved)
    otad = OTAD(net, memory, IntegrationConfig(num_neighbors=NEIGHBORS, regularity=regularity), metric)
    with torch.no_grad():
        same = otad(images.queries).argmax(1) == nets(images.queries).argmax(1)
    hull, other = certified_radius(nets, images.queries), certified_radius(otad, images.queries)
    assert set(hull.method) <= {"hull", ""}
    compared = same & torch.tensor([method in ("hull", "") for method in other.method])
    assert compared.sum() >= 3
    assert torch.equal(hull.radius[compared], other.radius[compared])
    assert (hull.radius[same] <= other.radius[same]).all()
    assert (hull.radius > 0).sum() >= 3
    assert not broken(nets, hull.radius).any()


def test_the_feature_head_is_refused(searched) -> None:
    net, memory, queries = searched
    defense = OTADNN(net, memory, cip_net_of(memory, "feature"), config_of(0.0), Projection(8))
    with pytest.raises(InputError, match=r"head 'feature'.*any vector.*'simplex'"):
        certified_radius(defense, queries)
