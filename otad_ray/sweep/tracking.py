"""The MLflow runs of a sweep: one for each defense and attack, and one that sums up."""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from otad_ray.artifacts import to_jsonable
from otad_ray.evaluation import Bracket, Flag, RegressionReport, RobustnessReport
from otad_ray.recipes.approximate_search import identify_search
from otad_ray.recipes.workspace import Workspace, describe_data
from otad_ray.sweep.plan import SweepPlan
from otad_ray.tracking import RunRecord, compare_link

# MLflow's steps are whole numbers.
_STEPS_PER_EPS = 1000


def summarize_bracket(report: Bracket | RegressionReport) -> dict[str, Any]:
    """Return the bracket's shares by eps; of a regression the worst mean squared error by eps."""
    if isinstance(report, RegressionReport):
        return {f"{budget.eps:g}": {"worst_mse": budget.worst_mse} for budget in report.budgets}
    return {
        f"{budget.eps:g}": {
            "certified": None if budget.certified is None else budget.certified.value,
            "worst_case": budget.worst_case.value,
        }
        for budget in report.budgets
        if isfinite(budget.eps)
    }


def track_sweep(
    workspace: Workspace,
    plan: SweepPlan,
    reports: Mapping[str, RobustnessReport],
    *,
    metrics: Mapping[str, float],
    directory: Path,
    files: Sequence[Path],
) -> dict[str, Any]:
    """Log a run for each defense and attack with its curve over eps, and one of the whole sweep.

    Returns:
        The ids of the runs, and the link that compares them.
    """
    shared: dict[str, Any] = {"samples": plan.samples.count, "split": plan.samples.split, "seed": plan.samples.seed}
    shared |= identify_search(workspace.search)
    shared |= {"norm": plan.norm, "data_set": workspace.preset.data_set, "early_stop": plan.early_stop}
    data, tags = describe_data(workspace, plan.samples.split), {"otad.directory": str(directory)}
    runs = []
    for name, report in reports.items():
        for item in plan.attacks:
            series = {key: points for key, points in _draw_curves(report.bracket, item.name).items() if points}
            record = RunRecord(
                experiment=workspace.preset.name,
                kind="attack",
                name=f"attack {item.name} on {name}, {shared['norm']}",
                job="attack_sweep",
                result={"directory": directory, "defense": name, "attack": item.name},
                outcome=series,
                params={**shared, "defense": name, "attack": item.name, **to_jsonable(item.attack)},
                metrics={},
                series=series,
                data=data,
                tags={**tags, "otad.sweep": directory.name},
            )
            runs.append(workspace.track(record))
    counts = _count_flags({name: report.flags for name, report in reports.items()})
    series = {
        f"{name}.{key}": points
        for name, report in reports.items()
        for key, points in _draw_bracket(report.bracket).items()
    }
    record = RunRecord(
        experiment=workspace.preset.name,
        kind="sweep",
        name=f"sweep {'+'.join(reports)} {shared['norm']} n={plan.samples.count}",
        job="attack_sweep",
        result={"directory": directory},
        outcome={"flags": counts, "brackets": series},
        params={**shared, "defenses": ", ".join(reports), "attacks": ", ".join(item.name for item in plan.attacks)},
        metrics={**metrics, **counts},
        series=series,
        data=data,
        artifacts=tuple(files),
        tags=tags,
    )
    run_id = workspace.track(record)
    logged = [run for run in (*runs, run_id) if run is not None]
    return {"run_id": run_id, "compare": compare_link(workspace.tracking_uri, logged), "attack_runs": logged[:-1]}


def _count_flags(flags: Mapping[str, Sequence[Flag]]) -> dict[str, float]:
    """Return the number of flags by defense and severity."""
    return {
        f"{name}.flags_{severity}": sum(flag.severity == severity for flag in found)
        for name, found in flags.items()
        for severity in ("grave", "warning")
    }


def _draw_curves(report: Bracket | RegressionReport, attack: str) -> dict[str, list[tuple[int, float]]]:
    """Return metric histories over eps; the step counts thousandths of it."""
    if isinstance(report, RegressionReport):
        found = [item for item in report.attacks if item.attack == attack and isfinite(item.eps)]
        return {
            name: [(_step(item.eps), value) for item in found if (value := getattr(item.errors, name)) is not None]
            for name in ("mse", "e", "smape")
        }
    results = [item for item in report.attacks if item.attack == attack]
    return {
        "robust_accuracy": [(_step(item.eps), item.robust.value) for item in results],
        "queries_mean": [(_step(item.eps), item.queries_mean) for item in results if item.queries_mean is not None],
    }


def _draw_bracket(report: Bracket | RegressionReport) -> dict[str, list[tuple[int, float]]]:
    curves: dict[str, list[tuple[int, float]]] = {}
    for eps, values in summarize_bracket(report).items():
        for name, value in values.items():
            if value is not None:
                curves.setdefault(name, []).append((_step(float(eps)), value))
    if isinstance(report, Bracket):
        curves["standard"] = [(0, report.standard.value)]
    return curves


def _step(eps: float) -> int:
    """Return the step of an eps; an attack that chooses its norm stands at step -1."""
    return round(_STEPS_PER_EPS * eps) if isfinite(eps) else -1
