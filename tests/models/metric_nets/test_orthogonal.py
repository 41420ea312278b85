"""The orthogonal net: its Lipschitz bound, its rounding bound, and its matrices."""

import numpy as np
import pytest
import torch

from helpers.metric_nets import COLOR, DIGIT, images, new_net
from otad_ray.models.metric_net import MetricNet


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


def test_cached_matrices_follow_the_weights() -> None:
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
