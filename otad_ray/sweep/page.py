"""The page that a sweep ends with: everything that it found, in one file."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from otad_ray.artifacts import to_jsonable
from otad_ray.evaluation import (
    Bracket,
    BracketCurves,
    Comparison,
    RadiusCounts,
    RegressionReport,
    RobustnessReport,
    compute_curves,
    count_radii,
    count_relaxations,
)
from otad_ray.pages import (
    REPORT,
    Page,
    Picture,
    Plot,
    Section,
    Table,
    fact_table,
    has_plotly,
    number_cell,
    radius_plot,
    rank_defenses,
    read_standing,
    relaxation_plot,
    robustness_plot,
    tabulate_attacks,
    tabulate_errors,
    tabulate_flags,
    tabulate_settings,
    text_cell,
    write_page,
)
from otad_ray.recipes.approximate_search import SEARCH, say_search

# From so many defenses on, each is shown only when it is asked for.
_MANY = 4
# Ids of refuted certificates that are named; there may be as many as samples.
_MAX_IDS = 100
_EXAMPLES = "examples"
# What the figures in files show, in the order of the page.
_CAPTIONS = {
    "robustness": "robust accuracy against eps: the truth lies between the certified share and the worst case",
    "radii": "certified radii of the samples that are right",
    "relaxations": "relaxations of (l, L) that the solver needed",
    _EXAMPLES: "the samples that the least perturbations broke, each image beside its nearest training points",
}


def write_sweep_page(
    directory: Path,
    manifest: Mapping[str, Any],
    reports: Mapping[str, RobustnessReport],
    comparisons: Sequence[Comparison],
    *,
    dimension: int,
    reference: str,
) -> Path:
    """Write the page of a sweep into its directory, and return its path.

    Args:
        directory: where the sweep's figures lie.
        manifest: what the sweep's manifest says.
        reports: by defense.
        comparisons: of pairs of defenses.
        dimension: values of a sample.
        reference: the defense that the others are tested against.
    """
    details = {name: _summarize(report, dimension) for name, report in reports.items()}
    page = Page(
        title=f"Sweep of {manifest['preset']}: {', '.join(reports)}",
        lead=_write_lead(manifest),
        sections=[
            *_rank(manifest, reports, comparisons, reference),
            *(_describe_defense(directory, report, details[name], len(reports)) for name, report in reports.items()),
            *_tell_time(manifest),
            _tell_origin(directory, manifest),
        ],
        numbers=_collect_numbers(directory, manifest, details),
    )
    write_page(directory / REPORT, page)
    return directory / REPORT


def _write_lead(manifest: Mapping[str, Any]) -> str:
    unfinished = "" if manifest["complete"] else " This sweep is incomplete: some samples were not evaluated."
    return (
        f"{manifest['samples']} samples of the {manifest['split']} part of {manifest['data_set']} under "
        f"{manifest['norm']} perturbations of eps {', '.join(f'{eps:g}' for eps in manifest['eps'])} "
        f"({manifest['eps_unit']}).{unfinished}"
    )


def _summarize(report: RobustnessReport, dimension: int) -> dict[str, Any]:
    """Return what is drawn of a defense, of a size that does not grow with the number of samples."""
    bracket = report.bracket
    if isinstance(bracket, RegressionReport):
        return {}
    eps = [budget.eps for budget in bracket.budgets if budget.norm == report.norm and budget.eps < float("inf")]
    certified = report.not_certified is None
    return {
        "curves": compute_curves(
            report.records, report.clean, norm=report.norm, dimension=dimension, eps=eps, certified=certified
        )
        if eps
        else None,
        "radii": count_radii(report.clean) if certified else None,
        "relaxations": count_relaxations(report.records),
    }


def _rank(
    manifest: Mapping[str, Any],
    reports: Mapping[str, RobustnessReport],
    comparisons: Sequence[Comparison],
    reference: str,
) -> Iterator[Section]:
    """Yield the ranking of classifiers."""
    standings = [
        read_standing(name, described["report"], described["flags"], manifest["norm"])
        for name, described in manifest["defenses"].items()
        if isinstance(reports[name].bracket, Bracket)
    ]
    if standings:
        text = [
            "The defenses by their worst case over all attacks. The truth lies between the certified share, which is "
            "proven, and the worst case, which was found. Small numbers are 95 % Wilson intervals."
        ]
        asked = reference if len(standings) > 1 else None
        tables = rank_defenses(standings, norm=manifest["norm"], comparisons=comparisons, reference=asked)
        yield Section(title="Ranking", text=text, tables=tables)


def _describe_defense(directory: Path, report: RobustnessReport, details: Mapping[str, Any], count: int) -> Section:
    """Return all that was found of a defense."""
    name, bracket = report.name, report.bracket
    reason = report.not_certified
    text = [] if reason is None else [f"{reason[:1].upper()}{reason[1:]}."]
    if isinstance(bracket, RegressionReport):
        tables = [tabulate_errors(bracket, report.norm)]
    else:
        tables = [tabulate_attacks(bracket, report.norm)]
    if report.flags:
        tables.append(tabulate_flags(report.flags))
    plots = list(_draw_plots(report, details)) if has_plotly() else []
    shown = (_EXAMPLES,) if has_plotly() else tuple(_CAPTIONS)
    pictures = [
        Picture(title=f"{name}: {_CAPTIONS[figure]}", file=f"{name}-{figure}.png")
        for figure in shown
        if (directory / f"{name}-{figure}.png").is_file()
    ]
    return Section(title=name, text=text, tables=tables, plots=plots, pictures=pictures, is_folded=count >= _MANY)


def _draw_plots(report: RobustnessReport, details: Mapping[str, Any]) -> Iterator[Plot]:
    """Yield the interactive figures of a defense."""
    curves, radii, relaxations = (details.get(name) for name in ("curves", "radii", "relaxations"))
    titles = {figure: f"{report.name}: {caption}" for figure, caption in _CAPTIONS.items()}
    if isinstance(curves, BracketCurves):
        assert isinstance(report.bracket, Bracket)
        yield robustness_plot(
            report.bracket, curves, norm=report.norm, eps_unit=report.eps_unit, title=titles["robustness"]
        )
    if isinstance(radii, RadiusCounts):
        yield radius_plot(radii, eps_unit=report.eps_unit, title=titles["radii"])
    if relaxations is not None:
        yield relaxation_plot(relaxations, title=titles["relaxations"])


def _tell_time(manifest: Mapping[str, Any]) -> Iterator[Section]:
    """Yield where the time went, if the records say so."""
    spent = {name: described["stage_seconds"] for name, described in manifest["defenses"].items()}
    stages = sorted({stage for seconds in spent.values() for stage in seconds})
    if stages:
        rows = [[text_cell(name), *(number_cell(spent[name].get(stage, 0.0), 3) for stage in stages)] for name in spent]
        table = Table(
            title="seconds by defense and stage, all actors together", columns=("defense", *stages), rows=rows
        )
        yield Section(title="Time by stage", tables=[table])


def _tell_origin(directory: Path, manifest: Mapping[str, Any]) -> Section:
    """Return what was run, with what, and where."""
    names = ("preset", "data_set", "split", "samples", "seed", "norm", "seconds", "command")
    facts = {name.replace("_", " "): manifest[name] for name in names}
    facts["seconds"] = round(manifest["seconds"], 1)
    return Section(
        title="What was run",
        text=[text for text in (say_search(manifest if SEARCH in manifest else {}),) if text],
        tables=[
            fact_table("sweep", {"sweep": directory.name, **facts}),
            tabulate_settings(manifest["attacks"]),
            fact_table("machine", manifest["machine"]),
            fact_table("versions", manifest["versions"]),
        ],
    )


def _collect_numbers(directory: Path, manifest: Mapping[str, Any], details: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of the page for programs, without what grows with the number of samples."""
    left_out = ("identity", "run_id", "attack_runs", "compare", "defenses")
    defenses = {}
    for name, described in manifest["defenses"].items():
        report = dict(described["report"])
        if "broken_certificates" in report:
            report["broken_certificates"] = report["broken_certificates"][:_MAX_IDS]
        kept = {field: described[field] for field in ("fingerprint", "not_certified", "flags", "stage_seconds")}
        defenses[name] = {**kept, "report": report, **to_jsonable(details[name])}
    facts = {name: value for name, value in manifest.items() if name not in left_out}
    return {"sweep": directory.name, **facts, "defenses": defenses}
