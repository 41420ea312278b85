"""Purification by diffusion, on data whose best denoiser has a closed form."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from otad_ray.defenses.baselines import DiffPure
from otad_ray.defenses.baselines.denoiser import Denoiser, DenoiserConfig
from otad_ray.defenses.baselines.diffpure import diffuse, signal_shares

MEAN, DEVIATION = 0.2, 0.1


class GaussianDenoiser(nn.Module):
    """The expected noise, of data that is normal with MEAN and DEVIATION in [-1, 1]."""

    config = SimpleNamespace(last_step=400, reverse_steps=400)

    def forward(self, noisy: Tensor, steps: Tensor) -> Tensor:
        share = signal_shares().to(noisy)[steps].view(-1, 1, 1, 1)
        variance = share * DEVIATION**2 + 1 - share
        return (1 - share).sqrt() * (noisy - share.sqrt() * MEAN) / variance


def test_diffusion_has_the_variance_of_its_closed_form() -> None:
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    images = torch.full((10_000, 1), 0.5, dtype=torch.float64)
    for beta in betas[:100]:
        noise = torch.randn(images.shape, generator=generator, dtype=torch.float64)
        images = (1 - beta).sqrt() * images + beta.sqrt() * noise
    noise = torch.randn(images.shape, generator=generator, dtype=torch.float64)
    at_once = diffuse(torch.full_like(images, 0.5), torch.full((len(images),), 100), noise)
    torch.testing.assert_close(images.mean(), at_once.mean(), rtol=0, atol=0.01)
    torch.testing.assert_close(images.std(), at_once.std(), rtol=0.02, atol=0)


def test_exact_denoiser_gives_back_the_distribution_of_the_data() -> None:
    defense = DiffPure(GaussianDenoiser(), nn.Flatten())
    # Far from the data: noise up to step 400 hides most of where an input was.
    inputs = torch.full((500, 1, 2, 2), 0.9)
    purified = 2 * defense.purify(inputs, torch.Generator().manual_seed(0)) - 1
    share = float(signal_shares()[400])
    weight = share * DEVIATION**2 / (share * DEVIATION**2 + 1 - share)
    assert float(purified.mean()) == pytest.approx(MEAN + weight * (0.8 - MEAN), abs=0.015)
    assert float(purified.std()) == pytest.approx(DEVIATION, rel=0.1)


def test_noise_comes_from_the_generator_alone_and_rows_are_independent() -> None:
    torch.manual_seed(0)
    defense = DiffPure(Denoiser(DenoiserConfig(shape=(1, 6, 7), width=4)), nn.Flatten()).eval()
    x = torch.rand(3, 1, 6, 7)
    first, second = (defense(x, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not torch.allclose(first, defense(x, generator=torch.Generator().manual_seed(2)))
    steps = torch.tensor([3, 50, 100])
    together = defense.denoiser(x, steps)
    torch.testing.assert_close(together[1:2], defense.denoiser(x[1:2], steps[1:2]), rtol=1e-4, atol=1e-5)


def test_gradient_goes_through_the_reverse_process() -> None:
    torch.manual_seed(0)
    config = DenoiserConfig(shape=(1, 4, 4), width=4, last_step=20, reverse_steps=3)
    defense = DiffPure(Denoiser(config), nn.Flatten()).double()
    x = 0.3 + 0.4 * torch.rand(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda inputs: defense(inputs, generator=torch.Generator().manual_seed(0)), x)
