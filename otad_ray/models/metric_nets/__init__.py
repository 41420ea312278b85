"""Metric nets by name (paper, Section IV.D). To add one, add an entry."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otad_ray.errors import InputError
from otad_ray.models.checkpoints import Architecture, Family
from otad_ray.models.metric_net import MetricNet
from otad_ray.models.metric_nets.attention import AttentionBlock, OneBlockViT, PatchNetConfig, default_patch_size
from otad_ray.models.metric_nets.convolutional import CNN, CNNConfig, ResNet, ResNetConfig
from otad_ray.models.metric_nets.orthogonal import OrthogonalConfig, OrthogonalNet
from otad_ray.models.metric_nets.resnet18 import ResNet18, ResNet18Config, load_resnet18_weights

__all__ = [
    "METRIC_NETS",
    "NO_METRIC",
    "MetricNetConfig",
    "build_metric_net",
    "load_metric_net",
    "load_resnet18_weights",
    "metric_net_config",
    "save_metric_net",
]

NO_METRIC = "none"
_RESNET18 = "resnet18"

METRIC_NETS: Family[MetricNet] = Family(
    "metric net",
    {
        "resnet": Architecture(ResNetConfig, ResNet),
        "cnn": Architecture(CNNConfig, CNN),
        "vit": Architecture(PatchNetConfig, OneBlockViT),
        "attention": Architecture(PatchNetConfig, AttentionBlock),
        _RESNET18: Architecture(ResNet18Config, ResNet18),
        "orthogonal": Architecture(OrthogonalConfig, OrthogonalNet),
    },
)


@dataclass(frozen=True, kw_only=True)
class MetricNetConfig:
    """What neighbors are searched by.

    Attributes:
        architecture: none, the points themselves; resnet, cnn, vit or attention, the paper's shallow nets;
            resnet18, which the paper fine-tunes; or orthogonal, 1-Lipschitz, so that predictions can be certified.
        num_keys: dimension of a key.
        width: channels of the first layer, or of a token (default: the architecture's own).
        weights: .safetensors file of ImageNet weights that resnet18 starts from.
    """

    architecture: str = NO_METRIC
    num_keys: int = 128
    width: int | None = None
    weights: str | None = None

    @property
    def needs_weights(self) -> bool:
        """Whether it is trained from published weights on: its batch norms are those of whoever trained them."""
        return self.architecture == _RESNET18

    def __post_init__(self) -> None:
        known = (NO_METRIC, *METRIC_NETS.architectures)
        if self.architecture not in known:
            raise InputError(f"unknown metric net architecture {self.architecture!r}; known: {', '.join(known)}")
        for name in ("num_keys", "width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"need {name} >= 1, got {value}")
        if self.weights is not None and self.architecture != _RESNET18:
            raise InputError(
                f"weights are those of {_RESNET18}, got {self.weights} for the metric net {self.architecture!r}; "
                f"leave weights out, or take architecture {_RESNET18}"
            )
        if self.width is not None and self.architecture == _RESNET18:
            raise InputError(
                f"the width of {_RESNET18} is as published, got width={self.width}; leave it out (--metric.width None)"
            )


def _patches(*, shape: tuple[int, ...], **options: int) -> PatchNetConfig:
    if len(shape) != 3:
        raise ValueError("need images (channels, height, width)")
    return PatchNetConfig(shape=shape, patch_size=default_patch_size(*shape[1:]), **options)


# How a sample's shape, the number of keys and a width, if one is given, say the configuration of an architecture.
_CONFIGURATIONS: Mapping[str, Callable[..., Any]] = {
    "resnet": ResNetConfig,
    "cnn": CNNConfig,
    "vit": _patches,
    "attention": _patches,
    _RESNET18: ResNet18Config,
    "orthogonal": OrthogonalConfig,
}


def metric_net_config(options: MetricNetConfig, *, shape: tuple[int, ...]) -> Any:
    """The architecture's own configuration, for samples of this shape; InputError for a net that cannot take them."""
    if options.architecture == NO_METRIC:
        raise InputError(
            f"architecture is {NO_METRIC!r}: there is no metric net; name one of {', '.join(_CONFIGURATIONS)}"
        )
    given = {} if options.width is None else {"width": options.width}
    try:
        return _CONFIGURATIONS[options.architecture](shape=shape, num_keys=options.num_keys, **given)
    except ValueError as error:
        raise InputError(f"metric net {options.architecture!r} for samples of shape {shape}: {error}") from error


def build_metric_net(options: MetricNetConfig, *, shape: tuple[int, ...]) -> MetricNet:
    """A new metric net, randomly initialized from torch's global generator where it has no published weights."""
    config = metric_net_config(options, shape=shape)
    net = METRIC_NETS.find(options.architecture).build(config)
    if options.weights is not None and isinstance(net, ResNet18):
        load_resnet18_weights(net, options.weights)
    return net


def save_metric_net(directory: Path, net: MetricNet) -> None:
    """Write the checkpoint into an existing directory."""
    METRIC_NETS.save(directory, net)


def load_metric_net(directory: Path) -> MetricNet:
    """The metric net of a checkpoint, in evaluation mode, on the CPU; InputError where it cannot be read."""
    return METRIC_NETS.load(directory)
