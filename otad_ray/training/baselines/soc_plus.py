"""Training of a network of skew orthogonal convolutions: cross entropy, less a reward for certified radii."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from otad_ray.defenses.baselines.soc_plus import LipConvNet
from otad_ray.training.augmentation import Augmentation
from otad_ray.training.loop import BatchRows, LoopConfig, Step, check_nonnegative, minimize
from otad_ray.training.process_group import ProcessGroup
from otad_ray.training.samples import Samples
from otad_ray.training.state import EpochMetrics, TrainingStore


@dataclass(frozen=True, kw_only=True)
class SocSettings(LoopConfig):
    """How a LipConvNet is trained, and how large it is; see `SocConfig` for its size.

    Attributes:
        gamma: weight of the certificate regularization: the reward for a right row's certified radius.
        augmentation: none, or crop_flip: images shifted by up to an eighth, and mirrored half of the time.
        patch_size: edge of the squares whose pixels become channels before the first layer.
        width: channels of the first block.
        num_blocks: how often height and width are halved.
        depth: convolutions of a block.
        scale: what the centered pixels are multiplied by.
    """

    gamma: float = 0.1
    augmentation: Augmentation = "none"
    patch_size: int = 2
    width: int = 16
    num_blocks: int = 2
    depth: int = 2
    scale: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nonnegative(self, "gamma")


def train_soc_plus(
    network: LipConvNet,
    inputs: Tensor,
    labels: Tensor,
    config: SocSettings,
    *,
    classifier: nn.Module | None = None,
    on_epoch: Callable[[EpochMetrics], None] = lambda metrics: None,
    store: TrainingStore | None = None,
) -> None:
    """Train a net in place, as `minimize` does.

    Args:
        network: the net.
        inputs: images (N, *shape).
        labels: (N,) int64 classes.
        config: the settings.
        classifier: not used.
        on_epoch: called after each epoch.
        store: where checkpoints are kept.
    """
    minimize(_SocProblem(network, inputs, labels, config), config, on_epoch=on_epoch, store=store)


class _SocProblem:
    """Cross entropy - gamma relu(certificate), where a certificate presumes that layers have norm 1."""

    def __init__(self, network: LipConvNet, inputs: Tensor, labels: Tensor, config: SocSettings) -> None:
        self.network = network
        self.forward = network
        self.num_rows = len(inputs)
        self._samples, self._config = Samples(inputs, labels, config.augmentation, config.seed), config

    @property
    def identity(self) -> Any:
        return self._samples.identity

    def start_epoch(self, epoch: int) -> None:
        self._samples.start_epoch(epoch)

    def step(self, forward: nn.Module, batch: BatchRows, group: ProcessGroup) -> Step:
        device = next(self.network.parameters()).device
        logits = forward(self._samples.take_inputs(batch.share, device))
        labels = self._samples.labels[batch.share].to(device)
        entropy = functional.cross_entropy(logits, labels, reduction="sum")
        loss = entropy - self._config.gamma * self._certificates(logits, labels).relu().sum()
        return Step(loss, {"loss": loss, "accuracy": (logits.argmax(1) == labels).sum()})

    def _certificates(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the least margin (n,) of each row's class, divided by how fast it may change."""
        rows = self.network.last_rows(logits.dtype)
        own = labels.unsqueeze(1)
        # Not the root of 0, whose derivative is infinite, where a class is compared with itself.
        apart = (2 - 2 * rows @ rows.T).clamp_min(1e-6).sqrt()[labels]
        radii = (logits.gather(1, own) - logits) / apart
        return radii.scatter(1, own, float("inf")).amin(1)
