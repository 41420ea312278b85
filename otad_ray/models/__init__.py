"""Networks: backbones that map points to features, metric nets, CIP-nets, and their checkpoints."""

from otad_ray.models.backbone import Backbone, LinearMargins
from otad_ray.models.backbones import (
    BACKBONES,
    BackboneConfig,
    ViTConfig,
    backbone_config,
    build_backbone,
    count_backbone_bytes,
    load_backbone,
    save_backbone,
)
from otad_ray.models.cip_net import CipNet, CipNetOutput, build_cip_net, load_cip_net, save_cip_net
from otad_ray.models.cip_net_config import CipNetArchitecture, CipNetConfig
from otad_ray.models.fc_resnet import FCNetArchitecture, FCPlainNet, FCResNet
from otad_ray.models.metric_net import MetricNet
from otad_ray.models.metric_nets import (
    METRIC_NETS,
    NO_METRIC,
    MetricNetConfig,
    build_metric_net,
    load_metric_net,
    load_resnet18_weights,
    metric_net_config,
    save_metric_net,
)
from otad_ray.models.point_space import TokenSpace
from otad_ray.models.transformer import Attention, TransformerBlock
from otad_ray.models.vit import ViT, ViTArchitecture

__all__ = [
    "BACKBONES",
    "METRIC_NETS",
    "NO_METRIC",
    "Attention",
    "Backbone",
    "BackboneConfig",
    "CipNet",
    "CipNetArchitecture",
    "CipNetConfig",
    "CipNetOutput",
    "FCNetArchitecture",
    "FCPlainNet",
    "FCResNet",
    "LinearMargins",
    "MetricNet",
    "MetricNetConfig",
    "TokenSpace",
    "TransformerBlock",
    "ViT",
    "ViTArchitecture",
    "ViTConfig",
    "backbone_config",
    "build_backbone",
    "build_cip_net",
    "build_metric_net",
    "count_backbone_bytes",
    "load_backbone",
    "load_cip_net",
    "load_metric_net",
    "load_resnet18_weights",
    "metric_net_config",
    "save_backbone",
    "save_cip_net",
    "save_metric_net",
]
