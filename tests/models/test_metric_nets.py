"""Metric nets: keys, checkpoints, what is refused, and that training brings neighbors of one class together."""

import copy
import json
from pathlib import Path

import pytest
import torch

from helpers.metric_nets import COLOR, DIGIT, images, new_net
from otad_ray.data import data_set, load_all, open_split
from otad_ray.errors import InputError
from otad_ray.models.metric_net import MetricNet
from otad_ray.models.metric_nets import (
    METRIC_NETS,
    MetricNetConfig,
    build_metric_net,
    load_metric_net,
    metric_net_config,
    save_metric_net,
)
from otad_ray.training.metric_losses import METRIC_LOSSES

SHALLOW = ["resnet", "cnn", "vit", "attention"]
CASES = [(name, shape) for name in [*SHALLOW, "orthogonal"] for shape in (DIGIT, COLOR)] + [("resnet18", COLOR)]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("architecture", "shape"), CASES)
def test_keys_of_every_net(architecture: str, shape: tuple[int, ...], training: bool) -> None:
    net = new_net(architecture, shape).train(training)
    inputs = images(shape).requires_grad_()
    keys = net(inputs)
    assert (net.shape, net.num_keys, keys.shape, keys.dtype) == (shape, 128, (5, 128), torch.float32)
    if architecture != "orthogonal":
        torch.testing.assert_close(keys.norm(dim=1), torch.ones(5))
        assert net.lipschitz_bound() is None
    # Of no other row of the batch, in training too.
    torch.testing.assert_close(net(inputs[2:3]), keys[2:3], rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(keys[:, 0].sum(), inputs)
    assert (gradient.flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize("architecture", METRIC_NETS.architectures)
def test_every_parameter_is_trained(architecture: str) -> None:
    net = new_net(architecture, COLOR).train()
    net(images(COLOR)).square()[:, :3].sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in net.parameters())


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 64)])
@pytest.mark.parametrize("architecture", [*SHALLOW, "orthogonal"])
def test_other_image_sizes(architecture: str, shape: tuple[int, ...]) -> None:
    assert new_net(architecture, shape, width=16)(images(shape, 2)).shape == (2, 128)


@pytest.mark.parametrize(("edge", "patch_size"), [(8, 2), (28, 4), (32, 4), (64, 8), (29, 1)])
def test_patch_sizes(edge: int, patch_size: int) -> None:
    options = MetricNetConfig(architecture="vit")
    assert metric_net_config(options, shape=(1, edge, edge)).patch_size == patch_size


@pytest.mark.parametrize(("architecture", "shape"), CASES)
def test_images_of_another_shape_are_refused(architecture: str, shape: tuple[int, ...]) -> None:
    net = new_net(architecture, shape)
    channels, height, width = shape
    for other in ((channels + 1, height, width), (channels, height, width + 4), (channels * height * width,)):
        with pytest.raises(ValueError, match=rf"\({channels}, {height}, {width}\), got \({other[0]}"):
            net(torch.rand(2, *other))


@pytest.mark.parametrize(("architecture", "shape"), CASES)
def test_checkpoint_round_trip(tmp_path: Path, architecture: str, shape: tuple[int, ...]) -> None:
    net = new_net(architecture, shape, seed=3).eval()
    save_metric_net(tmp_path, net)
    loaded = load_metric_net(tmp_path)
    inputs = images(shape)
    torch.testing.assert_close(loaded(inputs), net(inputs), rtol=0, atol=0)
    assert (loaded.fingerprint(), loaded.config) == (net.fingerprint(), net.config)
    assert new_net(architecture, shape, seed=4).fingerprint() != net.fingerprint()
    assert copy.deepcopy(net).fingerprint() == net.fingerprint()


def test_a_broken_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no metric net checkpoint.*metric_net\.json"):
        load_metric_net(tmp_path)
    save_metric_net(tmp_path, new_net("cnn"))
    description = json.loads((tmp_path / "metric_net.json").read_text())
    description["config"]["width"] += 1
    (tmp_path / "metric_net.json").write_text(json.dumps(description))
    with pytest.raises(InputError, match="cannot be loaded"):
        load_metric_net(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "resnet50"}, "'resnet50'; known: none, resnet, cnn, vit, attention, resnet18, orthogonal"),
        ({"num_keys": 0}, "num_keys >= 1, got 0"),
        ({"architecture": "cnn", "width": 0}, "width >= 1, got 0"),
        ({"architecture": "cnn", "weights": "a.safetensors"}, r"a\.safetensors for the metric net 'cnn'"),
        ({"weights": "a.safetensors"}, "'none'"),
        ({"architecture": "resnet18", "width": 32}, "width=32"),
    ],
)
def test_config_refuses_bad_options(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        MetricNetConfig(**options)


@pytest.mark.parametrize(
    ("architecture", "shape", "width"),
    [
        *((name, (11,), None) for name in METRIC_NETS.architectures),
        *((name, (1, 3, 8), None) for name in METRIC_NETS.architectures),
        ("resnet18", (3, 28, 28), None),
        ("resnet18", (1, 32, 32), None),
        ("resnet", DIGIT, 12),
        ("vit", DIGIT, 30),
        ("attention", DIGIT, 30),
        ("orthogonal", DIGIT, 7),
    ],
)
def test_build_metric_refuses_shapes_that_a_net_cannot_take(
    architecture: str, shape: tuple[int, ...], width: int | None
) -> None:
    options = MetricNetConfig(architecture=architecture, width=width)
    with pytest.raises(InputError, match=f"'{architecture}'") as caught:
        build_metric_net(options, shape=shape)
    assert str(shape) in str(caught.value)


def test_no_net_is_not_built() -> None:
    with pytest.raises(InputError, match="'none'"):
        build_metric_net(MetricNetConfig(), shape=DIGIT)


def neighbor_accuracy(net: MetricNet, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    """Leave-one-out, of 5 nearest neighbors."""
    with torch.no_grad():
        keys = net.eval()(inputs).double()
    distances = torch.cdist(keys, keys).fill_diagonal_(torch.inf)
    votes = labels[distances.topk(5, largest=False).indices].mode(1).values
    return float((votes == labels).double().mean())


@pytest.mark.parametrize(
    ("architecture", "width", "learning_rate", "gain"),
    [("resnet", 16, 2e-3, 0.3), ("orthogonal", 32, 3e-3, 0.25), ("vit", 32, 3e-3, 0.1)],
)
def test_training_improves_neighbors_of_held_out_digits(
    architecture: str, width: int, learning_rate: float, gain: float
) -> None:
    train, test = (load_all(open_split(data_set("digits"), split)) for split in ("train", "test"))
    net = new_net(architecture, width=width, num_keys=8)
    before = neighbor_accuracy(net, test.x, test.y)
    optimizer = torch.optim.Adam(net.parameters(), learning_rate)
    loss = METRIC_LOSSES["triplet"](0.2)
    net.train()
    for rows in torch.randperm(len(train.x), generator=torch.Generator().manual_seed(0))[:1280].split(64):
        value, active = loss(net(train.x[rows]), train.y[rows])
        assert active > 0
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert neighbor_accuracy(net, test.x, test.y) > before + gain
