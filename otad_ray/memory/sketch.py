"""Short copies of keys whose distances are lower bounds: most keys are ruled out without being read.

The sketch of `x` is `s(x) = (V'(x - m), |(I - V V')(x - m)|)` with orthonormal columns V, the leading principal
directions of a sample of the keys. By Pythagoras and the triangle inequality in the rest,
`|s(x) - s(y)| <= |x - y|` for any V; the directions only make the bound tight. Sketches are kept in bfloat16,
which processors with matrix units multiply several times faster than float32; what rounding does to the
bound is bounded in turn.
"""

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# Principal directions kept, and keys of the sample that gives them. With fewer directions than this more of MNIST's
# digits stay candidates, and with the tail and the norm's terms a row has 256 entries, whole tiles of a matrix unit.
_WIDTH = 252
_SAMPLE = 4096
_SEED = 0
# Rows read at a time when sketches are made.
_BLOCK_ROWS = 4096
# Half the squared norm is kept as this many bfloat16 terms: exact to 2^-24.
_NORM_TERMS = 3
# Error of a float64 sketch, relative to the vector's norm. The tail is the root of a difference, so its error is the
# root of that difference's, which is below E sqrt(W) 1.2e-16 of the squared norm: this covers E = 50,000.
_PROJECTION_ERROR = 1e-5

# Bytes of one block of bounds, queries at a time, and the share of keys beyond which pruning stops paying.
_BLOCK_BYTES = 32 << 20
_QUERIES = {"cpu": 128}
_QUERIES_ELSEWHERE = 2048
_LARGEST_SHARE = 1 / 32
# Rows of a level of the tournament that finds the smallest values.
_GROUP = 8

_BASIS_FILE = "sketch_basis.npy"
_CENTER_FILE = "sketch_center.npy"
_ROWS_FILE = "sketch.npy"


@dataclass(frozen=True)
class Sketch:
    """Sketches of N keys of dimension E.

    rows (N, W + 4) bfloat16: the sketch `s` (W + 1) and three terms of `|s|^2 / 2`.
    basis (E, W) and center (E,), float64: V and m.
    error: largest distance of a key's sketch from its kept form. largest_norm: of a kept sketch.
    """

    rows: Tensor
    basis: Tensor
    center: Tensor
    error: float
    largest_norm: float

    def of(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Sketches (B, W + 1) bfloat16 of vectors (B, E), and bounds (B,) float64 on their errors."""
        centered = vectors.double() - self.center
        projected = centered @ self.basis
        squares = centered.square().sum(1)
        tail = (squares - projected.square().sum(1)).clamp_min(0).sqrt()
        exact = torch.cat([projected, tail.unsqueeze(1)], 1)
        kept = exact.bfloat16()
        return kept, (exact - kept.double()).square().sum(1).sqrt() + _PROJECTION_ERROR * squares.sqrt()


def write_sketch(directory: Path, keys: np.ndarray) -> dict[str, float]:
    """Write the sketch of keys (N, E) beside them, a block at a time; what the manifest says of it."""
    basis, center = _principal_directions(keys)
    empty = torch.empty(0, basis.shape[1] + 1 + _NORM_TERMS, dtype=torch.bfloat16)
    sketch = Sketch(empty, torch.from_numpy(basis), torch.from_numpy(center), 0.0, 0.0)
    _write_array(directory / _BASIS_FILE, basis)
    _write_array(directory / _CENTER_FILE, center)
    shape = (len(keys), empty.shape[1])
    # NumPy has no bfloat16: its bits are kept.
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.int16)), "fortran_order": False, "shape": shape}
    error, largest_norm = 0.0, 0.0
    # Written, not mapped: a full disk kills a process that writes to mapped pages.
    with (directory / _ROWS_FILE).open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(keys), _BLOCK_ROWS):
            kept, errors = sketch.of(torch.from_numpy(np.array(keys[start : start + _BLOCK_ROWS])))
            squares = kept.double().square().sum(1)
            block = torch.cat([kept, _norm_terms(squares / 2)], 1)
            file.write(block.view(torch.int16).numpy().tobytes())
            error, largest_norm = max(error, float(errors.max())), max(largest_norm, float(squares.max().sqrt()))
    return {"error": error, "largest_norm": largest_norm}


def _write_array(path: Path, array: np.ndarray) -> None:
    """As `np.save` does, which on a full disk does not say why it failed."""
    content = io.BytesIO()
    np.save(content, array)
    path.write_bytes(content.getvalue())


def read_sketch(directory: Path, description: dict[str, float], device: str | torch.device) -> Sketch:
    """The sketch that `write_sketch` made; its rows are mapped on the CPU. OSError or ValueError if it is broken."""
    basis, center = (np.load(directory / name, allow_pickle=False) for name in (_BASIS_FILE, _CENTER_FILE))
    rows = torch.from_numpy(np.load(directory / _ROWS_FILE, mmap_mode="c", allow_pickle=False)).view(torch.bfloat16)
    return Sketch(
        rows.to(device),
        torch.from_numpy(basis).to(device),
        torch.from_numpy(center).to(device),
        float(description["error"]),
        float(description["largest_norm"]),
    )


class SketchSearch:
    """Proposes the keys of least lower bound."""

    def __init__(self, sketch: Sketch) -> None:
        self._sketch = sketch
        self.largest_count = int(len(sketch.rows) * _LARGEST_SHARE)

    def first_count(self, count: int) -> int:
        return 5 * count + 8

    def nearest(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """As `CandidateSearch.nearest`."""
        sketch, device = self._sketch, queries.device
        kept, errors = sketch.of(queries)
        dtype = _multiplied_dtype(device.type)
        ones = torch.ones(len(kept), _NORM_TERMS, dtype=kept.dtype, device=device)
        # Times a row this is |s|^2 / 2 - <s, query's>: half the squared distance, less a constant of the query.
        columns = torch.cat([-kept, ones], 1).to(dtype).T.contiguous()
        halves, positions = self._smallest_products(columns, count)
        norms = kept.double().square().sum(1, keepdim=True).sqrt()
        products = halves.double()
        error = self._product_error(norms, products, dtype)
        least = (2 * (products - error) + norms.square()).clamp_min(0).sqrt() - errors.unsqueeze(1) - sketch.error
        return positions, least.clamp_min(0)

    def _smallest_products(self, columns: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Values (B, count), ascending, and positions of the least products of each column (W + 4, B)."""
        parts = columns.split(_QUERIES.get(columns.device.type, _QUERIES_ELSEWHERE), dim=1)
        num_rows, width = len(self._sketch.rows), parts[0].shape[1]
        block = min(num_rows, max(_BLOCK_BYTES // (width * columns.element_size()), _GROUP * count))
        buffer = torch.empty(block * width, dtype=columns.dtype, device=columns.device)
        found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in parts]
        for start in range(0, num_rows, block):
            rows = self._sketch.rows[start : start + block].to(columns.dtype)
            for part, blocks in zip(parts, found, strict=True):
                products = buffer[: len(rows) * part.shape[1]].view(len(rows), -1)
                torch.mm(rows, part.contiguous(), out=products)
                values, positions = smallest(products, min(count, len(rows)))
                blocks.append((values, positions + start))
        return _merged(found, count)

    def _product_error(self, norms: Tensor, products: Tensor, dtype: torch.dtype) -> Tensor:
        """Bound on the error of products (B, P) in this type, for any order of summation; norms (B, 1)."""
        single = torch.finfo(torch.float32)
        largest = self._sketch.largest_norm
        terms = self._sketch.rows.shape[1] + 4
        summed = terms * (single.eps * (norms * largest + largest**2) + 4 * single.tiny)
        # bfloat16 products are summed in float32 and rounded once.
        rounded = torch.finfo(dtype).eps * (products.abs() + summed) if dtype == torch.bfloat16 else 0.0
        return summed + rounded


def smallest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` smallest of each column of values (n, B): values and positions (B, count), ascending.

    A tournament: a group of rows can hold one of the smallest only if its minimum is among the smallest minima.
    """
    size, columns = values.shape
    if size <= 2 * _GROUP * count:
        return values.T.contiguous().topk(count, largest=False)
    whole = size // _GROUP * _GROUP
    groups = values[:whole].view(-1, _GROUP, columns)
    _, group = smallest(groups.amin(1), count)
    members = groups.gather(0, group.T.unsqueeze(1).expand(-1, _GROUP, -1)).permute(2, 0, 1).reshape(columns, -1)
    best, order = torch.cat([members, values[whole:].T], 1).topk(count, largest=False)
    inside = group.gather(1, (order // _GROUP).clamp_max(count - 1)) * _GROUP + order % _GROUP
    return best, torch.where(order < count * _GROUP, inside, order - count * _GROUP + whole)


def _merged(found: list[list[tuple[Tensor, Tensor]]], count: int) -> tuple[Tensor, Tensor]:
    values, positions = [], []
    for blocks in found:
        best, order = torch.cat([block[0] for block in blocks], 1).topk(count, largest=False)
        values.append(best)
        positions.append(torch.cat([block[1] for block in blocks], 1).gather(1, order))
    return torch.cat(values), torch.cat(positions)


def _principal_directions(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal directions (E, W) and center (E,), float64, of a sample of the keys."""
    from sklearn.utils.extmath import randomized_svd

    order = np.random.default_rng(_SEED).permutation(len(keys))[:_SAMPLE]
    sample = keys[np.sort(order)].astype(np.float64)
    center = sample.mean(0)
    width = min(_WIDTH, *sample.shape)
    if width == keys.shape[1]:
        return np.eye(width), center
    _, _, directions = randomized_svd(sample - center, width, random_state=_SEED)
    return np.linalg.qr(directions.T)[0], center


def _norm_terms(values: Tensor) -> Tensor:
    """Values (n,) float64 as sums of bfloat16 terms (n, 3)."""

    def terms(rest: Tensor) -> Iterator[Tensor]:
        for _ in range(_NORM_TERMS):
            term = rest.bfloat16()
            yield term
            rest = rest - term.double()

    return torch.stack(list(terms(values)), 1)


@cache
def _multiplied_dtype(device: str) -> torch.dtype:
    """bfloat16 where it is multiplied faster than float32, which takes a processor with a matrix unit.

    Elsewhere float32: GPUs may add up bfloat16 products in bfloat16, which the bound does not cover.
    """
    if device != "cpu":
        return torch.float32
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        rows, columns = torch.ones(4096, 192, dtype=dtype), torch.ones(192, 128, dtype=dtype)
        torch.mm(rows, columns)
        start = time.perf_counter()
        for _ in range(3):
            torch.mm(rows, columns)
        seconds[dtype] = time.perf_counter() - start
    return min(seconds, key=lambda dtype: seconds[dtype])
