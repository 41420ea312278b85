"""The ResNet-18 that the paper fine-tunes for TinyImageNet (Section V.A), with its published names and weights.

Names and shapes of parameters are torchvision's, which `resnet18.tv_in1k` of timm shares.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from otad_ray.errors import InputError
from otad_ray.models.metric_nets.images import ImageKeysConfig, UnitKeyNet

# Of ImageNet's training images, per color.
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)

_COUNTER = "num_batches_tracked"


@dataclass(frozen=True, kw_only=True)
class ResNet18Config(ImageKeysConfig):
    """Color images; everything but the keys is as published."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shape[0] != 3:
            raise ValueError(f"need images of 3 colors, got shape {self.shape}")

    @property
    def smallest_edge(self) -> int:
        return 32


class _FixedBatchNorm(nn.BatchNorm2d):
    """Batch norm by the stored statistics, in training too: a key must not depend on the other rows of its batch."""

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.batch_norm(inputs, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def _convolution(num_inputs: int, num_outputs: int, edge: int, stride: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(num_inputs, num_outputs, edge, stride=stride, padding=edge // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


class _BasicBlock(nn.Module):
    def __init__(self, num_inputs: int, num_outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(num_inputs, num_outputs, 3, stride)
        self.bn1 = _FixedBatchNorm(num_outputs)
        self.conv2 = _convolution(num_outputs, num_outputs, 3)
        self.bn2 = _FixedBatchNorm(num_outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or num_inputs != num_outputs:
            self.downsample = nn.Sequential(
                _convolution(num_inputs, num_outputs, 1, stride), _FixedBatchNorm(num_outputs)
            )

    def forward(self, maps: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(maps)))))
        return functional.relu(residual + self.downsample(maps))


class ResNet18(UnitKeyNet):
    """ResNet-18 of ImageNet up to its last layer, which keys replace. Its weights are random until they are loaded."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: ResNet18Config) -> None:
        super().__init__(config, 512)
        self.conv1 = _convolution(3, 64, 7, 2)
        self.bn1 = _FixedBatchNorm(64)
        self.layer1 = nn.Sequential(_BasicBlock(64, 64, 1), _BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(_BasicBlock(64, 128, 2), _BasicBlock(128, 128, 1))
        self.layer3 = nn.Sequential(_BasicBlock(128, 256, 2), _BasicBlock(256, 256, 1))
        self.layer4 = nn.Sequential(_BasicBlock(256, 512, 2), _BasicBlock(512, 512, 1))
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(_DEVIATION).view(3, 1, 1), persistent=False)

    def standardize(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.deviation

    def features(self, images: Tensor) -> Tensor:
        maps = functional.max_pool2d(functional.relu(self.bn1(self.conv1(images))), 3, stride=2, padding=1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            maps = layer(maps)
        return maps.mean((2, 3))


def load_resnet18_weights(net: ResNet18, path: str | Path) -> None:
    """Fill all but `to_keys` from a local .safetensors file of the published weights.

    InputError for a file that is not of that format or that lacks a tensor, holds it in another shape, or holds others.
    """
    published = _read(Path(path))
    state = net.state_dict()
    wanted = {name for name in state if not name.startswith("to_keys.") and not name.endswith(_COUNTER)}
    found = {name for name in published if not name.startswith("fc.") and not name.endswith(_COUNTER)}
    problems = [f"{name} is missing" for name in sorted(wanted - found)]
    problems += [f"{name} is no part of it" for name in sorted(found - wanted)]
    problems += [
        f"{name} has shape {tuple(published[name].shape)} instead of {tuple(state[name].shape)}"
        for name in sorted(wanted & found)
        if published[name].shape != state[name].shape
    ]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise InputError(
            f"weights: {path} is not a ResNet-18 as torchvision publishes it: {'; '.join(problems[:3])}{more}. "
            "Give the file of torchvision's resnet18 or of timm's resnet18.tv_in1k"
        )
    with torch.no_grad():
        for name in wanted:
            state[name].copy_(published[name])


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        raise InputError(
            f"weights: need a .safetensors file, got {path}: pickles (.pth, .pt, .bin) can run code and are not read. "
            "Convert it once, where you trust it: safetensors.torch.save_file(torch.load(FILE, weights_only=True), "
            "'resnet18.safetensors')"
        )
    try:
        return load_file(path)
    except FileNotFoundError:
        raise InputError(f"weights: there is no file {path}; give the path of a local .safetensors file") from None
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"weights: {path} cannot be read as safetensors: {error}. Download or convert it again"
        ) from error
