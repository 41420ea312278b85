"""Shards on disk: what counts as finished, and what a rerun takes over."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from otad_ray.artifacts import atomic_directory, atomic_file, remove_abandoned, write_json_once
from otad_ray.engine.shards import (
    Shard,
    ShardedDirectory,
    compute_shard,
    merge_rows,
    read_finished_rows,
    sum_stage_seconds,
    write_shard,
)
from otad_ray.errors import InputError, RetryableError
from otad_ray.stages import stage

RETRYABLE = frozenset({"interrupted"})


def table(start: int, statuses: list[str], source: str = "first") -> pa.Table:
    return pa.table({"id": range(start, start + len(statuses)), "status": statuses, "source": [source] * len(statuses)})


@pytest.fixture
def output(tmp_path: Path) -> ShardedDirectory:
    return ShardedDirectory.start(tmp_path / "out", kind="labels", identity={"l": 0.5}, rows=10, rows_per_shard=4)


def test_shards_cover_the_rows(output: ShardedDirectory) -> None:
    assert [(shard.start, shard.stop) for shard in output.shards] == [(0, 4), (4, 8), (8, 10)]
    assert output.unfinished(RETRYABLE) == list(output.shards)


def test_only_whole_shards_without_retryable_rows_are_finished(output: ShardedDirectory) -> None:
    first, second, third = output.shards
    write_shard(first.path(output.directory), table(0, ["solved", "relaxed", "failed", "infeasible"]))
    write_shard(second.path(output.directory), table(4, ["solved", "interrupted", "solved", "solved"]))
    write_shard(third.path(output.directory), table(8, ["solved", "solved"]))
    assert output.unfinished(RETRYABLE) == [second]
    path = third.path(output.directory)
    path.write_bytes(path.read_bytes()[:-30])
    assert output.unfinished(RETRYABLE) == [second, third]
    write_shard(path, table(8, ["solved"]))
    assert output.unfinished(RETRYABLE) == [second, third]
    path.write_bytes(b"")
    assert output.unfinished(RETRYABLE) == [second, third]


def test_a_shard_damaged_before_its_footer_is_not_finished(output: ShardedDirectory) -> None:
    first = next(output.shards)
    path = first.path(output.directory)
    write_shard(path, table(0, ["solved"] * 4))
    content = path.read_bytes()
    assert first not in output.unfinished(RETRYABLE)
    path.write_bytes(content[:20] + bytes(255 - byte for byte in content[20:28]) + content[28:])
    assert pq.read_metadata(path).num_rows == 4
    assert first in output.unfinished(RETRYABLE)
    assert read_finished_rows(first, output.directory, RETRYABLE)[0] is None


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(RetryableError, match=r"shard-00000\.parquet cannot be written \(File too large\).*again"):
            write_shard(tmp_path / "shard-00000.parquet", table(0, ["solved"] * 500))
        with pytest.raises(RetryableError, match=r"manifest\.json cannot be written"):
            write_json_once(tmp_path / "manifest.json", {"rows": list(range(500))})
        with (
            pytest.raises(RetryableError, match=r"memory cannot be written"),
            atomic_directory(tmp_path / "memory") as to,
        ):
            (to / "points.npy").write_bytes(bytes(500))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_retryable_rows_are_replaced_and_no_others(tmp_path: Path) -> None:
    shard = Shard(1, 4, 8)
    assert read_finished_rows(shard, tmp_path, RETRYABLE)[1].tolist() == [4, 5, 6, 7]
    write_shard(shard.path(tmp_path), table(4, ["solved", "interrupted", "solved", "interrupted"]))
    previous, positions = read_finished_rows(shard, tmp_path, RETRYABLE)
    assert positions.tolist() == [5, 7]
    computed = pa.concat_tables([table(5, ["solved"], "second"), table(7, ["relaxed"], "second")])
    merged = merge_rows(previous, computed, shard, positions)
    assert merged["id"].to_pylist() == [4, 5, 6, 7]
    assert merged["status"].to_pylist() == ["solved", "solved", "solved", "relaxed"]
    assert merged["source"].to_pylist() == ["first", "second", "first", "second"]
    write_shard(shard.path(tmp_path), merged)
    assert read_finished_rows(shard, tmp_path, RETRYABLE)[1].tolist() == []


def test_a_directory_belongs_to_one_result(output: ShardedDirectory, tmp_path: Path) -> None:
    def start(**changes):
        arguments = {"kind": "labels", "identity": {"l": 0.5}, "rows": 10, "rows_per_shard": 4, **changes}
        return ShardedDirectory.start(output.directory, **arguments)

    assert start(rows_per_shard=7).manifest["rows_per_shard"] == 4
    with pytest.raises(InputError, match=r"was started with l = 0\.5, now it is 0\.6"):
        start(identity={"l": 0.6})
    start(identity={"l": 0.6}, may_differ=("l",))
    with pytest.raises(InputError, match="holds 'labels', need a evaluation directory"):
        start(kind="evaluation")
    (tmp_path / "crashed").mkdir()
    (tmp_path / "crashed" / ".manifest.json.tmp.other_host-17-0a0b0c0d").touch()
    ShardedDirectory.start(tmp_path / "crashed", kind="labels", identity={}, rows=1, rows_per_shard=1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(InputError, match="is not empty"):
        ShardedDirectory.start(tmp_path / "other", kind="labels", identity={}, rows=1, rows_per_shard=1)
    with pytest.raises(InputError, match="cannot be made"):
        ShardedDirectory.check(tmp_path / "other" / "thesis.tex")
    with pytest.raises(InputError, match="cannot be made"):
        ShardedDirectory.check(Path("/proc/otad"))


def test_shards_of_nobody_are_not_counted(output: ShardedDirectory) -> None:
    output.refuse_foreign_shards()
    write_shard(output.directory / "shard-00003.parquet", table(10, ["solved"]))
    with pytest.raises(RetryableError, match="shard-00003"):
        output.refuse_foreign_shards()


def test_writes_are_whole_or_absent(tmp_path: Path) -> None:
    def interrupted_file() -> None:
        with atomic_file(tmp_path / "file") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    def interrupted_directory() -> None:
        with atomic_directory(tmp_path / "directory") as temporary:
            (temporary / "half").touch()
            raise KeyboardInterrupt

    for write in (interrupted_file, interrupted_directory):
        with pytest.raises(KeyboardInterrupt):
            write()
    assert list(tmp_path.iterdir()) == []


def test_temporaries_of_dead_processes_are_removed(tmp_path: Path) -> None:
    script = "import os, sys; from otad_ray.artifacts import _writer; print(_writer())"
    dead = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    host = dead.rsplit("-", 2)[0]
    parent = f"{host}-{os.getppid()}-0a0b0c0d"
    # A container that starts again has its old name and process numbers.
    former_life = f"{host}-{os.getpid()}-0a0b0c0d"
    for writer in (dead, parent, former_life, "other_host-1-0a0b0c0d"):
        (tmp_path / f".shard-00000.parquet.tmp.{writer}").touch()
    (tmp_path / f".memory.tmp.{dead}").mkdir()
    remove_abandoned(tmp_path)
    left = sorted(path.name.rpartition(".tmp.")[2] for path in tmp_path.iterdir())
    assert left == sorted([parent, "other_host-1-0a0b0c0d"])


def test_positions(output: ShardedDirectory) -> None:
    np.testing.assert_array_equal(Shard(2, 8, 10).positions, [8, 9])


class Slow:
    """Takes a while in two stages."""

    def process(self, positions: np.ndarray) -> pa.Table:
        for name in ("search", "solve"):
            with stage(name):
                time.sleep(0.02)
        return table(int(positions[0]), ["solved"] * len(positions))


def test_stage_seconds_add_up_when_rows_are_computed_again(output: ShardedDirectory) -> None:
    first, second, third = output.shards
    compute_shard(first, output.directory, Slow(), RETRYABLE)
    # Two from before seconds were kept.
    write_shard(second.path(output.directory), table(4, ["solved"] * 4))
    write_shard(third.path(output.directory), table(8, ["solved"] * 2))
    once = sum_stage_seconds(output)
    assert min(once["search"], once["solve"]) >= 0.02
    previous = pq.read_table(first.path(output.directory))
    statuses = ["solved", "interrupted", "solved", "solved"]
    write_shard(first.path(output.directory), previous.set_column(1, "status", [statuses]))
    done = compute_shard(first, output.directory, Slow(), RETRYABLE)
    assert done.rows["id"].to_pylist() == [1]
    twice = sum_stage_seconds(output)
    assert twice["search"] == pytest.approx(once["search"] + done.seconds["search"])
    assert twice["solve"] == pytest.approx(once["solve"] + done.seconds["solve"])


def test_whole_shards_are_not_computed_again(output: ShardedDirectory) -> None:
    first = next(output.shards)
    write_shard(first.path(output.directory), table(0, ["solved"] * 4))
    assert len(compute_shard(first, output.directory, Slow(), RETRYABLE).rows) == 0


def test_rows_of_other_ids_are_refused(output: ShardedDirectory) -> None:
    first = next(output.shards)
    output.check_ids(first, table(0, ["solved"] * 4), np.arange(4))
    with pytest.raises(RetryableError, match=r"shard-00000\.parquet does not hold the ids it should; delete it"):
        output.check_ids(first, table(1, ["solved"] * 4), np.arange(4))
