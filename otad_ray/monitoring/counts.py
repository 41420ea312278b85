"""What metrics and manifests count of computed rows: one function, so that they cannot disagree."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from otad_ray.evaluation.records.schema import RecordStatus
from otad_ray.monitoring.metrics import (
    GRADIENT_QUERIES,
    QUERIES,
    RELAXATIONS,
    ROWS,
    SAMPLES_ATTACKED,
    SAMPLES_BROKEN,
    SAMPLES_CERTIFIED,
    STAGE_SECONDS,
    Amount,
    Metric,
)

_NOT_ATTACKED = (RecordStatus.SKIPPED.value, RecordStatus.ATTACK_ERROR.value)
# Totals of rows, each the name of a field of `Counts`.
_TOTALS: Mapping[str, Metric] = {
    "relaxations": RELAXATIONS,
    "queries": QUERIES,
    "gradient_queries": GRADIENT_QUERIES,
    "attacked": SAMPLES_ATTACKED,
    "broken": SAMPLES_BROKEN,
    "certified": SAMPLES_CERTIFIED,
}


@dataclass(frozen=True)
class Counts:
    """Counts over rows: by status, and totals. What does not apply is 0.

    attacked, broken, certified: as the metrics `otad_samples_...`.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    relaxations: int = 0
    queries: int = 0
    gradient_queries: int = 0
    attacked: int = 0
    broken: int = 0
    certified: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        totals = {name: getattr(self, name) + getattr(other, name) for name in _TOTALS}
        return Counts(statuses=self.statuses + other.statuses, **totals)

    def as_dict(self) -> dict[str, Any]:
        """Of JSON types, statuses in order."""
        return {**asdict(self), "statuses": dict(sorted(self.statuses.items()))}

    def amounts(self, labels: Mapping[str, str], stage_seconds: Mapping[str, float]) -> list[Amount]:
        """What metrics grow by; `labels` of all metrics that apply, each takes its own."""
        found = [Amount(ROWS, _of(ROWS, {**labels, "status": name}), rows) for name, rows in self.statuses.items()]
        found += [
            Amount(STAGE_SECONDS, _of(STAGE_SECONDS, {**labels, "stage": name}), seconds)
            for name, seconds in stage_seconds.items()
        ]
        found += [
            Amount(metric, _of(metric, labels), getattr(self, name))
            for name, metric in _TOTALS.items()
            if set(metric.labels) <= set(labels)
        ]
        return [amount for amount in found if amount.value > 0]


def count_rows(table: pa.Table) -> Counts:
    """Counts of label rows, attack records, clean records or evaluated rows; all have a column `status`."""
    names = set(table.column_names)
    attacked = pc.invert(pc.is_in(table["status"], pa.array(_NOT_ATTACKED))) if "broken" in names else None
    certified = pc.and_(pc.greater(table["radius"], 0), table["clean_correct"]) if "radius" in names else None
    return Counts(
        statuses=Counter(table["status"].to_pylist()),
        # -1 where the defense solves nothing.
        relaxations=_total(pc.max_element_wise(table["relaxations"], 0) if "relaxations" in names else None),
        queries=_total(table["queries"] if "queries" in names else None),
        gradient_queries=_total(table["gradient_queries"] if "gradient_queries" in names else None),
        attacked=_total(attacked),
        broken=_total(None if attacked is None else pc.and_(attacked, table["broken"])),
        certified=_total(certified),
    )


def count_tables(tables: Iterable[pa.Table]) -> Counts:
    """Counts of several tables together."""
    return sum(map(count_rows, tables), Counts())


def _total(column: Any) -> int:
    """Of whole numbers or truth values; nulls are none."""
    return 0 if column is None else int(pc.sum(pc.cast(column, pa.int64())).as_py() or 0)


def _of(metric: Metric, labels: Mapping[str, str]) -> dict[str, str]:
    return {name: labels[name] for name in metric.labels}
