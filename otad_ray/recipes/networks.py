"""Networks that jobs train: where each lies, what it depends on, and how a missing one is made."""

import logging
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from torch import nn

from otad_ray.artifacts import MANIFEST, atomic_directory, to_jsonable, write_json
from otad_ray.engine.training import Trainer, TrainingTask
from otad_ray.errors import InputError
from otad_ray.locks import one_at_a_time
from otad_ray.machine import versions
from otad_ray.recipes.workspace import Workspace, describe_data, track_once
from otad_ray.tracking import RunRecord

logger = logging.getLogger(__name__)

Network = TypeVar("Network", bound=nn.Module)


class Trained(NamedTuple, Generic[Network]):
    """A trained network, and the directory that it lies in."""

    directory: Path
    network: Network


class NetworkRecipe(ABC, Generic[Network]):
    """A network of a preset, whether it is there or still to be trained.

    Attributes:
        kind: kind of artifact, and its folder.
        title: what people call it.
        job: the job that trains it.
        workspace: where it lies.
    """

    kind: ClassVar[str]
    title: ClassVar[str]
    job: ClassVar[str]

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """What the network depends on, of JSON types."""

    @property
    @abstractmethod
    def variant(self) -> str:
        """Which network of its kind it is, in the name of its tracked run."""

    @property
    @abstractmethod
    def task(self) -> TrainingTask:
        """Its training; where checkpoints lie is filled in later."""

    @abstractmethod
    def check(self) -> None:
        """Refuse input that cannot be trained on, before any work."""

    @abstractmethod
    def measure(self, network: Network) -> Mapping[str, float]:
        """Return the metrics of the finished network."""

    @abstractmethod
    def save(self, directory: Path, network: Network) -> None:
        """Write the network into a directory."""

    @abstractmethod
    def load(self, directory: Path) -> Network:
        """Read the network from a directory."""

    @property
    @abstractmethod
    def params(self) -> Mapping[str, Any]:
        """Parameters of its tracked run."""

    @property
    def manifest_fields(self) -> Mapping[str, Any]:
        """What else its manifest says, of JSON types."""
        return {}

    @property
    def directory(self) -> Path:
        """Where the network lies, or will."""
        return self.workspace.directory(self.kind, self.identity)


def find_network(recipe: NetworkRecipe[Network]) -> Network:
    """Return a trained network, for a memory that was built with it; InputError if there is none yet."""
    directory, preset = recipe.directory, recipe.workspace.preset
    if not directory.is_dir():
        raise InputError(
            f"the {recipe.title} of preset {preset.name!r} is not in {directory}, so no memory can "
            "have been built with it; leave out --memory, or give the options and the storage that it was built with"
        )
    return recipe.workspace.open_once(directory, lambda: Trained(directory, recipe.load(directory))).network


def ensure_network(recipe: NetworkRecipe[Network], trainer: Trainer) -> Trained[Network]:
    """Return a trained network and its directory; train it first if it is missing.

    A killed training is continued, by whichever trainer: its checkpoints in `<hash>.training` beside the directory
    are those of the loop that all trainers share.
    """
    directory, workspace = recipe.directory, recipe.workspace

    def open_network() -> Trained[Network]:
        if not directory.is_dir():
            workspace.refuse_to_build(recipe.title, directory, recipe.job)
            with one_at_a_time(directory.with_name(f".{directory.name}.lock")):
                # Another job may have trained it while this one waited.
                if not directory.is_dir():
                    _train(recipe, trainer)
        track_once(workspace, directory, recipe.kind, lambda place, manifest: _make_record(recipe, place, manifest))
        return Trained(directory, recipe.load(directory))

    return workspace.open_once(directory, open_network)


def _train(recipe: NetworkRecipe[Network], trainer: Trainer) -> None:
    """Train a network, measure it, and write it to its directory."""
    recipe.check()
    directory = recipe.directory
    state = directory.with_name(f"{directory.name}.training")
    task = replace(recipe.task, state=state)
    logger.info("training the %s (%d rows)", recipe.title, task.num_rows)
    try:
        trainer(task)
    except FloatingPointError as error:
        # Going on from its checkpoints would end the same way.
        shutil.rmtree(state, ignore_errors=True)
        raise InputError(f"training diverged: {error}") from error
    trained, history = task.result()
    last = history[-1].values()
    # Loss and energy are only known on the rows that were trained on, so that their names need not say so.
    shared = {name: last.pop(name) for name in ("loss", "energy") if name in last}
    metrics = shared | {f"train_{name}": value for name, value in last.items()} | dict(recipe.measure(trained))  # type: ignore[arg-type]
    with atomic_directory(directory) as temporary:
        recipe.save(temporary, trained)  # type: ignore[arg-type]
        manifest = {
            "kind": recipe.kind,
            "identity": recipe.identity,
            "metrics": metrics,
            "history": [{"epoch": epoch.epoch, **epoch.values()} for epoch in history],
            "rows": task.num_rows,
            **recipe.manifest_fields,
            "versions": versions(),
        }
        write_json(temporary / MANIFEST, manifest)
    shutil.rmtree(state, ignore_errors=True)


def _make_record(recipe: NetworkRecipe[Network], directory: Path, manifest: dict[str, Any]) -> RunRecord:
    """Return the tracked run of a finished network."""
    preset = recipe.workspace.preset
    return RunRecord(
        experiment=preset.name,
        kind=recipe.kind,
        name=f"{recipe.kind} {recipe.variant}",
        job=recipe.job,
        result={"directory": directory},
        outcome=manifest["metrics"],
        params=to_jsonable({"data_set": preset.data_set, **recipe.params, **recipe.manifest_fields}),
        metrics=manifest["metrics"],
        # The whole history, also of epochs before a restart, in the one run that a finished network gets.
        series={
            f"epoch_{name}": [(epoch["epoch"], epoch[name]) for epoch in manifest["history"]]
            for name in manifest["history"][0]
            if name != "epoch"
        },
        data=describe_data(recipe.workspace, preset.training.rows),
        artifacts=(directory / MANIFEST,),
        tags={"otad.directory": str(directory)},
    )
