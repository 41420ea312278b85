"""Samples with labels, whole, by position, and augmented; and what all problems that are trained on them share."""

import hashlib
from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from otad_ray.errors import InputError
from otad_ray.training.augmentation import Augmentation, CropAndFlip, check_augmentation
from otad_ray.training.loop import BatchRows, InPrecision, LoopConfig, Step
from otad_ray.training.process_group import ProcessGroup

Network = TypeVar("Network", bound=nn.Module)


class Samples:
    """inputs (N, *shape), changed as they are trained on, and labels (N,); InputError for augmented tables."""

    def __init__(self, inputs: Tensor, labels: Tensor, augmentation: Augmentation, seed: int) -> None:
        self.inputs, self.labels = inputs, labels
        self._augmented = _augmented(inputs, augmentation, seed)

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def identity(self) -> Any:
        """Changes when any row does."""
        return [list(self.inputs.shape), digest_tensor(self.inputs), digest_tensor(self.labels)]

    def start_epoch(self, epoch: int) -> None:
        """Draw what changes the images of an epoch."""
        if self._augmented is not None:
            self._augmented.start_epoch(epoch)

    def take_inputs(self, rows: Tensor, device: torch.device) -> Tensor:
        """Inputs (n, *shape) of the rows at positions rows (n,), as they are trained on, on a device."""
        inputs = self.inputs[rows].to(device)
        return inputs if self._augmented is None else self._augmented(inputs, rows)


def digest_tensor(values: Tensor) -> str:
    """Return the SHA-256 of a tensor's values, in hex."""
    return hashlib.sha256(values.cpu().contiguous().numpy().data).hexdigest()


def _augmented(inputs: Tensor, augmentation: Augmentation, seed: int) -> CropAndFlip | None:
    check_augmentation(augmentation)
    if augmentation == "none":
        return None
    if inputs.dim() != 4:
        raise InputError(
            f"augmentation {augmentation!r} is for images (channels, height, width), got samples of shape "
            f"{tuple(inputs.shape[1:])}; take augmentation none"
        )
    return CropAndFlip(num_rows=len(inputs), edge=inputs.shape[-1], seed=seed)


class SampleProblem(ABC, Generic[Network]):
    """What a loop minimizes over samples with labels. A subclass says what the loss of a batch is.

    Attributes:
        network: what is trained; its state is what is kept.
        forward: what `step` calls, in the precision of the configuration.
        samples: what it is trained on.
    """

    def __init__(
        self,
        network: Network,
        inputs: Tensor,
        labels: Tensor,
        config: LoopConfig,
        *,
        forward: nn.Module | None = None,
        augmentation: Augmentation = "none",
    ) -> None:
        """Hold network and samples.

        Args:
            network: what is trained.
            inputs: (N, *shape).
            labels: (N,).
            config: of the loop.
            forward: the part of the network, or the module around it, that a step calls; None for the network itself.
            augmentation: how the inputs are changed in each epoch.

        Raises:
            InputError: for augmented tables.
        """
        self.network = network
        self.forward = InPrecision(network if forward is None else forward, config.precision)
        self.samples = Samples(inputs, labels, augmentation, config.seed)

    @property
    def num_rows(self) -> int:
        """How many samples there are."""
        return len(self.samples)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    @property
    def identity(self) -> Any:
        """Changes when any row does."""
        return self.samples.identity

    def start_epoch(self, epoch: int) -> None:
        """Draw what changes the samples of an epoch."""
        self.samples.start_epoch(epoch)

    @abstractmethod
    def step(self, forward: nn.Module, batch: BatchRows, group: ProcessGroup) -> Step:
        """Return the loss of a batch."""

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs (n, *shape), as they are trained on, and labels (n,) of rows (n,), where the network is."""
        return self.samples.take_inputs(rows, self.device), self.samples.labels[rows].to(self.device)
