"""OTAD-T and OTAD-T-NN through the jobs: transformer, metric net, memory, labels, CIP-net, accuracy and a sweep."""

import json
import shutil
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from helpers.digits_jobs import ROWS, job_command, read_labels, run_job
from otad_ray.attacks import Budget, MetricPGD, Streams, find_attack
from otad_ray.certification import certified_radius
from otad_ray.cip import Regularity
from otad_ray.data import load_all, open_split
from otad_ray.defenses import load_defense
from otad_ray.engine.shards import write_shard
from otad_ray.engine.training import train_here
from otad_ray.errors import InputError
from otad_ray.jobs.attack_sweep import SweepConfig, run_attack_sweep
from otad_ray.jobs.evaluate import EvaluateConfig, run_evaluation
from otad_ray.memory import NeighborMemory
from otad_ray.models import BackboneConfig, CipNetOptions, MetricNetConfig, ViTOptions
from otad_ray.options import JobConfig, TrainJobConfig
from otad_ray.presets import PRESETS, Preset
from otad_ray.recipes import memory as memories
from otad_ray.recipes.cip_net import CipNetJobConfig, CipNetTask, ensure_cip_net, run_cip_net_training
from otad_ray.recipes.defenses import find_defenses, save_memory_defenses, save_otad_nn
from otad_ray.recipes.memory import ensure_memory
from otad_ray.recipes.metric_net import ensure_metric, run_metric_training
from otad_ray.recipes.workspace import Workspace

pytestmark = pytest.mark.usefixtures("cluster")

SMALL = PRESETS["digits_vit"]


def preset(**changes: Any) -> Preset:
    """All of digits_vit in seconds."""
    small = replace(
        SMALL,
        backbone=BackboneConfig(architecture="vit", num_blocks=1, vit=ViTOptions(patch_size=2, width=16, num_heads=2)),
        training=replace(SMALL.training, epochs=8, learning_rate=1e-2),
        metric=MetricNetConfig(architecture="cnn", width=8),
        metric_training=replace(SMALL.metric_training, epochs=4, learning_rate=3e-3),
        cip_net=CipNetOptions(width=32, num_blocks=1, num_heads=2),
        cip_net_training=replace(SMALL.cip_net_training, epochs=8),
        integration=replace(SMALL.integration, neighbors=5),
    )
    return replace(small, **changes)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def evaluated(storage: Path, cluster: None) -> dict[str, Any]:
    config = EvaluateConfig(preset=preset(), storage=str(storage), num_actors=2, otad_nn=True)
    return run_evaluation(config)


def described(result: dict[str, Any], name: str) -> dict[str, Any]:
    return json.loads((Path(result["sweep"]) / "manifest.json").read_text())["defenses"][name]


def only(storage: Path, kind: str) -> tuple[Path, dict[str, Any]]:
    (directory,) = (storage / "digits_vit" / kind).iterdir()
    return directory, json.loads((directory / "manifest.json").read_text())


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


def test_a_small_sweep_attacks_the_metric_net_too(evaluated: dict[str, Any], storage: Path) -> None:
    config = SweepConfig(
        preset=preset(),
        storage=str(storage),
        num_actors=2,
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
        records = [read_labels(directory) for directory in described(result, name)["records"]]
        for record in records:
            broken[name, record["attack"][0].as_py()] = np.mean(record["broken"].to_numpy(zero_copy_only=False))
        # The gradient of CIP-net and that of the solver both lead somewhere.
        assert broken[name, "pgd"] > broken[name, "noise"]
        assert bracket["worst_case"] <= 1 - broken[name, "pgd"]
    assert (Path(result["sweep"]) / "otad-examples.png").stat().st_size > 5000


def cip_net_metrics(asked: Preset, storage: Path, **options: Any) -> tuple[Path, dict[str, float]]:
    """Of a CIP-net that is trained in this process."""
    directory, _ = ensure_cip_net(Workspace(JobConfig(preset=asked, storage=str(storage))), **options)
    return directory, json.loads((directory / "manifest.json").read_text())


def test_the_papers_head_is_trained_beside_ours(evaluated: dict[str, Any], storage: Path) -> None:
    feature = preset(cip_net=replace(preset().cip_net, head="feature"))
    _, theirs = cip_net_metrics(feature, storage)
    ours = only_cip_net(storage, "simplex")
    assert ours["metrics"]["held_out_error_to_mean"] < theirs["metrics"]["held_out_error_to_mean"]
    # The same labels, held out alike.
    assert ours["labels_directory"] == theirs["labels_directory"]


def test_a_cip_net_serves_another_metric_net_than_its_labels_came_from(
    evaluated: dict[str, Any], storage: Path
) -> None:
    """Table VI: labels from neighbors by the metric net, used with neighbors by the points."""
    cip_net = str(only_cip_net_directory(storage))
    workspace = Workspace(JobConfig(preset=preset(metric=MetricNetConfig()), storage=str(storage)))
    saved = save_otad_nn(workspace, "torch", cip_net=cip_net)
    assert str(saved) != evaluated["defenses"]["otad_nn"]
    test = load_all(open_split(workspace.definition, "test"))
    with torch.no_grad():
        predicted = load_defense(saved)(test.x).argmax(1)
    assert float((predicted == test.y).double().mean()) > 0.6
    other = Workspace(JobConfig(preset=preset(training=replace(preset().training, epochs=1)), storage=str(storage)))
    with pytest.raises(InputError, match="was trained on features of backbone"):
        save_otad_nn(other, "torch", cip_net=cip_net)
    integration = preset().integration
    for changed, message in [
        (replace(integration, neighbors=4), "takes 5 neighbors, got neighbors=4"),
        (
            replace(integration, cross_term="released"),
            "learned the solutions of cross_term theory.*cross_term released",
        ),
        (replace(integration, regularity=Regularity(smoothness=3.0)), "learned the solutions of .*smoothness=2.0"),
    ]:
        elsewhere = Workspace(JobConfig(preset=preset(integration=changed), storage=str(storage / "nothing")))
        with pytest.raises(InputError, match=message):
            find_defenses(elsewhere, ("otad_nn",), "torch", cip_net=cip_net)
    with pytest.raises(InputError, match="is no CIP-net checkpoint"):
        find_defenses(elsewhere, ("otad_nn",), "torch", cip_net=str(storage))
    # Said before anything was trained there.
    assert not list((storage / "nothing").glob("digits_vit/*/*"))


def only_cip_net(storage: Path, head: str) -> dict[str, Any]:
    """That of the unchanged preset, but for the head."""
    return json.loads((only_cip_net_directory(storage, head) / "manifest.json").read_text())


def only_cip_net_directory(storage: Path, head: str = "simplex") -> Path:
    memory = ensure_memory(Workspace(JobConfig(preset=preset(), storage=str(storage), build=False)))
    manifests = {
        path.parent: json.loads(path.read_text()) for path in storage.glob("digits_vit/cip_net/*/manifest.json")
    }
    (found,) = [
        directory
        for directory, item in manifests.items()
        if item["identity"]["cip_net"]["head"] == head
        and item["memory"] == memory.fingerprint
        and item["identity"]["training"]["seed"] == 0
    ]
    return found


def test_certificates_through_a_lipschitz_metric_net_hold_against_attacks_on_it(
    evaluated: dict[str, Any], storage: Path
) -> None:
    robust = preset(
        metric=MetricNetConfig(architecture="orthogonal", width=16, num_keys=32),
        metric_training=replace(preset().metric_training, epochs=3, margin=0.5),
    )
    workspace = Workspace(JobConfig(preset=robust, storage=str(storage)))
    defense = load_defense(save_memory_defenses(workspace, "torch")["otad_theory"])
    samples = load_all(open_split(robust.definition, "test"))
    x, y = samples.x[:30], samples.y[:30]
    radius, method = certified_radius(defense, x)
    with torch.no_grad():
        predicted = defense(x).argmax(1)
    assert set(method) <= {"hull", "constant_neighborhood", ""}
    attacked = (radius > 0).nonzero().flatten().tolist()
    assert len(attacked) >= 6
    for attack in (MetricPGD(steps=40, restarts=1), find_attack("neighbor_aware"), find_attack("noise")):
        for row in attacked[:6]:
            budget = Budget(eps=0.999 * float(radius[row]), bounds=(0, 1))
            rows = slice(row, row + 1)
            found = attack(defense, x[rows], predicted[rows], budget, Streams.of(0, [row]))
            with torch.no_grad():
                assert defense(found.x_adv).argmax(1) == predicted[row]
    with pytest.raises(InputError, match="is in training mode"):
        certified_radius(defense.train(), x)
    defense.eval()
    # Beyond the radius the same attack breaks some: it is one.
    far = MetricPGD(steps=40, restarts=1)(defense, x, y, Budget(eps=3.0, bounds=(0, 1)), Streams.of(0, range(30)))
    with torch.no_grad():
        assert (defense(far.x_adv).argmax(1) != predicted).sum() >= 10


def test_an_ordinary_metric_net_gets_no_certificate(evaluated: dict[str, Any]) -> None:
    for name in ("otad_theory", "otad_nn", "knn"):
        with pytest.raises(InputError, match="no certificate: CNN gives no lipschitz_bound"):
            certified_radius(load_defense(evaluated["defenses"][name]), torch.rand(2, 1, 8, 8))


def test_labels_of_something_else_are_refused(evaluated: dict[str, Any], storage: Path, tmp_path: Path) -> None:
    """Other memory and backbone, other K, other regularity; and what is no directory of labels."""
    labels = only_cip_net(storage, "simplex")["labels_directory"]
    cases = [
        (preset(integration=replace(preset().integration, neighbors=4)), labels, "were made with neighbors 5, .* 4"),
        (
            preset(integration=replace(preset().integration, cross_term="released")),
            labels,
            "were made with cross_term theory",
        ),
        (
            preset(training=replace(preset().training, epochs=1)),
            labels,
            r"were made with memory \w+, this CIP-net is for \w+ \(and with backbone \w+, not \w+\)",
        ),
        (
            preset(metric=MetricNetConfig()),
            labels,
            r"were made with memory \w+, this CIP-net is for \w+; make them with",
        ),
        (preset(), str(tmp_path), "is no labels directory"),
        (preset(), str(tmp_path / "nowhere"), "is no labels directory"),
    ]
    for asked, directory, message in cases:
        with pytest.raises(InputError, match=message):
            cip_net_metrics(asked, storage, labels=directory)


def test_failed_label_rows_are_skipped_and_counted(evaluated: dict[str, Any], storage: Path, tmp_path: Path) -> None:
    """Labels in which a solver failed on some rows."""
    directory = tmp_path / "labels"
    shutil.copytree(only_cip_net(storage, "simplex")["labels_directory"], directory)
    path = sorted(directory.glob("shard-*"))[0]
    table = pq.read_table(path, partitioning=None)
    statuses = table["status"].to_pylist()
    statuses[3] = "failed"
    statuses[10:12] = ["infeasible"] * 2
    place = table.column_names.index("status")
    write_shard(path, table.set_column(place, "status", [statuses]))
    manifest = json.loads((directory / "manifest.json").read_text())
    counts = manifest["statistics"]["statuses"]
    for status, count in (("solved", -3), ("failed", 1), ("infeasible", 2)):
        counts[status] = counts.get(status, 0) + count
    (directory / "manifest.json").write_text(json.dumps(manifest))
    # Another seed, since the labels' identity is the same.
    asked = preset(cip_net_training=replace(preset().cip_net_training, epochs=1, seed=3))
    _, told = cip_net_metrics(asked, storage, labels=str(directory))
    assert told["rows"] == ROWS - 3
    assert told["skipped"] == {"failed": 1, "infeasible": 2}


def test_bad_input_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    def job(asked: Preset) -> JobConfig:
        return TrainJobConfig(preset=asked, storage=str(tmp_path))

    digits = PRESETS["digits"]
    empty = tmp_path / "empty.safetensors"
    empty.touch()
    for asked, message in [
        (digits, "has no metric net .* give one with --metric.architecture"),
        (preset(metric=MetricNetConfig(architecture="resnet18")), r"resnet18.*\(1, 8, 8\)"),
        (
            replace(PRESETS["cifar10_vit"], metric=MetricNetConfig(architecture="resnet18")),
            "starts from published weights: give their .safetensors file with --metric.weights",
        ),
        (replace(PRESETS["wine_quality_red"], metric=MetricNetConfig(architecture="cnn")), "is a regression"),
        (
            replace(PRESETS["cifar10_vit"], metric=MetricNetConfig(architecture="resnet18", weights="nowhere.pth")),
            r"metric.weights is /.*/nowhere\.pth, which is no file",
        ),
        (
            replace(PRESETS["cifar10_vit"], metric=MetricNetConfig(architecture="resnet18", weights=str(empty))),
            r"empty\.safetensors cannot be read as safetensors",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            run_metric_training(job(asked))
    with pytest.raises(InputError, match=r"needs images .* got samples of \(11,\)"):
        ensure_memory(Workspace(job(replace(PRESETS["wine_quality_red"], backbone=preset().backbone))))
    for options in ({"otad_nn": False}, {}):
        with pytest.raises(InputError, match="cip_net_directory is somewhere, but OTAD-T-NN is not asked for"):
            EvaluateConfig(preset=preset(), cip_net_directory="somewhere", **options)
    with pytest.raises(InputError, match="is not asked for; add --defense otad_nn"):
        SweepConfig(preset=preset(), cip_net_directory="somewhere")
    with pytest.raises(InputError, match="of fc_resnet only; the backbone is 'vit'"):
        run_attack_sweep(SweepConfig(preset=preset(), storage=str(tmp_path), defense=("plain_net",)))
    with pytest.raises(InputError, match="is no labels directory"):
        run_cip_net_training(CipNetJobConfig(preset=preset(), storage=str(tmp_path), labels=str(tmp_path / "nowhere")))
    sweep = SweepConfig(preset=digits, storage=str(tmp_path), attacks=("dml_pgd",))
    with pytest.raises(InputError, match="attacks the metric net, and preset 'digits' has none"):
        run_attack_sweep(sweep)
    with pytest.raises(InputError, match=r"make it with: python jobs/train_metric\.py digits_vit"):
        ensure_metric(Workspace(JobConfig(preset=preset(), storage=str(tmp_path), build=False)))
    assert not list(tmp_path.glob("digits_vit/*/*"))


def test_an_interrupted_training_of_a_cip_net_goes_on(evaluated: dict[str, Any], storage: Path, tmp_path: Path) -> None:
    """What a killed job left is what the next one goes on from."""
    manifest = only_cip_net(storage, "simplex")
    memory = ensure_memory(Workspace(JobConfig(preset=preset(), storage=str(storage), build=False)))
    task = CipNetTask(
        num_rows=ROWS,
        preset=preset(),
        memory=str(memory.directory),
        labels=manifest["labels_directory"],
        backbone=manifest["backbone"],
        state=tmp_path / "state",
    )

    class KilledError(Exception):
        pass

    class Dying(CipNetTask):
        def report(self, metrics: Any) -> None:
            if metrics.epoch == 3:
                raise KilledError

    with pytest.raises(KilledError):
        train_here(Dying(**vars(task)))
    assert task.store.latest().epoch == 3
    train_here(task)
    _, history = task.result()
    assert [epoch.values() for epoch in history] == [
        {name: value for name, value in epoch.items() if name != "epoch"} for epoch in manifest["history"]
    ]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_ray_train_learns_what_the_plain_loop_learns(evaluated: dict[str, Any], storage: Path, tmp_path: Path) -> None:
    """Metric net and CIP-net on two workers, whose keys and labels travel through Ray Data."""
    options = TrainJobConfig(preset=preset(), storage=str(tmp_path), num_workers=2)
    metric = run_metric_training(options)
    assert metric["loss"] == pytest.approx(only_metric(storage)["metrics"]["loss"], rel=1e-2)
    cip_net = run_cip_net_training(
        CipNetJobConfig(preset=preset(), storage=str(storage / ".." / "again"), num_workers=2)
    )
    expected = only_cip_net(storage, "simplex")
    assert cip_net["held_out_error_to_mean"] == pytest.approx(expected["metrics"]["held_out_error_to_mean"], rel=0.2)


def only_metric(storage: Path) -> dict[str, Any]:
    manifests = [json.loads(path.read_text()) for path in storage.glob("digits_vit/metric/*/manifest.json")]
    (found,) = [item for item in manifests if item["identity"]["architecture"] == "cnn"]
    return found


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


@pytest.mark.parametrize("metric", [MetricNetConfig(), None], ids=["points", "keys"])
def test_a_memory_is_built_a_batch_at_a_time(
    evaluated: dict[str, Any], storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: Any
) -> None:
    """Whether it has keys of its own or not."""
    asked = preset() if metric is None else preset(metric=metric)
    for kind in ("backbone", "metric"):
        shutil.copytree(storage / "digits_vit" / kind, tmp_path / "digits_vit" / kind)
    embedded, alive, most = memories._embedded, weakref.WeakSet(), []

    def watched(*arguments: Any) -> Iterator[Any]:
        for batch in embedded(*arguments):
            alive.add(batch.features)
            most.append(len(alive))
            yield batch

    monkeypatch.setattr(memories, "_BATCH_ROWS", 50)
    monkeypatch.setattr(memories, "_embedded", watched)
    ensure_memory(Workspace(JobConfig(preset=asked, storage=str(tmp_path))))
    assert len(most) == -(-ROWS // 50)
    assert max(most) <= 3
