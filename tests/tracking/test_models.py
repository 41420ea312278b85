"""Defenses logged as models: whole, without pickle, and the same where nothing of this project is installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

from otad_ray.artifacts import read_manifest
from otad_ray.defenses import OTAD, OTADNN, Defense, Undefended, load_defense
from otad_ray.errors import InputError
from otad_ray.jobs.log_model import LogModelConfig
from otad_ray.memory import IntegrationConfig, NeighborMemory
from otad_ray.models import (
    BackboneConfig,
    CipNetConfig,
    MetricNetConfig,
    build_backbone,
    build_cip_net,
    build_metric_net,
)
from otad_ray.presets import PRESETS
from otad_ray.tracking import LoggedModel, RunRecord, StoreError, default_tracking_uri, log_defense, store

SHAPE, CLASSES = (1, 2, 3), 4
LOAD = """
import sys
import mlflow
import numpy as np
uri, inputs, outputs = sys.argv[1:]
np.save(outputs, mlflow.pyfunc.load_model(uri).predict(np.load(inputs)))
import otad_ray
assert "ray" not in sys.modules
print(otad_ray.__file__)
"""


@pytest.fixture(scope="module")
def defense(root: Path) -> Defense:
    torch.manual_seed(0)
    net = build_backbone(BackboneConfig(num_blocks=1), shape=(6,), num_outputs=CLASSES).eval()
    points = torch.rand(40, 6)
    with torch.no_grad():
        features = net.features(points)
    memory = NeighborMemory.build(
        root / "m" / "memory", None, [points], [features], [torch.zeros(40, dtype=torch.int64)], [torch.arange(40)]
    )
    defense = OTAD(net, memory, IntegrationConfig(num_neighbors=5))
    defense.save(root / "m" / "defenses" / "otad")
    Undefended(net).save(root / "m" / "defenses" / "net")
    return load_defense(root / "m" / "defenses" / "otad")


def log(root: Path, name: str, **options: str) -> LoggedModel:
    directory = root / "m" / "defenses" / name
    record = RunRecord(
        experiment="models", kind="model", result={"directory": directory}, params={"defense": name}, metrics={}
    )
    example = np.zeros((2, *SHAPE), np.float32)
    uri = default_tracking_uri(None, root)
    return log_defense(directory, example, record, num_outputs=CLASSES, tracking_uri=uri, root=root, **options)


def files(root: Path, logged: LoggedModel) -> Path:
    client = mlflow.MlflowClient(tracking_uri=default_tracking_uri(None, root))
    model = client.get_logged_model(logged.uri.rpartition("/")[2])
    assert model.status == "READY"
    return Path(model.artifact_location.removeprefix("file://"))


def test_logged_model_loads_elsewhere_without_pickle_and_gives_the_same_logits(
    defense: Defense, root: Path, tmp_path: Path
) -> None:
    logged = log(root, "otad")
    x = torch.rand(7, *SHAPE)
    np.save(tmp_path / "x.npy", x.numpy())
    done = subprocess.run(
        [sys.executable, "-c", LOAD, logged.uri, str(tmp_path / "x.npy"), str(tmp_path / "logits.npy")],
        env={
            **os.environ,
            "MLFLOW_TRACKING_URI": default_tracking_uri(None, root),
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
            "PYTHONPATH": "",
            # Bytecode would be written into the logged model, whose files another test lists.
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert Path(done.stdout.splitlines()[-1]).is_relative_to(files(root, logged) / "code")
    with torch.no_grad():
        expected = defense(x)
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), expected.numpy())


def test_a_defense_of_several_networks_is_logged_whole(root: Path) -> None:
    """OTAD-T-NN: backbone, metric net and CIP-net."""
    torch.manual_seed(0)
    net = build_backbone(BackboneConfig(num_blocks=1), shape=(64,), num_outputs=CLASSES).eval()
    metric = build_metric_net(MetricNetConfig(architecture="cnn", width=8, num_keys=4), shape=(1, 8, 8)).eval()
    x = torch.rand(30, 1, 8, 8)
    with torch.no_grad():
        points, keys = net.embed(x), metric(x)
        features = net.features(points)
    labels, ids = torch.zeros(30, dtype=torch.int64), torch.arange(30)
    memory = NeighborMemory.build(root / "m" / "keyed", [keys], [points], [features], [labels], [ids])
    options = CipNetConfig(width=8, num_blocks=1, num_heads=2)
    cip_net = build_cip_net(options, num_neighbors=5, coordinates=64, dimension=64).eval()
    defense = OTADNN(net, memory, cip_net, IntegrationConfig(num_neighbors=5), metric)
    defense.save(root / "m" / "defenses" / "otad_nn")
    logged = log(root, "otad_nn")
    loaded = load_defense(files(root, logged) / "artifacts" / "defense")
    torch.testing.assert_close(loaded(x[:4]), defense(x[:4]))


def test_logged_model_holds_packages_and_networks_but_no_pickle(defense: Defense, root: Path) -> None:
    logged = log(root, "otad")
    directory = files(root, logged)
    held = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
    assert not [name for name in held if name.endswith((".pkl", ".pickle", ".pt", ".pth", ".bin", ".pyc"))]
    for path in directory.rglob("*.npy"):
        assert not np.load(path, allow_pickle=False, mmap_mode="r").dtype.hasobject
    assert {name.split("/")[2] for name in held if name.startswith("code/otad_ray/")} == {
        "__init__.py",
        "artifacts.py",
        "cip",
        "defenses",
        "errors.py",
        "locations.py",
        "locks.py",
        "machine.py",
        "memory",
        "models",
        "permissions.py",
        "process_state.py",
        "stages.py",
        "user_imports.py",
        "user_module.py",
    }
    described = json.loads((directory / "artifacts" / "defense" / "defense.json").read_text())
    assert (described["memory"], described["backbone"]) == ("memory", "backbone")
    memory = directory / "artifacts" / "defense" / "memory"
    assert read_manifest(memory, kind="memory") == defense.memory.manifest
    pinned = dict(line.split("==") for line in (directory / "requirements.txt").read_text().splitlines())
    assert pinned["torch"] == torch.__version__.partition("+")[0]
    signature = mlflow.models.Model.load(str(directory)).signature
    assert [spec.shape for spec in (*signature.inputs, *signature.outputs)] == [(-1, *SHAPE), (-1, CLASSES)]
    # Linked, not copied, on the way; and nothing of that is left.
    assert not list(root.glob(".model-*"))


def test_model_is_logged_and_registered_once(
    defense: Defense, root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Stores that MLflow opens of its own accord would be made here.
    monkeypatch.chdir(tmp_path)
    client = mlflow.MlflowClient(tracking_uri=default_tracking_uri(None, root))
    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "finalize_logged_model", lambda *arguments: 1 / 0)
        with pytest.raises(StoreError, match="ZeroDivisionError"):
            log(root, "net")
    store._refused.clear()
    first, again = log(root, "net", registered_name="net"), log(root, "net", registered_name="net")
    assert first == again
    assert first.version == 1
    run = client.get_run(first.run_id)
    assert (run.info.status, run.data.tags["otad.kind"]) == ("FINISHED", "model")
    experiment = client.get_experiment_by_name("models").experiment_id
    models = client.search_logged_models([experiment], filter_string="name = 'net'")
    assert [f"models:/{model.model_id}" for model in models] == [first.uri]
    assert not list(tmp_path.iterdir())


def test_bad_input() -> None:
    known = "otad, otad_released, otad_nn, otad_global, knn, net"
    with pytest.raises(InputError, match=f"unknown defense 'otat'; known: {known}"):
        LogModelConfig(preset=PRESETS["digits"], defense="otat")
