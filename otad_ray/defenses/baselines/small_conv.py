"""The small convolutional classifier of images that several baselines train."""

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class SmallConvConfig:
    """Which classifier.

    Attributes:
        shape: (channels, height, width) of an image.
        num_outputs: classes.
        width: channels of the first layer; the second has twice as many.
        hidden: units of the layer before the logits.
    """

    shape: tuple[int, ...]
    num_outputs: int
    width: int = 16
    hidden: int = 100

    def __post_init__(self) -> None:
        # JSON knows lists only.
        object.__setattr__(self, "shape", tuple(self.shape))
        if len(self.shape) != 3 or min(self.shape[1:]) < 4:
            raise ValueError(f"need images (channels, height, width) of at least 4 x 4 pixels, got shape {self.shape}")
        for name in ("num_outputs", "width", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"need {name} >= 1, got {getattr(self, name)}")


class SmallConv(nn.Module):
    """Two convolutions that halve the image, and two linear layers: the MNIST net of Wong and Kolter (2018)."""

    def __init__(self, config: SmallConvConfig) -> None:
        super().__init__()
        self.config = config
        channels, height, width = config.shape
        pixels = (height // 2 // 2) * (width // 2 // 2)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, config.width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(config.width, 2 * config.width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * config.width * pixels, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, config.num_outputs),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Map images (B, *shape) in [0, 1] to logits (B, C)."""
        return self.layers(inputs)
