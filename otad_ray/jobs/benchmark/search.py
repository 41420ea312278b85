"""The benchmark's part on search: the preset's memory, 16 times as many images, noise, and data without structure."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from otad_ray.benchmarks import Measurement, measure_search
from otad_ray.benchmarks.search import Nearest
from otad_ray.defenses import MemoryDefense, load_defense
from otad_ray.machine import num_cores
from otad_ray.memory import NeighborMemory
from otad_ray.memory.search import ExactSearch
from otad_ray.memory.search.sketch import read_sketch, write_sketch
from otad_ray.options import ActorJobConfig
from otad_ray.recipes.defenses import KNN_NAME, save_defense
from otad_ray.recipes.memory import ensure_memory
from otad_ray.recipes.workspace import Workspace

# Queries of a measurement, and of one in small batches.
_QUERIES, _FEW = 512, 64
_BATCHES = (1, 16, 256, 1024)
# Standard deviation of the noise in every coordinate: of norm 2.8 on MNIST.
_NOISE = 0.1
# Pixels that copies of images are shifted by, in either direction.
_SHIFTS = (-1, 0, 1, 2)
_ISOTROPIC = (100_000, 256)

# Goals, as ratios of which more is better.
_GOAL, _LARGE_GOAL, _LARGE_NOISE_GOAL, _LEAST_GOAL = 5.0, 10.0, 5.0, 1.0


@dataclass(frozen=True)
class _Searched:
    """Keys (N, E), our search over them, and how many neighbors are sought."""

    keys: Tensor
    nearest: Nearest
    num_neighbors: int

    def measure(self, name: str, queries: Tensor, **options: Any) -> Measurement:
        """Measure the search for queries (B, E) against FAISS; options are those of `measure_search`."""
        options = {"num_threads": num_cores(), "goal": None, **options}
        return measure_search(name, self.keys, self.nearest, queries, self.num_neighbors, **options)


def measure_neighbor_search(config: ActorJobConfig, workspace: Workspace) -> Iterator[Measurement]:
    """Measure search against FAISS for test rows of the preset, and for data that are larger or without structure."""
    memory = ensure_memory(workspace)
    num_neighbors = config.preset.integration.num_neighbors + 1
    # Our own search, whatever the job was asked to search by.
    searched = _Searched(memory.keys, NeighborMemory.load(memory.directory).search, num_neighbors)
    queries = _embed_test_rows(workspace)
    for num_threads in sorted({1, num_cores()}):
        yield searched.measure(f"search_{num_threads}_threads", queries, num_threads=num_threads, goal=_GOAL)
    yield searched.measure("search_noise", _add_noise(queries))
    yield from _measure_batches(searched, queries)
    with tempfile.TemporaryDirectory(dir=workspace.root, prefix=".benchmark-") as directory:
        if workspace.definition.shape[1:] and memory.keys.shape[1] == prod(workspace.definition.shape):
            images = memory.keys.view(-1, *workspace.definition.shape)
            large = _open_search(_shift_images(images, Path(directory)), Path(directory), num_neighbors)
            yield large.measure("search_16_times", queries, goal=_LARGE_GOAL)
            yield large.measure("search_16_times_noise", _add_noise(queries), goal=_LARGE_NOISE_GOAL)
        generator = torch.Generator().manual_seed(0)
        size = min(_ISOTROPIC[0], 2 * len(memory))
        isotropic = torch.randn(size + _QUERIES, _ISOTROPIC[1], generator=generator)
        searched = _open_search(isotropic[:size].contiguous(), Path(directory) / "isotropic", num_neighbors)
        yield searched.measure("search_isotropic", isotropic[size:].contiguous(), goal=_LEAST_GOAL)


def _measure_batches(searched: _Searched, queries: Tensor) -> Iterator[Measurement]:
    """Measure batches of several sizes, against both exhaustive indexes of FAISS."""
    for rows in _BATCHES:
        # At least some batches, but not thousands of single queries.
        some = queries[:_FEW] if rows < _FEW else queries.repeat(-(-rows // len(queries)), 1)[:rows]
        for name, index in (("flat", "Flat"), ("panorama", f"PCA{searched.keys.shape[1]},FlatL2Panorama16")):
            goal = _LEAST_GOAL if (rows, name) == (1, "flat") else None
            yield searched.measure(f"search_batch_{rows}_{name}", some, goal=goal, batch_rows=rows, index=index)


@torch.no_grad()
def _embed_test_rows(workspace: Workspace) -> Tensor:
    """Return what some test rows are searched by."""
    knn = cast(MemoryDefense, load_defense(save_defense(workspace, KNN_NAME)))
    rows = workspace.rows("test")
    return knn.keys(rows.take(np.arange(min(_QUERIES, len(rows)))).x).contiguous()


def _add_noise(queries: Tensor) -> Tensor:
    return queries + _NOISE * torch.randn(queries.shape, generator=torch.Generator().manual_seed(0))


def _shift_images(images: Tensor, directory: Path) -> Tensor:
    """Return all images (N, C, H, W) shifted in 16 ways, flattened (16 N, D), in a file that is mapped."""
    shifts = [(down, right) for down in _SHIFTS for right in _SHIFTS]
    path = directory / "keys.npy"
    shape = (len(shifts) * len(images), images[0].numel())
    keys = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    for place, shift in enumerate(shifts):
        keys[place * len(images) : (place + 1) * len(images)] = images.roll(shift, (2, 3)).flatten(1).numpy()
    keys.flush()
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def _open_search(keys: Tensor, directory: Path, num_neighbors: int) -> _Searched:
    """Return the search over keys that belong to no memory."""
    directory.mkdir(exist_ok=True)
    write_sketch(directory, keys.numpy())
    return _Searched(keys, ExactSearch(keys, read_sketch(directory, len(keys), "cpu")).nearest, num_neighbors)
