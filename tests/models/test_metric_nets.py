"""Metric nets: keys, checkpoints, published weights, and the proofs of the orthogonal one."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from otad_ray.data import data_set, load_all, open_split
from otad_ray.errors import InputError
from otad_ray.models.metric_net import MetricNet
from otad_ray.models.metric_nets import (
    METRIC_NETS,
    MetricNetConfig,
    build_metric_net,
    load_metric_net,
    load_resnet18_weights,
    metric_net_config,
    save_metric_net,
)
from otad_ray.training.metric_losses import METRIC_LOSSES

DIGIT, COLOR = (1, 8, 8), (3, 32, 32)
SHALLOW = ["resnet", "cnn", "vit", "attention"]
CASES = [(name, shape) for name in [*SHALLOW, "orthogonal"] for shape in (DIGIT, COLOR)] + [("resnet18", COLOR)]


def new_net(
    architecture: str, shape: tuple[int, ...] = DIGIT, *, width: int | None = None, num_keys: int = 128, seed: int = 0
) -> MetricNet:
    torch.manual_seed(seed)
    return build_metric_net(MetricNetConfig(architecture=architecture, width=width, num_keys=num_keys), shape=shape)


def images(shape: tuple[int, ...], count: int = 5, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


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
def test_bad_options(options: dict, message: str) -> None:
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
def test_what_a_net_cannot_take(architecture: str, shape: tuple[int, ...], width: int | None) -> None:
    options = MetricNetConfig(architecture=architecture, width=width)
    with pytest.raises(InputError, match=f"'{architecture}'") as caught:
        build_metric_net(options, shape=shape)
    assert str(shape) in str(caught.value)


def test_no_net_is_not_built() -> None:
    with pytest.raises(InputError, match="'none'"):
        build_metric_net(MetricNetConfig(), shape=DIGIT)


# Published weights


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


# The orthogonal net's proofs


def trained_orthogonal(shape: tuple[int, ...], *, width: int = 8, num_keys: int = 16) -> MetricNet:
    """Away from its initial weights, by steps that make keys large."""
    net = new_net("orthogonal", shape, width=width, num_keys=num_keys).train()
    optimizer = torch.optim.Adam(net.parameters(), 0.05)
    for step in range(20):
        optimizer.zero_grad()
        (-net(images(shape, 16, seed=step)).square().sum()).backward()
        optimizer.step()
    return net.eval()


@pytest.mark.parametrize("shape", [DIGIT, (1, 28, 28), COLOR, (2, 9, 21)])
def test_the_bound_is_that_of_an_orthogonal_net(shape: tuple[int, ...]) -> None:
    net = trained_orthogonal(shape)
    assert 1 <= net.lipschitz_bound() <= 1 + 1e-5
    inputs = images(shape, 3).double()
    for row in inputs:
        jacobian = torch.autograd.functional.jacobian(lambda x: net(x.unsqueeze(0))[0], row).flatten(1)
        assert torch.linalg.matrix_norm(jacobian, 2) <= net.lipschitz_bound() + 1e-12


def test_no_pair_of_inputs_exceeds_the_bound() -> None:
    net = trained_orthogonal(DIGIT)
    first = images(DIGIT, 16, seed=2).double()
    pair = torch.cat([first, first + 0.1 * torch.randn(first.shape, generator=torch.Generator().manual_seed(3))])
    pair.requires_grad_()
    optimizer = torch.optim.Adam([pair], 0.02)

    def ratios() -> torch.Tensor:
        (a, b), (key_a, key_b) = pair.flatten(1).chunk(2), net(pair).chunk(2)
        return (key_a - key_b).norm(dim=1) / (a - b).norm(dim=1)

    start = float(ratios().detach().max())
    for _ in range(150):
        optimizer.zero_grad()
        found = ratios()
        (-found.sum()).backward()
        optimizer.step()
        assert found.detach().max() <= net.lipschitz_bound()
    # The search does search.
    assert start < 0.8
    assert found.detach().min() > 0.95


def longer_keys(net: MetricNet, inputs: torch.Tensor, shapes: tuple[int, int]) -> np.ndarray:
    """The same net in extended precision, position by position, on its float64 matrices."""
    matrices = [layer(torch.float64).detach().numpy().astype(np.longdouble) for layer in net.layers]
    patch_size, padded = shapes
    grid = np.zeros((len(inputs), padded, padded, inputs.shape[1]), np.longdouble)
    grid[:, : inputs.shape[2], : inputs.shape[3]] = inputs.numpy().transpose(0, 2, 3, 1)

    def apply(grid: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        out = grid @ matrix.T
        half = len(matrix) // 2
        a, b = out[..., :half], out[..., half:]
        return np.concatenate([np.where(a > b, a, b), np.where(a > b, b, a)], -1)

    for factor in (patch_size, 2, 2):
        rows = [grid[:, i::factor, j::factor] for i in range(factor) for j in range(factor)]
        grid = apply(np.concatenate(rows, -1), matrices.pop(0))
        for _ in range(2):
            shifted = []
            for part, (down, right) in zip(
                np.array_split(grid, 5, axis=3), [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)], strict=True
            ):
                shifted.append(np.roll(np.roll(part, down, 1), right, 2))
            grid = apply(np.concatenate(shifted, -1), matrices.pop(0))
    (last,) = matrices
    return grid.reshape(len(grid), -1) @ last.T


@pytest.mark.parametrize(("shape", "sizes"), [(DIGIT, (1, 8)), ((1, 28, 28), (2, 32)), (COLOR, (2, 32))])
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_rounding_is_bounded(shape: tuple[int, ...], sizes: tuple[int, int], scale: float) -> None:
    net = trained_orthogonal(shape)
    inputs = scale * images(shape, 6)
    expected = longer_keys(net, inputs, sizes)
    norms = inputs.double().flatten(1).norm(dim=1).numpy()
    with torch.no_grad():
        errors = np.linalg.norm((net(inputs).double().numpy() - expected).astype(float), axis=1)
        longer = np.linalg.norm((net(inputs.double()).numpy() - expected).astype(float), axis=1)
    # Half of it is a float32's rounding, half is for other machines' matrices.
    assert (errors <= net.rounding() / 2 * norms).all()
    assert (errors >= net.rounding() / 200 * norms).all()
    # Before the last rounding.
    assert (longer <= (net.rounding() - 2**-23) * norms + 1e-300).all()
    assert net.rounding() < 1.3e-7


def test_a_zero_image_has_a_zero_key() -> None:
    assert not trained_orthogonal(DIGIT)(torch.zeros(1, *DIGIT)).any()


@pytest.mark.parametrize("shape", [DIGIT, COLOR])
def test_training_and_evaluation_agree(shape: tuple[int, ...]) -> None:
    net, inputs = trained_orthogonal(shape, width=32), images(shape)
    torch.testing.assert_close(net.train()(inputs), net.eval()(inputs), rtol=0, atol=2e-5)


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("size", [(40, 40), (40, 12), (12, 40)])
def test_matrices_are_orthogonal_for_any_parameters(size: tuple[int, int], scale: float) -> None:
    layer = new_net("orthogonal").layers[0].__class__(*size)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(scale)
    matrix = layer(torch.float64).detach()
    assert matrix.shape == size
    gram = matrix.T @ matrix if size[0] >= size[1] else matrix @ matrix.T
    torch.testing.assert_close(gram, torch.eye(min(size), dtype=torch.float64), rtol=0, atol=1e-12)
    # Found in another way; the share of the rounding that is left for this is 6e-8.
    square, rest = (parameter.detach().double().numpy() for parameter in (layer.square, layer.rest))
    generator, identity = square - square.T + rest.T @ rest, np.eye(min(size))
    inverse = np.linalg.inv(identity + generator)
    other = np.vstack([inverse @ (identity - generator), -2 * rest @ inverse])
    np.testing.assert_allclose(matrix.numpy() if size[0] >= size[1] else matrix.numpy().T, other, rtol=0, atol=1e-11)


def test_mixed_precision_leaves_matrices_orthogonal() -> None:
    net, inputs = new_net("orthogonal").train(), images(DIGIT)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        matrix = net.layers[1](torch.float32).detach()
        keys = net.eval()(inputs)
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(len(matrix)), rtol=0, atol=1e-5)
    torch.testing.assert_close(keys, net(inputs), rtol=0, atol=0)


def test_what_is_kept_follows_the_weights() -> None:
    net, inputs = new_net("orthogonal").eval(), images(DIGIT)
    with torch.inference_mode():
        before = net(inputs)
    # Gradients of the inputs, after a first call that recorded none.
    moving = inputs.clone().requires_grad_()
    net(moving).sum().backward()
    assert moving.grad.any()
    net.load_state_dict(new_net("orthogonal", seed=5).state_dict())
    torch.testing.assert_close(net(inputs), new_net("orthogonal", seed=5).eval()(inputs), rtol=0, atol=0)
    assert (net(inputs) - before).norm() > 0.1


# Training


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
