"""What a sweep says: its tables, figures and files, from its records."""

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from otad_ray.artifacts import MANIFEST, atomic_file, replace_non_finite, write_json
from otad_ray.engine.shards import ShardedDirectory
from otad_ray.evaluation import (
    METRIC_COLUMNS,
    Bracket,
    Comparison,
    RobustnessReport,
    build_report,
    compare_defenses,
    overview_figure,
    overview_table,
    radius_figure,
    ranking_table,
    relaxation_figure,
    robustbench_entry,
    sample_outcomes,
)
from otad_ray.recipes.approximate_search import identify_search, mark_rows, recall_metric, say_search
from otad_ray.recipes.workspace import Workspace
from otad_ray.sweep.example_images import adversarial_figure
from otad_ray.sweep.manifest import make_manifest
from otad_ray.sweep.page import write_sweep_page
from otad_ray.sweep.plan import SweepPlan
from otad_ray.sweep.tracking import summarize_bracket, track_sweep
from otad_ray.sweep.units import DefenseUnits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

# What was found of every sample and defense: two sweeps of the same samples are compared by it.
OUTCOMES = "outcomes.parquet"
_TABLE = "report.txt"
_OVERVIEW = "brackets.png"
# From so many defenses on, one table of all is easier to read than a line for each pair.
_MANY = 4
# What the others are tested against.
_REFERENCE = "otad"

Reports = Mapping[str, RobustnessReport]


def report_sweep(
    workspace: Workspace,
    plan: SweepPlan,
    defenses: Sequence[DefenseUnits],
    seconds: float,
    search: Mapping[str, Any],
) -> dict[str, Any]:
    """Print, write and track what the records say, and return the job's summary.

    Every run rewrites the sweep's directory from the records; a sweep is tracked once. What is said of an approximate
    search goes into the manifest.
    """
    identity = {
        "results": {defense.source.name: [output.directory.name for output in defense.outputs] for defense in defenses},
        "early_stop": plan.early_stop,
    }
    directory = workspace.directory("sweeps", identity)
    directory.mkdir(parents=True, exist_ok=True)
    reports = _build_reports(workspace, plan, defenses)
    outcomes = None if workspace.definition.task == "regression" else _collect_outcomes(plan, defenses, reports)
    comparisons = [] if outcomes is None else list(compare_defenses(outcomes, plan.list_eps()))
    text = "\n\n".join(
        [*map(str, reports.values()), *_compare(plan, reports, comparisons), *filter(None, [say_search(search)])]
    )
    print(text, file=sys.stderr)
    files = _write_files(workspace, plan, defenses, reports, directory, text, outcomes)
    manifest = make_manifest(workspace, directory, identity, plan, defenses, reports, comparisons, seconds)
    manifest = replace_non_finite(manifest | dict(search))
    write_json(directory / MANIFEST, manifest)
    page = write_sweep_page(
        directory,
        manifest,
        reports,
        comparisons,
        dimension=workspace.definition.dimension,
        reference=_choose_reference(reports),
    )
    if manifest["complete"] and manifest["run_id"] is None:
        files = [directory / MANIFEST, page, *files]
        metrics = {"seconds": manifest["seconds"], **recall_metric(search)}
        manifest |= track_sweep(workspace, plan, reports, metrics=metrics, directory=directory, files=files)
        write_json(directory / MANIFEST, replace_non_finite(manifest))
    logger.info("report: %s", page)
    if manifest["run_id"] is not None:
        logger.info("compare: %s", manifest["compare"])
    return {
        "sweep": str(directory),
        "samples": plan.samples.count,
        "seconds": manifest["seconds"],
        "brackets": {name: summarize_bracket(report.bracket) for name, report in reports.items()},
        "flags": {name: [flag.name for flag in report.flags] for name, report in reports.items()},
        "run_id": manifest["run_id"],
    }


def _compare(plan: SweepPlan, reports: Reports, comparisons: Sequence[Comparison]) -> list[str]:
    """Return what the text of a sweep says of its defenses together: pairs of a few, a table and a ranking of many."""
    if len(reports) < _MANY:
        return ["\n".join(map(str, comparisons))] if comparisons else []
    brackets = _list_brackets(reports)
    flags = {name: [flag.name for flag in report.flags if flag.severity != "info"] for name, report in reports.items()}
    return [
        overview_table(brackets, flags, norm=plan.norm),
        ranking_table(brackets, comparisons, norm=plan.norm, reference=_choose_reference(reports)),
    ]


def _choose_reference(reports: Reports) -> str:
    """Return the defense that the others are tested against."""
    return _REFERENCE if _REFERENCE in reports else next(iter(reports))


def _list_brackets(reports: Reports) -> dict[str, Bracket]:
    """Return the brackets of classifiers by defense; regressions have none."""
    return {name: report.bracket for name, report in reports.items() if isinstance(report.bracket, Bracket)}


def _build_reports(workspace: Workspace, plan: SweepPlan, defenses: Sequence[DefenseUnits]) -> Reports:
    """Read the records of all defenses, without logits and examples, and return a report for each."""
    records = {
        defense.source.name: pa.concat_tables(
            table for unit in defense.attacks for table in _read_tables(unit.output, METRIC_COLUMNS)
        )
        for defense in defenses
    }
    return {
        defense.source.name: build_report(
            defense.source.name,
            records[defense.source.name],
            pa.concat_tables(_read_tables(defense.clean.output), promote_options="default"),
            kinds={item.name: item.attack.kind for item in plan.attacks},
            norm=plan.norm,
            eps_unit=workspace.definition.eps_unit,
            dimension=workspace.definition.dimension,
            not_certified=defense.probe.not_certified,
            net_records=records.get(defense.source.net),
            sanity=plan.sanity,
            warnings=() if defense.source.warning is None else (defense.source.warning,),
        )
        for defense in defenses
    }


def _read_tables(output: ShardedDirectory, columns: Sequence[str] | None = None) -> list[pa.Table]:
    return [table.replace_schema_metadata(None) for _, table in output.tables(columns)]


def _collect_outcomes(plan: SweepPlan, defenses: Sequence[DefenseUnits], reports: Reports) -> pa.Table:
    """Return what was found of every sample; of the undefended net by attack too, which shows how strong those are."""
    return pa.concat_tables(
        sample_outcomes(
            defense.source.name,
            reports[defense.source.name].records,
            reports[defense.source.name].clean,
            plan.norm,
            by_attack=defense.source.net == defense.source.name,
        )
        for defense in defenses
    )


def _write_files(
    workspace: Workspace,
    plan: SweepPlan,
    defenses: Sequence[DefenseUnits],
    reports: Reports,
    directory: Path,
    text: str,
    outcomes: pa.Table | None,
) -> list[Path]:
    """Write the table and, of classifiers, figures, RobustBench entries and outcomes; return their paths."""
    with atomic_file(directory / _TABLE) as temporary:
        temporary.write_text(text + "\n")
    files = [directory / _TABLE]
    if outcomes is None:
        return files
    for defense in defenses:
        name = defense.source.name
        for figure_name, figure in _draw_figures(workspace, plan, defense, reports[name]).items():
            if figure is not None:
                path = directory / f"{name}-{figure_name}.png"
                with atomic_file(path) as temporary:
                    figure.savefig(temporary, dpi=150, format="png")
                files.append(path)
        files += _write_entries(workspace, plan, reports[name], directory)
    if len(reports) >= _MANY:
        files.append(_draw_overview(workspace, plan, reports, directory))
    with atomic_file(directory / OUTCOMES) as temporary:
        pq.write_table(mark_rows(outcomes, workspace.search), temporary, compression="zstd")
    return [*files, directory / OUTCOMES]


def _draw_overview(workspace: Workspace, plan: SweepPlan, reports: Reports, directory: Path) -> Path:
    """Draw the brackets of all defenses; return the path of the figure."""
    title = f"{workspace.preset.name}: {plan.samples.count} samples"
    figure = overview_figure(
        _list_brackets(reports), norm=plan.norm, eps_unit=workspace.definition.eps_unit, title=title
    )
    with atomic_file(directory / _OVERVIEW) as temporary:
        figure.savefig(temporary, dpi=150, format="png", bbox_inches="tight")
    return directory / _OVERVIEW


def _draw_figures(
    workspace: Workspace, plan: SweepPlan, defense: DefenseUnits, report: RobustnessReport
) -> dict[str, "Figure | None"]:
    """Return the figures of a defense by name; None for one that there is nothing to draw for."""
    title = f"{workspace.preset.name}, {report.name}: {plan.samples.count} samples"
    radii = None if report.not_certified else radius_figure(report.clean, eps_unit=report.eps_unit, title=title)
    return {
        "robustness": report.figure(title),
        "radii": radii,
        "relaxations": relaxation_figure(report.records, title=title),
        "examples": adversarial_figure(workspace, plan, defense.attacks, title),
    }


def _write_entries(workspace: Workspace, plan: SweepPlan, report: RobustnessReport, directory: Path) -> list[Path]:
    """Write `model_info/<data set>/<threat model>/<name>_eps<eps>.json`, in RobustBench's format."""
    assert isinstance(report.bracket, Bracket)
    paths = []
    for budget in plan.budgets:
        entry = robustbench_entry(
            report.bracket,
            name=f"{report.name}_eps{budget.eps:g}",
            dataset=workspace.preset.data_set,
            norm=budget.norm,
            eps=budget.eps,
            unreliable=any(flag.severity == "grave" for flag in report.flags),
        )
        folder = directory / "model_info" / Path(workspace.preset.data_set).name / entry["threat_model"]
        paths.append(folder / f"{entry['name']}.json")
        write_json(paths[-1], entry | identify_search(workspace.search))
    return paths
