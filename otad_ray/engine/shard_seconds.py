"""Seconds by stage of each shard, kept in its footer: what a directory took, whoever computed it and how often."""

import json
from collections import Counter
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from otad_ray.engine.shards import ShardedDirectory

_STAGE_SECONDS = b"otad.stage_seconds"


def with_seconds(table: pa.Table, previous: pa.Table | None, seconds: Mapping[str, float]) -> pa.Table:
    """A shard's table that says what it took, with what `previous`, the shard before, says."""
    total = Counter(seconds)
    total.update(_read(previous.schema.metadata) if previous is not None else {})
    metadata = {**(table.schema.metadata or {}), _STAGE_SECONDS: json.dumps(total).encode()}
    return table.replace_schema_metadata(metadata)


def stage_seconds(output: ShardedDirectory) -> dict[str, float]:
    """Seconds that actors computed the shards of a directory, by stage; shards from before this was kept say none."""
    total: Counter[str] = Counter()
    for shard in output.shards:
        total.update(_read(pq.read_metadata(shard.path(output.directory)).metadata))
    return dict(total)


def _read(metadata: Mapping[bytes, bytes] | None) -> dict[str, float]:
    return json.loads((metadata or {}).get(_STAGE_SECONDS, b"{}"))
