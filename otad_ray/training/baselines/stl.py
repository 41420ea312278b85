"""Training of a sparse transformation layer: its dictionary first, then the classifier of what it rebuilds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from otad_ray.defenses.baselines.layers.sparse_coding import learn_dictionary, smooth
from otad_ray.defenses.baselines.stl import LOW_PASS_PADDING, LOW_PASS_WEIGHT, SparseClassifier
from otad_ray.training.loop import BatchRows, InPrecision, LoopConfig, Step, full_precision, minimize
from otad_ray.training.objectives import CLASSIFICATION
from otad_ray.training.process_group import ProcessGroup
from otad_ray.training.samples import Samples
from otad_ray.training.state import EpochMetrics, TrainingStore

_TRANSFORMED_ROWS = 512


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


def train_stl(
    network: SparseClassifier,
    inputs: Tensor,
    labels: Tensor,
    config: StlSettings,
    *,
    classifier: nn.Module | None = None,
    on_epoch: Callable[[EpochMetrics], None] = lambda metrics: None,
    store: TrainingStore | None = None,
) -> None:
    """Learn the dictionary, transform the images once, and train the classifier on them, as `minimize` does.

    Args:
        network: dictionary and classifier.
        inputs: images (N, *shape) in [0, 1].
        labels: (N,) int64 classes.
        config: the settings.
        classifier: not used.
        on_epoch: called after each epoch of the classifier.
        store: where checkpoints are kept; they hold the dictionary too.
    """
    state = None if store is None else store.latest()
    stored = None if state is None else state.network.get("dictionary")
    # A dictionary of another shape is of another training, which `minimize` refuses.
    if stored is None or stored.shape != network.dictionary.shape:
        stored = _learn(network, inputs, config)
    network.dictionary.copy_(stored)
    rows = _spread(len(inputs), config.classifier_rows)
    problem = _TransformedProblem(network, _transform(network, inputs[rows]), labels[rows], config)
    minimize(problem, config, on_epoch=on_epoch, store=store)


def _learn(network: SparseClassifier, inputs: Tensor, config: StlSettings) -> Tensor:
    """Return the filters for the high-pass parts of some of the images."""
    images = inputs[_spread(len(inputs), config.dictionary_images)].flatten(0, 1).to(network.dictionary)
    high = images - smooth(images, LOW_PASS_WEIGHT, LOW_PASS_PADDING)
    return learn_dictionary(
        high,
        network.dictionary,
        config.sparsity,
        num_rounds=config.dictionary_rounds,
        num_iterations=config.num_iterations,
        num_steps=10,
    )


@torch.no_grad()
def _transform(network: SparseClassifier, inputs: Tensor) -> Tensor:
    device = network.dictionary.device
    return torch.cat([network.transform(block.to(device)).cpu() for block in inputs.split(_TRANSFORMED_ROWS)])


def _spread(num_rows: int, count: int) -> Tensor:
    """Return positions of `count` rows, or of all of fewer, evenly spread."""
    count = min(count, num_rows)
    return torch.arange(count) * num_rows // count


class _TransformedProblem:
    """The classifier's loss on transformed images."""

    def __init__(self, network: SparseClassifier, inputs: Tensor, labels: Tensor, config: StlSettings) -> None:
        self.network = network
        self.forward = InPrecision(network.classifier, config.precision)
        self.num_rows = len(inputs)
        self._samples = Samples(inputs, labels, "none", config.seed)

    @property
    def identity(self) -> Any:
        return self._samples.identity

    def start_epoch(self, epoch: int) -> None:
        self._samples.start_epoch(epoch)

    def step(self, forward: nn.Module, batch: BatchRows, group: ProcessGroup) -> Step:
        device = self.network.dictionary.device
        logits = full_precision(forward(self._samples.take_inputs(batch.share, device)))
        labels = self._samples.labels[batch.share].to(device)
        loss = CLASSIFICATION.loss(logits, labels)
        return Step(loss, {"loss": loss, "accuracy": CLASSIFICATION.score(logits, labels)})
