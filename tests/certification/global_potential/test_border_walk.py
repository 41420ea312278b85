"""The bound of the proof's last line, and everything that is subtracted from it."""

import pytest
import torch

from helpers.potentials import make_global_defense
from otad_ray.certification import certified_radius
from otad_ray.certification.global_potential import border_walk, certify
from otad_ray.certification.global_potential.border_walk import Obstacles, bound_distance
from otad_ray.cip import CuttingPlanes
from otad_ray.defenses import OTADGlobal
from otad_ray.memory import PotentialConfig

POINTS = 2 * torch.rand(40, 2, generator=torch.Generator().manual_seed(0))


def make_defense(build, points: torch.Tensor, features: torch.Tensor, num_outputs: int, **settings) -> OTADGlobal:
    net, memory = build(points, features, num_outputs)
    return make_global_defense(net, memory, PotentialConfig(share=1.0, **settings))


@pytest.fixture
def defense(build) -> OTADGlobal:
    """Forty pieces in the plane, of two classes."""
    return make_defense(build, POINTS, POINTS + 0.8 * torch.eye(2)[torch.arange(40) % 2], 2, smoothness=3.0)


def test_bound_distance_is_the_least_value_of_the_inequality() -> None:
    draws = torch.rand(300, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for depth, bisector, mu, turn, smoothness, gap in (10 ** (4 * draws - 2)).tolist():
        t = depth + torch.cat([torch.zeros(1), torch.logspace(-9, 5, 20000)]).double()
        square = (mu / t - turn).clamp_min(bisector) ** 2 + (t / smoothness) ** 2
        exact = square + 2 * (mu - turn * t).clamp_min(-gap) / smoothness
        safe = square + 2 * (mu - turn * t).clamp_min(0) / smoothness - 2 * gap / smoothness
        given = [torch.tensor(value, dtype=torch.float64) for value in (gap, depth, bisector, mu, turn)]
        bound = float(bound_distance(smoothness, given[0], Obstacles(given[0], *given[1:3]), *given[3:]))
        assert bound <= float(exact.min().clamp_min(0).sqrt()) * (1 + 1e-6)
        assert bound >= float(safe.min().clamp_min(0).sqrt()) * (1 - 1e-3) - 1e-9


@pytest.mark.parametrize("distance", [0.3, 0.4, 0.48])
@torch.no_grad()
def test_the_rounding_of_the_head_is_subtracted(build, distance: float) -> None:
    """Biases of 1e5 leave logits in float32 steps of 0.008, and a tie goes to class 0."""
    points = torch.eye(2, 3) * torch.tensor([[2.0], [1.0]])
    features = torch.eye(2, 3)
    defense = make_defense(build, points, features, 3, smoothness=2.0)
    defense.backbone.classifier.bias.fill_(1e5)
    defense.backbone.classifier.bias[2] = -1e5
    across = (features[1] - features[0]) / 2**0.5
    border = float(defense.pieces.offsets[0] - defense.pieces.offsets[1]) / 2**0.5
    x = ((border + distance) * across).unsqueeze(0)
    assert int(defense(x).argmax()) == 1
    radius = float(certified_radius(defense, x).radius)
    assert radius > 0
    for share in (0.99, 0.999, 0.9999):
        assert int(defense(x - share * radius * across).argmax()) == 1
    assert int(defense(x - (distance + 1e-2) * across).argmax()) == 0


@torch.no_grad()
def test_the_error_of_the_solver_elsewhere_is_subtracted(defense: OTADGlobal, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = certified_radius(defense, POINTS[:10]).radius
    monkeypatch.setattr(certify, "CuttingPlanes", lambda: CuttingPlanes(tolerance=1e-4))
    found = certified_radius(defense, POINTS[:10]).radius
    assert (found[honest > 0] < 0.999 * honest[honest > 0]).all()


@torch.no_grad()
def test_the_gap_at_the_input_is_subtracted(defense: OTADGlobal, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def record(smoothness: float, gap: torch.Tensor, *rest: object) -> torch.Tensor:
        seen.append(gap)
        return bound_distance(smoothness, gap, *rest)

    monkeypatch.setattr(certify, "bound_distance", record)
    certified_radius(defense, POINTS)
    gap = torch.cat(seen).squeeze(1)
    assert (gap >= defense.forward_details(POINTS)[2].gap).all()
    assert (gap > 0).all()


@torch.no_grad()
def test_a_walk_that_is_solved_badly_proves_less(defense: OTADGlobal, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = certified_radius(defense, POINTS).radius
    monkeypatch.setattr(border_walk, "_SOLVER", CuttingPlanes(max_rounds=0))
    sloppy = certified_radius(defense, POINTS).radius
    assert (sloppy <= 1.02 * honest).all()
    assert (sloppy < 0.99 * honest).any()


@torch.no_grad()
def test_a_changed_head_is_certified_anew(defense: OTADGlobal) -> None:
    certified_radius(defense, POINTS[:10])
    defense.backbone.classifier.bias += torch.tensor([0.3, -0.3])
    again = certified_radius(defense, POINTS[:10]).radius
    certify._tables.clear()
    assert torch.equal(again, certified_radius(defense, POINTS[:10]).radius)


@pytest.mark.parametrize("lead", [3.0, 6.0, 1e3])
@torch.no_grad()
def test_a_class_that_can_never_win_costs_no_radius(build, lead: float) -> None:
    """A rival with the weights of the predicted class and a lower bias has no border."""
    points = 2 * torch.eye(2)
    defense = make_defense(build, points, torch.eye(2), 3, smoothness=2.0)
    head = defense.backbone.classifier
    head.weight[2], head.bias[2] = head.weight[0], -lead
    assert (certified_radius(defense, points).radius > 0.1).all()
