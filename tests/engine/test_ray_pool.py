"""What the driver makes of a pool that is lost, or that cannot write; pools stand in for Ray's."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from ray.exceptions import RayActorError, RayTaskError

from otad_ray.engine import run as sharded_run
from otad_ray.engine.shards import Shard
from otad_ray.errors import RetryableError

TODO = [(0, Shard(index, 4 * index, 4 * index + 4)) for index in range(5)]


class Pool:
    """Does `shards` of them, and then raises."""

    def __init__(self, todo: Sequence[tuple[int, Shard]], shards: int, error: Exception) -> None:
        self._todo, self._shards, self._error = todo, shards, error

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        for place, shard in self._todo[: self._shards]:
            yield {"task": place, "index": shard.index, "error": ""}
        if self._shards < len(self._todo):
            raise self._error


def done(monkeypatch: pytest.MonkeyPatch, *, shards: int, error: Exception) -> tuple[list[int], list[int]]:
    """Shards done, and the number of actors of each pool."""
    pools = []

    def dataset(todo: Sequence[tuple[int, Shard]], actor: object, num_actors: int) -> Pool:
        pools.append(num_actors)
        return Pool(todo, shards, error)

    monkeypatch.setattr(sharded_run, "_dataset", dataset)
    monkeypatch.setattr(sharded_run, "choose_num_actors", lambda requested, work: 1)
    return [row["index"] for row in sharded_run._done(TODO, {}, 2)], pools


def test_a_lost_pool_is_followed_by_another_for_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    indices, pools = done(monkeypatch, shards=2, error=RayActorError())
    assert indices == [0, 1, 2, 3, 4]
    assert pools == [2, 1, 1]


def test_a_pool_that_is_lost_with_nothing_done_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RetryableError, match=r"actors died again after 3 restarts.*run the same command again"):
        done(monkeypatch, shards=0, error=RayActorError())


def test_what_an_actor_raised_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RayTaskError("map", "Traceback ...", ZeroDivisionError())
    with pytest.raises(RayTaskError):
        done(monkeypatch, shards=2, error=error)
