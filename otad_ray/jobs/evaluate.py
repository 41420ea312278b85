"""Measure the standard accuracy (or MSE) of net, KNN and OTAD, the relative error RE, and transport diagnostics.

python jobs/evaluate.py                       # digits
python jobs/evaluate.py mnist --regularity.smoothness 3
python jobs/evaluate.py digits_vit --otad-nn  # OTAD-T, and OTAD-T-NN beside it
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from otad_ray.artifacts import MANIFEST, read_manifest
from otad_ray.cip import RETRYABLE
from otad_ray.data import DataFolders, Rows, Split, open_split
from otad_ray.defenses import Defense, load_defense
from otad_ray.engine.shards import ShardedDirectory
from otad_ray.engine.task import RunSummary, Unit
from otad_ray.evaluation import StandardMetrics, evaluation_records, transport_diagnostics
from otad_ray.machine import describe_command, describe_machine, versions
from otad_ray.options import ActorJobConfig
from otad_ray.pages import REPORT, Page, Section, Table, fact_table, number_cell, text_cell, write_page
from otad_ray.presets import Preset
from otad_ray.recipes.approximate_search import describe_query_search, identify_search, mark_rows, recall_metric
from otad_ray.recipes.backbone import ensure_backbone
from otad_ray.recipes.defense_source import NET
from otad_ray.recipes.defenses import (
    KNN_NAME,
    OTAD_NN,
    check_cip_net_directory,
    open_cip_net,
    save_defense,
    save_otad_by_cross_term,
)
from otad_ray.recipes.labels import identify_integration
from otad_ray.recipes.memory import ensure_memory
from otad_ray.recipes.shard_job import ShardJob, Units, open_workspace, run_shard_job
from otad_ray.recipes.workspace import Workspace, check_split, describe_data
from otad_ray.tracking import RunRecord

logger = logging.getLogger(__name__)

_KIND = "evaluation"


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(ActorJobConfig):
    """Options of the evaluation job.

    Attributes:
        split: test, or validation for a backbone trained on the fit rows.
        otad_nn: evaluate OTAD-T-NN too, whose CIP-net is trained first where it is missing.
        cip_net_directory: a CIP-net for it in place of the preset's, such as one whose labels another metric net gave.
    """

    split: Split = "test"
    otad_nn: bool = False
    cip_net_directory: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_cip_net_directory(self.cip_net_directory, asked=self.otad_nn, option="--otad-nn")


@dataclass(frozen=True)
class EvaluateTask:
    """Predictions of several defenses on the rows of a split.

    Attributes:
        preset: whose data set.
        split: which rows.
        folders: where the data set lies.
        defenses: name and directory of each.
        solved_by: name of the defense whose solutions are recorded.
        search: how memories are searched.
    """

    preset: Preset
    split: Split
    folders: DataFolders
    defenses: tuple[tuple[str, str], ...]
    solved_by: str
    search: str

    job_name = "evaluate"

    @property
    def metric_labels(self) -> Mapping[str, str]:
        return {"kind": _KIND, "preset": self.preset.name}

    def setup(self) -> "EvaluateProcessor":
        defenses = {name: load_defense(directory, search=self.search) for name, directory in self.defenses}
        rows = open_split(self.preset.definition, self.split, self.folders)
        return EvaluateProcessor(rows, defenses, self.solved_by, self.search)


@dataclass(frozen=True)
class EvaluateProcessor:
    """Open rows, and the defenses that are asked for them."""

    rows: Rows
    defenses: Mapping[str, Defense]
    solved_by: str
    search: str

    def process(self, positions: np.ndarray) -> pa.Table:
        records = evaluation_records(self.rows.take(positions), self.defenses, solved_by=self.solved_by, net=NET)
        return mark_rows(records, self.search)


class EvaluateJob(ShardJob):
    """Net, KNN, OTAD with both cross terms and, if asked for, OTAD-T-NN, on all rows of a split."""

    retryable = frozenset(status.label for status in RETRYABLE)

    def __init__(self, workspace: Workspace, config: EvaluateConfig) -> None:
        super().__init__(workspace)
        self._config = config

    def prepare(self) -> Sequence[Units]:
        workspace, config = self.workspace, self._config
        self.rows = workspace.rows(config.split)
        self.rows.check()
        if config.cip_net_directory is not None:
            open_cip_net(workspace, config.cip_net_directory)
        self.memory = ensure_memory(workspace)
        self.backbone = ensure_backbone(workspace).network
        otads = save_otad_by_cross_term(workspace)
        knn = {KNN_NAME: save_defense(workspace, KNN_NAME)}
        others = {OTAD_NN: save_defense(workspace, OTAD_NN, cip_net=config.cip_net_directory)} if config.otad_nn else {}
        self.saved = {**otads, **knn, **others}
        identity = {
            "backbone": self.backbone.fingerprint(),
            "memory": self.memory.fingerprint,
            "data": self.rows.fingerprint,
            "split": config.split,
            **identify_integration(workspace.preset.integration),
            **({"others": {name: path.name for name, path in others.items()}} if others else {}),
            **identify_search(workspace.search),
        }
        self._search = describe_query_search(workspace, config.split, [str(knn[KNN_NAME])])
        directory = workspace.directory("evaluations", identity)
        _adopt_earlier(workspace.directory("sweeps", identity), directory)
        self.output = ShardedDirectory.start(
            directory,
            kind=_KIND,
            identity=identity,
            rows=len(self.rows),
            rows_per_shard=config.rows_per_shard,
        )
        defenses = {NET: save_defense(workspace, NET), **knn, **otads, **others}
        task = EvaluateTask(
            workspace.preset,
            config.split,
            workspace.folders,
            tuple((name, str(path)) for name, path in defenses.items()),
            solved_by=next(iter(otads)),
            search=workspace.search,
        )
        return [[Unit(self.output, task)]]

    def describe(self, output: ShardedDirectory, summary: RunSummary) -> Mapping[str, Any]:
        totals = self._sum_records()
        integration = self.workspace.preset.integration
        metrics = totals.metrics() | transport_diagnostics(
            self.backbone,
            self.memory.points,
            num_neighbors=integration.num_neighbors,
            regularity=integration.regularity,
        )
        definition = self.workspace.definition
        if definition.bayes_accuracy is not None:
            metrics["accuracy_bayes"] = definition.bayes_accuracy()
        metrics |= recall_metric(self._search)
        return {"metrics": metrics, **self._search, "seconds": summary.seconds or output.manifest.get("seconds", 0.0)}

    def report(self, summary: RunSummary) -> dict[str, Any]:
        page = self.output.directory / REPORT
        if self.output.manifest["run_id"] is None or not page.is_file():
            self._write_page(page)
        if self.output.manifest["run_id"] is None:
            self.output.update(run_id=self.workspace.track(self._make_record()))
        manifest = self.output.manifest
        _print_table(self.workspace.definition.name, manifest)
        return {
            "evaluation": str(self.output.directory),
            "page": str(page),
            "rows": manifest["rows"],
            "seconds": manifest["seconds"],
            "solver": self.workspace.preset.integration.solver,
            **manifest["metrics"],
            "defenses": {name: str(path) for name, path in self.saved.items()},
            "run_id": manifest["run_id"],
        }

    def _write_page(self, path: Path) -> None:
        """Write the page of a finished evaluation."""
        manifest, split = self.output.manifest, self._config.split
        metrics = [
            [text_cell(name.replace("_", " ")), number_cell(value)] for name, value in manifest["metrics"].items()
        ]
        facts = {
            **manifest["identity"],
            "seconds": round(manifest["seconds"], 1),
            "command": describe_command(),
            **describe_machine(),
            **versions(),
        }
        page = Page(
            title=f"Evaluation of {self.workspace.preset.name}",
            lead=f"{manifest['rows']} rows of the {split} part of {self.workspace.definition.name}, without an attack.",
            sections=[
                Section(
                    title="Numbers",
                    tables=[Table(title="accuracies and other measures", columns=("measure", "value"), rows=metrics)],
                ),
                Section(title="What was run", tables=[fact_table("evaluation", facts)]),
            ],
            numbers={"metrics": manifest["metrics"], **facts},
        )
        write_page(path, page)

    def _sum_records(self) -> StandardMetrics:
        """Sum the records, a shard at a time; RetryableError unless every row of the split is there exactly once."""
        totals = StandardMetrics()
        for shard, table in self.output.tables():
            self.output.check_ids(shard, table, self.rows.take(shard.positions).ids.numpy())
            totals.add(table)
        return totals

    def _make_record(self) -> RunRecord:
        """Return the tracked run of a finished evaluation."""
        manifest, totals = self.output.manifest, self._sum_records()
        return RunRecord(
            experiment=self.workspace.preset.name,
            kind=_KIND,
            name=f"evaluation {self._config.split} K={self.workspace.preset.integration.num_neighbors}",
            job="evaluate",
            result={"directory": self.output.directory},
            outcome=totals.metrics(),
            params={**manifest["identity"], "data_set": self.workspace.preset.data_set},
            metrics={**manifest["metrics"], "seconds": manifest["seconds"], "rows": totals.rows},
            data=describe_data(self.workspace, self._config.split),
            artifacts=(self.output.directory / MANIFEST, self.output.directory / REPORT),
            tags={"otad.directory": str(self.output.directory)},
        )


def run_evaluation(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate net, KNN and OTAD with both cross terms, and return the job's summary."""
    check_split(config.preset, config.split)
    return run_shard_job(EvaluateJob(open_workspace(config), config))


def _adopt_earlier(earlier: Path, directory: Path) -> None:
    """Move an evaluation of version 0.1, which lies among the sweeps, to its place."""
    if directory.exists() or not (earlier / MANIFEST).is_file():
        return
    read_manifest(earlier, kind=_KIND)
    directory.parent.mkdir(parents=True, exist_ok=True)
    # Of two jobs that do this at once, one finds nothing left to move.
    with suppress(FileNotFoundError):
        earlier.rename(directory)
    logger.info("moved an evaluation of version 0.1 from %s to %s", earlier, directory)


def _print_table(name: str, manifest: dict[str, Any]) -> None:
    """Print accuracies, shares and other metrics on stderr."""
    lines = [f"{name}, {manifest['identity']['split']}: {manifest['rows']} rows in {manifest['seconds']:.1f} s"]
    for metric, value in manifest["metrics"].items():
        is_share = metric.startswith(("accuracy_", "share_"))
        shown = f"{100 * value:8.2f} %" if is_share else f"{value:10.4g}"
        lines.append(f"  {metric.removeprefix('accuracy_'):<26}{shown}")
    print("\n".join(lines), file=sys.stderr)
