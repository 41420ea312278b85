"""What attacks maximize, and when they have reached it."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Loss = Literal["cross_entropy", "margin"]


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Largest other logit less the right one (B,): positive where misclassified, as in Carlini and Wagner's attack.

    Logits that are not finite count as misclassified: infinite.
    """
    right = logits.gather(1, y.unsqueeze(1)).squeeze(1)
    others = logits.scatter(1, y.unsqueeze(1), -torch.inf).amax(1)
    value = others - right
    return torch.where(are_finite(logits), value, torch.inf)


def are_finite(logits: Tensor) -> Tensor:
    """Rows (B,) of logits (B, C) without NaN and infinite values."""
    # Several times as fast as torch.isfinite, and asked for at every query.
    return logits.abs().amax(1) < torch.inf


@dataclass(frozen=True)
class Goal:
    """Misclassification, or for float targets the largest error.

    loss: what is differentiated; the best iterate is that of the largest margin.
    """

    loss: Loss = "cross_entropy"

    def losses(self, logits: Tensor, y: Tensor) -> Tensor:
        """What an attack ascends (B,)."""
        if y.is_floating_point():
            return (logits[:, 0] - y).square()
        if self.loss == "margin":
            return margin(logits, y)
        return functional.cross_entropy(logits, y, reduction="none")

    def scores(self, logits: Tensor, y: Tensor) -> Tensor:
        """By what iterates are compared (B,): NaN never."""
        if y.is_floating_point():
            return (logits[:, 0] - y).abs().nan_to_num(torch.inf)
        return margin(logits, y)

    def reached(self, logits: Tensor, y: Tensor) -> Tensor:
        """Where nothing is left to gain (B,): the prediction is wrong. A regressor's error can always grow."""
        if y.is_floating_point():
            return torch.zeros(len(y), dtype=torch.bool, device=y.device)
        return (logits.argmax(1) != y) | ~are_finite(logits)
