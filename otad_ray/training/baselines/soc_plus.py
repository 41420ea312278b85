"""Training of a network of skew orthogonal convolutions: cross entropy, less a reward for certified radii."""

from dataclasses import dataclass

from torch import Tensor, nn

from otad_ray.defenses.baselines.soc_plus import LipConvNet
from otad_ray.training.augmentation import Augmentation
from otad_ray.training.loop import BatchRows, LoopConfig, Step, check_float32, check_nonnegative
from otad_ray.training.objectives import CLASSIFICATION
from otad_ray.training.process_group import ProcessGroup
from otad_ray.training.samples import SampleProblem


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
        check_float32(self)


class SocProblem(SampleProblem[LipConvNet]):
    """Cross entropy - gamma relu(certificate), where a certificate presumes that layers have norm 1."""

    def __init__(self, network: LipConvNet, inputs: Tensor, labels: Tensor, config: SocSettings) -> None:
        super().__init__(network, inputs, labels, config, augmentation=config.augmentation)
        self._gamma = config.gamma

    def step(self, forward: nn.Module, batch: BatchRows, group: ProcessGroup) -> Step:
        inputs, labels = self.take(batch.share)
        logits = forward(inputs)
        entropy = CLASSIFICATION.loss(logits, labels)
        loss = entropy - self._gamma * self._certificates(logits, labels).relu().sum()
        return Step(loss, {"loss": loss, "accuracy": CLASSIFICATION.score(logits, labels)})

    def _certificates(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the least margin (n,) of each row's class, divided by how fast it may change."""
        rows = self.network.last_rows(logits.dtype)
        own = labels.unsqueeze(1)
        # Not the root of 0, whose derivative is infinite, where a class is compared with itself.
        apart = (2 - 2 * rows @ rows.T).clamp_min(1e-6).sqrt()[labels]
        radii = (logits.gather(1, own) - logits) / apart
        return radii.scatter(1, own, float("inf")).amin(1)
