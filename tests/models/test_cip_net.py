"""CIP-net: what it learns of convex integration, its two heads, its checkpoints."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from otad_ray.cip import Regularity, combine_centers, integrate
from otad_ray.errors import InputError
from otad_ray.models import CipNet, CipNetConfig, build_cip_net, load_cip_net, save_cip_net
from otad_ray.models.point_space import TokenSpace

K, D = 6, 12
HEADS = ("simplex", "feature")


class Neighborhoods(NamedTuple):
    query: Tensor
    points: Tensor
    features: Tensor


def neighborhoods(num_rows: int, *, dimension: int = D, seed: int = 0) -> Neighborhoods:
    """Rows whose features are a smooth map of the points, disturbed; nearest neighbor first."""
    generator = torch.Generator().manual_seed(seed)
    center = torch.randn(num_rows, 1, dimension, generator=generator)
    points = center + 0.3 * torch.randn(num_rows, K, dimension, generator=generator)
    query = center[:, 0] + 0.3 * torch.randn(num_rows, dimension, generator=generator)
    order = (query.unsqueeze(1) - points).norm(dim=2).argsort(1)
    points = points.take_along_dim(order.unsqueeze(2), 1)
    mixing = torch.randn(dimension, dimension, generator=torch.Generator().manual_seed(1)) / dimension**0.5
    return Neighborhoods(query, points, points + torch.tanh(points @ mixing) + 0.3 * torch.tanh(3 * points))


def small(head: str = "simplex", *, seed: int = 0, coordinates: int = D, dimension: int = D) -> CipNet:
    torch.manual_seed(seed)
    options = CipNetConfig(head=head, width=32, num_blocks=2, num_heads=4)  # type: ignore[arg-type]
    return build_cip_net(options, num_neighbors=K, coordinates=coordinates, dimension=dimension)


def disturbed(net: CipNet) -> CipNet:
    """Away from its start, where it gives the mean for every query."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return net.eval()


def feature_of(net: CipNet, rows: Neighborhoods) -> Tensor:
    weights, feature = net(*rows)
    return feature if weights is None else combine_centers(weights, *rows, 0.0)


@pytest.mark.parametrize("head", HEADS)
def test_a_new_net_gives_the_mean(head: str) -> None:
    rows = neighborhoods(5)
    torch.testing.assert_close(feature_of(small(head), rows), rows.features.mean(1))


@pytest.mark.parametrize("head", HEADS)
def test_cip_net_learns_convex_integration(head: str) -> None:
    train, test = neighborhoods(1500), neighborhoods(300, seed=7)
    targets, exact = (integrate(*rows, Regularity()).feature for rows in (train, test))
    net = small(head)
    net.set_scales(*(float((part - part.mean(1, keepdim=True)).std()) for part in train[1:]))
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        batch = torch.randint(1500, (64,), generator=generator)
        error = feature_of(net, Neighborhoods(*(part[batch] for part in train))) - targets[batch]
        optimizer.zero_grad()
        error.square().sum(1).mean().backward()
        optimizer.step()
        schedule.step()

    with torch.no_grad():
        error = (feature_of(net.eval(), test) - exact).square().sum()
    ratio = float(error / (test.features.mean(1) - exact).square().sum())
    assert ratio < {"simplex": 0.3, "feature": 0.9}[head], ratio


def test_weights_lie_on_the_simplex_exactly() -> None:
    net = disturbed(small())
    rows = neighborhoods(200)
    far = Neighborhoods(rows.query * 1e3, rows.points, rows.features * 30)
    same = Neighborhoods(rows.query, rows.query.unsqueeze(1).expand(-1, K, -1).contiguous(), rows.features)
    for case in (rows, far, same):
        weights = net(*case).weights
        assert weights.shape == (200, K)
        assert weights.dtype == torch.float64
        assert bool((weights >= 0).all())
        torch.testing.assert_close(weights.sum(1), torch.ones(200, dtype=torch.float64), rtol=0, atol=1e-15)


@pytest.mark.parametrize("head", HEADS)
def test_points_and_features_that_grow_alike_change_nothing(head: str) -> None:
    net = disturbed(small(head)).double()
    rows = Neighborhoods(*(part.double() for part in neighborhoods(8)))
    grown = Neighborhoods(*(7 * part for part in rows))
    scales = [float(net.point_scale), float(net.feature_scale)]
    expected = feature_of(net, rows)
    net.set_scales(*(7 * scale for scale in scales))
    torch.testing.assert_close(feature_of(net, grown), 7 * expected)


def test_weights_of_an_isometric_space_are_those_of_the_whole_one() -> None:
    """The relations that decide the weights are the same in both."""
    generator = torch.Generator().manual_seed(2)
    basis = torch.linalg.qr(torch.randn(4, 2, generator=generator)).Q
    offset = torch.randn(20, generator=generator)
    space = TokenSpace(basis, num_moving=4, num_fixed=1, offset=offset)
    narrow = neighborhoods(6, dimension=8)
    features = torch.randn(6, K, 20, generator=generator)
    whole, few = (disturbed(small(coordinates=size, dimension=20)) for size in (20, 8))
    few.load_state_dict(whole.state_dict())
    ratio = (20 / 8) ** 0.5
    few.set_scales(ratio, 1.0)
    expected = whole(space.points(narrow.query), space.points(narrow.points), features).weights
    found = few(narrow.query, narrow.points, features, space.project(features)).weights
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"\(6, 6, 8\), got \(6, 6, 20\): give features_in_point_space"):
        few(narrow.query, narrow.points, features)


@pytest.mark.parametrize("head", HEADS)
def test_the_gradient_is_that_of_finite_differences(head: str) -> None:
    net = disturbed(small(head)).double()
    query, points, features = (part.double() for part in neighborhoods(3))

    def feature(query: Tensor, points: Tensor) -> Tensor:
        return feature_of(net, Neighborhoods(query, points, features))

    assert torch.autograd.gradcheck(feature, (query.requires_grad_(), points.requires_grad_()))


@pytest.mark.parametrize("head", HEADS)
def test_bfloat16_changes_little(head: str) -> None:
    net = disturbed(small(head))
    rows = neighborhoods(50)
    exact = net(*rows)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = net(*rows)
    if head == "simplex":
        assert coarse.weights.dtype == torch.float64
        torch.testing.assert_close(coarse.weights.sum(1), torch.ones(50, dtype=torch.float64), rtol=0, atol=1e-15)
        torch.testing.assert_close(coarse.weights, exact.weights, rtol=0, atol=0.05)
    else:
        assert coarse.feature.dtype == torch.float32
        change = (coarse.feature - exact.feature).norm() / (exact.feature - rows.features.mean(1)).norm()
        assert change < 0.05


def test_dropout_is_of_training_only() -> None:
    options = CipNetConfig(width=16, num_blocks=1, num_heads=2, dropout=0.5)
    net = disturbed(build_cip_net(options, num_neighbors=K, coordinates=D, dimension=D))
    rows = neighborhoods(4)
    assert torch.equal(net(*rows).weights, net(*rows).weights)
    net.train()
    assert not torch.equal(net(*rows).weights, net(*rows).weights)


@pytest.mark.parametrize("head", HEADS)
def test_checkpoint_round_trip(tmp_path: Path, head: str) -> None:
    net = disturbed(small(head))
    net.set_scales(0.5, 3.0)
    save_cip_net(tmp_path, net)
    assert (tmp_path / "cip_net.json").exists()
    loaded = load_cip_net(tmp_path)
    rows = neighborhoods(3)
    torch.testing.assert_close(feature_of(loaded, rows), feature_of(net, rows), rtol=0, atol=0)
    assert loaded.fingerprint() == net.fingerprint()
    loaded.set_scales(0.5, 4.0)
    assert loaded.fingerprint() != net.fingerprint()
    with pytest.raises(InputError, match="no CIP-net checkpoint"):
        load_cip_net(tmp_path / "elsewhere")


@pytest.mark.parametrize("head", HEADS)
def test_other_neighborhoods_are_refused(head: str) -> None:
    net = small(head)
    query, points, features = neighborhoods(2)
    with pytest.raises(ValueError, match="num_neighbors=6, got 5"):
        net(query, points[:, :5], features[:, :5])
    with pytest.raises(ValueError, match="num_coordinates=12, got 11"):
        net(query[:, :11], points[:, :, :11], features)
    with pytest.raises(ValueError, match="dimension=12, got 13"):
        net(query, points, torch.zeros(2, K, 13))
    for wrong in ((query[0], points, features), (query[:1], points, features), (query, points, features[:1])):
        with pytest.raises(ValueError, match=r"need query \(B, d\)"):
            net(*wrong)
    with pytest.raises(InputError, match="num_neighbors=6, got 10"):
        net.check(num_neighbors=10, coordinates=D, dimension=D)


@pytest.mark.parametrize("scales", [(0.0, 1.0), (1.0, float("nan")), (float("inf"), 1.0)])
def test_cip_net_refuses_bad_scales(scales: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="_scale > 0, got"):
        small().set_scales(*scales)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 100}, "num_heads divides, got 100 and 8"),
        ({"num_blocks": 0}, "need num_blocks >= 1, got 0"),
        ({"hidden": 0}, "need hidden >= 1, got 0"),
        ({"dropout": 1.0}, r"dropout in \[0, 1\), got 1.0"),
        ({"head": "mean"}, "unknown head 'mean'; known: simplex, feature"),
    ],
)
def test_cip_net_refuses_bad_options(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CipNetConfig(**change)


def test_more_coordinates_than_dimensions_are_refused() -> None:
    with pytest.raises(InputError, match="13 coordinates and 12"):
        build_cip_net(CipNetConfig(), num_neighbors=K, coordinates=13, dimension=12)
