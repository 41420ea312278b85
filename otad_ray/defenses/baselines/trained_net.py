"""A net that was trained to be robust: adversarial training in all its forms needs nothing else at test time."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from otad_ray.defenses.baselines.baseline import Baseline
from otad_ray.defenses.baselines.small_conv import SmallConv, SmallConvConfig
from otad_ray.models import BACKBONES
from otad_ray.models.checkpoints import Architecture, Family

# The preset's architectures are for tables, for which the small convolutional net has no use.
CLASSIFIERS: Family[Any] = Family(
    "classifier", {"small_conv": Architecture(SmallConvConfig, SmallConv), **BACKBONES.architectures}
)


class TrainedNet(Baseline):
    """Logits of a net."""

    kind = "trained_net"
    families: ClassVar[Mapping[str, Family[Any]]] = {"net": CLASSIFIERS}

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)
