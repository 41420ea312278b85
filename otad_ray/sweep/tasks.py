"""The work of a sweep's actors: cohorts of samples attacked and verified, or certified."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from otad_ray.attacks import Attack, Budget, Streams
from otad_ray.certification import certified_radius
from otad_ray.cip import refuse_interruptions
from otad_ray.data import Batch, DataFolders, Rows, Split, open_split
from otad_ray.defenses import MemoryDefense
from otad_ray.engine.run import Compute
from otad_ray.engine.shards import ShardedDirectory
from otad_ray.evaluation import (
    SKIPPED_COLUMNS,
    RecordStatus,
    attack_records,
    clean_records,
    failed_clean_records,
    failed_records,
    skipped_records,
)
from otad_ray.presets import Preset
from otad_ray.recipes.defenses import DefenseSource

logger = logging.getLogger(__name__)

# Samples that are attacked together, whoever does it: how an attack's tensors are blocked depends on them alone. Of 50
# queries each pays twice as much for reading the memory's sketches as of 100.
COHORT_SIZE = 100
# What an attack or a user's module raised, and a solver that was interrupted; another run tries again.
RETRYABLE_RECORDS = frozenset({RecordStatus.ATTACK_ERROR.value})
_ERROR_LENGTH = 500


@dataclass(frozen=True)
class Samples:
    """The samples of a sweep, the same for every defense and attack: the first `count` of a seeded permutation."""

    preset: Preset
    split: Split
    folders: DataFolders
    seed: int
    count: int

    def positions(self, rows: Rows) -> np.ndarray:
        """Positions (count,) in the split."""
        return np.random.default_rng(self.seed).permutation(len(rows))[: self.count]

    def take(self, wanted: np.ndarray) -> Batch:
        """Samples by their place (n,) in the sweep's list, in that order."""
        rows, positions = _opened(self)
        order = np.argsort(positions[wanted])
        batch = rows.take(positions[wanted][order])
        back = torch.from_numpy(np.argsort(order))
        return Batch(*(tensor[back] for tensor in batch))


@lru_cache(maxsize=4)
def _opened(samples: Samples) -> tuple[Rows, np.ndarray]:
    rows = open_split(samples.preset.definition, samples.split, samples.folders)
    return rows, samples.positions(rows)


def guide_of(defense: nn.Module, source: DefenseSource, search: str) -> MemoryDefense:
    """Whose net and training points an attacker knows: the defense's own, else the preset's."""
    return defense if isinstance(defense, MemoryDefense) else source.open_guide(search)


def cohorts(wanted: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Places (n,), ascending, by the cohort that they belong to."""
    numbers = wanted // COHORT_SIZE
    for number in np.unique(numbers).tolist():
        yield number, wanted[numbers == number]


@dataclass(frozen=True)
class AttackTask:
    """Records of one attack with one budget on a defense.

    earlier: directories of records, of the same samples and no larger budgets; what is broken there is not attacked.
    """

    samples: Samples
    source: DefenseSource
    name: str
    attack: Attack
    budget: Budget
    search: str
    earlier: tuple[str, ...] = ()

    def open(self) -> Compute:
        defense = self.source.open(self.search)
        return lambda wanted: pa.concat_tables(
            self._records(defense, number, self.samples.take(places)) for number, places in cohorts(wanted)
        )

    @property
    def labels(self) -> Mapping[str, str]:
        budget = {"norm": self.budget.norm, "eps": f"{self.budget.eps:g}"}
        return {"defense": self.source.name, "attack": self.name, **budget}

    def _records(self, defense: nn.Module, cohort: int, batch: Batch) -> pa.Table:
        broken = self._broken_earlier(batch)
        if broken is None:
            return self._attacked(defense, cohort, batch)
        spared = np.isin(batch.ids.numpy(), broken["id"].to_numpy())
        skipped = skipped_records(broken, attack=self.name, norm=self.budget.norm, eps=self.budget.eps, seed=self._seed)
        if spared.all():
            return _in_order(skipped, batch)
        rest = Batch(*(tensor[torch.from_numpy(~spared)] for tensor in batch))
        return _in_order(pa.concat_tables([self._attacked(defense, cohort, rest), skipped]), batch)

    def _attacked(self, defense: nn.Module, cohort: int, batch: Batch) -> pa.Table:
        streams = Streams.of(self._seed, batch.ids.tolist(), self.name, self.budget.norm, self.budget.eps)
        try:
            with refuse_interruptions():
                guide = guide_of(defense, self.source, self.search)
                result = self.attack(defense, batch.x, batch.y, self.budget, streams, surrogate=guide)
                return attack_records(
                    defense,
                    batch.ids,
                    batch.x,
                    batch.y,
                    result.x_adv,
                    attack=self.name,
                    norm=self.budget.norm,
                    eps=self.budget.eps,
                    bounds=self.budget.bounds,
                    seed=self._seed,
                    queries=result.queries,
                    gradient_queries=result.gradient_queries,
                    zero_gradient_share=result.zero_gradient_share,
                    cohort=cohort,
                )
        except Exception as error:
            # One cohort that a user's module cannot answer must not cost the others their results.
            return failed_records(
                batch.ids,
                batch.y,
                attack=self.name,
                norm=self.budget.norm,
                eps=self.budget.eps,
                seed=self._seed,
                cohort=cohort,
                error=_told(self.name, self.source, batch, error),
            )

    @property
    def _seed(self) -> int:
        return self.samples.seed

    def _broken_earlier(self, batch: Batch) -> pa.Table | None:
        """A record for every sample of the batch that earlier attacks broke; None where none did."""
        found = [table for directory in self.earlier for table in _broken_in(directory, batch)]
        if not found:
            return None
        table = pa.concat_tables(found)
        _, first = np.unique(table["id"].to_numpy(), return_index=True)
        return table.take(pa.array(first))


def _told(what: str, source: DefenseSource, batch: Batch, error: Exception) -> str:
    """The error as it goes into the records, said in the log too."""
    message = f"{type(error).__name__}: {error}"[:_ERROR_LENGTH]
    logger.warning("%s on %s, ids %s: %s", what, source.name, batch.ids.tolist(), message)
    return message


def _broken_in(directory: str, batch: Batch) -> Iterator[pa.Table]:
    wanted = set(batch.ids.tolist())
    for table in _records_of(directory):
        rows = table.filter(pa.array([sample in wanted for sample in table["id"].to_pylist()]))
        rows = rows.filter(rows["broken"].fill_null(False))
        if len(rows):
            yield rows


@lru_cache(maxsize=64)
def _records_of(directory: str) -> tuple[pa.Table, ...]:
    output = ShardedDirectory.open(Path(directory), kind="attack")
    return tuple(table for _, table in output.tables(SKIPPED_COLUMNS))


def _in_order(table: pa.Table, batch: Batch) -> pa.Table:
    """Rows in the order of the batch."""
    places = {sample: place for place, sample in enumerate(table["id"].to_pylist())}
    return table.take(pa.array([places[sample] for sample in batch.ids.tolist()])).combine_chunks()


@dataclass(frozen=True)
class CleanTask:
    """What a defense does with the samples as they are: predictions, relative errors and certified radii.

    certified: whether it has a certificate.
    """

    samples: Samples
    source: DefenseSource
    search: str
    certified: bool

    def open(self) -> Compute:
        defense = self.source.open(self.search)
        return lambda wanted: pa.concat_tables(
            self._records(defense, self.samples.take(places)) for _, places in cohorts(wanted)
        )

    @property
    def labels(self) -> Mapping[str, str]:
        return {"defense": self.source.name}

    def _records(self, defense: nn.Module, batch: Batch) -> pa.Table:
        try:
            with refuse_interruptions():
                certificate = certified_radius(defense, batch.x) if self.certified else None
                net = guide_of(defense, self.source, self.search).backbone
                return clean_records(defense, net, batch, certificate)
        except Exception as error:
            return failed_clean_records(batch, _told("clean samples", self.source, batch, error))
