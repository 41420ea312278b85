"""A preset in a storage root: where its artifacts lie, its rows, and its tracked runs."""

import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from otad_ray.artifacts import MANIFEST, content_hash, read_manifest, storage_root, write_json
from otad_ray.data import DataFolders, DataSet, Rows, Split, open_split
from otad_ray.errors import InputError
from otad_ray.options import JobConfig
from otad_ray.presets import Preset
from otad_ray.tracking import DataRecord, RunRecord, default_tracking_uri, track

# Folder of a storage root with a storage root for each night.
NIGHTS = "nightly"


class Workspace:
    """A preset in a storage root: what its jobs share. build: whether a missing input may be made."""

    def __init__(self, config: JobConfig) -> None:
        self._config = config
        self.preset = config.preset
        self.build = config.build
        self.started = time.time()
        self.root = storage_root(config.storage)
        self.tracking_uri = default_tracking_uri(config.tracking_uri, self.root)
        self.folders = DataFolders.from_environment(cache=self.root / "data")
        self._rows: dict[str, Rows] = {}

    def of(self, preset: Preset) -> "Workspace":
        """A variant of the preset in the same root."""
        return Workspace(replace(self._config, preset=preset))

    def options_for(self, *names: str) -> dict[str, Any]:
        """For another job of the preset: what every job is told, and the options of those names that this job has."""
        shared = (*(item.name for item in fields(JobConfig)), *names)
        return {name: getattr(self._config, name) for name in shared if hasattr(self._config, name)}

    @property
    def definition(self) -> DataSet:
        return self.preset.definition

    def rows(self, split: Split) -> Rows:
        """Rows of a split of the preset's data set, opened once; downloads are kept below the root."""
        if split not in self._rows:
            self._rows[split] = open_split(self.definition, split, self.folders)
        return self._rows[split]

    def directory(self, kind: str, identity: Any) -> Path:
        """`<root>/<preset>/<kind>/<hash>` for what the results depend on."""
        return self.root / self.preset.name / kind / content_hash(identity)

    def track(self, record: RunRecord) -> str | None:
        """Log a finished result as one of the job that opened this workspace; its run's id, or None."""
        started = self.started if record.started is None else record.started
        return track(replace(record, started=started), tracking_uri=self.tracking_uri, root=self.root)

    def refuse_to_build(self, what: str, directory: Path, job: str) -> None:
        """InputError with the command that makes a missing input, unless it may be made."""
        if not self.build:
            raise InputError(
                f"no {what} for preset {self.preset.name!r} at {directory}; make it with: "
                f"python jobs/{job}.py {self.preset.name} (and the same options), or leave out --no-build"
            )


def data_record(workspace: Workspace, split: Split) -> DataRecord:
    """A split of the preset's data set as an input of a tracked run."""
    rows = workspace.rows(split)
    name = f"{workspace.preset.data_set}/{split}"
    return DataRecord(name=name, digest=rows.fingerprint[:12], origin=rows.origin, rows=len(rows))


def track_once(
    workspace: Workspace,
    directory: Path,
    kind: str,
    describe: Callable[[Workspace, Path, dict[str, Any]], RunRecord],
) -> None:
    """Log a finished artifact unless that was done: also one that a dead server did not take at the time."""
    manifest = read_manifest(directory, kind=kind)
    if manifest.get("run_id") is None:
        run_id = workspace.track(describe(workspace, directory, manifest))
        if run_id is not None:
            write_json(directory / MANIFEST, {**manifest, "run_id": run_id})
