"""Training of a classifier or regressor, on its inputs or on what each step makes of them: by noise, or an attack."""

from torch import Tensor, nn

from otad_ray.training.loop import BatchRows, LoopConfig, Step, full_precision
from otad_ray.training.objectives import CLASSIFICATION, REGRESSION, Objective
from otad_ray.training.process_group import ProcessGroup
from otad_ray.training.samples import Network, SampleProblem


class ChangedInputs(SampleProblem[Network]):
    """The loss of a network on inputs that a subclass may change before each step.

    Targets (N,) are int64 classes, or floats for the mean squared error.
    """

    def __init__(
        self,
        network: Network,
        inputs: Tensor,
        targets: Tensor,
        config: LoopConfig,
        *,
        forward: nn.Module | None = None,
    ) -> None:
        super().__init__(network, inputs, targets, config, forward=forward)
        self._objective: Objective = REGRESSION if targets.is_floating_point() else CLASSIFICATION

    def change(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return what a step is taken on, given inputs (B, *shape) and targets (B,): the inputs themselves.

        What a subclass draws must come from torch's global generator, which is seeded.
        """
        return inputs

    def step(self, forward: nn.Module, batch: BatchRows, group: ProcessGroup) -> Step:
        inputs, targets = self.take(batch.share)
        outputs = full_precision(forward(self.change(inputs, targets)))
        loss = self._objective.loss(outputs, targets)
        return Step(loss, {"loss": loss, self._objective.metric: self._objective.score(outputs, targets)})
