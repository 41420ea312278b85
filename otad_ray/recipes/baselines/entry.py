"""What the catalog of baselines says of each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from otad_ray.data import DataSet
from otad_ray.defenses import Defense
from otad_ray.memory import NeighborMemory
from otad_ray.models import Backbone
from otad_ray.models.checkpoints import Family
from otad_ray.training import LoopConfig
from otad_ray.training.loop import Problem

# The settings of data sets that have none of their own.
DEFAULT = ""


@dataclass(frozen=True, kw_only=True)
class Training:
    """The network that a baseline trains.

    Attributes:
        settings: of the training and the network, by data set; DEFAULT for all others.
        build: returns a new network for settings, a sample's shape and a number of outputs, randomly initialized from
            torch's global generator. ValueError for a shape that it cannot take.
        problem: returns what the training minimizes, given the network, inputs (N, *shape), targets (N,) and settings;
            and, if it needs the net, that one, frozen, as the argument `classifier`.
        family: reads and writes its checkpoints.
        needs_net: whether it is trained against the preset's undefended net.
        measure: returns metrics of the finished network on held-out rows, given the network, inputs, targets and
            settings; None for the accuracy of the defense that is made of it.
    """

    settings: Mapping[str, LoopConfig]
    build: Callable[[Any, tuple[int, ...], int], nn.Module]
    problem: Callable[..., Problem]
    family: Family[Any]
    needs_net: bool = False
    measure: Callable[[Any, Tensor, Tensor, Any], Mapping[str, float]] | None = None


class BaselineParts(Protocol):
    """What a baseline can be made of; each part is made when it is first asked for."""

    @property
    def network(self) -> Any:
        """The network that the entry's training trained, in evaluation mode."""
        ...

    @property
    def net(self) -> Backbone:
        """The preset's undefended net."""
        ...

    @property
    def input_memory(self) -> NeighborMemory:
        """The training samples as they are, flattened, as the keys of a memory; its features are one-hot classes."""
        ...


@dataclass(frozen=True, kw_only=True)
class BaselineEntry:
    """A baseline in the catalog.

    Attributes:
        name: what people ask for it by.
        paper: where it was published.
        source: where its settings are from.
        changes: what differs from what was published, and why.
        make: returns the defense, made of its parts.
        training: the network that it trains; None if it trains nothing.
        refuse: returns why the baseline does not fit a data set, or None.
        max_samples: the most samples of a sweep that it is attacked on, because it is slow; None for all.
    """

    name: str
    paper: str
    source: str
    changes: str
    make: Callable[[BaselineParts], Defense]
    training: Training | None = None
    refuse: Callable[[DataSet], str | None] = field(default=lambda definition: None)
    max_samples: int | None = None


def refuse_tables(definition: DataSet) -> str | None:
    """Return why a baseline of images does not fit a data set, or None."""
    if len(definition.shape) != 3:
        return f"it needs images (channels, height, width), and samples have shape {definition.shape}"
    return None


def refuse_regression(definition: DataSet) -> str | None:
    """Return why a baseline of classifiers does not fit a data set, or None."""
    return "it needs classes, and this is a regression" if definition.task == "regression" else None


def refuse_all_but_image_classes(definition: DataSet) -> str | None:
    """Return why a baseline of image classifiers does not fit a data set, or None."""
    return refuse_tables(definition) or refuse_regression(definition)
