"""Networks: backbones that map points to features, their heads and their checkpoints."""

from otad_ray.models.backbone import Backbone
from otad_ray.models.checkpoints import BACKBONES, BackboneConfig, build_backbone, load_backbone, save_backbone
from otad_ray.models.fc_resnet import FCNetConfig, FCPlainNet, FCResNet

__all__ = [
    "BACKBONES",
    "Backbone",
    "BackboneConfig",
    "FCNetConfig",
    "FCPlainNet",
    "FCResNet",
    "build_backbone",
    "load_backbone",
    "save_backbone",
]
