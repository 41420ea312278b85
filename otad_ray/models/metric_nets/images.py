"""What metric nets of images share: the checks of a shape, and keys of norm 1."""

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from otad_ray.models.metric_net import MetricNet


@dataclass(frozen=True, kw_only=True)
class ImageKeysConfig:
    """shape: (channels, height, width) of an image. num_keys: E, the dimension of a key."""

    shape: tuple[int, int, int]
    num_keys: int = 128

    def __post_init__(self) -> None:
        # JSON knows lists only.
        object.__setattr__(self, "shape", tuple(self.shape))
        if len(self.shape) != 3:
            raise ValueError(f"need images (channels, height, width), got samples of shape {self.shape}")
        if self.shape[0] < 1 or min(self.shape[1:]) < self.smallest_edge:
            raise ValueError(
                f"need images of at least {self.smallest_edge} x {self.smallest_edge} pixels, got shape {self.shape}"
            )
        if self.num_keys < 1:
            raise ValueError(f"need num_keys >= 1, got {self.num_keys}")

    @property
    def smallest_edge(self) -> int:
        """Of an image that this architecture takes."""
        return 4


def check_images(images: Tensor, shape: tuple[int, ...]) -> None:
    """ValueError unless images are (B, *shape)."""
    if tuple(images.shape[1:]) != shape:
        raise ValueError(f"this metric net takes images of shape {shape}, got {tuple(images.shape[1:])}")


class UnitKeyNet(MetricNet):
    """Keys of norm 1: directions of a linear map of features that an architecture pools from standardized images."""

    def __init__(self, config: ImageKeysConfig, num_features: int) -> None:
        super().__init__()
        self.config = config
        self.shape = config.shape
        self.num_keys = config.num_keys
        self.to_keys = nn.Linear(num_features, config.num_keys)

    def forward(self, inputs: Tensor) -> Tensor:
        check_images(inputs, self.shape)
        return functional.normalize(self.to_keys(self.features(self.standardize(inputs))), dim=1)

    def standardize(self, images: Tensor) -> Tensor:
        """Pixels in [0, 1] to [-2, 2]."""
        return (images - 0.5) / 0.25

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Standardized images (B, *shape) to (B, num_features)."""
