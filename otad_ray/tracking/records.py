"""What a job tells about a finished result, and the id by which the same result is known again."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from otad_ray.artifacts import content_hash, to_jsonable


@dataclass(frozen=True, kw_only=True)
class DataRecord:
    """Input rows of a run: name (data set and split), digest of their content, where they were read, their number."""

    name: str
    digest: str
    origin: str
    rows: int


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a job records of a finished result.

    Attributes:
        experiment: the preset.
        kind: what was made, such as "labels".
        name: what the run is called among those of its experiment, such as "labels dual K=10"; empty, in pending
            records of older versions, for the kind and the time.
        job: the job that makes such results, such as "label_qcp"; empty if unknown.
        started: when that job began, in seconds since 1970; None for `finished`.
        finished: when the result was complete, in seconds since 1970; None for the time at which it is tracked.
        result: what identifies it among those of its kind, such as its directory.
        outcome: what came out, without times. A result with another outcome gets another run, the same one never a
            second.
        params: flat or nested configuration.
        metrics: numbers by name.
        series: metric histories, each a list of (step, value).
        data: the rows that were worked on.
        artifacts: small files.
        tags: flat.
    """

    experiment: str
    kind: str
    name: str = ""
    job: str = ""
    started: float | None = None
    finished: float | None = None
    result: Mapping[str, Any]
    outcome: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    series: Mapping[str, list[tuple[int, float]]] = field(default_factory=dict)
    data: DataRecord | None = None
    artifacts: tuple[Path, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def name_id(self) -> str:
        """The same for every outcome of a result."""
        return content_hash({"experiment": self.experiment, "kind": self.kind, "result": self.result})

    @property
    def result_id(self) -> str:
        """The same for a result that is told again, in whatever process; `name_id` comes first in it."""
        # As text, since an outcome may hold NaN.
        outcome = json.dumps(to_jsonable(self.outcome), sort_keys=True)
        return f"{self.name_id}-{content_hash(outcome)}"


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of a nested configuration, names joined by dots."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)
