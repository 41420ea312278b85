"""Results as Parquet shards: fixed ranges of rows, each whole or absent, so that a rerun knows what is missing.

The footer of a shard holds the counts of its rows by status, and the seconds that computing it took, by stage.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from otad_ray.artifacts import (
    MANIFEST,
    atomic_file,
    is_temporary,
    read_manifest,
    remove_abandoned,
    write_json,
    write_json_once,
)
from otad_ray.engine.task import ShardProcessor
from otad_ray.errors import InputError, RetryableError
from otad_ray.stages import record_stages

_STATUS_COUNTS = b"otad.status_counts"
_STAGE_SECONDS = b"otad.stage_seconds"


@dataclass(frozen=True)
class Shard:
    """Positions start to stop - 1 of the rows, in the file `shard-<index>.parquet`."""

    index: int
    start: int
    stop: int

    def path(self, directory: Path) -> Path:
        return directory / f"shard-{self.index:05d}.parquet"

    @property
    def positions(self) -> np.ndarray:
        return np.arange(self.start, self.stop)


def write_shard(path: Path, table: pa.Table) -> None:
    """Write a table with a `status` column; its status counts go into the footer."""
    counts = json.dumps(Counter(table["status"].to_pylist()))
    metadata = {**(table.schema.metadata or {}), _STATUS_COUNTS: counts.encode()}
    with atomic_file(path) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary, compression="zstd", write_page_checksum=True)


def read_finished_rows(shard: Shard, directory: Path, retryable: frozenset[str]) -> tuple[pa.Table | None, np.ndarray]:
    """Return the table that a shard already holds, and the positions (n,) that are still to be computed."""
    try:
        table = pq.read_table(shard.path(directory), partitioning=None, page_checksum_verification=True)
    except (OSError, pa.ArrowException):
        return None, shard.positions
    if len(table) != len(shard.positions):
        return None, shard.positions
    open_rows = np.array([status in retryable for status in table["status"].to_pylist()])
    return table, shard.positions[open_rows]


def merge_rows(previous: pa.Table | None, computed: pa.Table, shard: Shard, positions: np.ndarray) -> pa.Table:
    """Return the shard's table with the rows at `positions` taken from `computed`."""
    if previous is None:
        return computed
    take = np.arange(len(previous))
    take[positions - shard.start] = len(previous) + np.arange(len(positions))
    both = pa.concat_tables([previous.replace_schema_metadata(None), computed.replace_schema_metadata(None)])
    return both.take(pa.array(take)).combine_chunks()


@dataclass(frozen=True)
class ComputedShard:
    """What was computed of a shard: its new rows, and the seconds that they took, by stage."""

    rows: pa.Table
    seconds: Mapping[str, float]


def compute_shard(shard: Shard, directory: Path, processor: ShardProcessor, retryable: frozenset[str]) -> ComputedShard:
    """Compute the rows that a shard lacks, and write it.

    Args:
        shard: which rows.
        directory: the folder of the shard's file.
        processor: computes rows.
        retryable: statuses of rows that are computed again.

    Returns:
        The rows that were computed; none if the shard is whole already.

    Raises:
        RetryableError: if the shard cannot be written.
    """
    previous, positions = read_finished_rows(shard, directory, retryable)
    if not len(positions):
        return ComputedShard(pa.table({}), {})
    with record_stages() as seconds:
        computed = processor.process(positions)
    merged = merge_rows(previous, computed, shard, positions)
    write_shard(shard.path(directory), _add_seconds(merged, previous, seconds))
    return ComputedShard(computed, seconds)


def sum_stage_seconds(output: "ShardedDirectory") -> dict[str, float]:
    """Return the seconds that the shards of a directory took, by stage, whoever computed them and how often."""
    total: Counter[str] = Counter()
    for shard in output.shards:
        total.update(_read_seconds(pq.read_metadata(shard.path(output.directory)).metadata))
    return dict(total)


def _add_seconds(table: pa.Table, previous: pa.Table | None, seconds: Mapping[str, float]) -> pa.Table:
    """Return `table` with the seconds by stage in its metadata, added to those already recorded in `previous`."""
    total = Counter(seconds)
    total.update(_read_seconds(previous.schema.metadata) if previous is not None else {})
    metadata = {**(table.schema.metadata or {}), _STAGE_SECONDS: json.dumps(total).encode()}
    return table.replace_schema_metadata(metadata)


def _read_seconds(metadata: Mapping[bytes, bytes] | None) -> dict[str, float]:
    """Return the seconds by stage that a shard's metadata holds; none of a shard from before this was kept."""
    return json.loads((metadata or {}).get(_STAGE_SECONDS, b"{}"))


class ShardedDirectory:
    """A directory of shards that was started for one result and is continued by every rerun.

    manifest: `identity` is what the result depends on; `rows_per_shard` is fixed when the directory is started.
    """

    def __init__(self, directory: Path, manifest: dict[str, Any]) -> None:
        self.directory = directory
        self.manifest = manifest

    @classmethod
    def start(
        cls,
        directory: Path,
        *,
        kind: str,
        identity: dict[str, Any],
        rows: int,
        rows_per_shard: int,
        may_differ: tuple[str, ...] = (),
    ) -> Self:
        """Start a directory, or continue one.

        Args:
            directory: where the shards lie.
            kind: kind of result.
            identity: what the result depends on, of JSON types.
            rows: number of rows of the whole result.
            rows_per_shard: rows of a shard; a directory keeps the number it was started with.
            may_differ: names in the identity whose values may be others than at the start.

        Raises:
            InputError: if the directory cannot be made, or holds another result.
        """
        cls.check(directory)
        manifest: dict[str, Any] = {
            "kind": kind,
            "complete": False,
            "identity": identity,
            "rows": rows,
            "rows_per_shard": rows_per_shard,
            "rows_per_second": 0.0,
            "num_actors": 0,
            "run_id": None,
        }
        if not write_json_once(directory / MANIFEST, manifest):
            manifest = read_manifest(directory, kind=kind, fields=tuple(manifest))
            for name in sorted(set(identity) | set(manifest["identity"])):
                found, asked = manifest["identity"].get(name), identity.get(name)
                if found != asked and name not in may_differ:
                    raise InputError(
                        f"{directory} was started with {name} = {found}, now it is {asked}; "
                        "give another directory or delete this one"
                    )
        return cls(directory, manifest)

    @classmethod
    def open(cls, directory: Path, *, kind: str) -> Self:
        """Open a directory that was started before; InputError if there is none."""
        return cls(directory, read_manifest(directory, kind=kind, fields=("rows", "rows_per_shard")))

    @staticmethod
    def check(directory: Path) -> None:
        """Make the directory; InputError if it cannot be made, or holds something that is no result."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{directory} cannot be made ({error.strerror}); give another directory") from error
        remove_abandoned(directory)
        names = {path.name for path in directory.iterdir() if not is_temporary(path)}
        if names and MANIFEST not in names:
            raise InputError(f"{directory} is not empty and holds no {MANIFEST}; give another directory")

    @property
    def shards(self) -> Iterator[Shard]:
        """All shards, in order; the last one may be shorter."""
        rows, size = self.manifest["rows"], self.manifest["rows_per_shard"]
        for index, start in enumerate(range(0, rows, size)):
            yield Shard(index, start, min(start + size, rows))

    def unfinished(self, retryable: frozenset[str]) -> list[Shard]:
        """Return the shards that are missing, damaged, of the wrong length, or hold a retryable row.

        Each file is read to its end once: a whole footer does not show that the pages are whole.
        """
        return [shard for shard in self.shards if not _is_finished(shard, self.directory, retryable)]

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[tuple[Shard, pa.Table]]:
        """Yield each shard with its table, one at a time."""
        names = None if columns is None else list(columns)
        for shard in self.shards:
            yield shard, pq.read_table(shard.path(self.directory), columns=names, partitioning=None)

    def refuse_foreign_shards(self) -> None:
        """Raise RetryableError for a shard that does not belong here: readers of the directory would count its rows."""
        known = {shard.path(self.directory) for shard in self.shards}
        foreign = sorted(set(self.directory.glob("shard-*")) - known)
        if foreign:
            raise RetryableError(f"{foreign[0]} does not belong to {self.directory}; delete it and run again")

    def check_ids(self, shard: Shard, table: pa.Table, ids: np.ndarray) -> None:
        """Raise RetryableError unless a shard's table holds the rows with ids (n,), in their order."""
        if not np.array_equal(table["id"].to_numpy(), ids):
            path = shard.path(self.directory)
            raise RetryableError(f"{path} does not hold the ids it should; delete it and run again")

    def reload(self) -> None:
        """Read the manifest again: another driver may have finished meanwhile."""
        self.manifest = read_manifest(self.directory, kind=self.manifest["kind"])

    def update(self, **fields: Any) -> None:
        """Write the manifest with these fields changed."""
        self.manifest = {**self.manifest, **fields}
        write_json(self.directory / MANIFEST, self.manifest)


def _is_finished(shard: Shard, directory: Path, retryable: frozenset[str]) -> bool:
    path = shard.path(directory)
    try:
        file = path.stat()
        rows, statuses = _read_contents(path, file.st_mtime_ns, file.st_size)
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return False
    return rows == shard.stop - shard.start and not retryable & statuses


@lru_cache(maxsize=2**16)
def _read_contents(path: Path, modified: int, size: int) -> tuple[int, frozenset[str]]:
    """Return the number of rows and the statuses of a file as it is now; raise if it is damaged."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        counts = json.loads((file.metadata.metadata or {})[_STATUS_COUNTS])
        return sum(len(batch) for batch in file.iter_batches()), frozenset(counts)
