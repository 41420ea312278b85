"""A FAISS index of a memory's keys: written once beside them, mapped by every process, and how far it is trusted.

An exact kind proposes candidates, which are measured again in float64. A query is certain if its last neighbor is
nearer than anything that was not proposed can be, whatever FAISS rounds; others are searched again by our own search.
What an approximate kind proposes is taken as it is.
"""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otad_ray.artifacts import MANIFEST, atomic_directory, content_hash, read_manifest, write_json
from otad_ray.errors import InputError
from otad_ray.locks import one_at_a_time
from otad_ray.machine import versions
from otad_ray.memory.search.distances import measure_pairs, take_root
from otad_ray.memory.search.exact import ExactSearch, Nearest
from otad_ray.memory.search.portable import take_nearest

logger = logging.getLogger(__name__)

_KIND = "faiss_index"
_FOLDER, _FILE = "faiss", "index.faiss"
# Candidates proposed beyond those sought.
_MORE = 8
# Rows that an index is trained on, and rows added at a time.
_TRAINING_ROWS, _ADDED_ROWS = 1 << 18, 1 << 14
# Of a map that counts as an isometry: the largest row sum of what its square differs from the identity by.
_LARGEST_DEFECT = 1e-3
_EPSILON = float(np.finfo(np.float32).eps)
# Reads an index of a kind that keeps its vectors in lists, and of any other kind, without a copy.
_LISTS_FLAG, _ARRAYS_FLAG = "IO_FLAG_MMAP", "IO_FLAG_MMAP_IFC"


class ExactFaissSearch:
    """Exact search in which a FAISS index proposes the candidates."""

    def __init__(self, index: Any, keys: Tensor, largest_key_norm: float, exact: ExactSearch) -> None:
        self._index, self._keys, self._exact = index, keys, exact
        self._largest_key_norm = largest_key_norm
        self._relative_error = _bound_distance_error(index, keys.shape[1])

    def nearest(self, queries: Tensor, count: int) -> Nearest:
        """As `ExactSearch.nearest`."""
        proposed = min(count + _MORE, len(self._keys))
        squares, candidates = (torch.from_numpy(array) for array in self._index.search(queries.numpy(), proposed))
        missing = (candidates < 0).any(1)
        positions, distances = _measure(self._keys, queries, candidates.clamp_min(0), count)
        norms = queries.double().square().sum(1).sqrt() + self._largest_key_norm
        beyond = squares[:, -1].double() - self._relative_error * norms.square()
        certain = (distances[:, -1].square() < beyond) | (proposed == len(self._keys))
        rows = (~certain | missing).nonzero().squeeze(1)
        if len(rows):
            positions[rows], distances[rows] = self._exact.nearest(queries[rows], count)
        return positions, distances


class ApproximateFaissSearch:
    """The neighbors that a FAISS index finds, which need not be the nearest."""

    def __init__(self, index: Any, keys: Tensor, exact: ExactSearch) -> None:
        self._index, self._keys, self._exact = index, keys, exact

    def nearest(self, queries: Tensor, count: int) -> Nearest:
        """Return what was found, as `ExactSearch.nearest` does; queries for which too few were are searched exactly."""
        _, found = self._index.search(queries.numpy(), count)
        candidates = torch.from_numpy(found)
        positions, distances = _measure(self._keys, queries, candidates.clamp_min(0), count)
        rows = (candidates < 0).any(1).nonzero().squeeze(1)
        if len(rows):
            positions[rows], distances[rows] = self._exact.nearest(queries[rows], count)
        return positions, distances


def open_index(directory: Path, factory: str, keys: Tensor, digest: Any) -> Any:
    """Return the index of a memory's keys, mapped into memory; build it first if it is missing.

    Args:
        directory: the memory's.
        factory: FAISS's description of the index.
        keys: (N, E) float32, on the CPU.
        digest: of the memory's arrays, of JSON types, by which an index of another memory is told.

    Raises:
        InputError: without FAISS, for a factory string that it does not take for these keys, for keys elsewhere than on
            the CPU, for a damaged index or one of other keys, and for a folder that cannot be written.
    """
    faiss = import_faiss()
    if keys.device.type != "cpu":
        raise InputError(f"search 'faiss' works on the CPU, the keys are on {keys.device}; use search 'torch'")
    place = directory / _FOLDER / content_hash(factory)
    try:
        if not place.is_dir():
            with one_at_a_time(directory / _FOLDER / ".lock"):
                if not place.is_dir():
                    _write_index(place, factory, keys, digest)
    except OSError as error:
        raise InputError(
            f"the FAISS index {factory!r} cannot be written to {place} ({error.strerror}); make that folder writable, "
            "or use --search torch"
        ) from error
    manifest = read_manifest(place, kind=_KIND, fields=("keys", "flag"))
    if manifest["keys"] != digest:
        raise InputError(f"the FAISS index in {place} is of another memory; delete that folder, and it is built again")
    try:
        index = faiss.read_index(str(place / _FILE), getattr(faiss, manifest["flag"]))
    except (RuntimeError, AttributeError) as error:
        raise InputError(
            f"the FAISS index in {place} cannot be read ({_shorten(error)}); delete that folder, and it is built again"
        ) from error
    if (index.ntotal, index.d) != tuple(keys.shape):
        raise InputError(
            f"the FAISS index in {place} is of {index.ntotal} x {index.d} keys, the memory of {len(keys)} x "
            f"{keys.shape[1]}; delete that folder, and it is built again"
        )
    return index


def is_exact(index: Any) -> bool:
    """Return whether an index compares a query with every key, in coordinates that keep distances."""
    faiss = import_faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        return all(_is_isometry(transform) for transform in _transforms(index)) and is_exact(index.index)
    return isinstance(index, faiss.IndexFlatL2 | faiss.IndexFlatL2Panorama)


@cache
def import_faiss() -> ModuleType:
    """Import FAISS, with matrix products for this processor; InputError if it is not installed."""
    try:
        with _known_processor():
            import faiss
    except ImportError as error:
        raise InputError("search 'faiss' needs the package faiss-cpu; or use --search torch") from error
    return faiss


@contextmanager
def _known_processor() -> Iterator[None]:
    """Name the processor to OpenBLAS within the block, if it has AVX-512.

    FAISS comes with an OpenBLAS of 2021, which takes newer processors for ones of 2004 and multiplies at a quarter of
    their speed.
    """
    name = "OPENBLAS_CORETYPE"
    if name in os.environ or "AVX512" not in torch.backends.cpu.get_cpu_capability():
        yield
        return
    os.environ[name] = "SkylakeX"
    try:
        yield
    finally:
        del os.environ[name]


def _write_index(place: Path, factory: str, keys: Tensor, digest: Any) -> None:
    """Train an index, add the keys, and write it with its manifest."""
    faiss = import_faiss()
    started = time.time()
    logger.info("building the FAISS index %s of %d keys", factory, len(keys))
    rows = np.random.default_rng(0).permutation(len(keys))[:_TRAINING_ROWS]
    try:
        index = faiss.index_factory(keys.shape[1], factory)
        if not index.is_trained:
            index.train(keys.numpy()[np.sort(rows)])
        for block in keys.split(_ADDED_ROWS):
            index.add(block.numpy())
    except RuntimeError as error:
        raise InputError(
            f"FAISS makes no index {factory!r} of {len(keys)} keys of dimension {keys.shape[1]}: {_shorten(error)}"
        ) from error
    has_lists = isinstance(faiss.downcast_index(index), faiss.IndexIVF)
    manifest = {
        "kind": _KIND,
        "factory": factory,
        "keys": digest,
        "flag": _LISTS_FLAG if has_lists else _ARRAYS_FLAG,
        "seconds": time.time() - started,
        "versions": versions(),
    }
    with atomic_directory(place) as temporary:
        faiss.write_index(index, str(temporary / _FILE))
        write_json(temporary / MANIFEST, manifest)


def _measure(keys: Tensor, queries: Tensor, candidates: Tensor, count: int) -> Nearest:
    """Return the nearest of each query's candidates (B, P): positions and distances (B, count)."""
    rows = torch.arange(len(queries)).repeat_interleave(candidates.shape[1])
    flat = candidates.flatten()
    positions, squares = take_nearest(rows, flat, measure_pairs(keys, flat, queries, rows), count)
    return positions, take_root(squares)


def _bound_distance_error(index: Any, dimension: int) -> float:
    """Return a bound on the error of an exact index's squared distances, relative to `(|q| + max |x|)^2`."""
    faiss = import_faiss()
    rounding = 4 * (dimension + 16) * _EPSILON
    index = faiss.downcast_index(index)
    if not isinstance(index, faiss.IndexPreTransform):
        return rounding
    # Rounded coordinates move a vector by up to that much more, and a map that is not quite an isometry stretches it.
    defects = [_measure_defect(transform) for transform in _transforms(index)]
    return rounding * (1 + dimension**0.5 * len(defects)) + 2 * sum(defects)


def _measure_defect(transform: Any) -> float:
    """Return a bound on how far the square of a linear map is from the identity."""
    faiss = import_faiss()
    matrix = faiss.vector_to_array(transform.A).reshape(transform.d_out, transform.d_in).astype(np.float64)
    return float(np.abs(matrix.T @ matrix - np.eye(transform.d_in)).sum(1).max())


def _is_isometry(transform: Any) -> bool:
    """Return whether a transform keeps distances, by its matrix: what it says of itself is lost in a file."""
    faiss = import_faiss()
    square = isinstance(transform, faiss.LinearTransform) and transform.d_in == transform.d_out
    return square and _measure_defect(transform) < _LARGEST_DEFECT


def _transforms(index: Any) -> list[Any]:
    faiss = import_faiss()
    return [faiss.downcast_VectorTransform(index.chain.at(place)) for place in range(index.chain.size())]


def _shorten(error: Exception) -> str:
    """Return the last line of an error of FAISS, which says what was wrong; the others say where in its code."""
    return str(error).strip().splitlines()[-1]
