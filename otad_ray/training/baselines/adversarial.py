"""Adversarial training: each step is taken on examples that an attack makes of the batch (Madry et al. 2018)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from otad_ray.attacks import NORMS, Budget, Norm
from otad_ray.errors import InputError
from otad_ray.training.baselines.classifier import ChangedInputs
from otad_ray.training.loop import LoopConfig, check_nonnegative
from otad_ray.training.objectives import CLASSIFICATION, REGRESSION

Start = Literal["zero", "uniform"]


@dataclass(frozen=True, kw_only=True)
class AdversarialSettings(LoopConfig):
    """How a net is trained, and against which attack.

    Attributes:
        norm: l2 or linf.
        eps: radius of the perturbations, in the unit of the inputs.
        steps: steps of the attack; one of them is FGSM.
        step_size: length of a step, as a multiple of eps.
        start: where the attack starts: at the sample (zero), or at a random point of the ball (uniform).
        width: channels of the first layer of the small convolutional net, for images.
        num_blocks: blocks of the fully connected residual net, for tables.
        bounds: least and largest value of an input, between which examples are kept; None for no bounds.
    """

    norm: Norm = "linf"
    eps: float = 0.1
    steps: int = 10
    step_size: float = 0.25
    start: Start = "uniform"
    width: int = 16
    num_blocks: int = 5
    bounds: tuple[float, float] | None = (0.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nonnegative(self, "eps", "step_size")
        if self.norm not in NORMS:
            raise InputError(f"unknown norm {self.norm!r}; known: {', '.join(NORMS)}")
        if self.start not in ("zero", "uniform"):
            raise InputError(f"unknown start {self.start!r}; known: zero, uniform")
        for name in ("steps", "width", "num_blocks"):
            if getattr(self, name) < 1:
                raise InputError(f"need {name} >= 1, got {getattr(self, name)}")

    @property
    def budget(self) -> Budget:
        """What the attack may change."""
        return Budget(eps=self.eps, norm=self.norm, bounds=self.bounds)


class AdversarialProblem(ChangedInputs[nn.Module]):
    """The loss of a net on the examples that an attack on the net itself makes of each batch."""

    def __init__(self, network: nn.Module, inputs: Tensor, targets: Tensor, config: AdversarialSettings) -> None:
        super().__init__(network, inputs, targets, config)
        self._config = config

    def change(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return find_examples(self.network, inputs, targets, self._config)


def find_examples(network: nn.Module, x: Tensor, y: Tensor, config: AdversarialSettings) -> Tensor:
    """Return adversarial examples (B, *shape) of samples x (B, *shape) with targets y (B,).

    They are found by projected gradient steps. Random starts are drawn from torch's global generator. The network is
    in evaluation mode meanwhile.
    """
    budget, objective = config.budget, REGRESSION if y.is_floating_point() else CLASSIFICATION
    was_training = network.training
    network.eval()
    moved = x if config.start == "zero" else draw_from_ball(x, budget)
    for _ in range(config.steps):
        with torch.enable_grad():
            point = moved.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(objective.loss(network(point), y), point)
        moved = budget.project(x, moved + budget.step(gradient, config.step_size * config.eps))
    network.train(was_training)
    return moved.detach()


def draw_from_ball(x: Tensor, budget: Budget) -> Tensor:
    """Return a point of the ball around each sample x (B, *shape), uniformly drawn, then kept within the bounds.

    It is drawn from torch's global generator, for the whole batch at once. `Budget.random_point` needs a stream of each
    sample's own, which a training has no use for.
    """
    if budget.norm == "linf":
        return budget.clip(x + budget.eps * (2 * torch.rand_like(x) - 1))
    direction = torch.randn_like(x).flatten(1)
    direction = direction / direction.norm(dim=1, keepdim=True)
    radius = budget.eps * torch.rand(len(x), 1, device=x.device) ** (1 / direction.shape[1])
    return budget.clip(x + (radius * direction).view_as(x))
