"""Short copies of keys that bound distances from both sides: most keys are ruled out without being read.

The sketch of `x` is `s(x) = (V'(x - m), |(I - V V')(x - m)|)`. The columns of V are orthonormal: the leading principal
directions of a sample of the keys, turned at random so that all coordinates are about equally large. By Pythagoras and
the triangle inequality in the rest, with `t` for the last entry,

    |s(x) - s(y)| <= |x - y|,   |x - y|^2 <= |s(x) - s(y)|^2 + 4 t(x) t(y)

for any V and m. Coordinates are kept as whole numbers from -127 to 127 times a scale of the key's own, which processors
multiply several times as fast as float32. How far a kept sketch is from the exact one is kept beside it, and every
bound allows for it.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from otad_ray.memory.search.products import LARGEST_CODE

# Principal directions kept, and keys of the sample that gives them. With fewer directions than this more of MNIST's
# digits stay candidates.
_WIDTH = 256
_SAMPLE = 4096
_SEED = 0
# Rows read at a time when sketches are made.
_BLOCK_ROWS = 4096
# Error of a float64 sketch, relative to the vector's norm. The tail is the root of a difference, so its error is the
# root of that difference's, which is below E sqrt(W) 1.2e-16 of the squared norm: this covers E = 50,000.
_PROJECTION_ERROR = 1e-5
# Errors are kept in float32, and must not be rounded down.
_ROUND_UP = 1 + 1e-6

# Columns of the terms of a sketch.
SQUARE, SCALE, TAIL, ERROR = range(4)
NUM_TERMS = 4

# What a memory's manifest says of its sketch.
SKETCH_FORMAT = "int8"

_BASIS_FILE = "sketch_basis.npy"
_CENTER_FILE = "sketch_center.npy"
_CODES_FILE = "sketch_codes.npy"
_TERMS_FILE = "sketch_terms.npy"
_NORMS_FILE = "squared_norms.npy"


@dataclass(frozen=True)
class Sketch:
    """Sketches of N keys of dimension E.

    Attributes:
        codes: (N, W) int8, the coordinates in the unit of each key's scale.
        terms: (N, 4) float32, for each key: the squared norm of the kept sketch, the scale, the kept tail, and a bound
            on the distance from the exact sketch to the kept one.
        squared_norms: (N,) float32, of the keys themselves.
        basis: V, (E, W) float64.
        center: m, (E,) float64.
    """

    codes: Tensor
    terms: Tensor
    squared_norms: Tensor
    basis: Tensor
    center: Tensor

    def of(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return the codes (B, W) int8 and terms (B, 4) float32 of vectors (B, E)."""
        centered = vectors.double() - self.center
        projected = centered @ self.basis
        squares = centered.square().sum(1)
        exact_tail = (squares - projected.square().sum(1)).clamp_min(0).sqrt()
        # Rounded before they are used, so that the errors below are those of what is kept.
        scale = (projected.abs().amax(1) / LARGEST_CODE).float()
        tail = exact_tail.float().double()
        unit = scale.double().unsqueeze(1)
        codes = torch.where(unit > 0, projected / unit, 0.0).round_().clamp_(-LARGEST_CODE, LARGEST_CODE)
        kept = codes * unit
        error = ((projected - kept).square().sum(1) + (exact_tail - tail).square()).sqrt()
        error = (error + _PROJECTION_ERROR * squares.sqrt()) * _ROUND_UP
        square = kept.square().sum(1) + tail.square()
        return codes.to(torch.int8), torch.stack([square, scale.double(), tail, error], 1).float()


def write_sketch(directory: Path, keys: np.ndarray) -> None:
    """Write the sketch of keys (N, E) beside them, a block at a time."""
    basis, center = _find_directions(keys)
    _write_array(directory / _BASIS_FILE, basis)
    _write_array(directory / _CENTER_FILE, center)
    empty = torch.empty(0)
    sketch = Sketch(empty, empty, empty, torch.from_numpy(basis), torch.from_numpy(center))
    terms = np.empty((len(keys), NUM_TERMS), dtype=np.float32)
    norms = np.empty(len(keys), dtype=np.float32)
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.int8)), "fortran_order": False}
    # Written, not mapped: a full disk kills a process that writes to mapped pages.
    with (directory / _CODES_FILE).open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {**header, "shape": (len(keys), basis.shape[1])})
        for start in range(0, len(keys), _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            block = torch.from_numpy(np.array(keys[part]))
            codes, kept = sketch.of(block)
            file.write(codes.numpy().tobytes())
            terms[part] = kept.numpy()
            norms[part] = square_norms(block).numpy()
    _write_array(directory / _TERMS_FILE, terms)
    _write_array(directory / _NORMS_FILE, norms)


def read_sketch(directory: Path, num_keys: int, device: str | torch.device) -> Sketch:
    """Read the sketch that `write_sketch` made; on the CPU what grows with the number of keys is mapped.

    Raises:
        OSError, EOFError, ValueError: if a file is missing or damaged, or of another number of keys.
    """

    def map_file(name: str) -> Tensor:
        # Copy-on-write: torch wants a writable array; pages stay shared as nobody writes.
        array = np.load(directory / name, mmap_mode="c", allow_pickle=False)
        if len(array) != num_keys:
            raise ValueError(f"{name} has {len(array)} rows, the memory {num_keys}")
        return torch.from_numpy(array).to(device)

    basis, center = (np.load(directory / name, allow_pickle=False) for name in (_BASIS_FILE, _CENTER_FILE))
    return Sketch(
        map_file(_CODES_FILE),
        map_file(_TERMS_FILE),
        map_file(_NORMS_FILE),
        torch.from_numpy(basis).to(device),
        torch.from_numpy(center).to(device),
    )


def square_norms(vectors: Tensor) -> Tensor:
    """Return the squared norms (n,) float32 of vectors (n, E), computed in float64."""
    return vectors.double().square().sum(1).float()


def _write_array(path: Path, array: np.ndarray) -> None:
    """Do as `np.save` does, which on a full disk does not say why it failed."""
    content = io.BytesIO()
    np.save(content, array)
    path.write_bytes(content.getvalue())


def _find_directions(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return orthonormal directions (E, W) and a center (E,), float64, of a sample of the keys."""
    generator = np.random.default_rng(_SEED)
    order = generator.permutation(len(keys))[:_SAMPLE]
    sample = keys[np.sort(order)].astype(np.float64)
    center = sample.mean(0)
    width = min(_WIDTH, keys.shape[1])
    rotation = np.linalg.qr(generator.standard_normal((width, width)))[0]
    if width == keys.shape[1]:
        return rotation, center
    return _find_principal_directions(sample - center, width) @ rotation, center


def _find_principal_directions(sample: np.ndarray, width: int) -> np.ndarray:
    """Return orthonormal columns (E, width): principal directions of a centered sample, and others if it has fewer."""
    from sklearn.utils.extmath import randomized_svd

    found = min(width, *sample.shape)
    _, _, directions = randomized_svd(sample, found, random_state=_SEED)
    others = np.random.default_rng(_SEED).standard_normal((sample.shape[1], width - found))
    return np.linalg.qr(np.concatenate([directions.T, others], 1))[0]
