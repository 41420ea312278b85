"""The vision transformer: its points and their coordinates, the energy of its path, and its head."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from otad_ray.errors import InputError
from otad_ray.models import (
    BackboneConfig,
    ViT,
    ViTArchitecture,
    ViTConfig,
    build_backbone,
    load_backbone,
    save_backbone,
)

CONFIG = ViTArchitecture(
    shape=(3, 8, 8), num_outputs=4, patch_size=2, width=20, num_blocks=2, num_heads=4, hidden=24, mlp_ends_with="linear"
)
VARIANTS = [
    {},
    {"pooling": "class_token", "mlp_ends_with": "gelu"},
    # Tokens narrower than a patch: coordinates are as many as the token has.
    {"width": 8},
]


def vit(seed: int = 0, **changes) -> ViT:
    """With a path of some length: a new net's has none."""
    torch.manual_seed(seed)
    net = ViT(replace(CONFIG, **changes)).eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    return net


def images(count: int = 6, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("changes", VARIANTS)
@torch.no_grad()
def test_coordinates_are_isometric_to_points(changes: dict) -> None:
    net, x = vit(**changes), images()
    points, coordinates = net.embed(x), net.coordinates(x)
    assert coordinates.shape[1] == 16 * min(12, net.config.width) <= points.shape[1] == net.dimension
    torch.testing.assert_close(net.points_of(coordinates), points, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cdist(coordinates, coordinates), torch.cdist(points, points), rtol=1e-4, atol=1e-4)
    # Lifting and projecting are adjoint, and lifting keeps inner products.
    space, generator = net.point_space, torch.Generator().manual_seed(2)
    step = torch.randn(5, coordinates.shape[1], generator=generator)
    vector = torch.randn(5, net.dimension, generator=generator)
    torch.testing.assert_close(space.lift(step) @ vector.T, step @ space.project(vector).T, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(space.project(space.lift(step)), step, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_coordinates_follow_the_weights() -> None:
    net, x = vit(), images()
    before = net.coordinates(x)
    net.patch_embedding.weight.mul_(2)
    torch.testing.assert_close(net.coordinates(x), 2 * before)
    torch.testing.assert_close(net.points_of(net.coordinates(x)), net.embed(x), atol=1e-5, rtol=1e-5)


def test_the_embedding_is_no_faster_than_its_bound() -> None:
    net, x = vit(), images()
    jacobian = torch.autograd.functional.jacobian(lambda image: net.embed(image[None])[0], x[0])
    largest = float(torch.linalg.matrix_norm(jacobian.flatten(1).double(), 2))
    assert largest <= net.embedding_bound() == pytest.approx(largest, rel=1e-5)
    exact = net.double().coordinates(x.double())
    rounded = vit().coordinates(x)
    errors = (rounded - exact).norm(dim=1) / x.flatten(1).norm(dim=1)
    assert 0 < float(errors.max()) < vit().embedding_rounding() < 1e-3


@torch.no_grad()
def test_features_are_those_of_a_plain_transformer() -> None:
    """Against PyTorch's own encoder layers, with the same weights."""
    net, x = vit(), images()
    tokens = net.embed(x).view(6, 16, 20)
    energy = torch.zeros(6)
    for block in net.blocks:
        attention = nn.MultiheadAttention(20, 4, bias=False, batch_first=True)
        attention.in_proj_weight.copy_(block.attention.attention.queries_keys_values.weight)
        attention.out_proj.weight.copy_(block.attention.attention.output.weight)
        normed = block.attention.norm(tokens)
        residual = attention(normed, normed, normed, need_weights=False)[0]
        tokens, energy = tokens + residual, energy + residual.square().sum((1, 2))
        norm, first, _, _, second = block.mlp
        residual = second(functional.gelu(first(norm(tokens))))
        tokens, energy = tokens + residual, energy + residual.square().sum((1, 2))
    features, found = net.transport(net.embed(x))
    torch.testing.assert_close(features, tokens.flatten(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found, energy, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(net(x), net.classifier(net.norm(tokens.mean(1))), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_new_net_moves_nothing() -> None:
    torch.manual_seed(0)
    net = ViT(replace(CONFIG, mlp_ends_with="gelu"))
    points = net.embed(images())
    features, energy = net.transport(points)
    assert torch.equal(features, points)
    assert energy.eq(0).all()


@pytest.mark.parametrize("changes", VARIANTS)
@torch.no_grad()
def test_logits_differ_by_positive_multiples_of_the_linear_margins(changes: dict) -> None:
    net = vit(**changes)
    features = torch.randn(40, net.dimension, generator=torch.Generator().manual_seed(3))
    margins = net.linear_margins()
    linear = features.double() @ margins.weight.T + margins.bias
    logits = net.head(features).double()
    ratios = (logits[:, :1] - logits[:, 1:]) / (linear[:, :1] - linear[:, 1:])
    assert (ratios > 0).all()
    torch.testing.assert_close(ratios, ratios[:, :1].expand_as(ratios), rtol=1e-3, atol=1e-3)
    # So the regions of the classes are convex.
    labels = logits.argmax(1)
    for label in labels.unique().tolist():
        members = features[labels == label]
        weights = torch.rand(200, len(members), generator=torch.Generator().manual_seed(4)).softmax(1)
        assert net.head(weights @ members).argmax(1).eq(label).all()


def test_a_class_token_starts_in_the_same_place() -> None:
    net = vit(pooling="class_token")
    points = net.embed(images())
    assert torch.equal(points[:, :20], net.positions[:1].expand(6, -1).detach())
    assert net.point_space.project(net.linear_margins().weight.float()).eq(0).all()


def test_save_and_load(tmp_path) -> None:
    net = vit(pooling="class_token")
    save_backbone(tmp_path, net)
    loaded = load_backbone(tmp_path)
    assert loaded.fingerprint() == net.fingerprint()
    assert torch.equal(loaded(images()), net(images()))


def test_vit_refuses_options_and_inputs_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"images of shape \(3, 8, 8\), got \(1, 8, 8\)"):
        vit()(torch.rand(2, 1, 8, 8))
    with pytest.raises(ValueError, match=r"images of shape \(3, 8, 8\), got \(3, 16, 16\)"):
        vit().coordinates(torch.rand(2, 3, 16, 16))
    options = BackboneConfig(architecture="vit", vit=ViTConfig(width=16, num_heads=2))
    for shape, changed, message in [
        ((3, 30, 32), options.vit, r"patch_size that divides images of \(30, 32\), got 4"),
        ((64,), options.vit, r"needs images \(channels, height, width\), got samples of \(64,\)"),
        ((3, 32, 32), replace(options.vit, num_heads=3), "num_heads divides, got 16 and 3"),
        ((3, 32, 32), replace(options.vit, width=0), "need width >= 1, got 0"),
    ]:
        with pytest.raises(InputError, match=message):
            build_backbone(replace(options, vit=changed), shape=shape, num_outputs=3)
