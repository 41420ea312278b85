"""The sparse transformation layer: what it keeps and removes, and its gradient."""

from typing import Any

import pytest
import torch
from torch import Tensor

from otad_ray.defenses.baselines import stl
from otad_ray.defenses.baselines.stl import SparseClassifier, Stl, StlConfig

SHAPE = (2, 8, 8)


def new_network() -> SparseClassifier:
    torch.manual_seed(0)
    return SparseClassifier(
        StlConfig(shape=SHAPE, num_outputs=4, num_filters=3, filter_size=3, num_iterations=10)
    ).eval()


def random_images(count: int) -> Tensor:
    """Images (N, *SHAPE) in [0.3, 0.7], so that little of what is rebuilt is clamped."""
    return 0.3 + 0.4 * torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1))


def test_constant_images_are_kept_and_faint_noise_on_them_is_removed() -> None:
    constant = torch.tensor([0.2, 0.5, 0.9]).view(3, 1, 1, 1).expand(3, *SHAPE)
    noise = 0.02 * (random_images(3) - 0.5)
    layer = Stl(new_network())
    torch.testing.assert_close(layer.purify(constant), constant)
    found = layer.purify(constant + noise) - constant
    assert float(found.norm()) < 0.5 * float(noise.norm())


def test_logits_are_those_of_the_purified_images() -> None:
    layer, images = Stl(new_network()), random_images(5)
    assert float((layer.purify(images) - images).norm()) > 0.05 * float(images.norm())
    torch.testing.assert_close(layer(images), layer.classifier(layer.purify(images)))


def test_gradient_is_that_of_finite_differences_in_several_blocks() -> None:
    network = new_network().double()
    images = random_images(70).double().requires_grad_()
    direction, weights = (torch.randn(images.shape, dtype=torch.float64) for _ in range(2))
    (gradient,) = torch.autograd.grad((network.transform(images) * weights).sum(), images)
    with torch.no_grad():
        forward, backward = (network.transform(images + step * direction) for step in (1e-6, -1e-6))
    # For each image, since one of the last block must not be lost among the others.
    expected = ((forward - backward) * weights).flatten(1).sum(1) / 2e-6
    torch.testing.assert_close((gradient * direction).flatten(1).sum(1), expected, rtol=1e-4, atol=1e-5)


def test_few_images_are_coded_at_a_time_where_codes_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    network, images, coded = new_network(), random_images(5).requires_grad_(), []
    encode = stl.encode

    def note(planes: Tensor, *others: Any) -> Tensor:
        coded.append(len(planes))
        return encode(planes, *others)

    whole = network.transform(images)
    # Three filters, ten iterations, and pixels of four bytes.
    monkeypatch.setattr(stl, "_BLOCK_BYTES", 2 * stl._KEPT_CODES * 10 * 3 * images[0].numel() * 4)
    monkeypatch.setattr(stl, "encode", note)
    torch.testing.assert_close(network.transform(images), whole)
    channels = SHAPE[0]
    assert coded == [2 * channels, 2 * channels, channels]


@pytest.mark.parametrize(
    ("shape", "num_filters", "num_iterations", "rows"),
    [((1, 28, 28), 16, 20, 64), ((3, 32, 32), 16, 20, 17), ((3, 32, 32), 64, 200, 1)],
)
def test_block_of_images_depends_on_the_size_of_their_codes(
    shape: tuple[int, ...], num_filters: int, num_iterations: int, rows: int
) -> None:
    config = StlConfig(shape=shape, num_outputs=10, num_filters=num_filters, num_iterations=num_iterations)
    assert SparseClassifier(config).block_rows == rows


@pytest.mark.parametrize(
    "changes", [{"filter_size": 9}, {"sparsity": 0.0}, {"num_filters": 0}, {"num_iterations": 0}, {"shape": (64,)}]
)
def test_sizes_that_do_not_fit_are_refused(changes: dict) -> None:
    with pytest.raises(ValueError, match=r"need|do not fit"):
        StlConfig(**{"shape": SHAPE, "num_outputs": 4} | changes)
