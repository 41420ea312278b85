"""Seconds by stage: exclusive, complete, and of the thread that asks."""

import threading
import time
from contextlib import suppress

import pytest
import torch

from otad_ray.cip import Regularity
from otad_ray.defenses import OTAD
from otad_ray.memory import IntegrationConfig, NeighborMemory
from otad_ray.models import BackboneConfig, build_backbone
from otad_ray.stages import STAGES, record_stages, stage


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, for tests to set."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_stages_within_each_other_are_not_counted_twice(clock: list[float]) -> None:
    with record_stages() as seconds:
        clock[0] += 1
        with stage("model"):
            clock[0] += 2
            with stage("search"):
                clock[0] += 4
            with stage("model"):
                clock[0] += 8
        with suppress(ValueError), stage("solve"):
            clock[0] += 16
            raise ValueError
        clock[0] += 32
    clock[0] += 64
    assert seconds == {"other": 33, "model": 10, "search": 4, "solve": 16}
    with stage("solve"):
        clock[0] += 1
    assert sum(seconds.values()) == 63


def test_each_recording_is_its_own(clock: list[float]) -> None:
    def elsewhere() -> None:
        with stage("solve"):
            clock[0] += 1

    with record_stages() as outer:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        with record_stages() as inner, stage("search"):
            clock[0] += 2
    assert outer == {**dict.fromkeys(STAGES, 0.0), "other": 3}
    assert inner == {**dict.fromkeys(STAGES, 0.0), "search": 2}


def test_a_defense_spends_its_time_in_every_stage(tmp_path) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(40, 6, generator=generator)
    net = build_backbone(BackboneConfig(num_blocks=1), shape=(6,), num_outputs=3).eval()
    with torch.no_grad():
        provenance = {"backbone": net.fingerprint()}
        NeighborMemory.build(
            tmp_path / "m", None, [x], [net.features(x)], [torch.zeros(40)], [torch.arange(40)], provenance=provenance
        )
    defense = OTAD(
        net,
        NeighborMemory.load(tmp_path / "m"),
        IntegrationConfig(num_neighbors=3, regularity=Regularity(smoothness=2.0)),
    )
    started = time.perf_counter()
    with record_stages() as seconds:
        defense(x[:5])
    assert set(seconds) == set(STAGES)
    assert all(value > 0 for value in seconds.values())
    assert sum(seconds.values()) <= time.perf_counter() - started
