"""Certificates of OTAD-T: points as coordinates, margins as numerators, and a class token that does not move."""

import numpy as np
import pytest
import torch

from otad_ray.certification import certified_radius
from otad_ray.certification.margins import AffineHead
from otad_ray.certification.motion import isometry_defect
from otad_ray.certification.solver_error import solver_error
from otad_ray.cip import Regularity, gram_blocks
from otad_ray.cip.program import cip_program
from otad_ray.defenses import KNN, OTAD, MemoryDefense, OTADGlobal
from otad_ray.errors import InputError
from otad_ray.memory import (
    IntegrationConfig,
    NeighborMemory,
    PotentialConfig,
    fit_graph,
    measure_graph_rows,
    move_pieces,
)
from otad_ray.models import LinearMargins, TokenSpace

NEIGHBORS = 5
CONVEXITIES = [None, 0.0, -0.5, 0.3]
# Patches of 4 have more values than a token is wide, patches of 2 fewer.
NETS = [("mean", 2), ("mean", 4), ("class_token", 2)]


def defense_of(net, memory, low: float | None) -> MemoryDefense:
    """KNN, or OTAD where l is given."""
    if low is None:
        return KNN(net, memory, NEIGHBORS)
    regularity = Regularity(smoothness=1.0, strong_convexity=low)
    return OTAD(net, memory, IntegrationConfig(num_neighbors=NEIGHBORS, regularity=regularity))


@pytest.mark.parametrize(("pooling", "patch"), NETS)
def test_numerators_have_the_signs_of_the_logits_differences(vision, pooling: str, patch: int) -> None:
    net, memory = vision(pooling, patch)
    margins = net.linear_margins()
    features = torch.cat([memory.features, 3 * torch.randn(500, net.dimension)])
    with torch.no_grad():
        logits = net.head(features).double()
    numerators = features.double() @ margins.weight.T + margins.bias
    error = margins.terms * 2**-23 * (margins.sizes * features.double().norm(dim=1, keepdim=True) + margins.bias.abs())
    compared = 0
    for a in range(3):
        for b in range(a):
            differences = numerators[:, a] - numerators[:, b]
            sure = differences.abs() > error[:, a] + error[:, b]
            compared += int(sure.sum())
            assert torch.equal(differences[sure].sign(), (logits[:, a] - logits[:, b])[sure].sign())
    assert compared > 2200


@pytest.mark.parametrize(("pooling", "patch"), NETS)
@torch.no_grad()
def test_class_regions_are_convex(vision, pooling: str, patch: int) -> None:
    net, memory = vision(pooling, patch)
    generator = torch.Generator().manual_seed(0)
    predicted = net.head(memory.features).argmax(1)
    for label in range(3):
        members = memory.features[predicted == label]
        assert len(members) > 20
        chosen = members[torch.randint(len(members), (2000, 4), generator=generator)]
        shares = torch.rand(2000, 4, generator=generator).pow(3)
        combined = ((shares / shares.sum(1, keepdim=True)).unsqueeze(2) * chosen).sum(1)
        assert net.head(combined).argmax(1).eq(label).all()


@pytest.mark.parametrize(("pooling", "patch"), NETS)
@pytest.mark.parametrize("low", CONVEXITIES)
def test_radii_are_the_formulas_never_above_them(vision, images, reference, pooling: str, patch: int, low) -> None:
    net, memory = vision(pooling, patch)
    defense = defense_of(net, memory, low)
    with torch.no_grad():
        predicted = defense(images.queries).argmax(1)
    found = certified_radius(defense, images.queries)
    # What rounding of the coordinates may take.
    reached = 2 * images.queries.flatten(1).double().norm(dim=1) + found.radius
    rounding = 1.01 * net.embedding_rounding() * reached / net.embedding_bound()
    for row, (radius, method) in enumerate(zip(*found, strict=True)):
        expected = reference(defense, images.queries[row], int(predicted[row]), low or 0.0).radius()
        margin = 1e-6 if not low and method != "constant_neighborhood" else 2e-3
        assert expected - float(rounding[row]) - margin <= float(radius) <= expected
    assert (found.radius > 0).sum() >= 9


@pytest.mark.parametrize(("pooling", "patch"), NETS)
@pytest.mark.parametrize("low", CONVEXITIES)
def test_no_attack_breaks_a_certificate(vision, images, broken, pooling: str, patch: int, low) -> None:
    defense = defense_of(*vision(pooling, patch), low)
    radius, _ = certified_radius(defense, images.queries)
    assert (radius > 0).sum() >= 9
    assert not broken(defense, radius).any()
    assert broken(defense, 10 * radius).sum() >= 3


def test_a_class_token_is_certified_by_the_hull_of_its_features(vision, images) -> None:
    """It does not move, so that for every l a right feature stays right."""
    net, memory = vision("class_token", 2)
    defenses = [defense_of(net, memory, low) for low in (0.0, -0.5, 0.3)]
    with torch.no_grad():
        same = torch.stack([defense(images.queries).argmax(1) for defense in defenses]).diff(dim=0).eq(0).all(0)
    found = [certified_radius(defense, images.queries) for defense in defenses]
    hulls = same & torch.tensor([[method == "hull" for method in item.method] for item in found]).all(0)
    assert hulls.sum() >= 8
    for item in found[1:]:
        torch.testing.assert_close(item.radius[hulls], found[0].radius[hulls], rtol=1e-6, atol=0)


@pytest.mark.parametrize("low", [-0.5, 0.0, 0.3])
def test_slopes_bound_how_fast_margins_change_and_are_reached(low: float) -> None:
    """`d<h, z>/dc = Q'(l I + (L - l) P) h` for an orthogonal projector P."""
    generator = torch.Generator().manual_seed(0)
    regularity = Regularity(smoothness=1.0, strong_convexity=low)
    for num_fixed in (0, 1):
        basis = torch.linalg.qr(torch.randn(3, 2, generator=generator, dtype=torch.float64))[0].float()
        dimension = 3 * (1 + num_fixed)
        space = TokenSpace(basis, num_moving=1, num_fixed=num_fixed, offset=torch.zeros(dimension))
        weight = torch.randn(2, dimension, generator=generator, dtype=torch.float64)
        if num_fixed:
            weight[:, 3:] = 0.0
        margins = LinearMargins(weight, torch.zeros(2), weight.norm(dim=1), dimension)
        head = AffineHead(margins, 5, space, device=weight.device)
        bound = float(head.feature_slopes(regularity)[0, 1])
        normal = weight[0] - weight[1]
        rays = torch.nn.functional.normalize(
            torch.randn(20000, dimension, generator=generator, dtype=torch.float64), dim=1
        )
        # Of rank 1, and of the complement of rank 1.
        parts = (rays @ normal).unsqueeze(1) * rays
        slopes = [space.project(low * normal + (1.0 - low) * part).norm(dim=1) for part in (parts, normal - parts)]
        largest = float(torch.cat(slopes).max())
        assert 0.97 * bound < largest <= bound


@pytest.mark.parametrize(("pooling", "patch"), NETS)
@pytest.mark.parametrize("low", [0.0, -0.5])
def test_the_solvers_error_covers_its_tolerance(vision, images, pooling: str, patch: int, low: float) -> None:
    net, memory = vision(pooling, patch)
    defense = defense_of(net, memory, low)
    regularity = defense.config.regularity
    with torch.no_grad():
        neighbors, solution = defense.integrate(images.queries)
        coordinates = net.coordinates(images.queries)
        within = torch.zeros(len(coordinates), dtype=torch.float64)
        found = solver_error(memory, coordinates, neighbors, solution.potentials, regularity, within=within)
        lifted = [net.points_of(array.double()) for array in (coordinates, memory.points[neighbors])]
        blocks = gram_blocks(*lifted, memory.features[neighbors].double())
        scale = cip_program(blocks, solution.potentials, regularity, "theory").scale()
    assert (found >= (1e-9 * scale / regularity.kappa).sqrt()).all()
    assert (found < 1e-2).all()


def test_a_changed_normalization_changes_the_certificate(vision, images) -> None:
    """What is kept of a memory is kept for one head."""
    net, memory = vision("mean", 2)
    kept, fresh = (KNN(net, opened, NEIGHBORS) for opened in (memory, NeighborMemory.load(memory.directory)))
    before = certified_radius(kept, images.queries)
    with torch.no_grad():
        net.norm.weight[:4] *= 0.5
    after, expected = certified_radius(kept, images.queries), certified_radius(fresh, images.queries)
    assert torch.equal(after.radius, expected.radius)
    assert not torch.equal(after.radius, before.radius)


def test_a_lifted_basis_is_orthonormal_up_to_float32(vision) -> None:
    net, _ = vision("mean", 2)
    assert isometry_defect(None) == 0.0
    assert 0 < isometry_defect(net.point_space) < 1e-6


def test_a_net_of_another_precision_is_refused(vision, images) -> None:
    net, memory = vision("mean", 4)
    defense = KNN(net, memory, NEIGHBORS)
    net.classifier.double()
    with pytest.raises(InputError, match=r"ViT computes in torch\.float32, torch\.float64"):
        certified_radius(defense, images.queries)


@pytest.mark.parametrize(("net", "share"), list(zip(NETS, [0.5, 1.0, 0.8], strict=True)))
def test_no_attack_breaks_the_potential_over_all_points(
    vision, images, broken, net: tuple[str, int], share: float
) -> None:
    """Points are lifted into the features' space, and radii are in the space of images."""
    net, memory = vision(*net)
    config = PotentialConfig(smoothness=2.0, share=share, graph_neighbors=6, random_pairs=3)
    potentials = fit_graph(measure_graph_rows(memory, np.arange(len(memory)), config), config).potentials
    pieces = move_pieces(memory, potentials, config)
    defense = OTADGlobal(net, memory, pieces, smoothness=2.0, share=share)
    radius, _ = certified_radius(defense, images.queries)
    assert float((radius > 0).double().mean()) > 0.6
    assert not broken(defense, radius).any()
    # The attack is one that would find a radius that is too large.
    assert broken(defense, 4 * radius).any()
