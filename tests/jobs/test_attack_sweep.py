"""The attack sweep on digits: honest records, the same whoever computes them, and errors that cost nothing else."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from helpers.digits_jobs import quick_preset
from otad_ray.artifacts import read_manifest, write_json
from otad_ray.data import data_set, load_all, open_split
from otad_ray.defenses import load_defense
from otad_ray.errors import InputError
from otad_ray.jobs.attack_sweep import run_attack_sweep
from otad_ray.presets import PRESETS
from otad_ray.sweep.config import SweepConfig
from otad_ray.sweep.report import OUTCOMES

ATTACKS = ("noise", "fgsm", "neighbor_aware")


def config(storage: Path, **fields) -> SweepConfig:
    defaults = {
        "preset": quick_preset(),
        "storage": str(storage),
        "local": True,
        "samples": 120,
        "attacks": ATTACKS,
        "costly_attacks": (),
        "eps": (0.5, 1.0),
    }
    return SweepConfig(**{**defaults, **fields})


def records(result: dict, defense: str) -> pa.Table:
    described = read_manifest(Path(result["sweep"]), kind="sweep")["defenses"][defense]
    files = [file for directory in described["records"] for file in sorted(Path(directory).glob("shard-*"))]
    table = pa.concat_tables(pq.read_table(file, partitioning=None) for file in files)
    return table.sort_by([("attack", "ascending"), ("eps", "ascending"), ("id", "ascending")])


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def result(storage: Path) -> dict:
    return run_attack_sweep(config(storage))


def trained(storage: Path, elsewhere: Path) -> Path:
    """The same backbone and memory in another root, without any records."""
    for kind in ("backbone", "memory"):
        shutil.copytree(storage / "digits" / kind, elsewhere / "digits" / kind)
    # Making an empty one takes seconds.
    shutil.copy(storage / "mlflow.db", elsewhere)
    return elsewhere


def test_the_bracket_is_that_of_the_records(result: dict) -> None:
    directory = Path(result["sweep"])
    described = read_manifest(directory, kind="sweep")["defenses"]["otad"]
    table = records(result, "otad")
    assert len(table) == 120 * (3 * 2 + 1)
    assert table["status"].to_pylist() == ["ok"] * len(table)
    defense = load_defense(described["location"])
    test = load_all(open_split(data_set("digits"), "test"))
    places = {sample: place for place, sample in enumerate(test.ids.tolist())}
    rows = torch.tensor([places[sample] for sample in table["id"].to_pylist()])
    x_adv = torch.tensor(np.stack(table["x_adv"].to_numpy(zero_copy_only=False))).view(-1, *test.x.shape[1:])
    with torch.no_grad():
        wrong = (defense(x_adv).argmax(1) != test.y[rows]).numpy()
    length = (x_adv.double() - test.x[rows].double()).flatten(1).norm(dim=1).numpy()
    assert (length <= table["eps"].to_numpy() * (1 + 1e-6)).all()
    assert 0 <= float(x_adv.min()) <= float(x_adv.max()) <= 1
    for eps in (0.5, 1.0):
        broken = set(table["id"].to_numpy()[wrong & (length <= eps * (1 + 1e-6))].tolist())
        bracket = result["brackets"]["otad"][f"{eps:g}"]
        assert bracket["worst_case"] == pytest.approx(1 - len(broken) / 120)
        assert 0 < bracket["certified"] < bracket["worst_case"] or eps == 1.0
    assert "broken_certificate" not in result["flags"]["otad"]
    assert result["brackets"]["net"]["0.5"]["certified"] is None


def test_the_manifests_of_units_count_their_records(result: dict) -> None:
    described = read_manifest(Path(result["sweep"]), kind="sweep")["defenses"]["otad"]
    manifests = [read_manifest(Path(directory), kind="attack") for directory in described["records"]]
    table = records(result, "otad")
    assert sum(manifest["counts"]["queries"] for manifest in manifests) == sum(table["queries"].to_pylist()) > 0
    assert sum(manifest["counts"]["broken"] for manifest in manifests) == sum(table["broken"].to_pylist()) > 0
    assert all(manifest["counts"]["attacked"] == 120 for manifest in manifests)
    assert all(set(manifest["stage_seconds"]) == {"search", "solve", "model", "other"} for manifest in manifests)
    clean = read_manifest(Path(described["clean"]), kind="clean")
    files = sorted(Path(described["clean"]).glob("shard-*"))
    radii = pa.concat_tables(pq.read_table(file, partitioning=None) for file in files)
    certified = (radii["radius"].to_numpy() > 0) & radii["clean_correct"].to_numpy()
    assert clean["counts"]["certified"] == certified.sum() > 0


def test_report_figures_and_runs_are_written(result: dict, storage: Path) -> None:
    directory = Path(result["sweep"])
    for name in ("report.txt", "otad-robustness.png", "otad-radii.png", "otad-relaxations.png", "otad-examples.png"):
        assert (directory / name).stat().st_size > 0
    assert "worst case" in (directory / "report.txt").read_text()
    page = (directory / "report.html").read_text()
    (numbers,) = re.findall(r'id="numbers">(.*?)</script>', page, re.DOTALL)
    shown = json.loads(numbers)["defenses"]["otad"]["report"]["budgets"][0]
    assert shown["worst_case"]["value"] == result["brackets"]["otad"]["0.5"]["worst_case"]
    assert all(f"otad: {figure}" in page for figure in ("robust accuracy", "certified radii", "the samples that"))
    entry = json.loads((directory / "model_info" / "digits" / "L2" / "otad_eps0.5.json").read_text())
    assert float(entry["external"]) == pytest.approx(100 * result["brackets"]["otad"]["0.5"]["worst_case"], abs=0.01)
    client = mlflow.MlflowClient(tracking_uri=result["tracking_uri"])
    experiment = client.get_experiment_by_name("digits").experiment_id
    attacks = client.search_runs([experiment], "tags.`otad.kind` = 'attack'")
    assert len(attacks) == 2 * len(ATTACKS)
    run = next(run for run in attacks if (run.data.params["defense"], run.data.params["attack"]) == ("otad", "fgsm"))
    curve = client.get_metric_history(run.info.run_id, "robust_accuracy")
    assert [point.step for point in curve] == [500, 1000]
    assert "compare-runs" in read_manifest(directory, kind="sweep")["compare"]
    summary = {item.path for item in client.list_artifacts(result["run_id"])}
    assert {OUTCOMES, "manifest.json", "report.html", "otad-robustness.png"} <= summary


def test_a_rerun_computes_and_tracks_nothing(result: dict, storage: Path) -> None:
    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in storage.rglob("shard-*")}

    before = files()
    directory = Path(result["sweep"])
    manifest = read_manifest(directory, kind="sweep") | {"command": "the command that completed it"}
    write_json(directory / "manifest.json", manifest)
    assert run_attack_sweep(config(storage)) == result
    assert files() == before
    assert read_manifest(directory, kind="sweep") == manifest
    assert "the command that completed it" in (directory / "report.html").read_text()


def test_records_do_not_depend_on_shards(result: dict, storage: Path, tmp_path: Path) -> None:
    other = run_attack_sweep(config(trained(storage, tmp_path), rows_per_shard=200, defense=("otad",)))
    # As text: NaN is no NaN.
    assert str(records(other, "otad").to_pylist()) == str(records(result, "otad").to_pylist())


@pytest.mark.slow
def test_early_stop_has_the_same_worst_case(result: dict, storage: Path) -> None:
    stopped = run_attack_sweep(config(storage, early_stop=True))
    assert stopped["brackets"] == result["brackets"]
    assert "skipped" in records(stopped, "otad")["status"].to_pylist()
    assert "not_checked" in stopped["flags"]["otad"]


USER = """
from pathlib import Path
import torch
from otad_ray.defenses import load_defense

class Wrapped(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = load_defense({defense!r})

    def forward(self, inputs):
        if Path({broken!r}).exists() and bool((inputs.sum((1, 2, 3)) == {value}).any()):
            raise RuntimeError("out of cheese")
        return self.inner(inputs)

    def certified_radius(self, inputs):
        from otad_ray.certification import certified_radius
        radius, method = certified_radius(self.inner, inputs)
        return {factor} * radius, method

def build():
    return Wrapped()

def narrow():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))

def silent():
    return torch.nn.Flatten()

def number():
    return 3
"""


@pytest.fixture
def user(result: dict, tmp_path: Path):
    """Writes a file whose `build` wraps OTAD: raising for some inputs while a file is there, its certificate scaled."""
    location = read_manifest(Path(result["sweep"]), kind="sweep")["defenses"]["otad"]["location"]

    def write(*, factor: float = 1.0, value: float = 2.0) -> Path:
        path = tmp_path / "mine.py"
        path.write_text(USER.format(defense=location, broken=str(tmp_path / "broken"), value=value, factor=factor))
        return path

    return write


@pytest.mark.slow
def test_a_wrong_certificate_is_caught(user, storage: Path) -> None:
    name, fields = "mine.build", {"attacks": ("neighbor_aware",), "samples": 120}
    honest = run_attack_sweep(config(storage, defense=(f"{user()}:build",), **fields))
    assert "broken_certificate" not in honest["flags"][name]
    doubled = run_attack_sweep(config(storage, defense=(f"{user(factor=2.0)}:build",), **fields))
    assert "broken_certificate" in doubled["flags"][name]


@pytest.mark.slow
def test_a_module_that_raises_costs_only_its_cohort(user, storage: Path, tmp_path: Path) -> None:
    seed = 5
    test = load_all(open_split(data_set("digits"), "test"))
    order = np.random.default_rng(seed).permutation(len(test.ids))[:200]
    # A sum of pixels that occurs in the second cohort only.
    first, second = (set(test.x[order[part]].sum((1, 2, 3)).tolist()) for part in (slice(100), slice(100, 200)))
    (value, *_) = sorted(second - first)
    defense = (f"{user(value=value)}:build",)
    (tmp_path / "broken").touch()
    mine = config(storage, defense=defense, attacks=("noise",), samples=200, eps=(0.5,), seed=seed)
    with pytest.raises(InputError, match=r"noise at eps 0.5 on 'mine.build' raised on 100 samples.*out of cheese"):
        run_attack_sweep(mine)
    kept = {path: path.stat().st_mtime_ns for path in storage.rglob("shard-00000.parquet")}
    (tmp_path / "broken").unlink()
    mended = run_attack_sweep(mine)
    assert records(mended, "mine.build")["status"].to_pylist() == ["ok"] * 200
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"eps": (-1.0,)}, "need eps >= 0, got -1"),
        ({"attacks": ("pdg",)}, "unknown attack 'pdg'; known: noise"),
        ({"defense": ("otadd",)}, "unknown defense 'otadd'; known: otad"),
        ({"defense": ("nowhere.py:build",)}, "there is no file .*nowhere.py; need path/to/file.py:name"),
        ({"samples": 361}, "samples is 361, but test of digits has 360"),
        ({"rows_per_shard": 50}, "multiple of 100"),
    ],
)
def test_bad_input_before_any_training(tmp_path: Path, fields: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_attack_sweep(config(tmp_path, **fields))
    assert not list(tmp_path.glob("digits/backbone/*"))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("narrow", "labels lie in 0 .. 9, but the defense returns 3 classes"),
        ("number", "returned a int, need a torch.nn.Module"),
        ("missing", "has no 'missing'; need a function that returns"),
    ],
)
def test_modules_that_are_no_classifier(user, storage: Path, function: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_attack_sweep(config(storage, defense=(f"{user()}:{function}",)))


@pytest.mark.slow
def test_a_regression_is_attacked_too(tmp_path: Path) -> None:
    preset = PRESETS["wine_quality_red"]
    rows = np.random.default_rng(0).normal(size=(150, 4)).astype(np.float32)
    columns = {f"c{place}": rows[:, place] for place in range(4)} | {"label": rows @ [1.0, -1.0, 0.5, 0.0]}
    (tmp_path / "mine").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "mine" / "rows.parquet")
    quick = replace(
        preset,
        data_set=str(tmp_path / "mine"),
        backbone=replace(preset.backbone, num_blocks=1),
        training=replace(preset.training, epochs=5),
    )
    with pytest.raises(InputError, match="'square_500': Square attacks classification only, this is regression"):
        run_attack_sweep(config(tmp_path / "root", preset=quick, attacks=("square_500",), samples=20))
    result = run_attack_sweep(config(tmp_path / "root", preset=quick, attacks=None, samples=20, eps=(0.1, 0.5)))
    worst = [result["brackets"]["otad"][eps]["worst_mse"] for eps in ("0.1", "0.5")]
    assert 0 < worst[0] < worst[1]
    text = (Path(result["sweep"]) / "report.txt").read_text()
    assert all(name in text for name in ("SMAPE", "noise", "bpda_pgd", "transfer"))
