"""Certificates of the potential over all training points: held by attacks, and what a false one would claim."""

import pytest
import torch
from torch import Tensor

from helpers.potentials import make_global_defense
from otad_ray.attacks.goals import margin
from otad_ray.attacks.gradients import find_piece_direction
from otad_ray.certification import certified_radius
from otad_ray.certification.global_potential import border_walk, certify
from otad_ray.cip import CuttingPlanes, Pieces, Status
from otad_ray.cip.global_program.product_oracle import solve_pieces
from otad_ray.cip.global_program.working_set import WorkingSet
from otad_ray.data import data_set, load_all, open_split
from otad_ray.defenses import OTADGlobal
from otad_ray.errors import InputError
from otad_ray.memory import NeighborMemory, PotentialConfig
from otad_ray.models import BackboneConfig, build_backbone
from otad_ray.training import TrainingConfig, train_backbone

ORIGINAL_SOLVE = CuttingPlanes.solve


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[OTADGlobal, Tensor, Tensor]:
    """The defense over the training digits, with test digits and their labels."""
    train, test = (load_all(open_split(data_set("digits"), part)) for part in ("train", "test"))
    torch.manual_seed(0)
    net = build_backbone(BackboneConfig(), shape=tuple(train.x.shape[1:]), num_outputs=10)
    train_backbone(net, train.x, train.y, TrainingConfig(epochs=12, energy_weight=0.01, learning_rate=0.05))
    net.eval()
    points = train.x.flatten(1)
    with torch.no_grad():
        features = net.features(points)
    memory = NeighborMemory.build(
        tmp_path_factory.mktemp("memory") / "digits",
        None,
        [points],
        [features],
        [train.y],
        [train.ids],
        provenance={"backbone": net.fingerprint()},
    )
    return make_global_defense(net, memory, PotentialConfig(smoothness=3.0, share=0.8)), test.x, test.y


def normalize(direction: Tensor) -> Tensor:
    return direction / direction.flatten(1).norm(dim=1).clamp_min(1e-30).view(-1, *[1] * (direction.dim() - 1))


def margin_gradient(defense: OTADGlobal, inputs: Tensor, labels: Tensor) -> Tensor:
    with torch.enable_grad():
        moved = inputs.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(margin(defense(moved), labels).sum(), moved)
    return gradient


def is_broken(defense: OTADGlobal, x: Tensor, radius: Tensor, steps: int) -> Tensor:
    """Return which samples (n,) change their class within their own radius (n,), by any of three attacks.

    They follow the exact gradient, the direction between pieces, and both.
    """
    labels = defense(x).argmax(1)
    size = radius.float().view(-1, *[1] * (x.dim() - 1))
    broken = torch.zeros(len(x), dtype=torch.bool)
    for exact, pieces in ((1, 0), (0, 1), (1, 1)):
        step = torch.zeros_like(x)
        for _ in range(steps):
            here = x + step
            direction = exact * normalize(margin_gradient(defense, here, labels))
            direction = direction + pieces * normalize(find_piece_direction(defense, here, labels))
            step = step + 0.2 * size * normalize(direction)
            norm = step.flatten(1).norm(dim=1).view(size.shape)
            step = step * (size / norm.clamp_min(1e-30)).clamp_max(1)
            broken |= defense(x + step).argmax(1) != labels
    return broken


@pytest.mark.parametrize(("count", "steps"), [(40, 10), pytest.param(150, 30, marks=pytest.mark.slow)])
@torch.no_grad()
def test_no_attack_breaks_a_certified_digit(digits: tuple[OTADGlobal, Tensor, Tensor], count: int, steps: int) -> None:
    defense, x, y = digits
    assert float((defense(x[:150]).argmax(1) == y[:150]).double().mean()) > 0.9
    x = x[:count]
    radius, method = certified_radius(defense, x)
    assert float((radius > 0.1).double().mean()) > 0.8
    assert {name != "" for name in method} == set((radius > 0).tolist())
    assert not is_broken(defense, x, 0.999 * radius, steps).any()
    # The attack is one that would have found more: a radius that is a little too large is caught.
    assert is_broken(defense, x, 1.25 * radius, steps).any()


@pytest.mark.parametrize("planted", ["deeper", "fewer pieces", "forgetful"])
@torch.no_grad()
def test_a_false_certificate_would_be_caught(
    digits: tuple[OTADGlobal, Tensor, Tensor], planted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Margins above that of the feature, walks that look at some pieces only, and walks without the turn |p|."""
    defense, x, _ = digits
    x = x[:16]
    honest = certified_radius(defense, x).radius
    if planted == "deeper":
        find = certify._SolvedRows._find_obstacles
        monkeypatch.setattr(
            certify._SolvedRows,
            "_find_obstacles",
            lambda rows: find(rows)._replace(depth=2 * find(rows).depth),
        )
    elif planted == "fewer pieces":
        monkeypatch.setattr(border_walk, "_SOLVER", SolvesOnce())
    else:
        bound = border_walk.bound_distance
        monkeypatch.setattr(
            border_walk, "bound_distance", lambda *given: bound(*given[:4], 0.5 * given[4] if len(given) > 4 else 0.0)
        )
    claimed = certified_radius(defense, x).radius
    assert float((claimed > 1.01 * honest).double().mean()) > 0.2
    assert is_broken(defense, x, 0.999 * claimed, steps=8).any()


class SolvesOnce:
    """The solution over the three heaviest pieces, taken for that over all of them."""

    def solve(self, query: Tensor, pieces: Pieces, smoothness: float, first: Tensor) -> tuple[WorkingSet, Tensor]:
        return solve_pieces(query, pieces, smoothness, first[:, :3]), query.new_zeros(len(query))


@torch.no_grad()
def test_the_radius_contains_the_lipschitz_bound_and_the_bisectors(digits: tuple[OTADGlobal, Tensor, Tensor]) -> None:
    """In plain loops: n(z) / L, and T over bisectors of all pairs of pieces."""
    defense, x, _ = digits
    x = x[:12]
    radius, _ = certified_radius(defense, x)
    logits, _, solution = defense.forward_details(x)
    weight, bias = (
        tensor.detach().double() for tensor in (defense.backbone.classifier.weight, defense.backbone.classifier.bias)
    )
    features = defense.pieces.features.double()
    values = solution.proximal @ features.T + defense.pieces.offsets

    for row in range(len(x)):
        own = int(logits[row].argmax())
        reached = []
        for rival in set(range(10)) - {own}:
            slope, shift = weight[own] - weight[rival], bias[own] - bias[rival]
            lipschitz = float((slope @ solution.feature[row].double() + shift) / slope.norm()) / defense.smoothness
            wrong = (features @ slope + shift <= 0).nonzero().squeeze(1)
            ratio = (values[row].unsqueeze(1) - values[row, wrong]) / torch.cdist(features, features[wrong]).clamp_min(
                1e-30
            )
            reached.append((lipschitz**2 + max(0.0, float(ratio.amax(0).min())) ** 2) ** 0.5)
        assert float(radius[row]) >= min(reached) - 5e-3


def flat_defense(build, points: Tensor, features: Tensor, **settings: float) -> OTADGlobal:
    return make_global_defense(*build(points, features), PotentialConfig(**{"share": 1.0, **settings}))


@pytest.mark.parametrize("smoothness", [0.7, 2.0, 20.0])
@torch.no_grad()
def test_two_pieces_are_certified_exactly(build, smoothness: float) -> None:
    """From one piece to the other, w meets the bisector, the feature moves half the way, and the class changes."""
    points = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    features = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    defense = flat_defense(build, points, features, smoothness=smoothness)
    across = (features[0] - features[1]) / 2**0.5
    # Where the logits of the two classes tie, w lies on the bisector, and the feature is the mean of the two.
    offsets = defense.pieces.offsets
    border = float(offsets[1] - offsets[0]) / 2**0.5
    for distance in (0.05, 0.4, 0.9):
        x = ((border + distance) * across + torch.tensor([0.0, 0.0, 0.3])).unsqueeze(0)
        assert int(defense(x).argmax()) == 0
        radius = float(certified_radius(defense, x).radius)
        assert 0.99 * distance - 2e-3 <= radius <= distance


@torch.no_grad()
def test_radii_in_the_plane_are_near_the_exact_ones(build) -> None:
    """The exact distance to the border of the class is found by rays in all directions."""
    points = 2 * torch.rand(40, 2, generator=torch.Generator().manual_seed(0))
    features = points + 0.8 * torch.eye(2)[torch.arange(40) % 2]
    net, memory = build(points, features, 2)
    defense = make_global_defense(net, memory, PotentialConfig(smoothness=3.0, share=1.0))
    angles = torch.linspace(0, 2 * torch.pi, 73)[:-1]
    rays = torch.stack([angles.cos(), angles.sin()], 1)
    lengths = torch.linspace(0.01, 1, 100)
    queries = points[:10] + 0.05
    radius = certified_radius(defense, queries).radius
    shares = []
    for query, own, certified in zip(queries, defense(queries).argmax(1), radius.tolist(), strict=True):
        reached = (query + lengths.view(-1, 1, 1) * rays).flatten(0, 1)
        changed = (defense(reached).argmax(1) != own).view(len(lengths), -1).any(1).nonzero()
        exact = float(lengths[changed[0, 0]])
        assert certified <= exact
        shares.append(certified / exact)
    assert sum(shares) / len(shares) > 0.85


@torch.no_grad()
def test_methods_by_what_proves_the_radius(build) -> None:
    """Two classes far apart, each with one feature: at a point the feature is exact, and bisectors reach further."""
    features = torch.eye(3, 4)[torch.arange(40) // 20]
    points = 3 * features + 0.01 * torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    defense = flat_defense(build, points, features, smoothness=2.0)
    radius, method = certified_radius(defense, points[:3])
    lipschitz = 2**0.5 / 2 / 2.0
    assert (radius > 1.5 * lipschitz).all()
    assert set(method) <= {"border_walk", "lipschitz_and_bisectors"}
    # A class that leads by no more than rounding has no radius.
    tie = torch.tensor([[1.5, 1.5, 0, 0]])
    radius, method = certified_radius(defense, tie)
    assert float(radius) < 0.05


@torch.no_grad()
def test_a_row_that_failed_gets_no_radius(digits: tuple[OTADGlobal, Tensor, Tensor], monkeypatch) -> None:
    defense, x, _ = digits
    monkeypatch.setattr(
        CuttingPlanes, "solve", lambda _, *given, **known: ORIGINAL_SOLVE(CuttingPlanes(max_rounds=1), *given, **known)
    )
    _, _, solution = defense.forward_details(x[:40])
    radius, method = certified_radius(defense, x[:40])
    failed = solution.status == Status.FAILED
    assert failed.any()
    assert (radius[failed] == 0).all()
    assert all(name == "" for name, lost in zip(method, failed.tolist(), strict=True) if lost)


@torch.no_grad()
def test_an_input_that_is_not_finite_gets_no_radius(digits: tuple[OTADGlobal, Tensor, Tensor]) -> None:
    defense, x, _ = digits
    x = x[:2].clone()
    x[0, 0, 0, 0] = torch.nan
    radius, method = certified_radius(defense, x)
    assert float(radius[0]) == 0
    assert method[0] == ""
    assert float(radius[1]) > 0


@torch.no_grad()
def test_one_class_alone_is_certified_within_a_cap(build) -> None:
    points = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    defense = flat_defense(build, points, torch.eye(3, 4)[torch.zeros(30, dtype=torch.int64)])
    radius, _ = certified_radius(defense, points[:2])
    assert (radius > 0.5).all()
    assert (radius <= defense.pieces.largest_norm).all()


def test_a_regression_head_is_refused(build) -> None:
    points = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    net, memory = build(points, points, 1)
    defense = make_global_defense(net, memory, PotentialConfig(share=1.0))
    with pytest.raises(InputError, match="regression"):
        certified_radius(defense, points[:2])


@torch.no_grad()
def test_changed_pieces_are_certified_anew(digits: tuple[OTADGlobal, Tensor, Tensor]) -> None:
    defense, x, _ = digits
    before = certified_radius(defense, x[:20]).radius
    offsets = defense.pieces.offsets + torch.randn(len(defense.pieces), dtype=torch.float64)
    other = OTADGlobal(
        defense.backbone, defense.memory, Pieces(defense.pieces.features, offsets), smoothness=3.0, share=0.8
    )
    assert not torch.equal(certified_radius(other, x[:20]).radius, before)
    assert torch.equal(certified_radius(defense, x[:20]).radius, before)
