"""Randomness of attacks: one stream per sample, so that no sample's draws depend on who else is attacked with it."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Self

import torch
from torch import Tensor

_SEED_BYTES = 7


class Streams:
    """Random streams of B samples; a draw advances each of them by the same amount."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self._generators = list(generators)

    @classmethod
    def of(cls, seed: int, ids: Iterable[int], *purpose: object) -> Self:
        """Streams that depend on the seed, the sample's id and the purpose (attack, eps, ...) alone."""
        return cls([torch.Generator().manual_seed(_mixed(seed, *purpose, int(sample))) for sample in ids])

    def __len__(self) -> int:
        return len(self._generators)

    @property
    def generators(self) -> tuple[torch.Generator, ...]:
        """The generator of each stream, whose draws advance it."""
        return tuple(self._generators)

    def take(self, rows: Tensor) -> Self:
        """The streams of some rows, given by position (n,): the same ones, not copies."""
        return type(self)([self._generators[row] for row in rows.tolist()])

    def normal(self, *shape: int) -> Tensor:
        """Standard normal draws (B, *shape), float32."""
        return self._stacked([torch.randn(shape, generator=generator) for generator in self._generators], shape)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform draws (B, *shape) from [0, 1), float32."""
        return self._stacked([torch.rand(shape, generator=generator) for generator in self._generators], shape)

    def seeds(self) -> list[int]:
        """A seed below 2^31 per sample, for libraries with generators of their own."""
        return [int(torch.randint(2**31 - 1, (1,), generator=generator)) for generator in self._generators]

    def shared_seed(self) -> int:
        """One seed below 2^31 that depends on all streams in their order, for libraries that draw for a whole batch."""
        return _mixed(*self.seeds()) % 2**31

    def _stacked(self, draws: list[Tensor], shape: tuple[int, ...]) -> Tensor:
        return torch.stack(draws) if draws else torch.empty(0, *shape)


def _mixed(*parts: object) -> int:
    digest = hashlib.sha256(" ".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:_SEED_BYTES], "big")
