"""The label job inside the test process: what it writes, resumes, refuses and tracks."""

import json
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

from helpers.digits_jobs import ROWS, label_config, quick_preset, read_labels
from otad_ray.cip import SolverUnavailableError, check_solver
from otad_ray.engine.shards import write_shard
from otad_ray.errors import InputError
from otad_ray.jobs.build_memory import run_memory_build
from otad_ray.jobs.label_qcp import run_label_job
from otad_ray.memory import NeighborMemory
from otad_ray.options import JobConfig
from otad_ray.recipes.backbone import ensure_backbone
from otad_ray.recipes.workspace import Workspace


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def result(storage: Path) -> dict:
    return run_label_job(label_config(storage, rows_per_shard=200))


def test_labels_every_row_once(result: dict, storage: Path) -> None:
    assert result["rows"] == result["rows_computed"] == ROWS
    assert result["rows_per_second"] > 0
    assert Path(result["labels"]).is_relative_to(storage / "digits" / "labels")
    labels = read_labels(result["labels"])
    assert len(set(labels["id"].to_pylist())) == len(labels) == ROWS
    assert set(labels["id"].to_pylist()) < set(range(len(load_digits().target)))
    assert sum(result["statuses"].values()) == ROWS
    assert labels["residual"].to_numpy().max() < 1e-12


def test_manifest_tells_what_was_done(result: dict) -> None:
    manifest = json.loads((Path(result["labels"]) / "manifest.json").read_text())
    assert manifest["complete"]
    assert manifest["rows"] == ROWS
    assert manifest["identity"]["neighbors"] == 5
    assert manifest["identity"]["regularity"]["smoothness"] == 2.0
    assert manifest["statistics"]["statuses"] == result["statuses"]
    assert {"otad_ray", "torch", "ray"} <= set(manifest["versions"])
    seconds = manifest["stage_seconds"]
    assert set(seconds) == {"search", "solve", "model", "other"}
    assert min(seconds["search"], seconds["solve"]) > 0
    # Labels are made from the memory's features: nothing asks the model.
    assert seconds["model"] == 0
    # Of what is computed alone.
    assert sum(seconds.values()) < ROWS / result["rows_per_second"]
    assert (Path(result["labels"]) / "label-statistics.png").stat().st_size > 5000


def test_a_rerun_computes_nothing(result: dict, storage: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(result["labels"]).glob("shard-*")}
    again = run_label_job(label_config(storage, rows_per_shard=999))
    assert again == {**result, "rows_computed": 0}
    assert {path: path.stat().st_mtime_ns for path in Path(result["labels"]).glob("shard-*")} == before


def test_a_rerun_computes_what_is_missing_broken_or_retryable(result: dict, storage: Path) -> None:
    directory = Path(result["labels"])
    expected = read_labels(directory)
    shards = sorted(directory.glob("shard-*"))
    shards[1].unlink()
    shards[3].write_bytes(shards[3].read_bytes()[:-100])
    reopened = pq.read_table(shards[4])
    statuses = reopened["status"].to_pylist()
    statuses[7:10] = ["interrupted"] * 3
    write_shard(shards[4], reopened.set_column(reopened.column_names.index("status"), "status", [statuses]))
    untouched = {shards[index]: shards[index].stat().st_mtime_ns for index in (0, 2, 5)}

    again = run_label_job(label_config(storage))
    assert again["rows_computed"] == 200 + 200 + 3
    assert again["statuses"] == result["statuses"]
    assert all(path.stat().st_mtime_ns == time for path, time in untouched.items())
    found = read_labels(directory)
    assert found["id"] == expected["id"]
    assert found["neighbor_ids"] == expected["neighbor_ids"]
    np.testing.assert_allclose(found["value"], expected["value"])


def test_tracked_run(result: dict) -> None:
    client = mlflow.MlflowClient(tracking_uri=result["tracking_uri"])
    run = client.get_run(result["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["neighbors"] == "5"
    assert run.data.params["regularity.smoothness"] == "2.0"
    assert run.data.params["solver"] == "dual"
    assert run.data.metrics["rows"] == ROWS
    assert run.data.metrics["rows_per_second"] == pytest.approx(result["rows_per_second"])
    assert run.data.metrics["rows_relaxed"] == result["statuses"]["relaxed"]
    history = client.get_metric_history(result["run_id"], "rows_by_relaxations")
    assert sum(point.value for point in history if point.step > 0) == result["statuses"]["relaxed"]
    (used,) = run.inputs.dataset_inputs
    assert used.dataset.name == "digits/train"
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {"manifest.json", "label-statistics.png"}


def test_search_and_solver_go_through_the_same_actor(storage: Path, result: dict, tmp_path: Path) -> None:
    """A directory started with one solver is finished by another; rows say which solved them."""
    labels = str(tmp_path / "labels")
    run_label_job(label_config(storage, labels=labels, rows_per_shard=60))
    (Path(labels) / "shard-00000.parquet").unlink()
    conic = label_config(storage, labels=labels, search="faiss", integration={"solver": "clarabel"})
    assert run_label_job(conic)["rows_computed"] == 60
    mixed, exact = read_labels(labels), read_labels(result["labels"])
    assert mixed["solver"].to_pylist() == ["clarabel"] * 60 + ["dual"] * (ROWS - 60)
    assert mixed["neighbor_ids"].to_pylist() == exact["neighbor_ids"].to_pylist()
    np.testing.assert_allclose(mixed["value"], exact["value"], rtol=1e-5, atol=1e-6)


def test_dense_labels_hold_the_feature(storage: Path, result: dict) -> None:
    dense = run_label_job(label_config(storage, dense=True))
    assert dense["labels"] != result["labels"]
    row = read_labels(dense["labels"]).slice(100, 1).to_pylist()[0]
    memory = NeighborMemory.load(next((storage / "digits" / "memory").iterdir()))
    position = {identity: index for index, identity in enumerate(memory.ids.tolist())}
    features = memory.features[[position[identity] for identity in row["neighbor_ids"]]].numpy()
    np.testing.assert_allclose(row["feature"], np.array(row["weights"]) @ features, atol=1e-5)


def test_missing_inputs_without_building(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no backbone for preset 'digits'.*python jobs/train_backbone\.py digits"):
        run_label_job(label_config(tmp_path, build=False))
    config = JobConfig(preset=quick_preset(), storage=str(tmp_path))
    ensure_backbone(Workspace(config))
    with pytest.raises(InputError, match=r"no memory.*python jobs/build_memory\.py digits"):
        run_label_job(label_config(tmp_path, build=False))
    assert run_memory_build(config)["rows"] == ROWS
    assert run_label_job(label_config(tmp_path, build=False))["rows"] == ROWS


def test_bad_input_before_any_work(tmp_path: Path, storage: Path, result: dict) -> None:
    memory = str(next((storage / "digits" / "memory").iterdir()))
    file = tmp_path / "thesis.tex"
    file.touch()
    root = tmp_path / "root"
    cases = {
        "neighbors must be at most 1436": label_config(root, integration={"num_neighbors": ROWS}),
        "1 to 1436, the leave-one-out": label_config(root, memory=memory, integration={"num_neighbors": ROWS}),
        "does not exist": label_config(root, memory=str(tmp_path / "gone")),
        "no memory can have been built with it": label_config(root, memory=memory),
        "thesis.tex cannot be made": label_config(root, labels=str(file)),
        "/proc/otad cannot be made": label_config(root, labels="/proc/otad"),
        "is not empty and holds no manifest": label_config(root, labels=str(tmp_path)),
        "need num_actors >= 1": label_config(root, local=False, num_actors=0),
        "num_actors is 1000, but the cluster has": label_config(root, local=False, num_actors=1000),
        "storage root /proc/otad cannot be written": label_config(Path("/proc/otad")),
    }
    for message, config in cases.items():
        with pytest.raises(InputError, match=message):
            run_label_job(config)
        assert not list(root.glob("digits/*")), message


def test_a_memory_of_another_backbone_is_refused(storage: Path, result: dict) -> None:
    memory = str(next((storage / "digits" / "memory").iterdir()))
    # Other epochs, other features.
    preset = replace(quick_preset(), training=replace(quick_preset().training, epochs=1))
    ensure_backbone(Workspace(JobConfig(preset=preset, storage=str(storage))))
    with pytest.raises(InputError, match="was built with backbone"):
        run_label_job(replace(label_config(storage, memory=memory), preset=preset))


def test_backbone_and_memory_runs_are_logged_once_a_server_answers(tmp_path: Path) -> None:
    preset = quick_preset()
    run_memory_build(JobConfig(preset=preset, storage=str(tmp_path), tracking_uri="http://127.0.0.1:9"))
    manifests = [next(tmp_path.glob(f"digits/{kind}/*/manifest.json")) for kind in ("backbone", "memory")]
    assert [json.loads(path.read_text()).get("run_id") for path in manifests] == [None, None]
    for _ in range(2):
        run_memory_build(JobConfig(preset=preset, storage=str(tmp_path)))
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert sorted(run.data.tags["otad.kind"] for run in runs) == ["backbone", "memory"]
    assert {json.loads(path.read_text())["run_id"] for path in manifests} == {run.info.run_id for run in runs}


def test_mosek_without_a_license_is_refused_before_any_work(tmp_path: Path) -> None:
    try:
        check_solver("mosek")
    except SolverUnavailableError:
        pass
    else:
        pytest.skip("a MOSEK license is installed")
    with pytest.raises(SolverUnavailableError, match="MOSEKLM_LICENSE_FILE"):
        run_label_job(label_config(tmp_path / "root", integration={"solver": "mosek"}))
    assert not (tmp_path / "root").exists()


def test_a_dead_tracking_server_loses_nothing(storage: Path, result: dict, tmp_path: Path) -> None:
    labels = str(tmp_path / "labels")
    dead = run_label_job(label_config(storage, labels=labels, tracking_uri="http://user:secret@127.0.0.1:9"))
    assert dead["rows"] == ROWS
    assert dead["run_id"] is None
    assert "secret" not in json.dumps(dead)
    assert len(read_labels(labels)) == ROWS
    (pending,) = (storage / "pending").glob("*.json")
    assert json.loads(pending.read_text())["record"]["kind"] == "labels"
    assert "secret" not in pending.read_text()
    # The same command logs the run once a server answers.
    replayed = run_label_job(label_config(storage, labels=labels))
    assert replayed["rows_computed"] == 0
    assert replayed["run_id"]
    assert replayed["rows_per_second"] == dead["rows_per_second"]
    assert not pending.exists()
