"""The paper's shallow convolutional metric nets (Section V.A): a 2-layer CNN and a 3-block ResNet."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from otad_ray.models.metric_nets.images import ImageKeysConfig, UnitKeyNet

_GROUPS = 8


@dataclass(frozen=True, kw_only=True)
class CNNConfig(ImageKeysConfig):
    """width: channels of the first layer; the second has twice as many."""

    width: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 1:
            raise ValueError(f"need width >= 1, got {self.width}")


class CNN(UnitKeyNet):
    """Two 3 x 3 convolutions, each with a ReLU and a halving of the image; the linear map reads every position."""

    def __init__(self, config: CNNConfig) -> None:
        channels, height, width = config.shape
        super().__init__(config, 2 * config.width * (height // 4) * (width // 4))
        self.first = nn.Conv2d(channels, config.width, 3, padding=1)
        self.second = nn.Conv2d(config.width, 2 * config.width, 3, padding=1)

    def features(self, images: Tensor) -> Tensor:
        maps = images
        for layer in (self.first, self.second):
            maps = functional.max_pool2d(functional.relu(layer(maps)), 2)
        return maps.flatten(1)


@dataclass(frozen=True, kw_only=True)
class ResNetConfig(ImageKeysConfig):
    """width: channels of the first block, a multiple of 8; each further block doubles them."""

    width: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 1 or self.width % _GROUPS:
            raise ValueError(f"need a width that is a multiple of {_GROUPS}, got {self.width}")


def _convolution(num_inputs: int, num_outputs: int, edge: int, stride: int = 1) -> nn.Sequential:
    # Not batch norm: a key must not depend on the other rows of its batch.
    return nn.Sequential(
        nn.Conv2d(num_inputs, num_outputs, edge, stride=stride, padding=edge // 2, bias=False),
        nn.GroupNorm(_GROUPS, num_outputs),
    )


class _Block(nn.Module):
    """`relu(shortcut(x) + R(x))`, with two 3 x 3 convolutions in R; the shortcut is linear where shapes change."""

    def __init__(self, num_inputs: int, num_outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _convolution(num_inputs, num_outputs, 3, stride), nn.ReLU(), _convolution(num_outputs, num_outputs, 3)
        )
        changes = stride > 1 or num_inputs != num_outputs
        self.shortcut = _convolution(num_inputs, num_outputs, 1, stride) if changes else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        return functional.relu(self.shortcut(maps) + self.residual(maps))


class ResNet(UnitKeyNet):
    """A convolution, three residual blocks of which two halve the image, and the mean over positions."""

    def __init__(self, config: ResNetConfig) -> None:
        width = config.width
        super().__init__(config, 4 * width)
        self.stem = nn.Sequential(_convolution(config.shape[0], width, 3), nn.ReLU())
        self.blocks = nn.Sequential(
            _Block(width, width, 1), _Block(width, 2 * width, 2), _Block(2 * width, 4 * width, 2)
        )

    def features(self, images: Tensor) -> Tensor:
        return self.blocks(self.stem(images)).mean((2, 3))
