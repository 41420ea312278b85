"""What the sweep's actors do, in this process: cohorts attacked, spared, failed, certified, and judged."""

from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from helpers.digits_jobs import quick_preset
from helpers.mosek_standin import install
from otad_ray.artifacts import write_json
from otad_ray.attacks import Budget, name_attack
from otad_ray.certification import certified_radius
from otad_ray.data import DataFolders, open_split
from otad_ray.defenses import KNN, OTAD, MemoryDefense, Undefended
from otad_ray.engine.shards import Shard, ShardedDirectory, write_shard
from otad_ray.evaluation import Evidence, evaluation_records, find_flags
from otad_ray.memory import NeighborMemory
from otad_ray.models import build_backbone
from otad_ray.sweep.samples import COHORT_SIZE, Samples
from otad_ray.sweep.tasks import RETRYABLE_RECORDS, AttackTask, CleanTask
from otad_ray.training import TrainingConfig, train_backbone

PRESET = quick_preset()
SAMPLES = Samples(PRESET, "test", DataFolders(), 0, 130)
EPS = 1.0


@pytest.fixture(scope="module")
def otad(tmp_path_factory: pytest.TempPathFactory) -> OTAD:
    rows = open_split(PRESET.definition, "train", DataFolders())
    batch = rows.take(np.arange(len(rows)))
    torch.manual_seed(0)
    net = build_backbone(PRESET.backbone, shape=(64,), num_outputs=10)
    train_backbone(net, batch.x, batch.y, TrainingConfig(epochs=3, batch_size=64, learning_rate=0.05))
    net.eval()
    points = net.embed(batch.x)
    with torch.no_grad():
        features = net.features(points)
    directory = tmp_path_factory.mktemp("root") / "memory"
    memory = NeighborMemory.build(directory, None, [points], [features], [batch.y], [batch.ids])
    return OTAD(net, memory, PRESET.integration)


class Source:
    """A defense that is at hand."""

    name = "mine"
    search = "torch"

    def __init__(self, defense: nn.Module, surrogate: MemoryDefense) -> None:
        self._defense, self._surrogate = defense, surrogate

    def open(self) -> nn.Module:
        return self._defense

    def open_surrogate(self, defense: nn.Module) -> MemoryDefense:
        return self._surrogate


class Raising(nn.Module):
    """Raises for a batch that holds a given sample."""

    def __init__(self, inner: nn.Module, sample: Tensor) -> None:
        super().__init__()
        self.inner, self.sample = inner, sample

    def forward(self, inputs: Tensor) -> Tensor:
        if bool((inputs == self.sample).flatten(1).all(1).any()):
            raise RuntimeError("out of cheese")
        return self.inner(inputs)


class Doubled(nn.Module):
    """Claims twice the radius that is proven."""

    def __init__(self, inner: OTAD, factor: float) -> None:
        super().__init__()
        self.inner, self.factor = inner, factor

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inner(inputs)

    def certified_radius(self, inputs: Tensor):
        radius, method = certified_radius(self.inner, inputs)
        return self.factor * radius, method


def attack(defense: nn.Module, surrogate: OTAD, name: str = "neighbor_aware", eps: float = EPS, **fields) -> AttackTask:
    budget = Budget(eps=eps, bounds=(0.0, 1.0))
    return AttackTask(SAMPLES, Source(defense, surrogate), name_attack(name), budget, **fields)


def compute(task: AttackTask | CleanTask) -> pa.Table:
    return task.setup().process(np.arange(SAMPLES.count))


def test_rows_come_in_the_order_of_the_samples_by_whatever_shards(otad: OTAD) -> None:
    task = attack(otad, otad)
    whole = compute(task)
    assert whole["id"].to_pylist() == SAMPLES.take(np.arange(SAMPLES.count)).ids.tolist()
    parts = [task.setup().process(part) for part in np.split(np.arange(SAMPLES.count), [COHORT_SIZE])]
    assert str(pa.concat_tables(parts).to_pylist()) == str(whole.to_pylist())
    assert 0 < sum(whole["broken"].to_pylist()) < SAMPLES.count


def test_a_module_that_raises_costs_its_cohort(otad: OTAD) -> None:
    last = SAMPLES.take(np.array([SAMPLES.count - 1]))
    raising = Raising(otad, last.x)
    for table in (
        compute(attack(raising, otad, "noise")),
        compute(CleanTask(SAMPLES, Source(raising, otad), False)),
    ):
        statuses = np.array(table["status"].to_pylist())
        assert set(statuses[COHORT_SIZE:]) == {"attack_error"}
        assert "attack_error" not in set(statuses[:COHORT_SIZE])
        assert table["error"].to_pylist()[-1] == "RuntimeError: out of cheese"


def test_a_license_lost_in_mid_cohort_makes_the_cohort_retryable(otad: OTAD, monkeypatch: pytest.MonkeyPatch) -> None:
    few = replace(SAMPLES, count=4)
    defense = OTAD(otad.backbone, otad.memory, replace(otad.config, solver="mosek"))
    tasks = (
        replace(attack(defense, otad, "noise"), samples=few),
        CleanTask(few, Source(defense, otad), False),
    )
    whole = install(monkeypatch, left=inf)
    expected = [task.setup().process(np.arange(few.count)) for task in tasks]
    assert all("attack_error" not in table["status"].to_pylist() for table in expected)
    for task, table in zip(tasks, expected, strict=True):
        whole.solves = 0
        task.setup().process(np.arange(few.count))
        # Lost at the first row, on the way, and at the very last row.
        for left in (0, whole.solves // 2, whole.solves - 1):
            install(monkeypatch, left=left)
            lost = task.setup().process(np.arange(few.count))
            assert set(lost["status"].to_pylist()) == {"attack_error"} <= RETRYABLE_RECORDS
            assert "SolverInterruptedError: the solver was interrupted" in lost["error"].to_pylist()[0]
            assert not any(lost["broken" if "broken" in lost.column_names else "clean_correct"].to_pylist())
        whole = install(monkeypatch, left=inf)
        assert str(task.setup().process(np.arange(few.count)).to_pylist()) == str(table.to_pylist())


def test_an_evaluated_row_is_retryable_where_any_defense_was_interrupted(
    otad: OTAD, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, left=2)
    solved_by_mosek = OTAD(otad.backbone, otad.memory, replace(otad.config, solver="mosek"))
    batch = SAMPLES.take(np.arange(5))
    defenses = {
        "net": Undefended(otad.backbone),
        "knn": KNN(otad.backbone, otad.memory),
        "dual": otad,
        "mosek": solved_by_mosek,
    }
    table = evaluation_records(batch, defenses, solved_by="dual", net="net")
    assert [status == "interrupted" for status in table["status"].to_pylist()] == [False] * 2 + [True] * 3


def write(directory: Path, table: pa.Table) -> str:
    write_json(directory / "manifest.json", {"kind": "attack", "rows": len(table), "rows_per_shard": len(table)})
    write_shard(Shard(0, 0, len(table)).path(directory), table)
    return str(directory)


def test_broken_samples_are_skipped_and_the_others_fare_the_same(otad: OTAD, tmp_path: Path) -> None:
    (tmp_path / "noise").mkdir()
    earlier = compute(attack(otad, otad, "noise", eps=2.0))
    spared = compute(attack(otad, otad, earlier=(write(tmp_path / "noise", earlier),)))
    full = compute(attack(otad, otad))
    skipped = np.array(spared["status"].to_pylist()) == "skipped"
    assert skipped.tolist() == earlier["broken"].to_pylist()
    assert 0 < skipped.sum() < len(skipped)
    broken = np.array(full["broken"].to_pylist())
    assert (np.array(spared["broken"].to_pylist()) == (broken | skipped)).all()
    assert ShardedDirectory.open(tmp_path / "noise", kind="attack").manifest["rows"] == SAMPLES.count


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_a_doubled_certificate_is_refuted(otad: OTAD, factor: float) -> None:
    defense = Doubled(otad, factor)
    clean = compute(CleanTask(SAMPLES, Source(defense, otad), True))
    records = pa.concat_tables(compute(attack(defense, otad, eps=eps)) for eps in (0.4, 0.6))
    found = find_flags(
        Evidence(records=records, kinds={"neighbor_aware": "surrogate"}, certificates=clean, clean=clean)
    )
    assert ("broken_certificate" in {flag.name for flag in found}) == (factor == 2.0)


def test_an_attack_that_chooses_the_norm_has_no_eps(otad: OTAD) -> None:
    task = attack(otad.backbone, otad, "noise", eps=inf)
    assert set(compute(task)["status"].to_pylist()) == {"attack_error"}
    assert "needs a finite eps" in compute(task)["error"].to_pylist()[0]
