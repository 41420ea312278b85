"""What a sweep says: tables, flags, figures and files from its records, and its MLflow runs."""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from otad_ray.artifacts import MANIFEST, atomic_file, read_manifest, to_jsonable, versions, write_json
from otad_ray.distributed.defenses import NET, DefenseSource
from otad_ray.distributed.shards import ShardedDirectory
from otad_ray.distributed.sweep_examples import adversarial_figure
from otad_ray.distributed.sweep_tasks import AttackTask, CleanTask
from otad_ray.distributed.sweep_units import SweepPlan, Unit
from otad_ray.distributed.workspace import Workspace, data_record
from otad_ray.evaluation import (
    METRIC_COLUMNS,
    Evidence,
    Flag,
    RegressionReport,
    RobustnessReport,
    breaking_distances,
    find_flags,
    radius_figure,
    regression_report,
    regression_table,
    relaxation_figure,
    report_table,
    robustbench_entry,
    robustness_figure,
    robustness_report,
)
from otad_ray.tracking import RunRecord, compare_link, how_to_look, redacted

logger = logging.getLogger(__name__)

KIND = "sweep"
# Of every sample and defense: what two sweeps of the same samples are compared by.
OUTCOMES = "outcomes.parquet"
_TABLE = "report.txt"
# Pairs of attacks, the second with twice the iterations.
DOUBLED = (("pgd", "pgd_200"),)
# What MLflow made of it, once.
_TRACKED = ("run_id", "attack_runs", "compare")
# MLflow's steps are whole numbers.
STEPS_PER_EPS = 1000


@dataclass(frozen=True)
class SweptDefense:
    """A defense in a sweep: where it is, its results, and seconds a sample on one thread.

    not_certified: why it has no certificate; None where it has one.
    """

    source: DefenseSource
    clean: Unit[CleanTask]
    attacks: tuple[Unit[AttackTask], ...]
    not_certified: str | None
    forward_seconds: float
    gradient_seconds: float

    @property
    def outputs(self) -> list[ShardedDirectory]:
        """Directories of all its results."""
        return [self.clean.output, *(unit.output for unit in self.attacks)]


@dataclass(frozen=True)
class DefenseResult:
    """A defense's records without logits and examples, its clean records, and what follows from them."""

    records: pa.Table
    clean: pa.Table
    report: RobustnessReport | RegressionReport
    flags: tuple[Flag, ...]


def report_sweep(
    workspace: Workspace, plan: SweepPlan, swept: Sequence[SweptDefense], seconds: float
) -> dict[str, Any]:
    """Compute, print, write and track; what the last line of the job's output says.

    The sweep's directory is rewritten by every run, from the records; tracked once.
    """
    identity = {
        "results": {defense.source.name: [output.directory.name for output in defense.outputs] for defense in swept},
        "early_stop": plan.early_stop,
    }
    directory = workspace.directory("sweeps", identity)
    results = _results(workspace, plan, swept)
    text = "\n\n".join(_table(workspace, plan, name, result) for name, result in results.items())
    print(text, file=sys.stderr)
    files = _write_files(workspace, plan, swept, results, directory, text)
    before = read_manifest(directory, kind=KIND) if (directory / MANIFEST).is_file() else {}
    complete = all(output.manifest["complete"] for defense in swept for output in defense.outputs)
    manifest = {
        "kind": KIND,
        "complete": complete,
        "identity": identity,
        "samples": plan.samples.count,
        "split": plan.samples.split,
        "seed": plan.samples.seed,
        "norm": plan.budgets[0].norm,
        "eps": [budget.eps for budget in plan.budgets],
        "attacks": {item.name: to_jsonable(item.attack) | {"samples": item.samples} for item in plan.attacks},
        "defenses": {name: _described(defense, results[name]) for name, defense in _by_name(swept).items()},
        "seconds": seconds + (before.get("seconds") or 0.0),
        **{field: before.get(field) for field in _TRACKED},
        "versions": versions(),
    }
    write_json(directory / MANIFEST, _finite(manifest))
    if complete and manifest["run_id"] is None:
        manifest |= _track(workspace, plan, swept, results, directory, manifest, files)
        write_json(directory / MANIFEST, _finite(manifest))
    logger.info("report: %s", directory)
    logger.info("MLflow: %s", how_to_look(workspace.tracking_uri))
    if manifest["run_id"] is not None:
        logger.info("compare: %s", manifest["compare"])
    return {
        "sweep": str(directory),
        "samples": plan.samples.count,
        "seconds": manifest["seconds"],
        "brackets": {name: _bracket(result.report) for name, result in results.items()},
        "flags": {name: [flag.name for flag in result.flags] for name, result in results.items()},
        "run_id": manifest["run_id"],
        "tracking_uri": redacted(workspace.tracking_uri),
    }


def _results(workspace: Workspace, plan: SweepPlan, swept: Sequence[SweptDefense]) -> dict[str, DefenseResult]:
    records = {
        defense.source.name: pa.concat_tables(
            table for unit in defense.attacks for table in _tables(unit.output, METRIC_COLUMNS)
        )
        for defense in swept
    }
    results = {}
    for name, defense in _by_name(swept).items():
        clean = pa.concat_tables(_tables(defense.clean.output))
        certificates = clean if defense.not_certified is None else None
        net = f"{name.partition('_')[0]}_{NET}" if name.startswith("plain_") else NET
        evidence = Evidence(
            records=records[name],
            kinds={item.name: item.attack.kind for item in plan.attacks},
            certificates=certificates,
            net_records=records.get(net),
            doubled=DOUBLED,
            unbounded_eps={} if plan.sanity is None else {plan.sanity.norm: plan.sanity.eps},
        )
        reported = _without_sanity(records[name], plan)
        report = _report(workspace, reported, clean, certificates)
        results[name] = DefenseResult(reported, clean, report, find_flags(evidence))
    return results


def _without_sanity(records: pa.Table, plan: SweepPlan) -> pa.Table:
    return records if plan.sanity is None else records.filter(pc.not_equal(records["eps"], plan.sanity.eps))


def _report(
    workspace: Workspace, records: pa.Table, clean: pa.Table, certificates: pa.Table | None
) -> RobustnessReport | RegressionReport:
    if workspace.definition.task == "regression":
        return regression_report(records)
    errors = clean["relative_error"].drop_null().to_numpy()
    errors = errors[np.isfinite(errors)]
    return robustness_report(
        records,
        dimension=workspace.definition.dimension,
        certificates=certificates,
        relative_error=float(errors.mean()) if len(errors) else None,
    )


def _tables(output: ShardedDirectory, columns: Sequence[str] | None = None) -> list[pa.Table]:
    return [table.replace_schema_metadata(None) for _, table in output.tables(columns)]


def _by_name(swept: Sequence[SweptDefense]) -> dict[str, SweptDefense]:
    return {defense.source.name: defense for defense in swept}


def _table(workspace: Workspace, plan: SweepPlan, name: str, result: DefenseResult) -> str:
    norm, unit = plan.budgets[0].norm, workspace.definition.eps_unit
    if isinstance(result.report, RegressionReport):
        return regression_table(name, result.report, result.flags, norm=norm, eps_unit=unit)
    return report_table(name, result.report, result.flags, norm=norm, eps_unit=unit)


def _write_files(
    workspace: Workspace,
    plan: SweepPlan,
    swept: Sequence[SweptDefense],
    results: Mapping[str, DefenseResult],
    directory: Path,
    text: str,
) -> list[Path]:
    """Table, outcomes, figures and RobustBench entries; their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    with atomic_file(directory / _TABLE) as temporary:
        temporary.write_text(text + "\n")
    files = [directory / _TABLE]
    if workspace.definition.task == "regression":
        return files
    with atomic_file(directory / OUTCOMES) as temporary:
        pq.write_table(_outcomes(plan, results), temporary, compression="zstd")
    files.append(directory / OUTCOMES)
    for name, defense in _by_name(swept).items():
        for figure_name, figure in _figures(workspace, plan, defense, results[name]).items():
            if figure is not None:
                path = directory / f"{name}-{figure_name}.png"
                with atomic_file(path) as temporary:
                    figure.savefig(temporary, dpi=150, format="png")
                files.append(path)
        files += _write_entries(workspace, plan, name, results[name], directory)
    return files


def _outcomes(plan: SweepPlan, results: Mapping[str, DefenseResult]) -> pa.Table:
    """A row per defense and sample: right or not, the least perturbation known to break it, its certified radius."""
    tables = []
    for name, result in results.items():
        ids, distance = breaking_distances(result.records, plan.budgets[0].norm)
        known = result.clean["id"].to_numpy()
        order = np.argsort(known)
        clean = result.clean.take(pa.array(order[np.searchsorted(known, ids, sorter=order)]))
        tables.append(
            pa.table(
                {
                    "defense": pa.repeat(name, len(ids)),
                    "id": ids,
                    "clean_correct": clean["clean_correct"],
                    "breaking_distance": distance,
                    "radius": clean["radius"],
                }
            )
        )
    return pa.concat_tables(tables)


def _figures(
    workspace: Workspace, plan: SweepPlan, defense: SweptDefense, result: DefenseResult
) -> dict[str, Figure | None]:
    assert isinstance(result.report, RobustnessReport)
    unit, norm = workspace.definition.eps_unit, plan.budgets[0].norm
    title = f"{workspace.preset.name}, {defense.source.name}: {plan.samples.count} samples"
    return {
        "robustness": robustness_figure(result.report, norm=norm, eps_unit=unit, title=title),
        "radii": None if defense.not_certified else radius_figure(result.clean, eps_unit=unit, title=title),
        "relaxations": relaxation_figure(result.records, title=title),
        "examples": adversarial_figure(workspace, plan, defense.attacks, title),
    }


def _write_entries(
    workspace: Workspace, plan: SweepPlan, name: str, result: DefenseResult, directory: Path
) -> list[Path]:
    """`model_info/<data set>/<threat model>/<name>_eps<eps>.json`, in RobustBench's format."""
    assert isinstance(result.report, RobustnessReport)
    paths = []
    for budget in plan.budgets:
        entry = robustbench_entry(
            result.report,
            name=f"{name}_eps{budget.eps:g}",
            dataset=workspace.preset.data_set,
            norm=budget.norm,
            eps=budget.eps,
            unreliable=any(flag.severity == "grave" for flag in result.flags),
        )
        folder = directory / "model_info" / Path(workspace.preset.data_set).name / entry["threat_model"]
        paths.append(folder / f"{entry['name']}.json")
        write_json(paths[-1], entry)
    return paths


def _described(defense: SweptDefense, result: DefenseResult) -> dict[str, Any]:
    return {
        "location": defense.source.location,
        "fingerprint": defense.source.fingerprint,
        "records": [str(unit.output.directory) for unit in defense.attacks],
        "clean": str(defense.clean.output.directory),
        "not_certified": defense.not_certified,
        "report": to_jsonable(result.report),
        "flags": to_jsonable(list(result.flags)),
    }


def _bracket(report: RobustnessReport | RegressionReport) -> dict[str, Any]:
    """Shares by eps; of a regression the worst mean squared error by eps."""
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


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: as text."""
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def _track(
    workspace: Workspace,
    plan: SweepPlan,
    swept: Sequence[SweptDefense],
    results: Mapping[str, DefenseResult],
    directory: Path,
    manifest: Mapping[str, Any],
    files: Sequence[Path],
) -> dict[str, Any]:
    """A run per defense and attack with its curve over eps, and one of the whole sweep; ids and the compare link."""
    shared: dict[str, Any] = {"samples": plan.samples.count, "split": plan.samples.split, "seed": plan.samples.seed}
    shared |= {"norm": plan.budgets[0].norm, "data_set": workspace.preset.data_set, "early_stop": plan.early_stop}
    data, tags = data_record(workspace, plan.samples.split), {"otad.directory": str(directory)}
    runs = []
    for name, result in results.items():
        for item in plan.attacks:
            series = {key: points for key, points in _curves(result.report, item.name).items() if points}
            record = RunRecord(
                experiment=workspace.preset.name,
                kind="attack",
                params={**shared, "defense": name, "attack": item.name, **to_jsonable(item.attack)},
                metrics={},
                series=series,
                data=data,
                tags={**tags, "otad.sweep": directory.name},
            )
            runs.append(workspace.track(record))
    record = RunRecord(
        experiment=workspace.preset.name,
        kind=KIND,
        params={**shared, "defenses": ", ".join(results), "attacks": ", ".join(item.name for item in plan.attacks)},
        metrics={"seconds": manifest["seconds"]} | _flag_counts(results),
        series={
            f"{name}.{key}": points
            for name, result in results.items()
            for key, points in _bracket_curves(result.report).items()
        },
        data=data,
        artifacts=(directory / MANIFEST, *files),
        tags=tags,
    )
    run_id = workspace.track(record)
    logged = [run for run in (*runs, run_id) if run is not None]
    return {"run_id": run_id, "compare": compare_link(workspace.tracking_uri, logged), "attack_runs": logged[:-1]}


def _flag_counts(results: Mapping[str, DefenseResult]) -> dict[str, float]:
    return {
        f"{name}.flags_{severity}": sum(flag.severity == severity for flag in result.flags)
        for name, result in results.items()
        for severity in ("grave", "warning")
    }


def _curves(report: RobustnessReport | RegressionReport, attack: str) -> dict[str, list[tuple[int, float]]]:
    """Metric histories over eps, the step being thousandths of it."""
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


def _bracket_curves(report: RobustnessReport | RegressionReport) -> dict[str, list[tuple[int, float]]]:
    curves: dict[str, list[tuple[int, float]]] = {}
    for eps, values in _bracket(report).items():
        for name, value in values.items():
            if value is not None:
                curves.setdefault(name, []).append((_step(float(eps)), value))
    if isinstance(report, RobustnessReport):
        curves["standard"] = [(0, report.standard.value)]
    return curves


def _step(eps: float) -> int:
    """An attack that chooses its norm stands at step -1."""
    return round(STEPS_PER_EPS * eps) if isfinite(eps) else -1
