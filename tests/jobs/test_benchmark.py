"""The benchmark job on digits: every part runs, and its numbers are there to be read."""

import math
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest

from helpers.digits_jobs import quick_preset
from otad_ray.errors import InputError
from otad_ray.jobs.benchmark import BenchmarkConfig, run_benchmark
from otad_ray.presets import PRESETS


@pytest.fixture(autouse=True)
def _repeat_no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches are measured twice, not for seconds."""
    monkeypatch.setattr("otad_ray.benchmarks.search._SECONDS", 0.0)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage root whose backbone and memory are made once."""
    return tmp_path_factory.mktemp("root")


def test_search_is_measured_printed_and_tracked(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run_benchmark(BenchmarkConfig(preset=quick_preset(), storage=str(storage), parts=("search",), local=True))
    (first, *_) = result["measurements"]
    assert first["name"] == "search_1_threads"
    assert "100.00 % the same neighbor sets" in first["note"]
    assert first["name"] in capsys.readouterr().err
    run = mlflow.MlflowClient(tracking_uri=f"sqlite:///{storage / 'mlflow.db'}").get_run(result["run_id"])
    assert run.data.metrics["ratio_search_1_threads"] == pytest.approx(first["ratio"])
    assert {"processor", "cores", "memory", "commit"} <= set(run.data.params)


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")  # POT's by Clarabel; the note says how much.
def test_the_global_program_is_measured_against_clarabel_pot_and_itself(
    storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("otad_ray.jobs.benchmark.global_program._CLARABEL_PIECES", 40)
    monkeypatch.setattr("otad_ray.jobs.benchmark.global_program._SAMPLES", 64)
    config = BenchmarkConfig(preset=quick_preset(), storage=str(storage), parts=("global",), local=True)
    first, second, *forward = run_benchmark(config)["measurements"]
    assert (first["name"], second["name"]) == ("global_clarabel_40", "global_pot_20")
    for item in (first, second):
        difference = float(item["note"].rpartition("agree to ")[2])
        assert difference < 1e-4
        assert item["ratio"] > 1
    assert {item["name"].rsplit("_", 2)[0] for item in forward} == {"forward_compressed"}
    assert "359 pieces against 1437" in forward[0]["note"]


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_labels_and_memory_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = BenchmarkConfig(
        preset=quick_preset(), storage=str(tmp_path), num_actors=1, rows_per_shard=300, parts=("labels", "memory")
    )
    result = run_benchmark(config)
    names = [item["name"] for item in result["measurements"]]
    assert names == ["labels_against_flat", "labels_against_loop", "private_memory"]
    table = capsys.readouterr().err
    for item in result["measurements"]:
        assert math.isfinite(item["ratio"])
        assert item["ratio"] > 0
        assert item["name"] in table
    assert set(result["machine"]) == {"processor", "cores", "memory", "commit"}
    assert result["run_id"] is not None
    # What was measured on the way is removed.
    assert not list(tmp_path.glob("**/.benchmark-*"))


def test_unknown_part(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown part 'speed'; known: cip, search, labels, memory"):
        BenchmarkConfig(preset=quick_preset(), storage=str(tmp_path), parts=("speed",))


def test_transformers_are_measured_at_the_sizes_of_the_preset(tmp_path: Path) -> None:
    preset = replace(PRESETS["digits_vit"], train_rows=100)
    result = run_benchmark(BenchmarkConfig(preset=preset, storage=str(tmp_path), parts=("transformer",), local=True))
    names = [item["name"] for item in result["measurements"]]
    assert names[:3] == ["otad_t_feature_net_cpu", "otad_t_simplex_net_cpu", "otad_t_clarabel_cpu"]
    for item in result["measurements"]:
        assert "a batch of 128, K = 10 of 100 rows, D = 512, untrained networks" in item["note"]
        assert item["ratio"] > 0
    assert not list(tmp_path.glob("**/.benchmark-*"))


def test_only_transformers_are_measured_as_such(tmp_path: Path) -> None:
    config = BenchmarkConfig(preset=quick_preset(), storage=str(tmp_path), parts=("search", "transformer"), local=True)
    with pytest.raises(InputError, match=r"'digits' is 'fc_resnet'; run: .* cifar10_vit --parts transformer"):
        run_benchmark(config)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", ["labels", "attacks"])
def test_parts_that_compare_actors_are_refused_without_ray(part: str) -> None:
    with pytest.raises(InputError, match=f"part '{part}' compares pools of Ray actors; leave out --local"):
        BenchmarkConfig(preset=quick_preset(), parts=(part,), local=True)
