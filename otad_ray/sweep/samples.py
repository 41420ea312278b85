"""The samples of a sweep: the same ones for every defense and attack, attacked in fixed cohorts."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from otad_ray.data import Batch, DataFolders, Rows, Split, open_split
from otad_ray.presets import Preset

# Samples that are attacked together, whoever does it: how an attack's tensors are blocked depends on them alone. In
# cohorts of 50, each query would pay twice as much for reading the memory's sketches.
COHORT_SIZE = 100


@dataclass(frozen=True)
class Samples:
    """The first `count` rows of a seeded permutation of a split.

    A sample has three numbers: its *place* in this list (0 to count - 1, which shards are ranges of), the *position* of
    its row in the split, and the row's *id*, by which records name it.

    Attributes:
        preset: whose data set.
        split: which rows.
        folders: where the data set lies.
        seed: of the permutation.
        count: number of samples.
    """

    preset: Preset
    split: Split
    folders: DataFolders
    seed: int
    count: int

    def positions(self, rows: Rows) -> np.ndarray:
        """Return the positions (count,) of the samples in the split."""
        return np.random.default_rng(self.seed).permutation(len(rows))[: self.count]

    def take(self, places: np.ndarray) -> Batch:
        """Return the samples at the places (n,), in that order."""
        rows, positions = _open_samples(self)
        order = np.argsort(positions[places])
        batch = rows.take(positions[places][order])
        back = torch.from_numpy(np.argsort(order))
        return Batch(*(tensor[back] for tensor in batch))


def split_cohorts(places: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number of each cohort, and those of the ascending places (n,) that belong to it."""
    numbers = places // COHORT_SIZE
    for number in np.unique(numbers).tolist():
        yield number, places[numbers == number]


@lru_cache(maxsize=4)
def _open_samples(samples: Samples) -> tuple[Rows, np.ndarray]:
    """Open a split once per process, and draw the samples' positions."""
    rows = open_split(samples.preset.definition, samples.split, samples.folders)
    return rows, samples.positions(rows)
