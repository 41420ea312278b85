"""A sweep's many runs: logged once each, also where logging breaks off in between."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest

from otad_ray.attacks import Budget, find_attack
from otad_ray.sweep import tracking as sweep_tracking
from otad_ray.sweep.tracking import track_sweep
from otad_ray.tracking import RunRecord, default_tracking_uri, pending_files, store, track


@dataclass
class Workspace:
    """As much of one as tracking asks for."""

    root: Path
    search = "torch"
    preset = SimpleNamespace(name="sweeps", data_set="digits")

    @property
    def tracking_uri(self) -> str:
        return default_tracking_uri(None, self.root)

    def track(self, record: RunRecord) -> str | None:
        return track(record, tracking_uri=self.tracking_uri, root=self.root)


def sweep(root: Path) -> dict[str, Any]:
    plan: Any = SimpleNamespace(
        samples=SimpleNamespace(count=10, split="test", seed=0),
        budgets=[Budget(eps=0.5)],
        norm="l2",
        attacks=[SimpleNamespace(name=name, attack=find_attack(name)) for name in ("noise", "fgsm", "pgd")],
        early_stop=False,
    )
    bracket: Any = SimpleNamespace(
        attacks=[
            SimpleNamespace(attack=item.name, eps=0.5, robust=SimpleNamespace(value=0.5), queries_mean=1.0)
            for item in plan.attacks
        ],
        budgets=[SimpleNamespace(eps=0.5, certified=None, worst_case=SimpleNamespace(value=0.5))],
    )
    reports: Any = {"otad": SimpleNamespace(bracket=bracket, flags=())}
    workspace: Any = Workspace(root)
    directory = root / "sweeps" / "sweeps" / "abc"
    return track_sweep(workspace, plan, reports, metrics={"seconds": 1.0}, directory=directory, files=[])


def test_a_sweep_whose_logging_breaks_off_has_each_run_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_tracking, "describe_data", lambda *arguments: None)
    calls: list[str] = []
    terminate = mlflow.MlflowClient.set_terminated

    def break_off(self: mlflow.MlflowClient, run_id: str, **times: int) -> None:
        calls.append(run_id)
        if len(calls) > 2:
            raise ConnectionError("gone")
        terminate(self, run_id, **times)

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "set_terminated", break_off)
        broken = sweep(root)
    assert (len(broken["attack_runs"]), broken["run_id"]) == (1, None)
    assert len(pending_files(root)) == 2
    monkeypatch.setattr(store, "_refused", set())
    whole = sweep(root)
    assert len(whole["attack_runs"]) == 3
    assert sweep(root) == whole
    client = mlflow.MlflowClient(tracking_uri=default_tracking_uri(None, root))
    runs = client.search_runs([client.get_experiment_by_name("sweeps").experiment_id])
    assert {run.info.run_id for run in runs} == {*whole["attack_runs"], whole["run_id"]}
    assert set(broken["attack_runs"]) < set(whole["attack_runs"])
    assert {run.info.run_name for run in runs} == {
        "sweep otad l2 n=10",
        *(f"attack {name} on otad, l2" for name in ("noise", "fgsm", "pgd")),
    }
    assert {run.data.tags["mlflow.source.name"] for run in runs} == {"jobs/attack_sweep.py"}
    assert not pending_files(root)
