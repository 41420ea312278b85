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

from otad_ray.artifacts import MANIFEST, atomic_file, read_manifest, to_jsonable, write_json
from otad_ray.engine.shards import ShardedDirectory
from otad_ray.evaluation import (
    METRIC_COLUMNS,
    Evidence,
    Flag,
    RegressionReport,
    RobustnessReport,
    compare_defenses,
    find_flags,
    radius_figure,
    regression_report,
    regression_table,
    relaxation_figure,
    report_table,
    robustbench_entry,
    robustness_figure,
    robustness_report,
    sample_outcomes,
)
from otad_ray.machine import versions
from otad_ray.recipes.workspace import Workspace
from otad_ray.sweep.example_images import adversarial_figure
from otad_ray.sweep.plan import SweepPlan
from otad_ray.sweep.tracking import Report, bracket, track_sweep
from otad_ray.sweep.units import DefenseUnits

logger = logging.getLogger(__name__)

KIND = "sweep"
# Of every sample and defense: what two sweeps of the same samples are compared by.
OUTCOMES = "outcomes.parquet"
_TABLE = "report.txt"
# Pairs of attacks, the second with twice the iterations.
DOUBLED = (("pgd", "pgd_200"),)
# What MLflow made of it, once.
_TRACKED = ("run_id", "attack_runs", "compare")


@dataclass(frozen=True)
class DefenseResult:
    """A defense's records without logits and examples, its clean records, and what follows from them."""

    records: pa.Table
    clean: pa.Table
    report: Report
    flags: tuple[Flag, ...]


def report_sweep(
    workspace: Workspace, plan: SweepPlan, defenses: Sequence[DefenseUnits], seconds: float
) -> dict[str, Any]:
    """Print, write and track what the records say, and return the job's summary.

    Every run rewrites the sweep's directory from the records; a sweep is tracked once.
    """
    identity = {
        "results": {defense.source.name: [output.directory.name for output in defense.outputs] for defense in defenses},
        "early_stop": plan.early_stop,
    }
    directory = workspace.directory("sweeps", identity)
    results = _read_results(workspace, plan, defenses)
    tables = [_make_table(workspace, plan, name, result) for name, result in results.items()]
    outcomes = None if workspace.definition.task == "regression" else _collect_outcomes(plan, defenses, results)
    eps = [budget.eps for budget in plan.budgets]
    comparisons = [] if outcomes is None else list(compare_defenses(outcomes, eps))
    text = "\n\n".join([*tables, *(["\n".join(map(str, comparisons))] if comparisons else [])])
    print(text, file=sys.stderr)
    files = _write_files(workspace, plan, defenses, results, directory, text)
    if outcomes is not None:
        with atomic_file(directory / OUTCOMES) as temporary:
            pq.write_table(outcomes, temporary, compression="zstd")
        files.append(directory / OUTCOMES)
    before = read_manifest(directory, kind=KIND) if (directory / MANIFEST).is_file() else {}
    complete = all(output.manifest["complete"] for defense in defenses for output in defense.outputs)
    manifest = {
        "kind": KIND,
        "complete": complete,
        "identity": identity,
        "samples": plan.samples.count,
        "split": plan.samples.split,
        "seed": plan.samples.seed,
        "norm": plan.norm,
        "eps": eps,
        "attacks": {item.name: to_jsonable(item.attack) | {"samples": item.samples} for item in plan.attacks},
        "defenses": {name: _describe_defense(defense, results[name]) for name, defense in _by_name(defenses).items()},
        "comparisons": to_jsonable(comparisons),
        "seconds": seconds + (before.get("seconds") or 0.0),
        **{field: before.get(field) for field in _TRACKED},
        "versions": versions(),
    }
    write_json(directory / MANIFEST, _make_finite(manifest))
    if complete and manifest["run_id"] is None:
        manifest |= track_sweep(
            workspace,
            plan,
            {name: result.report for name, result in results.items()},
            {name: result.flags for name, result in results.items()},
            seconds=manifest["seconds"],
            directory=directory,
            files=[directory / MANIFEST, *files],
        )
        write_json(directory / MANIFEST, _make_finite(manifest))
    logger.info("report: %s", directory)
    if manifest["run_id"] is not None:
        logger.info("compare: %s", manifest["compare"])
    return {
        "sweep": str(directory),
        "samples": plan.samples.count,
        "seconds": manifest["seconds"],
        "brackets": {name: bracket(result.report) for name, result in results.items()},
        "flags": {name: [flag.name for flag in result.flags] for name, result in results.items()},
        "run_id": manifest["run_id"],
    }


def _read_results(workspace: Workspace, plan: SweepPlan, defenses: Sequence[DefenseUnits]) -> dict[str, DefenseResult]:
    records = {
        defense.source.name: pa.concat_tables(
            table for unit in defense.attacks for table in _read_tables(unit.output, METRIC_COLUMNS)
        )
        for defense in defenses
    }
    results = {}
    for name, defense in _by_name(defenses).items():
        clean = pa.concat_tables(_read_tables(defense.clean.output))
        certificates = clean if defense.probe.not_certified is None else None
        evidence = Evidence(
            records=records[name],
            kinds={item.name: item.attack.kind for item in plan.attacks},
            certificates=certificates,
            net_records=records.get(defense.source.net),
            clean=clean,
            doubled=DOUBLED,
            unbounded_eps={} if plan.sanity is None else {plan.sanity.norm: plan.sanity.eps},
        )
        reported = _without_sanity(records[name], plan)
        report = _report(workspace, reported, clean, certificates)
        results[name] = DefenseResult(reported, clean, report, find_flags(evidence))
    return results


def _without_sanity(records: pa.Table, plan: SweepPlan) -> pa.Table:
    return records if plan.sanity is None else records.filter(pc.not_equal(records["eps"], plan.sanity.eps))


def _report(workspace: Workspace, records: pa.Table, clean: pa.Table, certificates: pa.Table | None) -> Report:
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


def _read_tables(output: ShardedDirectory, columns: Sequence[str] | None = None) -> list[pa.Table]:
    return [table.replace_schema_metadata(None) for _, table in output.tables(columns)]


def _by_name(defenses: Sequence[DefenseUnits]) -> dict[str, DefenseUnits]:
    return {defense.source.name: defense for defense in defenses}


def _make_table(workspace: Workspace, plan: SweepPlan, name: str, result: DefenseResult) -> str:
    norm, unit = plan.norm, workspace.definition.eps_unit
    if isinstance(result.report, RegressionReport):
        return regression_table(name, result.report, result.flags, norm=norm, eps_unit=unit)
    return report_table(name, result.report, result.flags, norm=norm, eps_unit=unit)


def _write_files(
    workspace: Workspace,
    plan: SweepPlan,
    defenses: Sequence[DefenseUnits],
    results: Mapping[str, DefenseResult],
    directory: Path,
    text: str,
) -> list[Path]:
    """Table, figures and RobustBench entries; their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    with atomic_file(directory / _TABLE) as temporary:
        temporary.write_text(text + "\n")
    files = [directory / _TABLE]
    if workspace.definition.task == "regression":
        return files
    for name, defense in _by_name(defenses).items():
        for figure_name, figure in _draw_figures(workspace, plan, defense, results[name]).items():
            if figure is not None:
                path = directory / f"{name}-{figure_name}.png"
                with atomic_file(path) as temporary:
                    figure.savefig(temporary, dpi=150, format="png")
                files.append(path)
        files += _write_entries(workspace, plan, name, results[name], directory)
    return files


def _collect_outcomes(
    plan: SweepPlan, defenses: Sequence[DefenseUnits], results: Mapping[str, DefenseResult]
) -> pa.Table:
    """Of the undefended net by attack too: what they do to it says how strong they are."""
    norm = plan.norm
    return pa.concat_tables(
        sample_outcomes(name, result.records, result.clean, norm, by_attack=defense.source.net == name)
        for (name, result), defense in zip(results.items(), defenses, strict=True)
    )


def _draw_figures(
    workspace: Workspace, plan: SweepPlan, defense: DefenseUnits, result: DefenseResult
) -> dict[str, Figure | None]:
    assert isinstance(result.report, RobustnessReport)
    unit, norm = workspace.definition.eps_unit, plan.norm
    title = f"{workspace.preset.name}, {defense.source.name}: {plan.samples.count} samples"
    return {
        "robustness": robustness_figure(result.report, norm=norm, eps_unit=unit, title=title),
        "radii": None if defense.probe.not_certified else radius_figure(result.clean, eps_unit=unit, title=title),
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


def _describe_defense(defense: DefenseUnits, result: DefenseResult) -> dict[str, Any]:
    return {
        "location": defense.source.location,
        "fingerprint": defense.source.fingerprint,
        "records": [str(unit.output.directory) for unit in defense.attacks],
        "clean": str(defense.clean.output.directory),
        "not_certified": defense.probe.not_certified,
        "report": to_jsonable(result.report),
        "flags": to_jsonable(list(result.flags)),
    }


def _make_finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: as text."""
    if isinstance(value, Mapping):
        return {name: _make_finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_make_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value
