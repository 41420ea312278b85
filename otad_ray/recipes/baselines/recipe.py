"""The network of a baseline: where it lies, what it depends on, and how a missing one is trained."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor, nn

from otad_ray.artifacts import read_manifest, to_jsonable
from otad_ray.data import load_all
from otad_ray.engine.training import Trainer, train_here
from otad_ray.errors import InputError
from otad_ray.memory import NeighborMemory
from otad_ray.models import Backbone, load_backbone
from otad_ray.recipes.backbone import check_rows, ensure_backbone, held_out_split
from otad_ray.recipes.baselines.adversarial import COLLAPSED
from otad_ray.recipes.baselines.catalog import BASELINES
from otad_ray.recipes.baselines.entry import BaselineEntry, Training
from otad_ray.recipes.baselines.input_memory import ensure_input_memory
from otad_ray.recipes.baselines.settings import resolve_settings
from otad_ray.recipes.networks import NetworkRecipe, Trained, ensure_network
from otad_ray.recipes.sample_task import SampleTask
from otad_ray.recipes.workspace import Workspace
from otad_ray.training import LoopConfig, accuracy
from otad_ray.training.loop import minimize

# Held-out rows that a slow defense's accuracy is measured on.
_SLOW_ROWS = 1000


@dataclass(frozen=True, kw_only=True)
class BaselineTask(SampleTask):
    """The training of a baseline's network on a preset's rows.

    Attributes:
        name: the baseline's name in the catalog, by which workers find its functions.
        settings: of its training.
        net: directory of the preset's undefended net, for a baseline that is trained against it; None for others.
    """

    name: str
    settings: LoopConfig
    net: Path | None = None

    @property
    def config(self) -> LoopConfig:
        return self.settings

    @property
    def _training(self) -> Training:
        training = BASELINES[self.name].training
        assert training is not None
        return training

    def new_network(self) -> nn.Module:
        torch.manual_seed(self.settings.seed)
        return self._training.build(self.settings, self.shape, self.num_outputs)

    def train(self, tables: Iterable[pa.Table], device: torch.device) -> None:
        inputs, targets = self.assemble(tables)
        network = self.new_network().to(device)
        needed = {} if self.net is None else {"classifier": load_backbone(self.net).to(device).requires_grad_(False)}
        problem = self._training.problem(network, inputs, targets, self.settings, **needed)
        minimize(problem, self.settings, on_epoch=self.report, store=self.store)


class BaselineRecipe(NetworkRecipe[nn.Module]):
    """The network of a baseline on a preset's data set."""

    kind = "baseline"
    job = "train_defense"

    def __init__(self, workspace: Workspace, entry: BaselineEntry) -> None:
        super().__init__(workspace)
        assert entry.training is not None
        self._entry, self._training = entry, entry.training
        # A recipe of a class of its own for each baseline would differ in nothing else.
        self.title = f"network of {entry.name}"  # type: ignore[misc]

    @cached_property
    def settings(self) -> LoopConfig:
        """The settings of the training."""
        return resolve_settings(self._entry, self.workspace)

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        identity = {
            "name": self._entry.name,
            "data": self.workspace.rows(self.workspace.preset.training.rows).fingerprint,
            "settings": to_jsonable(self.settings),
        }
        return identity if self._net is None else {**identity, "net": self._net.network.fingerprint()}

    @cached_property
    def _net(self) -> Trained[Any] | None:
        return ensure_backbone(self.workspace) if self._training.needs_net else None

    @property
    def variant(self) -> str:
        return self._entry.name

    @property
    def task(self) -> BaselineTask:
        definition = self.workspace.definition
        return BaselineTask(
            num_rows=len(self.workspace.rows(self.workspace.preset.training.rows)),
            preset=self.workspace.preset,
            folders=self.workspace.folders,
            shape=definition.shape,
            num_outputs=definition.num_outputs,
            name=self._entry.name,
            settings=self.settings,
            net=None if self._net is None else self._net.directory,
        )

    def check(self) -> None:
        check_rows(self.workspace)

    def measure(self, network: nn.Module) -> Mapping[str, float]:
        """Measure a network on rows that it was not trained on."""
        split = held_out_split(self.workspace)
        held_out = load_all(self.workspace.rows(split))
        if self._training.measure is None:
            found: Mapping[str, float] = {"accuracy": self._measure_accuracy(network, held_out.x, held_out.y)}
        else:
            found = self._training.measure(network, held_out.x, held_out.y, self.settings)
        return {f"{split}_{name}": value for name, value in found.items()}

    def _measure_accuracy(self, network: nn.Module, x: Tensor, y: Tensor) -> float:
        """Return the accuracy of the defense that the network is for; of a slow one, on some rows."""
        defense = self._entry.make(PresetBaselineParts(self.workspace, self._entry.name, trained=network))
        count = len(x) if self._entry.max_samples is None else _SLOW_ROWS
        with torch.random.fork_rng([]):
            # For defenses that draw.
            torch.manual_seed(0)
            return accuracy(defense.eval(), x[:count], y[:count])

    def save(self, directory: Path, network: nn.Module) -> None:
        self._training.family.save(directory, network)

    def load(self, directory: Path) -> nn.Module:
        return self._training.family.load(directory)

    @property
    def params(self) -> Mapping[str, Any]:
        return {"defense": self._entry.name, "settings": self.settings}


def ensure_baseline(workspace: Workspace, name: str, trainer: Trainer = train_here) -> Trained[nn.Module]:
    """Return the trained network of a baseline and its directory; train it first if it is missing.

    Raises:
        InputError: for an unknown name, and for a data set that the baseline does not fit, before any work.
    """
    entry = find_baseline(name)
    check_baseline(workspace, entry)
    if entry.training is None:
        trained = ", ".join(item.name for item in BASELINES.values() if item.training is not None)
        raise InputError(f"defense {name!r} has nothing to train; those that are trained: {trained}")
    return ensure_network(BaselineRecipe(workspace, entry), trainer)


def find_baseline(name: str) -> BaselineEntry:
    """Return a baseline by name; InputError lists the known ones."""
    if name not in BASELINES:
        raise InputError(f"unknown defense {name!r}; known: {', '.join(BASELINES)}")
    return BASELINES[name]


def explain_collapse(workspace: Workspace, name: str) -> str | None:
    """Return what is wrong with a trained baseline whose training is known to collapse, and did; None for others."""
    entry = find_baseline(name)
    if entry.training is None:
        return None
    metrics = read_manifest(BaselineRecipe(workspace, entry).directory, kind=BaselineRecipe.kind)["metrics"]
    split = held_out_split(workspace)
    if not metrics.get(f"{split}_{COLLAPSED}"):
        return None
    by_one, by_many = metrics[f"{split}_fgsm_accuracy"], metrics[f"{split}_pgd_accuracy"]
    return (
        f"its training collapsed: accuracy on {split} is {by_one:.1%} under FGSM and {by_many:.1%} under PGD at the "
        "eps that it was trained at"
    )


def explain_misfit(workspace: Workspace, entry: BaselineEntry) -> str | None:
    """Return why a baseline does not fit a preset's data set, or None."""
    definition = workspace.definition
    if (reason := entry.refuse(definition)) is not None or entry.training is None:
        return reason
    try:
        settings = resolve_settings(entry, workspace)
        with torch.device("meta"):
            entry.training.build(settings, definition.shape, definition.num_outputs)
    except ValueError as error:
        return str(error)
    return None


def check_baseline(workspace: Workspace, entry: BaselineEntry) -> None:
    """Refuse a data set that a baseline does not fit, before any work."""
    reason = explain_misfit(workspace, entry)
    if reason is not None:
        raise InputError(f"defense {entry.name!r} does not fit data set {workspace.definition.name!r}: {reason}")


@dataclass(frozen=True)
class PresetBaselineParts:
    """The parts of a baseline on a preset.

    Attributes:
        workspace: the preset.
        name: the baseline's name in the catalog.
        trained: its network, where it was trained just now; None for the one that is saved, or trained first.
    """

    workspace: Workspace
    name: str
    trained: nn.Module | None = None

    @property
    def network(self) -> Any:
        return ensure_baseline(self.workspace, self.name).network if self.trained is None else self.trained

    @property
    def net(self) -> Backbone:
        return ensure_backbone(self.workspace).network

    @property
    def input_memory(self) -> NeighborMemory:
        return ensure_input_memory(self.workspace)
