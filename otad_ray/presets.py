"""Complete named configurations: data set, networks, how they are trained, and integration."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated

from tyro.conf import Suppress, arg

from otad_ray.cip import Regularity
from otad_ray.data import DEFAULT_LABEL_COLUMN, DataSet, absolute_name, data_set
from otad_ray.errors import InputError
from otad_ray.locations import resolve_path
from otad_ray.memory import IntegrationConfig, PotentialConfig
from otad_ray.models import NO_METRIC, BackboneConfig, CipNetConfig, MetricNetConfig, ViTConfig
from otad_ray.training import CipNetTrainingConfig, MetricTrainingConfig, OffsetTrainingConfig, TrainingConfig
from otad_ray.user_module import absolute_location, is_location


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What is computed; the same preset gives the same artifacts.

    Attributes:
        name: the folder of its artifacts below the storage root, and the MLflow experiment.
        data_set: a name in the catalog, or the path of your own directory of Parquet files or .h5ad file.
        label_column: of your own data: its column of classes or targets.
        allow_copies: of your own directory: whether a file may be a copy of another one, which is refused else.
        train_rows: how many training rows are used, a seeded sample (default: all).
        backbone: the network.
        training: how it is trained.
        metric: what neighbors are searched by.
        metric_training: how that net is trained.
        cip_net: what approximates the solver, where it is asked for (otad_nn).
        cip_net_training: how that net is trained.
        integration: its options carry no prefix on the command line (`--neighbors 5`).
        potential: the potential over all training points (otad_global).
        offset_training: how that potential's offsets are trained after the least squares.
        defense_settings: changes of the settings that baselines are trained with, such as pgd_at.eps=0.2.
    """

    name: Suppress[str]
    data_set: str
    label_column: str = DEFAULT_LABEL_COLUMN
    allow_copies: bool = False
    train_rows: int | None = None
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    metric: MetricNetConfig = field(default_factory=MetricNetConfig)
    metric_training: MetricTrainingConfig = field(default_factory=MetricTrainingConfig)
    cip_net: CipNetConfig = field(default_factory=CipNetConfig)
    cip_net_training: CipNetTrainingConfig = field(default_factory=CipNetTrainingConfig)
    integration: Annotated[IntegrationConfig, arg(name="")] = field(default_factory=IntegrationConfig)
    potential: PotentialConfig = field(default_factory=PotentialConfig)
    offset_training: OffsetTrainingConfig = field(default_factory=OffsetTrainingConfig)
    defense_settings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # Other processes have other working directories.
        object.__setattr__(self, "data_set", absolute_name(self.data_set))
        if self.metric.weights is not None:
            weights = str(resolve_path(self.metric.weights, "--metric.weights"))
            object.__setattr__(self, "metric", replace(self.metric, weights=weights))
        if is_location(self.integration.solver):
            solver = absolute_location(self.integration.solver, expected="a solver")
            object.__setattr__(self, "integration", replace(self.integration, solver=solver))
        _ = self.definition

    @property
    def definition(self) -> DataSet:
        """The data set; if it is the user's own, it is read from its files. InputError if there is none."""
        found = data_set(self.data_set, label_column=self.label_column, allow_copies=self.allow_copies)
        return replace(found, train_rows=self.train_rows)

    @property
    def has_metric(self) -> bool:
        """Whether neighbors are searched by a metric net."""
        return self.metric.architecture != NO_METRIC


_PAPER_REGULARITY = Regularity(
    smoothness=2.0, strong_convexity=0.0, relax_smoothness=0.2, relax_strong_convexity=0.2, max_relaxations=100
)
_PAPER_INTEGRATION = IntegrationConfig(num_neighbors=10, regularity=_PAPER_REGULARITY)
# OTAD-T's steps of relaxation are longer.
_TRANSFORMER_INTEGRATION = replace(
    _PAPER_INTEGRATION, regularity=replace(_PAPER_REGULARITY, relax_smoothness=1.0, relax_strong_convexity=1.0)
)
_TRANSFORMER_TRAINING = TrainingConfig(
    epochs=100,
    batch_size=128,
    optimizer="adamw",
    learning_rate=1e-3,
    weight_decay=0.05,
    energy_weight=1e-4,
    augmentation="crop_flip",
    precision="bfloat16",
)
_METRIC_TRAINING = MetricTrainingConfig(epochs=60, learning_rate=1e-3, augmentation="crop_flip")


def _tiny_imagenet_vit(data_set: str) -> Preset:
    """64 patches, as of CIFAR images, and neighbors by a ResNet-18, which needs --metric.weights."""
    return Preset(
        name=f"{data_set}_vit",
        data_set=data_set,
        backbone=BackboneConfig(architecture="vit", num_blocks=6, vit=ViTConfig(patch_size=8)),
        training=_TRANSFORMER_TRAINING,
        metric=MetricNetConfig(architecture="resnet18"),
        metric_training=replace(_METRIC_TRAINING, epochs=20, learning_rate=1e-4),
        cip_net=CipNetConfig(width=512, num_blocks=6, num_heads=8),
        cip_net_training=CipNetTrainingConfig(batch_size=128, learning_rate=1e-3, precision="bfloat16"),
        integration=_TRANSFORMER_INTEGRATION,
    )


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
        # A share of a displacement would shift the outputs of a regression.
        potential=PotentialConfig(share=1.0),
    ),
    Preset(
        name="wine_quality_red_grouped",
        data_set="wine_quality_red_grouped",
        backbone=BackboneConfig(num_blocks=10),
        training=TrainingConfig(epochs=60, batch_size=64, learning_rate=0.005, energy_weight=0.01),
        integration=_PAPER_INTEGRATION,
        # A share of a displacement would shift the outputs of a regression.
        potential=PotentialConfig(share=1.0),
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
    # A transformer on data that comes with scikit-learn: to try OTAD-T in a minute.
    Preset(
        name="digits_vit",
        data_set="digits",
        backbone=BackboneConfig(architecture="vit", num_blocks=3, vit=ViTConfig(patch_size=2, width=32, num_heads=4)),
        training=replace(
            _TRANSFORMER_TRAINING,
            epochs=30,
            batch_size=64,
            learning_rate=2e-3,
            energy_weight=0.01,
            augmentation="none",
            precision="float32",
        ),
        metric=MetricNetConfig(architecture="resnet", width=16),
        metric_training=replace(_METRIC_TRAINING, epochs=10, augmentation="none"),
        cip_net=CipNetConfig(width=64, num_blocks=2, num_heads=4),
        integration=_TRANSFORMER_INTEGRATION,
    ),
    # The paper's OTAD-T.
    Preset(
        name="cifar10_vit",
        data_set="cifar10",
        backbone=BackboneConfig(architecture="vit", num_blocks=6),
        training=_TRANSFORMER_TRAINING,
        metric=MetricNetConfig(architecture="resnet"),
        metric_training=_METRIC_TRAINING,
        cip_net=CipNetConfig(width=512, num_blocks=6, num_heads=8),
        cip_net_training=CipNetTrainingConfig(batch_size=128, learning_rate=1e-3, precision="bfloat16"),
        integration=_TRANSFORMER_INTEGRATION,
    ),
    # That of the authors' code, where it differs: a class token, more blocks and width, MLPs that end with a GELU.
    Preset(
        name="cifar10_vit_released",
        data_set="cifar10",
        backbone=BackboneConfig(
            architecture="vit",
            num_blocks=7,
            vit=ViTConfig(width=384, num_heads=12, mlp_ends_with="gelu", pooling="class_token"),
        ),
        training=_TRANSFORMER_TRAINING,
        metric=MetricNetConfig(architecture="resnet"),
        metric_training=_METRIC_TRAINING,
        cip_net=CipNetConfig(width=2048, num_blocks=6, num_heads=8, hidden=512, dropout=0.1),
        cip_net_training=CipNetTrainingConfig(batch_size=128, learning_rate=1e-3, precision="bfloat16"),
        integration=_TRANSFORMER_INTEGRATION,
    ),
    # All of OTAD-T and OTAD-T-NN in minutes on two cores, on a fifth of the images.
    Preset(
        name="cifar10_vit_small",
        data_set="cifar10",
        train_rows=10_000,
        backbone=BackboneConfig(architecture="vit", num_blocks=3, vit=ViTConfig(width=64, num_heads=4)),
        training=replace(
            _TRANSFORMER_TRAINING,
            epochs=20,
            batch_size=64,
            learning_rate=2e-3,
            energy_weight=1e-3,
            precision="float32",
        ),
        # 1-Lipschitz, so that predictions are certified; in minutes the paper's ResNet learns less than this.
        metric=MetricNetConfig(architecture="orthogonal", width=32),
        metric_training=replace(_METRIC_TRAINING, epochs=8, margin=0.5, augmentation="none"),
        cip_net=CipNetConfig(width=64, num_blocks=2, num_heads=4),
        cip_net_training=CipNetTrainingConfig(epochs=10),
        integration=_TRANSFORMER_INTEGRATION,
    ),
    _tiny_imagenet_vit("tiny_imagenet_20"),
    _tiny_imagenet_vit("tiny_imagenet"),
)

PRESETS: Mapping[str, Preset] = {preset.name: preset for preset in _ALL}


def find_preset(name: str) -> Preset:
    """The preset called `name`; InputError lists the known ones."""
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}")
    return PRESETS[name]
