"""Results of an approximate search: every row, manifest and run says so, and nothing is certified."""

import json
from pathlib import Path

import mlflow
import pyarrow.parquet as pq
import pytest
import torch

from helpers.digits_jobs import ROWS, label_config, quick_preset, read_labels
from otad_ray.artifacts import read_manifest
from otad_ray.certification import certified_radius
from otad_ray.defenses import load_defense
from otad_ray.errors import InputError
from otad_ray.jobs.attack_sweep import run_attack_sweep
from otad_ray.jobs.evaluate import EvaluateConfig, run_evaluation
from otad_ray.jobs.label_qcp import run_label_job
from otad_ray.sweep.config import SweepConfig

# With one list of eight probed, neighbors are missed.
INDEX = "IVF8,Flat"
NAME = f"approximate:{INDEX}"
ASKED = {"search": "faiss", "faiss_index": INDEX, "approximate": True, "local": True}


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def labels(storage: Path) -> dict:
    return run_label_job(label_config(storage, **ASKED))


def test_labels_say_how_neighbors_were_found(labels: dict, storage: Path) -> None:
    exact = run_label_job(label_config(storage, local=True))
    assert exact["labels"] != labels["labels"]
    found, expected = read_labels(labels["labels"]), read_labels(exact["labels"])
    assert found["search"].to_pylist() == [NAME] * ROWS
    assert "search" not in expected.column_names
    right = [
        len(set(row) & set(best))
        for row, best in zip(found["neighbor_ids"].to_pylist(), expected["neighbor_ids"].to_pylist(), strict=True)
    ]
    recall = sum(right) / (5 * ROWS)
    assert 0.5 < recall < 1
    manifest = json.loads((Path(labels["labels"]) / "manifest.json").read_text())
    assert manifest["identity"]["search"] == NAME
    assert manifest["search"]["name"] == NAME
    assert manifest["search"]["recall"] == pytest.approx(recall, abs=0.03)
    run = mlflow.MlflowClient(tracking_uri=labels["tracking_uri"]).get_run(labels["run_id"])
    assert run.data.params["search"] == NAME
    assert run.data.metrics["search_recall"] == pytest.approx(manifest["search"]["recall"])


def test_evaluations_say_how_neighbors_were_found(labels: dict, storage: Path) -> None:
    result = run_evaluation(EvaluateConfig(preset=quick_preset(), storage=str(storage), **ASKED))
    directory = Path(result["evaluation"])
    assert 0.5 < result["search_recall"] <= 1
    assert read_manifest(directory, kind="evaluation")["search"]["name"] == NAME
    table = pq.read_table(next(directory.glob("shard-*")), partitioning=None)
    assert set(table["search"].to_pylist()) == {NAME}
    exact = run_evaluation(EvaluateConfig(preset=quick_preset(), storage=str(storage), local=True))
    assert exact["evaluation"] != result["evaluation"]
    assert "search_recall" not in exact


def test_sweeps_say_how_neighbors_were_found_and_certify_nothing(labels: dict, storage: Path) -> None:
    result = run_attack_sweep(
        SweepConfig(
            preset=quick_preset(),
            storage=str(storage),
            samples=20,
            attacks=("noise",),
            costly_attacks=(),
            eps=(0.5,),
            defense=("otad", "net"),
            **ASKED,
        )
    )
    manifest = read_manifest(Path(result["sweep"]), kind="sweep")
    assert manifest["search"]["name"] == NAME
    assert 0.5 < manifest["search"]["recall"] <= 1
    otad = manifest["defenses"]["otad"]
    assert "no certificate where neighbors may be missed" in otad["not_certified"]
    assert result["brackets"]["otad"]["0.5"]["certified"] is None
    for directory in (*otad["records"], otad["clean"]):
        table = pq.read_table(next(Path(directory).glob("shard-*")), partitioning=None)
        assert set(table["search"].to_pylist()) == {NAME}
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{storage / 'mlflow.db'}")
    run = client.get_run(result["run_id"])
    assert run.data.metrics["search_recall"] == pytest.approx(manifest["search"]["recall"])
    for run_id in (result["run_id"], *manifest["attack_runs"]):
        assert client.get_run(run_id).data.params["search"] == NAME
    directory = Path(result["sweep"])
    assert f"Neighbors are approximate: {NAME} finds" in (directory / "report.txt").read_text()
    assert set(pq.read_table(directory / "outcomes.parquet")["search"].to_pylist()) == {NAME}
    entries = list((directory / "model_info").glob("**/*.json"))
    assert entries
    assert all(json.loads(path.read_text())["search"] == NAME for path in entries)


def test_certificates_are_refused(labels: dict, storage: Path) -> None:
    (knn,) = [
        path for path in (storage / "digits" / "defenses").iterdir() if "knn" in (path / "defense.json").read_text()
    ]
    certified_radius(load_defense(knn, search="faiss"), torch.rand(2, 1, 8, 8))
    with pytest.raises(InputError, match=r"no certificate where neighbors may be missed.*approximate:IVF8,Flat"):
        certified_radius(load_defense(knn, search=NAME), torch.rand(2, 1, 8, 8))
