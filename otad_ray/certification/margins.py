"""Margins of a head that are affine in the feature, less what rounding may take.

The head is evaluated in float32, on features that were rounded to float32. For features of norm at most `n` entry b
of `W z + b` errs by at most `E_b = (terms + K + 8) 2^-23 (sizes_b n + |b_b|)`, where an affine head has `terms = D` and
`sizes_b = |W_b|`: twice the bound for the head's sums, a mean of K features and the feature's own rounding, added in
any order. A class is certain only where it leads by both errors.

Points are coordinates that an isometry Q lifts, the identity where they are kept whole; of how they move
`h_ab = W_a - W_b` sees `Q' h_ab`. While the coordinates of a point move by at most r
- `<h_ab, w_j>` changes by at most `|l| |Q' h_ab| r`, as `w_j` moves by `l Q` times that;
- `<h_ab, z>` changes by at most `(|L + l| / 2 |Q' h_ab| + (L - l) / 2 |h_ab|) r` while the neighbors are kept: with an
  orthogonal projector P and the reflection `R = 2 P - I`, z moves by `(l I + (L - l) P) Q`, which is
  `((L + l) / 2 I + (L - l) / 2 R) Q`, times that. For Q = I this is `max(L, |l|) |h_ab| r`, and
  `(L - l) / 2 |h_ab| r` where the head reads a token that does not move.
"""

import torch
from torch import Tensor

from otad_ray.certification.motion import isometry_defect
from otad_ray.cip import Regularity
from otad_ray.models import LinearMargins, TokenSpace

_TINY = torch.finfo(torch.float64).tiny


class AffineHead:
    """`W z + b`, whose largest entry is the predicted class, over means of at most `neighbors` features.

    seen (C, d): `W Q`, so that `<W_b, Q c> = <seen_b, c>` for differences c of coordinates.
    """

    def __init__(
        self, margins: LinearMargins, num_neighbors: int, space: TokenSpace | None, *, device: torch.device
    ) -> None:
        self.weight, self.bias, self._sizes = (
            tensor.detach().to(device, torch.float64) for tensor in (margins.weight, margins.bias, margins.sizes)
        )
        self._terms = margins.terms + num_neighbors + 8
        self.seen = self.weight if space is None else space.project(self.weight)
        # |h_ab| and |Q' h_ab| (C, C). Q stretches by a little more than 1.
        self._apart = _distances(self.weight) * (1 + isometry_defect(space))
        self._seen_apart = _distances(self.seen)

    def agrees_with(self, other: "AffineHead") -> bool:
        return self._terms == other._terms and all(
            torch.equal(own, others) for own, others in zip(self._tensors, other._tensors, strict=True)
        )

    @property
    def _tensors(self) -> tuple[Tensor, ...]:
        return self.weight, self.bias, self._sizes, self.seen

    @property
    def distances(self) -> Tensor:
        """`|h_ab|` (C, C), rounded up; above 0, also where two classes have one weight."""
        return self._apart.clamp_min(_TINY)

    def logits(self, features: Tensor) -> Tensor:
        """`W z + b` (n, C) float64 of features (n, D)."""
        return features.double() @ self.weight.T + self.bias

    def rounding(self, norm: Tensor) -> Tensor:
        """`E` (n, C) for features of norm at most `norm` (n,)."""
        size = norm.unsqueeze(1) * self._sizes + self.bias.abs()
        return self._terms * torch.finfo(torch.float32).eps * size

    def center_slopes(self, strong_convexity: float) -> Tensor:
        """How fast margins (C, C) of `w_j` change with the point; above 0, also where they do not."""
        return (abs(strong_convexity) * self._seen_apart).clamp_min(_TINY)

    def feature_slopes(self, regularity: Regularity) -> Tensor:
        """How fast margins (C, C) of the integrated feature change with the point, its neighbors kept; above 0."""
        low, high = regularity.strong_convexity, regularity.smoothness
        return (abs(high + low) / 2 * self._seen_apart + (high - low) / 2 * self._apart).clamp_min(_TINY)

    def leaders(self, logits: Tensor, rounding: Tensor) -> Tensor:
        """The class (n,) int64 that surely leads logits (n, C); -1 where none does. rounding as `radius`."""
        best = logits.argmax(1, keepdim=True)
        lead = (logits - rounding).gather(1, best)
        rivals = (logits + rounding).scatter(1, best, -torch.inf)
        return torch.where(lead > rivals.amax(1, keepdim=True), best, -1).squeeze(1)

    def radius(
        self, logits: Tensor, rounding: Tensor, predicted: Tensor, slopes: Tensor, feature_error: Tensor | float = 0.0
    ) -> Tensor:
        """How far (n,) points may move before a class other than `predicted` (n,) may lead, 0 where one may already.

        `min_b margin_ab(z) / slopes_ab`, of logits (n, C) and their rounding (n, C) on the way there; feature_error
        (n,): how far features may lie from those that the slopes are of.
        """
        own = predicted.unsqueeze(1)
        margins = (logits - rounding).gather(1, own) - (logits + rounding)
        margins -= torch.as_tensor(feature_error).to(margins).reshape(-1, 1) * self._apart[predicted]
        return (margins / slopes[predicted]).scatter(1, own, torch.inf).amin(1).clamp_min(0)

    def radii(self, logits: Tensor, rounding: Tensor, predicted: int, slopes: Tensor) -> Tensor:
        """`radius` (N,) for one class, of logits (C, N) and rounding (C,); a class at a time is in cache."""
        radii = torch.full_like(logits[0], torch.inf)
        lead = logits[predicted] - rounding[predicted]
        for rival in range(len(logits)):
            if rival != predicted:
                margins = (lead - logits[rival]).sub_(rounding[rival]).div_(slopes[predicted, rival])
                torch.minimum(radii, margins, out=radii)
        return radii.clamp_min_(0)


def _distances(rows: Tensor) -> Tensor:
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
