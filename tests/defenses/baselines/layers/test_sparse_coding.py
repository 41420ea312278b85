"""Convolutional sparse coding, against sporco's on the same problems."""

import importlib
import warnings

import numpy as np
import pytest
import torch

from otad_ray.defenses.baselines.layers.sparse_coding import decode, encode, learn_dictionary, smooth

SPARSITY = 0.1


@pytest.fixture(scope="module")
def sporco():
    with warnings.catch_warnings():
        # What it imports is older than the rest.
        warnings.simplefilter("ignore")
        pytest.importorskip("sporco", reason="a development dependency")
        importlib.import_module("sporco.admm.cbpdn")
        importlib.import_module("sporco.signal")
        return importlib.import_module("sporco")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Smooth random images (3, 12, 10)."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(3, 1, 16, 14, generator=generator)
    return torch.nn.functional.avg_pool2d(noise, 5, stride=1)[:, 0] * 3


@pytest.fixture(scope="module")
def dictionary() -> torch.Tensor:
    filters = torch.randn(6, 4, 4, generator=torch.Generator().manual_seed(1))
    return filters / filters.flatten(1).norm(dim=1).view(-1, 1, 1)


def objective(images: torch.Tensor, codes: torch.Tensor, dictionary: torch.Tensor) -> float:
    residual = decode(codes, dictionary) - images
    return float(residual.square().sum() / 2 + SPARSITY * codes.abs().sum())


def test_low_pass_part_is_sporcos(sporco, images) -> None:
    for padding in (2, 16):
        expected = [
            sporco.signal.tikhonov_filter(image.numpy().astype(np.float64), 5.0, padding)[0] for image in images
        ]
        np.testing.assert_allclose(smooth(images, 5.0, padding).numpy(), np.stack(expected), atol=2e-5)


def test_codes_reach_the_optimum_that_sporco_reaches(sporco, images, dictionary) -> None:
    high = images - smooth(images, 5.0, 16)
    options = sporco.admm.cbpdn.ConvBPDN.Options(
        {"Verbose": False, "MaxMainIter": 500, "RelStopTol": 1e-6, "AutoRho": {"Enabled": True}}
    )
    codes = encode(high, dictionary, SPARSITY, 500)
    for image, own in zip(high, codes, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            solver = sporco.admm.cbpdn.ConvBPDN(
                dictionary.numpy().transpose(1, 2, 0).astype(np.float64),
                image.numpy().astype(np.float64),
                SPARSITY,
                options,
            )
            theirs = torch.from_numpy(solver.solve().squeeze().transpose(2, 0, 1)).float()
        best = objective(image[None], theirs[None], dictionary)
        assert objective(image[None], own[None], dictionary) == pytest.approx(best, rel=1e-3)
        torch.testing.assert_close(decode(own[None], dictionary), decode(theirs[None], dictionary), rtol=0, atol=5e-3)


def test_few_iterations_come_near_the_optimum(images, dictionary) -> None:
    high = images - smooth(images, 5.0, 16)
    least, few = (objective(high, encode(high, dictionary, SPARSITY, count), dictionary) for count in (2000, 20))
    assert least <= few * (1 + 1e-6)
    assert few < 1.1 * least
    assert least < objective(high, torch.zeros(3, 6, 12, 10), dictionary)


def test_learned_dictionary_codes_better_and_has_filters_of_norm_1(images, dictionary) -> None:
    high = images - smooth(images, 5.0, 16)
    learned = learn_dictionary(high, dictionary, SPARSITY, num_rounds=8, num_iterations=30, num_steps=10)
    torch.testing.assert_close(learned.flatten(1).norm(dim=1), torch.ones(6))
    before, after = (
        objective(high, encode(high, filters, SPARSITY, 200), filters) for filters in (dictionary, learned)
    )
    assert after < 0.95 * before
