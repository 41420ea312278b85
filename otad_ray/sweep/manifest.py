"""What a sweep's directory says of itself: its question, its machine, and what was found of each defense."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from otad_ray.artifacts import MANIFEST, read_manifest, to_jsonable
from otad_ray.evaluation import Comparison, RobustnessReport
from otad_ray.machine import describe_command, describe_machine, versions
from otad_ray.recipes.workspace import Workspace
from otad_ray.sweep.plan import SweepPlan
from otad_ray.sweep.units import DefenseUnits

KIND = "sweep"
# What MLflow made of the sweep, once.
_TRACKED = ("run_id", "attack_runs", "compare")
# What completed the sweep. A rerun of a complete one computes nothing, and does not replace it.
_ORIGIN = ("machine", "versions", "command")


def make_manifest(
    workspace: Workspace,
    directory: Path,
    identity: Mapping[str, Any],
    plan: SweepPlan,
    defenses: Sequence[DefenseUnits],
    reports: Mapping[str, RobustnessReport],
    comparisons: Sequence[Comparison],
    seconds: float,
) -> dict[str, Any]:
    """Return the sweep's manifest; what an earlier run tracked stays in it."""
    before = read_manifest(directory, kind=KIND) if (directory / MANIFEST).is_file() else {}
    origin = {"machine": describe_machine(), "versions": versions(), "command": describe_command()}
    if before.get("complete") and all(name in before for name in _ORIGIN):
        origin = {name: before[name] for name in _ORIGIN}
    return {
        "kind": KIND,
        "complete": all(output.manifest["complete"] for defense in defenses for output in defense.outputs),
        "identity": identity,
        "preset": workspace.preset.name,
        "data_set": workspace.preset.data_set,
        "samples": plan.samples.count,
        "split": plan.samples.split,
        "seed": plan.samples.seed,
        "norm": plan.norm,
        "eps": plan.list_eps(),
        "eps_unit": workspace.definition.eps_unit,
        "attacks": {item.name: to_jsonable(item.attack) | {"samples": item.samples} for item in plan.attacks},
        "defenses": {
            defense.source.name: _describe_defense(defense, reports[defense.source.name]) for defense in defenses
        },
        "comparisons": to_jsonable(list(comparisons)),
        "seconds": seconds + (before.get("seconds") or 0.0),
        **{field: before.get(field) for field in _TRACKED},
        **origin,
    }


def _describe_defense(defense: DefenseUnits, report: RobustnessReport) -> dict[str, Any]:
    """Return what the manifest says of a defense."""
    spent: Counter[str] = Counter()
    for output in defense.outputs:
        # An incomplete one does not say it yet.
        spent.update(output.manifest.get("stage_seconds", {}))
    return {
        "location": defense.source.location,
        "fingerprint": defense.source.fingerprint,
        "records": [str(unit.output.directory) for unit in defense.attacks],
        "clean": str(defense.clean.output.directory),
        "not_certified": report.not_certified,
        "stage_seconds": dict(spent),
        "report": to_jsonable(report.bracket),
        "flags": to_jsonable(list(report.flags)),
    }
