"""Complete named configurations: data set, backbone, training and integration."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from tyro.conf import Suppress, arg

from otad_ray.cip import Regularity
from otad_ray.data import data_set
from otad_ray.errors import InputError
from otad_ray.memory import IntegrationConfig
from otad_ray.models import BackboneConfig
from otad_ray.training import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What is computed; the same preset gives the same artifacts.

    Attributes:
        name: the folder of its artifacts below the storage root, and the MLflow experiment.
        data_set: a name in the catalog: digits or mnist.
        backbone: the network.
        training: how it is trained.
        integration: its options carry no prefix on the command line (`--neighbors 5`).
    """

    name: Suppress[str]
    data_set: str
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    integration: Annotated[IntegrationConfig, arg(name="")] = field(default_factory=IntegrationConfig)

    def __post_init__(self) -> None:
        data_set(self.data_set)


_PAPER_REGULARITY = Regularity(
    smoothness=2.0, strong_convexity=0.0, relax_smoothness=0.2, relax_strong_convexity=0.2, max_relaxations=100
)

_ALL = (
    Preset(
        name="digits",
        data_set="digits",
        training=TrainingConfig(epochs=60, batch_size=64, learning_rate=0.05, energy_weight=0.01),
        integration=IntegrationConfig(neighbors=10, regularity=_PAPER_REGULARITY),
    ),
    Preset(
        name="mnist",
        data_set="mnist",
        training=TrainingConfig(epochs=12, batch_size=128, learning_rate=0.05, energy_weight=0.001),
        integration=IntegrationConfig(neighbors=10, regularity=_PAPER_REGULARITY),
    ),
)

PRESETS: Mapping[str, Preset] = {preset.name: preset for preset in _ALL}


def find_preset(name: str) -> Preset:
    """The preset called `name`; InputError lists the known ones."""
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}")
    return PRESETS[name]
