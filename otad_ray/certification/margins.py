"""Margins of an affine head, less what rounding may take.

The head is evaluated in float32, on features that were rounded to float32. For features of norm at most `n` logit b
errs by at most `E_b = (D + K + 8) 2^-23 (|W_b| n + |b_b|)`: twice the bound for D products and the bias, a mean of K
features and the feature's own rounding, summed in any order. A class is certain only where it leads by both errors.
"""

import torch
from torch import Tensor

_TINY = torch.finfo(torch.float64).tiny


class AffineHead:
    """`logits = W z + b` with weight (C, D) and bias (C,) float32, over means of at most `neighbors` features."""

    def __init__(self, weight: Tensor, bias: Tensor, neighbors: int) -> None:
        self.weight, self.bias = weight.detach().double(), bias.detach().double()
        self._terms = weight.shape[1] + neighbors + 8
        # |h_ab| (C, C); classes with the same row keep their margin everywhere.
        apart = torch.cdist(self.weight, self.weight, compute_mode="donot_use_mm_for_euclid_dist")
        self._apart = apart.clamp_min(_TINY)

    def agrees_with(self, other: "AffineHead") -> bool:
        return (
            self._terms == other._terms
            and torch.equal(self.weight, other.weight)
            and torch.equal(self.bias, other.bias)
        )

    def logits(self, features: Tensor) -> Tensor:
        """Logits (n, C) float64 of features (n, D)."""
        return features.double() @ self.weight.T + self.bias

    def rounding(self, norm: Tensor) -> Tensor:
        """`E` (n, C) for features of norm at most `norm` (n,)."""
        size = norm.unsqueeze(1) * self.weight.norm(dim=1) + self.bias.abs()
        return self._terms * torch.finfo(torch.float32).eps * size

    def leaders(self, logits: Tensor, rounding: Tensor) -> Tensor:
        """The class (n,) int64 that surely leads logits (n, C); -1 where none does. rounding as `feature_radius`."""
        best = logits.argmax(1, keepdim=True)
        lead = (logits - rounding).gather(1, best)
        rivals = (logits + rounding).scatter(1, best, -torch.inf)
        return torch.where(lead > rivals.amax(1, keepdim=True), best, -1).squeeze(1)

    def feature_radius(self, logits: Tensor, rounding: Tensor, predicted: Tensor) -> Tensor:
        """How far (n,) features may move before a class other than `predicted` (n,) may lead, 0 where one may already.

        `min_b margin_ab(z) / |h_ab|`, of logits (n, C) and their rounding (n, C) on the way there.
        """
        own = predicted.unsqueeze(1)
        margins = (logits - rounding).gather(1, own) - (logits + rounding)
        return (margins / self._apart[predicted]).scatter(1, own, torch.inf).amin(1).clamp_min(0)

    def feature_radii(self, logits: Tensor, rounding: Tensor, predicted: int) -> Tensor:
        """`feature_radius` (N,) for one class, of logits (C, N) and rounding (C,); a class at a time is in cache."""
        radii = torch.full_like(logits[0], torch.inf)
        lead = logits[predicted] - rounding[predicted]
        for rival in range(len(logits)):
            if rival != predicted:
                margins = (lead - logits[rival]).sub_(rounding[rival]).div_(self._apart[predicted, rival])
                torch.minimum(radii, margins, out=radii)
        return radii.clamp_min_(0)
