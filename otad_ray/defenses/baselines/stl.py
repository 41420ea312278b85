"""The sparse transformation layer of Sun et al. (2019): images are rebuilt from few filters and then classified."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from otad_ray.defenses.baselines.baseline import Purifier
from otad_ray.defenses.baselines.layers.sparse_coding import decode, encode, smooth
from otad_ray.defenses.baselines.small_conv import SmallConv, SmallConvConfig
from otad_ray.models.checkpoints import Architecture, Family

# Images coded at a time, at most: more would not fit into a processor's cache.
_BLOCK_ROWS = 64
# Bytes that the gradient of the images coded at a time may need; and how often it needs their codes, in each iteration.
_BLOCK_BYTES = 2**28
_KEPT_CODES = 4
# The published low-pass filter.
LOW_PASS_WEIGHT, LOW_PASS_PADDING = 5.0, 16


@dataclass(frozen=True, kw_only=True)
class StlConfig:
    """Which layer and classifier.

    Attributes:
        shape: (channels, height, width) of an image.
        num_outputs: classes.
        num_filters: filters of the dictionary.
        filter_size: their edge, at most that of an image.
        sparsity: weight of the l1 norm of the codes.
        num_iterations: of the coding.
        width: channels of the classifier's first layer.
        hidden: units of the classifier's layer before the logits.
    """

    shape: tuple[int, ...]
    num_outputs: int
    num_filters: int = 16
    filter_size: int = 8
    sparsity: float = 0.1
    num_iterations: int = 20
    width: int = 16
    hidden: int = 100

    def __post_init__(self) -> None:
        # JSON knows lists only.
        object.__setattr__(self, "shape", tuple(self.shape))
        for name in ("num_filters", "filter_size", "num_iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"need {name} >= 1, got {getattr(self, name)}")
        if not (isfinite(self.sparsity) and self.sparsity > 0):
            raise ValueError(f"need a finite sparsity > 0, got {self.sparsity}")
        _ = self.classifier
        if self.filter_size > min(self.shape[1:]):
            raise ValueError(f"filters of edge {self.filter_size} do not fit into images of shape {self.shape}")

    @property
    def classifier(self) -> SmallConvConfig:
        """Of the classifier; ValueError for a shape that it cannot take."""
        return SmallConvConfig(shape=self.shape, num_outputs=self.num_outputs, width=self.width, hidden=self.hidden)


class SparseClassifier(nn.Module):
    """A dictionary, and the classifier of the images that are rebuilt from it.

    Attributes:
        dictionary: filters (K, h, w) of norm 1, learned before the classifier is trained.
    """

    def __init__(self, config: StlConfig) -> None:
        super().__init__()
        self.config = config
        filters = torch.randn(config.num_filters, config.filter_size, config.filter_size)
        self.dictionary: Tensor
        self.register_buffer("dictionary", filters / filters.flatten(1).norm(dim=1).view(-1, 1, 1))
        self.classifier = SmallConv(config.classifier)

    @property
    def block_rows(self) -> int:
        """How many images are coded at a time: few enough for the memory that their gradient needs."""
        config = self.config
        codes = 4 * config.num_filters * prod(config.shape)
        return max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // (_KEPT_CODES * config.num_iterations * codes)))

    def transform(self, images: Tensor) -> Tensor:
        """Rebuild images (B, *shape) in [0, 1]: the low-pass part as it is, the rest from few filters.

        Each channel is an image of its own. What a gradient needs is computed again, a block at a time.
        """
        blocks = images.split(self.block_rows)
        return torch.cat([checkpoint(self._transform, block, use_reentrant=False) for block in blocks])

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, *shape) to logits (B, C)."""
        return self.classifier(self.transform(images))

    def _transform(self, images: Tensor) -> Tensor:
        config = self.config
        planes = images.flatten(0, 1)
        low = smooth(planes, LOW_PASS_WEIGHT, LOW_PASS_PADDING)
        codes = encode(planes - low, self.dictionary, config.sparsity, config.num_iterations)
        return (low + decode(codes, self.dictionary)).clamp(0, 1).view_as(images)


STL_NETS: Family[SparseClassifier] = Family("stl net", {"sparse_classifier": Architecture(StlConfig, SparseClassifier)})


class Stl(Purifier):
    """A sparse transformation layer before the classifier that was trained behind it."""

    kind = "stl"
    families: ClassVar[Mapping[str, Family[Any]]] = {"network": STL_NETS}

    def __init__(self, network: SparseClassifier) -> None:
        super().__init__()
        self.network = network
        # The same module, under the name that attacks know.
        self.classifier = network.classifier

    def purify(self, inputs: Tensor) -> Tensor:
        return self.network.transform(inputs)
