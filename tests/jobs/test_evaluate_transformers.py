"""OTAD-T and OTAD-T-NN through the jobs: everything that an evaluation needs, and a sweep."""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

from helpers.digits_jobs import ROWS, job_command, read_labels, run_job
from helpers.transformer_jobs import describe_defense, only, preset
from otad_ray.jobs.attack_sweep import run_attack_sweep
from otad_ray.memory import NeighborMemory
from otad_ray.sweep.config import SweepConfig


def test_everything_that_an_evaluation_needs_is_made(evaluated: dict[str, Any], storage: Path) -> None:
    # Of ten classes chance is 0.1: far above it, with and without the solver.
    for name in ("net", "otad_theory", "otad_nn", "knn"):
        assert evaluated[f"accuracy_{name}"] > 0.6
    assert evaluated["share_unsolved"] == 0
    directory, memory = only(storage, "memory")
    assert memory["shapes"] == {
        "keys": [ROWS, 128], "points": [ROWS, 64], "features": [ROWS, 256], "labels": [ROWS], "ids": [ROWS],
    }  # fmt: skip
    _, metric = only(storage, "metric")
    assert memory["metric_directory"] == only(storage, "metric")[0].name
    assert {"test_neighbor_accuracy", "test_neighbor_accuracy_inputs", "loss", "train_active"} <= metric[
        "metrics"
    ].keys()
    _, cip_net = only(storage, "cip_net")
    assert cip_net["rows"] == ROWS
    assert cip_net["skipped"] == {}
    assert cip_net["metrics"]["held_out_error_to_mean"] < 0.5
    _, backbone = only(storage, "backbone")
    for metrics in (backbone["metrics"], cip_net["metrics"]):
        found, sharper, bound = (metrics[f"attention_1_{name}"] for name in ("lipschitz", "sharper", "theorem"))
        assert 0 < found <= sharper <= bound
    assert NeighborMemory.load(directory).point_space is not None


def test_networks_are_tracked_with_their_epochs(evaluated: dict[str, Any], storage: Path) -> None:
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{storage / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("digits_vit").experiment_id])
    kinds = {run.data.tags["otad.kind"]: run for run in runs}
    assert {"backbone", "metric", "memory", "labels", "cip_net", "evaluation"} <= kinds.keys()
    history = client.get_metric_history(kinds["cip_net"].info.run_id, "epoch_squared_error")
    assert len(history) == 8
    assert history[-1].value < history[0].value
    assert kinds["evaluation"].data.metrics["accuracy_otad_nn"] == evaluated["accuracy_otad_nn"]


@pytest.mark.slow
def test_a_small_sweep_attacks_the_metric_net_too(evaluated: dict[str, Any], storage: Path) -> None:
    config = SweepConfig(
        preset=preset(),
        storage=str(storage),
        local=True,
        defense=("otad", "otad_nn"),
        attacks=("noise", "pgd", "dml_pgd"),
        eps=(0.7,),
        samples=24,
    )
    result = run_attack_sweep(config)
    assert set(result["brackets"]) == {"otad", "otad_nn"}
    table = (Path(result["sweep"]) / "report.txt").read_text()
    assert "dml_pgd" in table
    broken = {}
    for name in ("otad", "otad_nn"):
        bracket = result["brackets"][name]["0.7"]
        # An ordinary metric net has no certificate.
        assert bracket["certified"] is None
        records = [read_labels(directory) for directory in describe_defense(result, name)["records"]]
        for record in records:
            broken[name, record["attack"][0].as_py()] = np.mean(record["broken"].to_numpy(zero_copy_only=False))
        # The gradient of CIP-net and that of the solver both lead somewhere.
        assert broken[name, "pgd"] > broken[name, "noise"]
        assert bracket["worst_case"] <= 1 - broken[name, "pgd"]
    assert (Path(result["sweep"]) / "otad-examples.png").stat().st_size > 5000


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_documented_commands_run(tmp_path: Path) -> None:
    """As typed, each in a process of its own."""
    quick = ["--training.epochs", "2", "--metric-training.epochs", "1", "--cip-net-training.epochs", "2"]
    options = ["digits_vit", *quick, "--storage", str(tmp_path)]
    metric = run_job("train_metric.py", *options)
    assert metric["test_neighbor_accuracy"] > 0.5
    trained = run_job("train_cip_net.py", *options)
    assert trained["rows"] == ROWS
    evaluated = run_job("evaluate.py", *options, "--otad-nn")
    assert evaluated["accuracy_otad_nn"] > 0.1
    assert "train_cip_net.py" in " ".join(job_command("train_cip_net.py"))
