"""ResNet-18 with published weights: what is loaded, what it computes, and files that are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from helpers.metric_nets import COLOR, images, new_net
from otad_ray.errors import InputError
from otad_ray.models.metric_nets import MetricNetConfig, build_metric_net, load_resnet18_weights


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Every tensor of torchvision's resnet18, by name."""
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7)}

    def norm(name: str, channels: int) -> None:
        shapes.update({f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{name}.num_batches_tracked"] = ()

    norm("bn1", 64)
    for layer, before, after in ((1, 64, 64), (2, 64, 128), (3, 128, 256), (4, 256, 512)):
        for block in (0, 1):
            name = f"layer{layer}.{block}"
            shapes[f"{name}.conv1.weight"] = (after, after if block else before, 3, 3)
            norm(f"{name}.bn1", after)
            shapes[f"{name}.conv2.weight"] = (after, after, 3, 3)
            norm(f"{name}.bn2", after)
            if layer > 1 and not block:
                shapes[f"{name}.downsample.0.weight"] = (after, before, 1, 1)
                norm(f"{name}.downsample.1", after)
    shapes["fc.weight"], shapes["fc.bias"] = (1000, 512), (1000,)
    return shapes


def published_weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in published_shapes().items():
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            weights[name] = 0.5 + torch.rand(shape, generator=generator)
        else:
            fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 100
            weights[name] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
    return weights


def resnet18_forward(weights: dict[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
    """The pooled features, written out from the weights alone."""
    functional = torch.nn.functional

    def conv(x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        kernel = weights[f"{name}.weight"]
        return functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var, weight, bias = (
            weights[f"{name}.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (inputs - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    x = functional.max_pool2d(norm(conv(x, "conv1", 2), "bn1").relu(), 3, 2, 1)
    for layer in (1, 2, 3, 4):
        for block in (0, 1):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            y = norm(conv(x, f"{name}.conv1", stride), f"{name}.bn1").relu()
            y = norm(conv(y, f"{name}.conv2"), f"{name}.bn2")
            if f"{name}.downsample.0.weight" in weights:
                x = norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
            x = (x + y).relu()
    return x.mean((2, 3))


def test_published_weights_are_loaded(tmp_path: Path) -> None:
    weights = published_weights()
    learnable = [name for name in weights if "running" not in name and "num_batches" not in name]
    assert len(learnable) == 62
    path = tmp_path / "resnet18.safetensors"
    save_file(weights, path)
    net = build_metric_net(MetricNetConfig(architecture="resnet18", weights=str(path)), shape=(3, 64, 64))
    state = net.state_dict()
    assert set(state) == {name for name in weights if not name.startswith("fc.")} | {"to_keys.weight", "to_keys.bias"}
    for name in set(state) & set(weights):
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(state[name], weights[name], rtol=0, atol=0)

    inputs = images((3, 64, 64), 2)
    expected = torch.nn.functional.normalize(net.to_keys(resnet18_forward(weights, inputs)), dim=1)
    for training in (False, True):
        torch.testing.assert_close(net.train(training)(inputs), expected, rtol=1e-4, atol=1e-5)
    # A training step leaves the statistics alone.
    for name, value in net.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(value, weights[name], rtol=0, atol=0)


def test_files_that_are_no_published_resnet18(tmp_path: Path) -> None:
    net = new_net("resnet18", COLOR)
    before = net.fingerprint()
    weights = published_weights()
    path = tmp_path / "weights.safetensors"
    with pytest.raises(InputError, match="no file"):
        load_resnet18_weights(net, path)
    without = {name: value for name, value in weights.items() if name != "layer3.1.bn2.running_var"}
    save_file(without, path)
    with pytest.raises(InputError, match=r"layer3\.1\.bn2\.running_var is missing"):
        load_resnet18_weights(net, path)
    save_file({**weights, "bn1.weight": torch.ones(32)}, path)
    with pytest.raises(InputError, match=r"bn1\.weight has shape \(32,\) instead of \(64,\)"):
        load_resnet18_weights(net, path)
    # As of a ResNet-34, which has all of these tensors and more.
    save_file({**weights, "layer1.2.conv1.weight": torch.ones(64, 64, 3, 3)}, path)
    with pytest.raises(InputError, match=r"layer1\.2\.conv1\.weight is no part of it"):
        load_resnet18_weights(net, path)
    path.write_bytes(b"not tensors")
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        load_resnet18_weights(net, path)
    assert net.fingerprint() == before


def test_a_pickle_is_never_read(tmp_path: Path) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save(published_weights(), path)
    with pytest.raises(InputError, match=r"resnet18\.pth: pickles.*Convert it once"):
        build_metric_net(MetricNetConfig(architecture="resnet18", weights=str(path)), shape=COLOR)
