"""Shares of samples: how sure they are, and whether two of them differ on the same samples."""

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Literal, Self

import numpy as np

# Chance of a difference by mere luck, below which it counts as real.
SIGNIFICANCE = 0.01


@dataclass(frozen=True)
class Proportion:
    """A share of samples; without samples it is 0, in [0, 1].

    Attributes:
        count: samples that it holds of.
        n: all samples.
        value: the share.
        low: lower end of its 95 % Wilson interval.
        high: upper end.
    """

    count: int
    n: int
    value: float
    low: float
    high: float

    @classmethod
    def of(cls, hits: np.ndarray) -> Self:
        """Return the share of true entries of hits (n,) bool."""
        count, n = int(np.count_nonzero(hits)), len(hits)
        return cls(count, n, count / n if n else 0.0, *wilson_interval(count, n))


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a share; (0, 1) without samples."""
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, weight = successes / n, 1 / (1 + z**2 / n)
    center = weight * (share + z**2 / (2 * n))
    half = weight * z * sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # Exact at the ends, where rounding would leave the interval short of the share.
    return (0.0 if successes == 0 else center - half), (1.0 if successes == n else center + half)


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """Return the p-value of "a and b are true equally often", a, b (n,) bool of the same samples: exact, two-sided."""
    return _binomial_test(*_discordant(a, b), alternative="two-sided")


def mcnemar_less(a: np.ndarray, b: np.ndarray) -> float:
    """Return the p-value against "b is true less often than a", a, b (n,) bool of the same samples: one-sided."""
    return _binomial_test(*_discordant(a, b), alternative="greater")


def _discordant(a: np.ndarray, b: np.ndarray) -> tuple[int, int]:
    return int(np.count_nonzero(a & ~b)), int(np.count_nonzero(~a & b))


def _binomial_test(only_a: int, only_b: int, *, alternative: Literal["two-sided", "greater"]) -> float:
    if only_a + only_b == 0:
        return 1.0
    # Actors, which compare nothing, would wait half a second for its import.
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b, alternative=alternative).pvalue)
