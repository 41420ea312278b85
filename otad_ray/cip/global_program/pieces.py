"""The affine pieces whose maximum the global potential smooths, and the search for those of largest value.

Piece i is `f_i(w) = <z_i, w> + c_i`. Products with all pieces are formed in the dtype of the features, a block of
pieces at a time, and the largest are measured again in float64. How far such a product may be off is known, so that a
bound on the pieces that were not measured comes with every answer.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from otad_ray.errors import InputError

# Bytes of the products with a block of pieces, and of the gathered features of a few rows.
_BLOCK_BYTES = 16 << 20


class Largest(NamedTuple):
    """Pieces of largest value at B places.

    Attributes:
        pieces: Positions of the pieces (B, k), int64, by falling value up to rounding of the products.
        values: Their values (B, k), measured in float64.
        bound: No other piece has a larger value (B,), float64; -inf if there is no other.
    """

    pieces: Tensor
    values: Tensor
    bound: Tensor


@dataclass(frozen=True, eq=False)
class Pieces:
    """N affine functions `f_i(w) = <z_i, w> + c_i`, of which the maximum is taken.

    Attributes:
        features: The slopes `z_i` (N, D), float32 or float64; a mapped file serves.
        offsets: The `c_i` (N,), float64, on the same device.

    Raises:
        InputError: For shapes, types or values that do not fit.
    """

    features: Tensor
    offsets: Tensor

    def __post_init__(self) -> None:
        features, offsets = self.features, self.offsets
        if features.dim() != 2 or 0 in features.shape:
            raise InputError(f"features must be (N, D) with N and D at least 1, got {tuple(features.shape)}")
        if features.dtype not in (torch.float32, torch.float64) or offsets.dtype != torch.float64:
            raise InputError(
                f"features must be float32 or float64 and offsets float64, got {features.dtype} and {offsets.dtype}"
            )
        if offsets.shape != features.shape[:1]:
            raise InputError(f"need one offset for each of {len(features)} features, got {tuple(offsets.shape)}")
        if not bool(torch.isfinite(offsets).all()) or not self.largest_norm < torch.inf:
            raise InputError("features or offsets hold NaN or infinite values; remove or repair those rows")

    def __len__(self) -> int:
        return len(self.features)

    @property
    def dimension(self) -> int:
        """D."""
        return self.features.shape[1]

    @cached_property
    def squares(self) -> Tensor:
        """`|z_i|^2` (N,), float64."""
        blocks = self.features.detach().split(self._block(8 * self.dimension))
        return torch.cat([block.double().square().sum(1) for block in blocks])

    @cached_property
    def largest_norm(self) -> float:
        """The largest `|z_i|`, rounded up; NaN or infinite if a feature is."""
        return float(self.squares.amax().sqrt()) * (1 + 1e-12)

    @cached_property
    def largest_offset(self) -> float:
        """The largest `|c_i|`."""
        return float(self.offsets.detach().abs().amax())

    @cached_property
    def _product_offsets(self) -> Tensor:
        """The offsets in the dtype that products are formed in."""
        return self.offsets.detach().to(self.features.dtype)

    @cached_property
    def exact_features(self) -> Tensor:
        """The features in float64, a copy unless they are: for few pieces."""
        return self.features.detach().double()

    @cached_property
    def gram(self) -> Tensor:
        """The products `<z_i, z_j>` (N, N), float64: for few pieces."""
        return self.exact_features @ self.exact_features.T

    def rounding(self, places: Tensor, dtype: torch.dtype) -> Tensor:
        """Bound (B,) on the error of a value at places w (B, D) that is computed in `dtype`, in any order of sums."""
        size = places.double().norm(dim=1) * self.largest_norm + self.largest_offset
        return (self.dimension + 8) * torch.finfo(dtype).eps * size

    def take(self, index: Tensor) -> Tensor:
        """Return the features (B, k, D), float64, of pieces at positions index (B, k)."""
        return self.features.detach()[index].double()

    def measure(self, index: Tensor, places: Tensor) -> Tensor:
        """Return the values (B, k), float64, of pieces at positions index (B, k) at places w (B, D)."""
        blocks = max(1, _BLOCK_BYTES // (8 * index.shape[1] * self.dimension))
        parts = [
            (self.take(near) @ rows.double().unsqueeze(2)).squeeze(2)
            for near, rows in zip(index.split(blocks), places.split(blocks), strict=True)
        ]
        return torch.cat(parts) + self.offsets.detach()[index]

    def values(self, places: Tensor) -> Tensor:
        """Return the values (B, N), float64, of all pieces at places w (B, D), by products in float64."""
        found = places.new_empty(len(places), len(self), dtype=torch.float64)
        block = self._block(8 * max(self.dimension, len(places)))
        for start in range(0, len(self), block):
            part = slice(start, start + block)
            torch.addmm(
                self.offsets.detach()[part],
                places.double(),
                self.features.detach()[part].double().T,
                out=found[:, part],
            )
        return found

    def find_largest(self, places: Tensor, count: int, exclude: Tensor | None = None) -> Largest:
        """Find the pieces of largest value.

        Args:
            places: w (B, D).
            count: Pieces sought for each, at most N, or N - 1 where one is excluded.
            exclude: A piece (B,) for each place that does not count.
        """
        # One more than is asked for bounds the others.
        wanted = min(count + 1, len(self) - (exclude is not None))
        best, index = self._rank(places, self._product_offsets, wanted, exclude)
        chosen = index[:, :count]
        bound = torch.full((len(places),), -torch.inf, dtype=torch.float64, device=places.device)
        if wanted > count:
            bound = best[:, -1].double() + self.rounding(places, best.dtype)
        return Largest(chosen, self.measure(chosen, places), bound)

    def find_vertices(self, query: Tensor, smoothness: float, count: int, exclude: Tensor | None = None) -> Tensor:
        """Return positions (B, count) of the pieces that, each alone, give the program the largest values.

        The value at x (B, D) is `f_i(x) - |z_i|^2 / 2L`. Products alone decide.
        """
        lowered = (self.offsets.detach() - self.squares / (2 * smoothness)).to(self.features.dtype)
        return self._rank(query, lowered, count, exclude)[1]

    def find_largest_exactly(self, places: Tensor, count: int, exclude: Tensor | None = None) -> Largest:
        """Find what `find_largest` does by products in float64, which are slower and leave tight bounds."""
        wanted = min(count + 1, len(self) - (exclude is not None))
        products = self.values(places)
        _leave_out(products, exclude, 0)
        values, index = products.topk(wanted, dim=1)
        bound = torch.full((len(places),), -torch.inf, dtype=torch.float64, device=places.device)
        if wanted > count:
            bound = values[:, -1] + self.rounding(places, torch.float64)
        return Largest(index[:, :count], values[:, :count], bound)

    def find_right_and_wrong(self, places: Tensor, classes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Find the largest piece of each place's class, and the largest of any other class, by products alone.

        Args:
            places: w (B, D).
            classes: The class of each piece (N,), int64.
            labels: The class (B,) of each place.

        Returns:
            Positions (B,) and (B,), int64; -1 where there is no such piece.
        """
        rows, labels = places.to(self.features.dtype), labels.to(classes)
        best = rows.new_full((2, len(rows)), -torch.inf)
        found = torch.full((2, len(rows)), -1, dtype=torch.int64, device=rows.device)
        block = self._block(rows.element_size() * max(1, len(rows)))
        for start in range(0, len(self), block):
            part = slice(start, start + block)
            products = torch.addmm(self._product_offsets[part], rows, self.features.detach()[part].T)
            is_right = classes[part].unsqueeze(0) == labels.unsqueeze(1)
            for side, hidden in enumerate((~is_right, is_right)):
                values, near = products.masked_fill(hidden, -torch.inf).max(dim=1)
                found[side] = torch.where(values > best[side], near + start, found[side])
                best[side] = torch.maximum(values, best[side])
        return found[0], found[1]

    def _rank(self, places: Tensor, offsets: Tensor, count: int, exclude: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the largest products plus offsets (N,), falling, and their positions (B, count)."""
        rows = places.to(self.features.dtype)
        block = self._block(rows.element_size() * max(1, len(rows)))
        best = rows.new_empty(len(rows), 0)
        index = torch.empty(len(rows), 0, dtype=torch.int64, device=rows.device)
        for start in range(0, len(self), block):
            part = slice(start, start + block)
            products = torch.addmm(offsets[part], rows, self.features.detach()[part].T)
            _leave_out(products, exclude, start)
            values, near = products.topk(min(count, products.shape[1]), dim=1)
            best, index = torch.cat([best, values], 1), torch.cat([index, near + start], 1)
            if best.shape[1] > count:
                best, order = best.topk(count, dim=1)
                index = index.gather(1, order)
        order = best.argsort(dim=1, descending=True)
        return best.gather(1, order), index.gather(1, order)

    def _block(self, piece_bytes: int) -> int:
        """Return how many pieces are taken at a time if each takes so many bytes."""
        return max(1, _BLOCK_BYTES // piece_bytes)


def _leave_out(products: Tensor, exclude: Tensor | None, start: int) -> None:
    """Set the products (B, M) with the pieces from `start` on to -inf where the piece is the excluded one (B,)."""
    if exclude is not None:
        rows = ((exclude >= start) & (exclude < start + products.shape[1])).nonzero().squeeze(1)
        products[rows, exclude[rows] - start] = -torch.inf
