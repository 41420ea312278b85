"""Pools of actors: what follows one that is lost, and that they compute what one process computes."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import pytest
from ray.exceptions import RayActorError, RayTaskError

from otad_ray.engine import ray_pool
from otad_ray.engine.metrics_actor import JobProgress, Recorder
from otad_ray.engine.ray_pool import ActorBackend
from otad_ray.engine.shards import Shard
from otad_ray.errors import RetryableError

TODO = [(0, Shard(index, 4 * index, 4 * index + 4)) for index in range(5)]


class Pool:
    """Does `shards` of them, and then raises."""

    def __init__(self, todo: Sequence[tuple[int, Shard]], shards: int, error: Exception) -> None:
        self._todo, self._shards, self._error = todo, shards, error

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        for place, shard in self._todo[: self._shards]:
            yield {
                "unit": place,
                **asdict(shard),
                "error": "",
                "computed": 4,
                "started": 0.0,
                "finished": 1.0,
            }
        if self._shards < len(self._todo):
            raise self._error


def done(monkeypatch: pytest.MonkeyPatch, *, shards: int, error: Exception) -> tuple[list[int], list[int]]:
    """Shards done, and the number of actors of each pool."""
    pools = []

    def dataset(todo: Sequence[tuple[int, Shard]], actor: object, num_actors: int) -> Pool:
        pools.append(num_actors)
        return Pool(todo, shards, error)

    monkeypatch.setattr(ray_pool, "_make_dataset", dataset)
    monkeypatch.setattr(ray_pool, "choose_num_actors", lambda requested, work: 1)
    recorder = Recorder(None)
    progress = JobProgress(recorder, job_name="label_qcp", preset="digits", rows=20)
    backend = ActorBackend([], TODO, frozenset(), num_actors=2, recorder=recorder, progress=progress)
    return [row.index for row in backend.compute()], pools


def test_a_lost_pool_is_followed_by_another_for_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    indices, pools = done(monkeypatch, shards=2, error=RayActorError())
    assert indices == [0, 1, 2, 3, 4]
    assert pools == [2, 1, 1]


def test_a_pool_that_is_lost_with_nothing_done_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RetryableError, match=r"actors died again after 3 restarts.*run the same command again"):
        done(monkeypatch, shards=0, error=RayActorError())


def test_error_of_an_actor_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RayTaskError("map", "Traceback ...", ZeroDivisionError())
    with pytest.raises(RayTaskError):
        done(monkeypatch, shards=2, error=error)
