"""Complete named configurations: data set, backbone, training and integration."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated

from tyro.conf import Suppress, arg

from otad_ray.cip import Regularity
from otad_ray.data import DEFAULT_LABEL_COLUMN, DataSet, absolute_name, data_set
from otad_ray.errors import InputError
from otad_ray.memory import IntegrationConfig
from otad_ray.models import BackboneConfig
from otad_ray.training import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What is computed; the same preset gives the same artifacts.

    Attributes:
        name: the folder of its artifacts below the storage root, and the MLflow experiment.
        data_set: a name in the catalog, or the path of your own directory of Parquet files or .h5ad file.
        label_column: of your own data: its column of classes or targets.
        backbone: the network.
        training: how it is trained.
        integration: its options carry no prefix on the command line (`--neighbors 5`).
    """

    name: Suppress[str]
    data_set: str
    label_column: str = DEFAULT_LABEL_COLUMN
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    integration: Annotated[IntegrationConfig, arg(name="")] = field(default_factory=IntegrationConfig)

    def __post_init__(self) -> None:
        # Other processes have other working directories.
        object.__setattr__(self, "data_set", absolute_name(self.data_set))
        _ = self.definition

    @property
    def definition(self) -> DataSet:
        """The data set; for the user's own, read from its files. InputError where there is none."""
        return data_set(self.data_set, label_column=self.label_column)


_PAPER_REGULARITY = Regularity(
    smoothness=2.0, strong_convexity=0.0, relax_smoothness=0.2, relax_strong_convexity=0.2, max_relaxations=100
)
_PAPER_INTEGRATION = IntegrationConfig(neighbors=10, regularity=_PAPER_REGULARITY)

_ALL = (
    Preset(
        name="digits",
        data_set="digits",
        training=TrainingConfig(epochs=60, batch_size=64, learning_rate=0.05, energy_weight=0.01),
        integration=_PAPER_INTEGRATION,
    ),
    Preset(
        name="mnist",
        data_set="mnist",
        training=TrainingConfig(epochs=12, batch_size=128, learning_rate=0.05, energy_weight=0.001),
        integration=_PAPER_INTEGRATION,
    ),
    Preset(
        name="fashion_mnist",
        data_set="fashion_mnist",
        training=TrainingConfig(epochs=12, batch_size=128, learning_rate=0.05, energy_weight=0.001),
        integration=_PAPER_INTEGRATION,
    ),
    # Blocks as wide as the images' 3072 and 12288 values would take gigabytes.
    Preset(
        name="cifar10",
        data_set="cifar10",
        backbone=BackboneConfig(hidden=1024),
        training=TrainingConfig(epochs=5, batch_size=128, learning_rate=0.01, energy_weight=0.001),
        integration=_PAPER_INTEGRATION,
    ),
    Preset(
        name="tiny_imagenet_20",
        data_set="tiny_imagenet_20",
        backbone=BackboneConfig(hidden=512),
        training=TrainingConfig(epochs=10, batch_size=128, learning_rate=0.005, energy_weight=0.001),
        integration=_PAPER_INTEGRATION,
    ),
    Preset(
        name="tiny_imagenet",
        data_set="tiny_imagenet",
        backbone=BackboneConfig(hidden=512),
        training=TrainingConfig(epochs=3, batch_size=256, learning_rate=0.005, energy_weight=0.001),
        integration=_PAPER_INTEGRATION,
    ),
    Preset(
        name="wine_quality_red",
        data_set="wine_quality_red",
        backbone=BackboneConfig(num_blocks=10),
        training=TrainingConfig(epochs=60, batch_size=64, learning_rate=0.005, energy_weight=0.01),
        integration=_PAPER_INTEGRATION,
    ),
    Preset(
        name="wine_quality_red_grouped",
        data_set="wine_quality_red_grouped",
        backbone=BackboneConfig(num_blocks=10),
        training=TrainingConfig(epochs=60, batch_size=64, learning_rate=0.005, energy_weight=0.01),
        integration=_PAPER_INTEGRATION,
    ),
    Preset(
        name="citeseq_cbmc",
        data_set="citeseq_cbmc",
        backbone=BackboneConfig(num_blocks=4),
        training=TrainingConfig(epochs=60, batch_size=128, learning_rate=0.05, energy_weight=1.0),
        # Cells have norm 1, and the net moves them apart: a small L would leave its features far off (validation part).
        integration=replace(_PAPER_INTEGRATION, regularity=replace(_PAPER_REGULARITY, smoothness=4.0)),
    ),
    Preset(
        name="gaussian_classes",
        data_set="gaussian_classes",
        backbone=BackboneConfig(num_blocks=3),
        training=TrainingConfig(epochs=15, batch_size=128, learning_rate=0.02, energy_weight=0.001),
        integration=_PAPER_INTEGRATION,
    ),
)

PRESETS: Mapping[str, Preset] = {preset.name: preset for preset in _ALL}


def find_preset(name: str) -> Preset:
    """The preset called `name`; InputError lists the known ones."""
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}")
    return PRESETS[name]
