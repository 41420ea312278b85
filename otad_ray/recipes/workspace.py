"""A preset in a storage root: where its artifacts lie, its rows, its tracked runs, and what is open of it."""

import logging
import time
from collections.abc import Callable, Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, get_args

from otad_ray.artifacts import MANIFEST, content_hash, read_manifest, storage_root, write_json
from otad_ray.data import DataDescription, DataFolders, DataSet, Rows, Split, describe_data_set, open_split
from otad_ray.errors import InputError
from otad_ray.machine import job_command
from otad_ray.memory import DEFAULT_SEARCH
from otad_ray.options import ActorJobConfig, JobConfig
from otad_ray.permissions import check_writable
from otad_ray.presets import Preset
from otad_ray.tracking import DataRecord, RunRecord, default_tracking_uri, track

# Folder of a storage root with a storage root for each night.
NIGHTS = "nightly"

logger = logging.getLogger(__name__)

# Descriptions that this process logged: the variants of a preset have the same data set.
_LOGGED: set[str] = set()

Opened = TypeVar("Opened")


class Workspace:
    """A preset in a storage root: what the steps of a job share.

    A workspace remembers what was opened in it, so that a job loads each network and each memory once.

    Attributes:
        preset: what is computed.
        started: when it was opened, in seconds since 1970: the start of the job, for its tracked runs.
        build: whether a missing input may be made.
        pool: the workers for shards.
        search: how memories are searched, as `SearchName` reads it; only an approximate one changes results.
        root: the storage root.
        tracking_uri: the MLflow store.
        folders: where data sets lie.
    """

    def __init__(self, config: JobConfig) -> None:
        self._config = config
        self.preset = config.preset
        self.started = time.time()
        self.build = config.build
        self.pool = config.pool
        self.search = config.search_name if isinstance(config, ActorJobConfig) else DEFAULT_SEARCH
        self.root = storage_root(config.storage)
        check_writable(self.root / self.preset.name)
        self.tracking_uri = default_tracking_uri(config.tracking_uri, self.root)
        self.folders = DataFolders.from_environment(cache=self.root / "data")
        self._opened: dict[Hashable, Any] = {}

    def open_once(self, what: Hashable, make: Callable[[], Opened]) -> Opened:
        """Return what `make` returned when it was first called for `what` in this workspace."""
        if what not in self._opened:
            self._opened[what] = make()
        return self._opened[what]

    def vary(self, preset: Preset) -> "Workspace":
        """Return the workspace of a variant of the preset, in the same root."""
        return self.open_once(preset, lambda: Workspace(replace(self._config, preset=preset)))

    @property
    def definition(self) -> DataSet:
        """The preset's data set."""
        return self.preset.definition

    @property
    def description(self) -> DataDescription:
        """What the data set holds."""
        return self.open_once("description", self._describe)

    def rows(self, split: Split) -> Rows:
        """Return the rows of a split of the data set; downloads are kept below the root.

        The data set is described, in the log, before the first of them are read.
        """
        _ = self.description
        return self.open_once(("rows", split), lambda: open_split(self.definition, split, self.folders))

    def _describe(self) -> DataDescription:
        """Describe the data set, and log that once in a process."""
        description = describe_data_set(self.definition, self.folders)
        text = str(description)
        if text not in _LOGGED:
            _LOGGED.add(text)
            logger.info("%s", text)
        return description

    def directory(self, kind: str, identity: Any) -> Path:
        """Return `<root>/<preset>/<kind>/<hash>` for what a result depends on."""
        return self.root / self.preset.name / kind / content_hash(identity)

    def track(self, record: RunRecord) -> str | None:
        """Log a finished job, and return the run's id; None if the tracking server did not take it."""
        started = self.started if record.started is None else record.started
        return track(replace(record, started=started), tracking_uri=self.tracking_uri, root=self.root)

    def refuse_to_build(self, what: str, directory: Path, job: str) -> None:
        """Raise InputError with the command that makes a missing input, unless it may be made."""
        if not self.build:
            raise InputError(
                f"no {what} for preset {self.preset.name!r} at {directory}; make it with: "
                f"{job_command(job)} {self.preset.name} (and the same options), or leave out --no-build"
            )


def check_split(preset: Preset, split: Split) -> None:
    """Refuse rows that are in the memory: each would be its own neighbor."""
    if split not in get_args(Split):
        raise InputError(f"unknown split {split!r}; known: {', '.join(get_args(Split))}")
    if split in ("train", "fit"):
        raise InputError(f"split {split!r} is in the memory: its rows are their own neighbors; take test or validation")
    if split == "validation" and preset.training.rows == "train":
        raise InputError(
            "the backbone of training.rows = 'train' was trained on the validation rows; "
            "add --training.rows fit, or evaluate --split test"
        )


def describe_data(workspace: Workspace, split: Split) -> DataRecord:
    """Return a split of the preset's data set as an input of a tracked run."""
    rows = workspace.rows(split)
    name = f"{workspace.preset.data_set}/{split}"
    return DataRecord(name=name, digest=rows.fingerprint[:12], origin=rows.origin, rows=len(rows))


def track_once(
    workspace: Workspace,
    directory: Path,
    kind: str,
    describe: Callable[[Path, dict[str, Any]], RunRecord],
) -> None:
    """Log a finished artifact unless that was done; one that a dead server did not take is logged now.

    Args:
        workspace: where it lies.
        directory: the artifact.
        kind: its kind.
        describe: returns its record, given the directory and its manifest.
    """
    manifest = read_manifest(directory, kind=kind)
    if manifest.get("run_id") is None:
        run_id = workspace.track(describe(directory, manifest))
        if run_id is not None:
            write_json(directory / MANIFEST, {**manifest, "run_id": run_id})
