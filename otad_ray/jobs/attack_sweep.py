"""Attack and certify defenses, also your own, and report a bracket: certified <= robust accuracy <= worst attack.

python jobs/attack_sweep.py                                # digits
python jobs/attack_sweep.py mnist --samples 1000
python jobs/attack_sweep.py mnist --defense otad path/to/file.py:build --attacks pgd square_500 --eps 1 2
"""

from collections.abc import Mapping, Sequence
from typing import Any

from otad_ray.engine.shards import ShardedDirectory, sum_stage_seconds
from otad_ray.engine.task import RunSummary
from otad_ray.errors import InputError
from otad_ray.machine import num_cores
from otad_ray.monitoring.counts import count_tables
from otad_ray.recipes.approximate_search import describe_query_search
from otad_ray.recipes.defenses import find_defenses
from otad_ray.recipes.shard_job import ShardJob, Units, open_workspace, run_shard_job
from otad_ray.recipes.workspace import Workspace, check_split
from otad_ray.sweep.config import SweepConfig
from otad_ray.sweep.cost import print_cost
from otad_ray.sweep.plan import make_plan
from otad_ray.sweep.probe import probe_defense
from otad_ray.sweep.report import report_sweep
from otad_ray.sweep.tasks import ATTACK_KIND, CLEAN_KIND, RETRYABLE_RECORDS
from otad_ray.sweep.units import DefenseUnits, order_units, plan_units

# Columns that are counted of each kind of records; examples and logits, which are large, are left out.
_COUNTED = {
    ATTACK_KIND: ("status", "relaxations", "queries", "gradient_queries", "broken"),
    CLEAN_KIND: ("status", "radius", "clean_correct"),
}


class SweepJob(ShardJob):
    """Defenses under attacks and certificates, reported as a bracket."""

    retryable = RETRYABLE_RECORDS

    def __init__(self, workspace: Workspace, config: SweepConfig) -> None:
        super().__init__(workspace)
        self._config = config

    def prepare(self) -> Sequence[Units]:
        workspace, config = self.workspace, self._config
        workspace.rows(config.split).check()
        self.plan = make_plan(workspace, config)
        sources = find_defenses(workspace, config.defense, cip_net=config.cip_net_directory)
        saved = [source.surrogate for source in sources.values()]
        saved += [source.location for source in sources.values() if source.state is None]
        self._search = describe_query_search(workspace, config.split, saved)
        self.defenses = [
            plan_units(workspace, self.plan, source, probe_defense(workspace, self.plan, source))
            for source in sources.values()
        ]
        print_cost(self.defenses, 1 if config.local else config.num_actors or num_cores())
        return order_units(self.plan, self.defenses)

    def describe(self, output: ShardedDirectory, summary: RunSummary) -> Mapping[str, Any]:
        counts = count_tables(table for _, table in output.tables(_COUNTED[output.manifest["kind"]]))
        return {"counts": counts.as_dict(), "stage_seconds": sum_stage_seconds(output)}

    def report(self, summary: RunSummary) -> dict[str, Any]:
        return report_sweep(self.workspace, self.plan, self.defenses, summary.seconds, self._search)


def run_attack_sweep(config: SweepConfig) -> dict[str, Any]:
    """Attack and certify defenses, report the bracket, and return the job's summary.

    A rerun computes the cohorts that are missing, and those on which an attack raised an error.

    Raises:
        InputError: for bad input, before any work; and, after everything else is done and reported, if a user's module
            raised.
    """
    check_split(config.preset, config.split)
    job = SweepJob(open_workspace(config), config)
    result = run_shard_job(job)
    _raise_errors(job.defenses)
    return result


def _raise_errors(defenses: Sequence[DefenseUnits]) -> None:
    """Raise InputError with the first of the errors that cohorts ended with, if there are any."""
    incomplete = [
        (defense.source.name, what, output)
        for defense in defenses
        for what, output in (
            *((f"{unit.task.name} at eps {unit.task.budget.eps:g}", unit.output) for unit in defense.attacks),
            ("evaluation", defense.clean.output),
        )
        if not output.manifest["complete"]
    ]
    for name, what, output in incomplete:
        rows = [row for _, table in output.tables(("id", "status", "error")) for row in table.to_pylist()]
        broken = [row for row in rows if row["status"] in RETRYABLE_RECORDS]
        if broken:
            ids = [row["id"] for row in broken]
            raise InputError(
                f"{what} on {name!r} raised on {len(ids)} samples, ids {ids[:10]}{'...' if len(ids) > 10 else ''}: "
                f"{broken[0]['error']}; {len(incomplete)} of the sweep's results lack samples. "
                "All others are kept: mend it and run the same command again"
            )
