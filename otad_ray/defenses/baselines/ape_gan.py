"""APE-GAN (Shen et al. 2017): a generator maps attacked images back to clean ones before they are classified."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from otad_ray.defenses.baselines.baseline import Purifier
from otad_ray.models import BACKBONES
from otad_ray.models.checkpoints import Architecture, Family

# Two convolutions halve the image.
_MIN_EDGE = 4


@dataclass(frozen=True, kw_only=True)
class ApeGanConfig:
    """Which networks.

    Attributes:
        shape: (channels, height, width) of an image.
        width: channels of the first layer of either network; each further one has twice as many.
    """

    shape: tuple[int, ...]
    width: int = 64

    def __post_init__(self) -> None:
        # JSON knows lists only.
        object.__setattr__(self, "shape", tuple(self.shape))
        if len(self.shape) != 3 or min(self.shape[1:]) < _MIN_EDGE:
            raise ValueError(
                f"need images (channels, height, width) of at least {_MIN_EDGE} x {_MIN_EDGE} pixels, "
                f"got shape {self.shape}"
            )
        if self.width < 1:
            raise ValueError(f"need width >= 1, got {self.width}")


class Generator(nn.Module):
    """Two convolutions that halve the image, and two transposed ones that double it again.

    In evaluation mode, the output of a row does not depend on the other rows.
    """

    def __init__(self, config: ApeGanConfig) -> None:
        super().__init__()
        self.config = config
        channels, width = config.shape[0], config.width
        self.down = nn.ModuleList([_halve(channels, width, 4), _halve(width, 2 * width, 4)])
        self.up = nn.ModuleList(
            [
                nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
                nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1),
            ]
        )
        self.norms = nn.ModuleList([nn.BatchNorm2d(size) for size in (width, 2 * width, width)])

    def forward(self, inputs: Tensor) -> Tensor:
        """Map attacked images (B, *shape) in [0, 1] to clean ones of the same kind."""
        half = functional.leaky_relu(self.norms[0](self.down[0](inputs)))
        quarter = functional.leaky_relu(self.norms[1](self.down[1](half)))
        # An odd edge is not twice its half.
        restored = functional.leaky_relu(self.norms[2](self.up[0](quarter, output_size=half.shape[2:])))
        return torch.sigmoid(self.up[1](restored, output_size=inputs.shape[2:]))


class Discriminator(nn.Module):
    """Three convolutions that halve the image, and a linear layer: the logit that an image is a clean one."""

    def __init__(self, config: ApeGanConfig) -> None:
        super().__init__()
        channels, height, width_in_pixels = config.shape
        width = config.width
        pixels = _halved_three_times(height) * _halved_three_times(width_in_pixels)
        self.layers = nn.Sequential(
            _halve(channels, width, 3),
            nn.LeakyReLU(),
            _halve(width, 2 * width, 3),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(),
            _halve(2 * width, 4 * width, 3),
            nn.BatchNorm2d(4 * width),
            nn.LeakyReLU(),
            nn.Flatten(),
            nn.Linear(4 * width * pixels, 1),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Map images (B, *shape) in [0, 1] to logits (B,); their sigmoid is the probability of a clean image."""
        return self.layers(inputs).squeeze(1)


class ApeGanNetworks(nn.Module):
    """Generator and discriminator: what is trained. The discriminator is needed for that alone."""

    def __init__(self, config: ApeGanConfig) -> None:
        super().__init__()
        self.config = config
        self.generator = Generator(config)
        self.discriminator = Discriminator(config)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map attacked images (B, *shape) in [0, 1] to clean ones of the same kind."""
        return self.generator(inputs)


APE_GANS: Family[ApeGanNetworks] = Family("ape_gan", {"ape_gan": Architecture(ApeGanConfig, ApeGanNetworks)})
GENERATORS: Family[Generator] = Family(
    "ape_gan generator", {"ape_gan_generator": Architecture(ApeGanConfig, Generator)}
)


class ApeGan(Purifier):
    """A classifier of what the generator makes of an image.

    Attributes:
        generator: the trained map from attacked to clean images, in evaluation mode.
    """

    kind = "ape_gan"
    families: ClassVar[Mapping[str, Family[Any]]] = {"generator": GENERATORS, "classifier": BACKBONES}

    def __init__(self, generator: nn.Module, classifier: nn.Module) -> None:
        """Hold the parts.

        Args:
            generator: maps images (B, *shape) in [0, 1] to images of the same kind, each by itself.
            classifier: maps images (B, *shape) to logits (B, C).
        """
        super().__init__()
        self.generator = generator
        self.classifier = classifier

    def purify(self, inputs: Tensor) -> Tensor:
        return self.generator(inputs)


def _halve(channels: int, num_outputs: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(channels, num_outputs, kernel, stride=2, padding=1)


def _halved_three_times(edge: int) -> int:
    """Return the edge after three convolutions with kernels of 3, each of which rounds up."""
    return -(-edge // 8)
