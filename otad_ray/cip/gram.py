"""Inner products of a query, its neighbors and their features: all that convex integration needs.

Both programs of the paper depend on the points only through K x K matrices. Forming these once makes
the rest independent of the dimension, and lets points be stored in any space isometric to their own.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

# A block of rows is converted to float64 at a time: bounded memory at any batch size, and small
# enough to stay in a processor's cache between the conversion and the products.
_BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class GramBlocks:
    """Inner products, float64, of vectors centered over the K neighbors; B rows.

    With `xc_i = x_i - mean(x)`, `q = query - mean(x)`, `zc_i = z_i - mean(z)` and `zbar = mean(z)`:

    points (B, K+1, K+1): Gram matrix of `xc_1 .. xc_K, q`.
    features (B, K+1, K+1): Gram matrix of `zc_1 .. zc_K, zbar`.
    cross (B, K+1, K+1): `zc_1 .. zc_K, zbar` (rows) times `xc_1 .. xc_K, q` (columns).
    input_epsilon: machine epsilon of the dtype the vectors came in.
    """

    points: Tensor
    features: Tensor
    cross: Tensor
    input_epsilon: float

    @property
    def num_neighbors(self) -> int:
        return self.points.shape[-1] - 1

    def rows(self, index: Tensor) -> "GramBlocks":
        """The blocks of some rows only."""
        return GramBlocks(self.points[index], self.features[index], self.cross[index], self.input_epsilon)


def gram_blocks(
    query: Tensor | None, points: Tensor, features: Tensor, *, features_in_point_space: Tensor | None = None
) -> GramBlocks:
    """Inner products of `query` (B, D), `points` (B, K, D) and `features` (B, K, D).

    Without a query its offset is zero: enough for the potentials, which do not depend on it.
    Points (and the query) may be given as coordinates in a smaller space isometric to their own, of
    dimension d; then `features_in_point_space` (B, K, d) holds the features projected onto it, so that
    its products with the coordinates equal those of features with points.
    """
    projected = features if features_in_point_space is None else features_in_point_space
    num_rows, num_neighbors, _ = points.shape
    row_bytes = 8 * 2 * (num_neighbors + 1) * max(points.shape[-1], features.shape[-1])
    block = max(1, _BLOCK_BYTES // row_bytes)
    parts = [
        _block_products(
            None if query is None else query[start : start + block],
            points[start : start + block],
            features[start : start + block],
            None if features_in_point_space is None else projected[start : start + block],
        )
        for start in range(0, max(num_rows, 1), block)
    ]
    gram_points, gram_features, gram_cross = (torch.cat(part) for part in zip(*parts, strict=True))
    epsilon = max(torch.finfo(points.dtype).eps, torch.finfo(features.dtype).eps)
    return GramBlocks(gram_points, gram_features, gram_cross, epsilon)


def check_neighborhoods(points: Tensor, features: Tensor) -> None:
    """ValueError unless points and features are (B, K, D) with K, D >= 1, both float32 or both float64."""
    if points.dim() != 3 or points.shape[1] < 1 or points.shape[2] < 1:
        raise ValueError(f"need points (B, K, D) with K >= 1 and D >= 1, got {tuple(points.shape)}")
    if points.shape != features.shape:
        raise ValueError(
            f"points and features (B, K, D) must agree, got {tuple(points.shape)} and {tuple(features.shape)}"
        )
    if points.dtype != features.dtype or points.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            "query, points and features must all be float32 or all float64, "
            f"got points {points.dtype} and features {features.dtype}"
        )


def _block_products(
    query: Tensor | None, points: Tensor, features: Tensor, projected: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    points = points.double()
    center = points.mean(1, keepdim=True)
    offset = torch.zeros_like(center) if query is None else query.double().unsqueeze(1) - center
    point_rows = torch.cat([points - center, offset], 1)
    feature_rows = _centered_with_mean(features)
    projected_rows = feature_rows if projected is None else _centered_with_mean(projected)
    columns = point_rows.transpose(1, 2)
    return point_rows @ columns, feature_rows @ feature_rows.transpose(1, 2), projected_rows @ columns


def _centered_with_mean(features: Tensor) -> Tensor:
    features = features.double()
    mean = features.mean(1, keepdim=True)
    return torch.cat([features - mean, mean], 1)
