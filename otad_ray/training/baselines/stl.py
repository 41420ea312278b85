"""Training of a sparse transformation layer: its dictionary first, then the classifier of what it rebuilds."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from otad_ray.defenses.baselines.layers.sparse_coding import learn_dictionary, smooth
from otad_ray.defenses.baselines.stl import LOW_PASS_PADDING, LOW_PASS_WEIGHT, SparseClassifier
from otad_ray.training.baselines.classifier import ChangedInputs
from otad_ray.training.loop import LoopConfig
from otad_ray.training.samples import digest_tensor

# Images that are on the device at a time; how many of them are coded at once, the layer decides.
_REBUILT_ROWS = 512


@dataclass(frozen=True, kw_only=True)
class StlSettings(LoopConfig):
    """How the dictionary and the classifier are trained, and how large they are; see `StlConfig` for their sizes.

    Attributes:
        dictionary_images: images that the dictionary is learned on, evenly spread over the rows.
        dictionary_rounds: turns of coding and of changing the dictionary.
        classifier_rows: rows that the classifier is trained on, evenly spread over all, since each must be transformed.
        num_filters: filters of the dictionary.
        filter_size: their edge.
        sparsity: weight of the l1 norm of the codes.
        num_iterations: of the coding.
        width: channels of the classifier's first layer.
    """

    dictionary_images: int = 300
    dictionary_rounds: int = 10
    classifier_rows: int = 20_000
    num_filters: int = 16
    filter_size: int = 8
    sparsity: float = 0.1
    num_iterations: int = 20
    width: int = 16


class StlProblem(ChangedInputs[SparseClassifier]):
    """The classifier's loss on images as the layer rebuilds them.

    The dictionary is learned before the first epoch; a training that goes on from a checkpoint has it from there. The
    images are rebuilt once, before the first epoch that this process trains.
    """

    def __init__(self, network: SparseClassifier, inputs: Tensor, labels: Tensor, config: StlSettings) -> None:
        """Hold network and samples.

        Args:
            network: dictionary and classifier.
            inputs: images (N, *shape) in [0, 1].
            labels: (N,) int64 classes.
            config: the settings.
        """
        rows = _spread(len(inputs), config.classifier_rows)
        super().__init__(network, inputs[rows], labels[rows], config, forward=network.classifier)
        self._config = config
        self._dictionary_images = inputs[_spread(len(inputs), config.dictionary_images)]
        self._rebuilt: Tensor | None = None

    @property
    def identity(self) -> Any:
        # Of the images as they are given. What is computed from them, another machine rounds otherwise, and it may go
        # on with a training all the same.
        return [self.samples.identity, digest_tensor(self._dictionary_images)]

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        if epoch == 1:
            self.network.dictionary.copy_(self._learn_dictionary())
        if self._rebuilt is None:
            self._rebuilt = self._rebuild_images()

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        assert self._rebuilt is not None, "start_epoch comes first"
        return self._rebuilt[rows].to(self.device), self.samples.labels[rows].to(self.device)

    def _learn_dictionary(self) -> Tensor:
        """Return the filters for the high-pass parts of some of the images."""
        images = self._dictionary_images.flatten(0, 1).to(self.network.dictionary)
        high = images - smooth(images, LOW_PASS_WEIGHT, LOW_PASS_PADDING)
        return learn_dictionary(
            high,
            self.network.dictionary,
            self._config.sparsity,
            num_rounds=self._config.dictionary_rounds,
            num_iterations=self._config.num_iterations,
            num_steps=10,
        )

    @torch.no_grad()
    def _rebuild_images(self) -> Tensor:
        blocks = self.samples.inputs.split(_REBUILT_ROWS)
        return torch.cat([self.network.transform(block.to(self.device)).cpu() for block in blocks])


def _spread(num_rows: int, count: int) -> Tensor:
    """Return positions of `count` rows, or of all of fewer, evenly spread."""
    count = min(count, num_rows)
    return torch.arange(count) * num_rows // count
