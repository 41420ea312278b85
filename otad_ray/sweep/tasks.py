"""The work of a sweep: cohorts of samples that are attacked and verified, or asked for as they are and certified."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from otad_ray.attacks import Budget, NamedAttack
from otad_ray.certification import certified_linf_radius, certified_radius
from otad_ray.cip import refuse_interruptions
from otad_ray.data import Batch
from otad_ray.engine.shards import ShardedDirectory
from otad_ray.evaluation import (
    SKIPPED_COLUMNS,
    AttackRun,
    RecordStatus,
    clean_records,
    failed_clean_records,
    failed_records,
    record_attack,
    skipped_records,
)
from otad_ray.recipes.approximate_search import mark_rows
from otad_ray.recipes.defense_source import DefenseSource
from otad_ray.sweep.samples import Samples, split_cohorts

logger = logging.getLogger(__name__)

# What an attack or a user's module raised, and a solver that was interrupted; another run tries again.
RETRYABLE_RECORDS = frozenset({RecordStatus.ATTACK_ERROR.value})
JOB_NAME = "attack_sweep"
ATTACK_KIND, CLEAN_KIND = "attack", "clean"
_ERROR_LENGTH = 500


@dataclass(frozen=True)
class AttackTask:
    """Records of one attack with one budget on a defense.

    Attributes:
        samples: what is attacked.
        source: where the defense is.
        named: the attack, by name and, if it is a user's own, by file.
        budget: what it may change.
        earlier: directories of records of the same samples with no larger budgets; what is broken there is not
            attacked again.
    """

    samples: Samples
    source: DefenseSource
    named: NamedAttack
    budget: Budget
    earlier: tuple[str, ...] = ()

    job_name = JOB_NAME

    @property
    def name(self) -> str:
        """The attack's name in records."""
        return self.named.name

    @property
    def run(self) -> AttackRun:
        """What all records of this task share."""
        return AttackRun(name=self.name, budget=self.budget, seed=self.samples.seed)

    @property
    def metric_labels(self) -> Mapping[str, str]:
        return {
            "kind": ATTACK_KIND,
            "preset": self.samples.preset.name,
            "defense": self.source.name,
            "attack": self.name,
            "norm": self.budget.norm,
            "eps": f"{self.budget.eps:g}",
        }

    def setup(self) -> "AttackProcessor":
        return AttackProcessor(self, self.source.open())


class AttackProcessor:
    """An open defense, which is attacked."""

    def __init__(self, task: AttackTask, defense: nn.Module) -> None:
        self._task = task
        self._defense = defense

    def process(self, positions: np.ndarray) -> pa.Table:
        """Attack the samples at these places of the sweep, cohort by cohort."""
        take = self._task.samples.take
        cohorts = [self._attack_cohort(number, take(places)) for number, places in split_cohorts(positions)]
        return mark_rows(pa.concat_tables(cohorts), self._task.source.search)

    def _attack_cohort(self, cohort: int, batch: Batch) -> pa.Table:
        """Return the records of a cohort; samples that earlier attacks broke are not attacked."""
        broken = self._find_broken(batch)
        if broken is None:
            return self._attack(cohort, batch)
        spared = np.isin(batch.ids.numpy(), broken["id"].to_numpy())
        skipped = skipped_records(broken, self._task.run)
        if spared.all():
            return _sort_like(skipped, batch)
        rest = Batch(*(tensor[torch.from_numpy(~spared)] for tensor in batch))
        return _sort_like(pa.concat_tables([self._attack(cohort, rest), skipped]), batch)

    def _attack(self, cohort: int, batch: Batch) -> pa.Table:
        """Attack samples and verify what was found.

        A cohort that a user's module cannot answer must not cost the others their results: an error becomes records.
        """
        task = self._task
        try:
            with refuse_interruptions():
                surrogate = task.source.open_surrogate(self._defense)
                return record_attack(
                    self._defense, batch, task.named.attack, task.run, cohort=cohort, surrogate=surrogate
                )
        except Exception as error:
            reason = _describe_error(task.name, task.source, batch, error)
            return failed_records(batch, task.run, cohort=cohort, error=reason)

    def _find_broken(self, batch: Batch) -> pa.Table | None:
        """Return one earlier record of every sample of the batch that earlier attacks broke; None if there is none."""
        broken = self._earlier_broken
        if broken is None:
            return None
        rows = broken.filter(pa.array(np.isin(broken["id"].to_numpy(), batch.ids.numpy())))
        return rows if len(rows) else None

    @cached_property
    def _earlier_broken(self) -> pa.Table | None:
        """The first record of every sample that an earlier attack broke, in the order of the directories."""
        tables = [
            table.filter(table["broken"].fill_null(False))
            for directory in self._task.earlier
            for _, table in ShardedDirectory.open(Path(directory), kind=ATTACK_KIND).tables(SKIPPED_COLUMNS)
        ]
        if not tables:
            return None
        found = pa.concat_tables(tables)
        _, first = np.unique(found["id"].to_numpy(), return_index=True)
        return found.take(pa.array(first))


@dataclass(frozen=True)
class CleanTask:
    """What a defense does with the samples as they are: predictions, relative errors and certified radii.

    Attributes:
        samples: what it is asked for.
        source: where the defense is.
        certified: whether it has a certificate.
    """

    samples: Samples
    source: DefenseSource
    certified: bool

    job_name = JOB_NAME

    @property
    def metric_labels(self) -> Mapping[str, str]:
        return {"kind": CLEAN_KIND, "preset": self.samples.preset.name, "defense": self.source.name}

    def setup(self) -> "CleanProcessor":
        return CleanProcessor(self, self.source.open())


class CleanProcessor:
    """An open defense, which is asked for samples as they are."""

    def __init__(self, task: CleanTask, defense: nn.Module) -> None:
        self._task = task
        self._defense = defense

    def process(self, positions: np.ndarray) -> pa.Table:
        """Ask the defense for the samples at these places of the sweep, cohort by cohort."""
        take = self._task.samples.take
        # A cohort that the defense raised an error on has no radii in linf.
        cohorts = [self._ask_cohort(take(places)) for _, places in split_cohorts(positions)]
        return mark_rows(pa.concat_tables(cohorts, promote_options="default"), self._task.source.search)

    def _ask_cohort(self, batch: Batch) -> pa.Table:
        task = self._task
        try:
            with refuse_interruptions():
                certificate = certified_radius(self._defense, batch.x.clone()) if task.certified else None
                net = task.source.open_surrogate(self._defense).backbone
                in_linf = certified_linf_radius(self._defense, batch.x.clone()) if task.certified else None
                return clean_records(self._defense, batch, net=net, certificate=certificate, linf_certificate=in_linf)
        except Exception as error:
            return failed_clean_records(batch, _describe_error("clean samples", task.source, batch, error))


def _describe_error(what: str, source: DefenseSource, batch: Batch, error: Exception) -> str:
    """Return the error as the records hold it, and log it."""
    message = f"{type(error).__name__}: {error}"[:_ERROR_LENGTH]
    logger.warning("%s on %s, ids %s: %s", what, source.name, batch.ids.tolist(), message)
    return message


def _sort_like(table: pa.Table, batch: Batch) -> pa.Table:
    """Return the rows in the order of the batch's samples."""
    places = {sample: place for place, sample in enumerate(table["id"].to_pylist())}
    return table.take(pa.array([places[sample] for sample in batch.ids.tolist()])).combine_chunks()
