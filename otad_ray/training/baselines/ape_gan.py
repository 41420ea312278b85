"""Training of APE-GAN (Shen et al. 2017): a generator that undoes FGSM, and a discriminator that judges it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from otad_ray.defenses.baselines.ape_gan import ApeGanNetworks
from otad_ray.errors import InputError
from otad_ray.models.fingerprint import network_fingerprint
from otad_ray.training.loop import BatchRows, LoopConfig, Step, check_nonnegative, full_precision
from otad_ray.training.objectives import CLASSIFICATION
from otad_ray.training.process_group import ProcessGroup
from otad_ray.training.samples import SampleProblem

# The generator's loss, as published.
_MSE_WEIGHT = 0.7
_ADVERSARIAL_WEIGHT = 0.3


@dataclass(frozen=True, kw_only=True)
class ApeGanSettings(LoopConfig):
    """How an APE-GAN is trained, and how large it is; defaults are those published for MNIST.

    Attributes:
        eps: linf radius of the FGSM examples that it is trained on, for inputs in [0, 1].
        width: channels of the first layer of either network.
    """

    epochs: int = 2
    learning_rate: float = 2e-4
    weight_decay: float = 0.0
    eps: float = 0.15
    width: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nonnegative(self, "eps")


class ApeGanProblem(SampleProblem[ApeGanNetworks]):
    """The losses of generator and discriminator, which are trained against each other, added up.

    With `x'` the FGSM example of an image `x`, the generator minimizes `0.7 MSE(G(x'), x) - 0.3 log D(G(x'))`, and the
    discriminator `-log D(x) - log(1 - D(G(x')))`. Both take their step at once, each along the gradient of its own loss
    alone. The accuracy of an epoch is the classifier's on `G(x')`.

    With several processes, batch normalization takes the statistics of each process's share of a batch, and keeps the
    running ones of rank 0.
    """

    def __init__(
        self,
        network: ApeGanNetworks,
        inputs: Tensor,
        labels: Tensor,
        config: ApeGanSettings,
        *,
        classifier: nn.Module,
    ) -> None:
        """Hold networks and samples.

        Args:
            network: what is trained, on the classifier's device.
            inputs: images (N, *shape) in [0, 1].
            labels: (N,) int64 classes.
            config: of the training.
            classifier: a network with a `config`, in evaluation mode; it maps images to logits (B, C), and is not
                changed.

        Raises:
            InputError: for labels that are no classes.
        """
        if labels.is_floating_point():
            raise InputError(
                f"APE-GAN is trained on attacks of a classifier, got labels of {labels.dtype} (a regression)"
            )
        super().__init__(network, inputs, labels, config, forward=_Losses(network))
        self._classifier, self._eps = classifier, config.eps

    @property
    def identity(self) -> Any:
        return [self.samples.identity, network_fingerprint(self._classifier, self._classifier.config)]

    def step(self, forward: nn.Module, batch: BatchRows, group: ProcessGroup) -> Step:
        images, labels = self.take(batch.share)
        loss, restored = forward(images, fgsm_examples(self._classifier, images, labels, self._eps))
        with torch.no_grad():
            correct = CLASSIFICATION.score(self._classifier(restored), labels)
        return Step(loss, {"loss": loss, "accuracy": correct})


def fgsm_examples(classifier: nn.Module, inputs: Tensor, labels: Tensor, eps: float) -> Tensor:
    """Return images moved by eps in every pixel, along the sign of the gradient of the cross entropy.

    They go the whole eps, as published. Attacks, and `find_examples` as they do, stay a millionth of it inside.

    Args:
        classifier: maps images (B, *shape) to logits (B, C).
        inputs: (B, *shape) in [0, 1].
        labels: (B,) int64 classes.
        eps: linf radius.

    Returns:
        (B, *shape) in [0, 1].
    """
    moved = inputs.detach().requires_grad_()
    with torch.enable_grad():
        loss = functional.cross_entropy(classifier(moved), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, moved)
    return (inputs + eps * gradient.sign()).clamp(0, 1)


class _Losses(nn.Module):
    """Both losses in one forward pass, as DistributedDataParallel needs them."""

    def __init__(self, network: ApeGanNetworks) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, attacked: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss, summed over images (B, *shape), and what the generator makes of attacked ones."""
        # One image alone, as a process's share of the last batch may be, has no statistics.
        self.network.train(len(images) > 1)
        restored = full_precision(self.network.generator(attacked))
        loss = self._generator_loss(images, restored) + self._discriminator_loss(images, restored.detach())
        return loss, restored.detach()

    def _generator_loss(self, images: Tensor, restored: Tensor) -> Tensor:
        discriminator = self.network.discriminator
        # As constants: the discriminator must not learn to be fooled.
        parameters = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
        logits = full_precision(functional_call(discriminator, parameters, (restored,)))
        squared_error = (restored - images).square().flatten(1).mean(1)
        return (_MSE_WEIGHT * squared_error + _ADVERSARIAL_WEIGHT * functional.softplus(-logits)).sum()

    def _discriminator_loss(self, images: Tensor, restored: Tensor) -> Tensor:
        clean = full_precision(self.network.discriminator(images))
        fake = full_precision(self.network.discriminator(restored))
        return (functional.softplus(-clean) + functional.softplus(fake)).sum()
