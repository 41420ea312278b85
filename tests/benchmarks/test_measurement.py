"""The measurements compare like with like, and say what they found."""

from pathlib import Path

import pytest
import torch

from otad_ray.benchmarks import (
    Measurement,
    best_of,
    measure_certificates,
    measure_cip,
    measure_search,
    threads,
)
from otad_ray.cip import Regularity
from otad_ray.defenses import KNN
from otad_ray.memory import NeighborMemory
from otad_ray.models import BackboneConfig, build_backbone


def test_cip_is_compared_on_the_same_instances() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(40, 6, 12, generator=generator)
    features = points + 0.5 * torch.tanh(points)
    query = points.mean(1) + 0.1 * torch.randn(40, 12, generator=generator)
    measurements = measure_cip(query, points, features, Regularity(), goal=2.0)
    assert [item.name for item in measurements] == ["cip_clarabel_12", "cip_pot_12"]
    for item in measurements:
        assert item.ratio == pytest.approx(item.reference / item.ours)
        agreement = float(item.note.rpartition(" ")[2])
        assert agreement < 1e-4


def test_search_is_compared_on_the_same_neighbors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otad_ray.benchmarks.search._SECONDS", 0.0)
    points = torch.randn(700, 20, generator=torch.Generator().manual_seed(1))
    parts = [points], [points], [torch.zeros(700)], [torch.arange(700)]
    memory = NeighborMemory.build(tmp_path / "memory", None, *parts)
    queries = points[:100].contiguous()
    measurement = measure_search("mine", memory.keys, memory.search, queries, 5, num_threads=1, goal=3.0)
    assert "100.00 % the same neighbor sets" in measurement.note
    assert measurement.ratio == pytest.approx(measurement.reference / measurement.ours)


def test_a_goal_is_met_from_its_ratio_on() -> None:
    fields = {"name": "a", "unit": "s", "ours": 1.0, "reference": 3.0, "note": ""}
    assert Measurement(**fields, ratio=3.0, goal=3.0).met is True
    assert Measurement(**fields, ratio=2.9, goal=3.0).met is False
    assert Measurement(**fields, ratio=2.9, goal=None).met is None


def test_timing_gives_the_least_and_the_result() -> None:
    calls = []
    seconds, result = best_of(3, lambda: calls.append(0) or len(calls))
    assert (len(calls), result) == (3, 3)
    assert seconds >= 0


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with threads(2):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before


def test_certificates_are_compared_with_forward_passes(tmp_path: Path) -> None:
    net = build_backbone(BackboneConfig(num_blocks=1), shape=(6,), num_outputs=3)
    points = torch.randn(90, 6, generator=torch.Generator().manual_seed(2))
    parts = [points], [points], [torch.zeros(90)], [torch.arange(90)]
    memory = NeighborMemory.build(tmp_path / "memory", None, *parts, provenance={"backbone": net.fingerprint()})
    measurement = measure_certificates(KNN(net, memory, 3), points[:8], goal=1.0)
    assert measurement.name == "certificates_of_8"
    assert measurement.ratio == pytest.approx(measurement.reference / measurement.ours)
    assert "against 20 forwards; radius above 0 for" in measurement.note
