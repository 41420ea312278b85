"""Randomized smoothing: the class that a network predicts for most copies of an input with Gaussian noise added."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from otad_ray.defenses.baselines.baseline import Baseline
from otad_ray.defenses.baselines.small_conv import SmallConv, SmallConvConfig
from otad_ray.models.checkpoints import Architecture, Family

# How the method of every certificate that holds with a probability only begins.
PROBABILISTIC = "probabilistic"

# Bytes of noisy inputs that a network is given at a time.
_CHUNK_BYTES = 1 << 20
# The binomial and the normal quantile are right to far less than this share of themselves.
_BELOW = 1 - 1e-9


@dataclass(frozen=True, kw_only=True)
class NoiseConvConfig(SmallConvConfig):
    """A classifier and the noise that it is trained on, and is to be asked with.

    Attributes:
        sigma: standard deviation of the noise in each value of an input, in the inputs' units.
    """

    sigma: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sigma < float("inf"):
            raise ValueError(f"need a finite sigma > 0, got {self.sigma}")


class NoiseConv(SmallConv):
    """A small convolutional classifier of images with Gaussian noise."""

    config: NoiseConvConfig

    def __init__(self, config: NoiseConvConfig) -> None:
        super().__init__(config)


NOISE_CLASSIFIERS: Family[NoiseConv] = Family(
    "noise classifier", {"noise_conv": Architecture(NoiseConvConfig, NoiseConv)}
)


class Smoothing(Baseline):
    """The smoothed classifier of Cohen et al. (2019): `argmax_c P(f(x + e) = c)` with e normal of deviation sigma.

    `forward` estimates it by the votes of a few noisy copies, and its gradient by that of their mean softmax.
    `certified_radius` is the paper's CERTIFY, less what a prediction by so few copies needs: the radius is one within
    which `forward` itself, with fresh noise, answers the same with the stated probability. It presumes noise that is
    exactly Gaussian, where it is rounded to float32.

    Attributes:
        draws_to_average: forward passes that an attacker averages; one, since each is an average.
    """

    kind = "smoothing"
    families: ClassVar[Mapping[str, Family[Any]]] = {"network": NOISE_CLASSIFIERS}
    draws_to_average = 1

    def __init__(
        self,
        network: NoiseConv,
        *,
        forward_draws: int = 100,
        selection_draws: int = 100,
        certify_draws: int = 1000,
        alpha: float = 0.001,
    ) -> None:
        """Hold the network and the settings.

        Args:
            network: the base classifier f, with the sigma that it was trained on in its configuration.
            forward_draws: noisy copies of an input that a prediction is made of.
            selection_draws: n0 of the paper: copies that choose the class to certify.
            certify_draws: n of the paper: copies that the class's probability is estimated from.
            alpha: the probability with which a certificate may be wrong; half of it for the estimate of the class's
                probability, and half for a prediction within the radius.

        Raises:
            ValueError: for fewer than one draw, or an alpha that is no probability.
        """
        super().__init__()
        draws = {"forward_draws": forward_draws, "selection_draws": selection_draws, "certify_draws": certify_draws}
        for name, count in draws.items():
            if count < 1:
                raise ValueError(f"need {name} >= 1, got {count}")
        if not 0 < alpha < 1:
            raise ValueError(f"need 0 < alpha < 1, got {alpha}")
        self.network = network
        self.forward_draws = forward_draws
        self.selection_draws = selection_draws
        self.certify_draws = certify_draws
        self.alpha = alpha

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise."""
        return self.network.config.sigma

    def settings(self) -> dict[str, Any]:
        names = ("forward_draws", "selection_draws", "certify_draws", "alpha")
        return {name: getattr(self, name) for name in names}

    def forward(self, inputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Map inputs (B, *shape) to logits (B, C): `log((votes + 1) / (n + C))` of n noisy copies.

        The gradient is that of the log of the mean softmax, since votes have none.

        Args:
            inputs: the samples.
            generator: what the noise is drawn from, on the CPU; torch's global one if there is none.
        """
        asked = [self._ask(inputs, noise) for noise in self._draw_noise(inputs, self.forward_draws, generator)]
        votes = torch.stack([chunk_votes for chunk_votes, _ in asked]).sum(0)
        soft = torch.stack([chunk_soft for _, chunk_soft in asked]).logsumexp(0)
        hard = ((votes + 1) / (self.forward_draws + soft.shape[1])).log()
        # The difference is 0: its gradient is what remains.
        return hard + (soft - soft.detach())

    @torch.no_grad()
    def certified_radius(self, inputs: Tensor) -> tuple[Tensor, list[str]]:
        """Return l2 radii (B,) float64 around inputs (B, *shape), and what proves each; 0 and "" where it abstains.

        All noise follows from a row's own values: the answer is the same each time and in every batch.
        It abstains as well if the class that it would certify is not the one that `forward` predicts with such noise.

        Let `p` be a lower bound of the probability of the class at the input, and `q` the least probability at which
        most of the copies of a prediction vote for it. A perturbation of norm r takes `p` no lower than
        `Phi(Phi^-1(p) - r / sigma)` (Cohen et al., Theorem 1), which is `q` at the radius.
        """
        radii = [self._certify(row.unsqueeze(0)) for row in inputs]
        method = f"{PROBABILISTIC}: {100 * (1 - self.alpha):g} % a sample"
        radius = torch.tensor(radii, dtype=torch.float64, device=inputs.device)
        return radius, [method if size > 0 else "" for size in radii]

    def _certify(self, row: Tensor) -> float:
        """Return the radius of one input (1, *shape)."""
        selected = int(self._count_votes(row, self.selection_draws, "select").argmax())
        if int(self(row, seed_by_content(row, "predict")).argmax()) != selected:
            return 0.0
        votes = int(self._count_votes(row, self.certify_draws, "certify")[selected])
        probability = bound_proportion(votes, self.certify_draws, self.alpha / 2)
        needed = find_majority_probability(self.forward_draws, self.alpha / 2)
        quantiles = torch.special.ndtri(torch.tensor([probability, needed], dtype=torch.float64))
        return max(0.0, self.sigma * float(quantiles[0] - quantiles[1]) * _BELOW)

    def _count_votes(self, row: Tensor, draws: int, purpose: str) -> Tensor:
        """Return how many of the noisy copies of an input (1, *shape) each class (C,) is predicted for."""
        chunks = self._draw_noise(row, draws, seed_by_content(row, purpose))
        return torch.stack([self._ask(row, noise)[0][0] for noise in chunks]).sum(0)

    def _draw_noise(self, inputs: Tensor, draws: int, generator: torch.Generator | None) -> Iterator[Tensor]:
        """Yield noise for inputs (B, *shape), so many draws in all: (chunk, B, *shape), each in its chunk."""
        chunk = max(1, _CHUNK_BYTES // (4 * max(1, inputs.numel())))
        for start in range(0, draws, chunk):
            # The CPU's generators draw the same for every device.
            noise = torch.randn(min(chunk, draws - start), *inputs.shape, generator=generator)
            yield self.sigma * noise.to(inputs)

    def _ask(self, inputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return votes (B, C) and the log of the summed softmax (B, C) of inputs (B, *shape) with noise (n, B, *shape).

        What a gradient needs is computed again when it is asked for: only one chunk's is held at a time.
        """
        logits = checkpoint(self._evaluate, inputs, noise, use_reentrant=False, preserve_rng_state=False)
        votes = functional.one_hot(logits.argmax(2), logits.shape[2]).sum(0)
        return votes, logits.log_softmax(2).logsumexp(0)

    def _evaluate(self, inputs: Tensor, noise: Tensor) -> Tensor:
        """Return the network's logits (n, B, C) of inputs (B, *shape) with noise (n, B, *shape)."""
        return self.network((inputs + noise).flatten(0, 1)).unflatten(0, noise.shape[:2])


def seed_by_content(row: Tensor, purpose: str) -> torch.Generator:
    """Return a generator on the CPU whose draws follow from the values of a row and from what they are for."""
    values = row.detach().cpu().contiguous().numpy()
    digest = hashlib.blake2b(values.tobytes(), digest_size=8, person=purpose.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def bound_proportion(successes: int, trials: int, alpha: float) -> float:
    """Return the lower bound of Clopper and Pearson: a probability is less with probability alpha at most."""
    if successes == 0:
        return 0.0
    # Those who certify nothing would wait a while for its import.
    from scipy.special import betaincinv

    return float(betaincinv(successes, trials - successes + 1, alpha)) * _BELOW


def find_majority_probability(trials: int, alpha: float) -> float:
    """Return the least probability at which successes are no majority of the trials with probability alpha at most."""
    # Those who certify nothing would wait a while for its import.
    from scipy.special import betaincinv

    failures = trials // 2
    return float(betaincinv(failures + 1, trials - failures, 1 - alpha)) / _BELOW
