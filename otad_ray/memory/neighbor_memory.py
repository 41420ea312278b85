"""Training points with their features on disk, memory-mapped, and the search over their keys."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from otad_ray.artifacts import (
    MANIFEST,
    atomic_directory,
    content_hash,
    read_manifest,
    refuse_occupied,
    write_json,
)
from otad_ray.errors import InputError
from otad_ray.machine import job_command, versions
from otad_ray.memory.array_files import LARGEST_KEY_NORM, Batches, check_ids, map_array, write_arrays
from otad_ray.memory.search import DEFAULT_SEARCH, ExactSearch, SearchName, leave_out, open_search
from otad_ray.memory.search.distances import measure_pairs, take_root
from otad_ray.memory.search.sketch import SKETCH_FORMAT, Sketch, read_sketch, write_sketch
from otad_ray.memory.search.verification import Verification, judge_answers
from otad_ray.models import TokenSpace
from otad_ray.stages import stage

logger = logging.getLogger(__name__)

_KIND = "memory"
_SPACE_FILE = "point_space.safetensors"


class NeighborMemory:
    """N training points: keys (N, E) are searched, points (N, d) and features (N, D) are integrated.

    Use `build` once and `load` in every process: mapped pages are shared by the processes of a machine.
    manifest: what was recorded when it was built, among it the backbone's fingerprint.
    point_space: what maps coordinates into the space of the features; None where points are kept whole, d = D.
    """

    def __init__(
        self,
        directory: Path,
        manifest: dict[str, Any],
        arrays: Mapping[str, Tensor],
        sketch: Sketch | None,
        search: str,
        point_space: TokenSpace | None = None,
    ) -> None:
        self.directory = directory
        self.manifest = manifest
        self.keys = arrays["keys"]
        self.points = arrays["points"]
        self.features = arrays["features"]
        self.labels = arrays["labels"]
        self.ids = arrays["ids"]
        self.point_space = point_space
        self.search_name = SearchName.parse(search)
        largest = float(manifest["largest_key_norm"])
        self._exact = ExactSearch(self.keys, sketch)
        self._search = open_search(
            self.search_name, self.keys, largest, self._exact, directory, digest=manifest["sha256"]
        )

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def build(
        cls,
        directory: str | Path,
        keys: Batches | None,
        points: Batches,
        features: Batches,
        labels: Batches,
        ids: Batches,
        *,
        provenance: Mapping[str, Any] | None = None,
        point_space: TokenSpace | None = None,
    ) -> Self:
        """Stream batches to `directory`, which appears whole or not at all, and load it.

        The iterables yield batches of equal lengths: keys (n, E), points and features (n, D), labels (n,) and
        unique ids (n,). Without keys the points are searched. With a point_space, points are coordinates (n, d) in it.
        provenance is recorded in the manifest.
        Raises InputError for rows that are not finite, differ in number or dimension, or repeat an id.
        """
        directory = Path(directory)
        refuse_occupied(directory)
        sources = {"points": points, "features": features, "labels": labels, "ids": ids}
        if keys is not None:
            sources["keys"] = keys
        with atomic_directory(directory) as temporary:
            contents = write_arrays(temporary, sources)
            _check_dimensions(contents["shapes"], point_space)
            if point_space is not None:
                contents["point_space"] = point_space.layout
                tensors = {name: tensor.cpu().contiguous() for name, tensor in point_space.tensors.items()}
                (temporary / _SPACE_FILE).write_bytes(save(tensors))
            check_ids(np.load(temporary / "ids.npy"))
            searched = np.load(temporary / ("points.npy" if keys is None else "keys.npy"), mmap_mode="r")
            write_sketch(temporary, searched)
            manifest = {
                "kind": _KIND,
                **contents,
                "sketch": SKETCH_FORMAT,
                "versions": versions(),
                **(provenance or {}),
            }
            write_json(temporary / MANIFEST, manifest)
        return cls.load(directory)

    @classmethod
    def load(cls, directory: str | Path, *, search: str = DEFAULT_SEARCH, device: str | torch.device = "cpu") -> Self:
        """Open a memory by its path; on the CPU its arrays are mapped, not read.

        search: torch, faiss, or what else `SearchName` reads. Raises InputError where the directory is missing,
        truncated or no memory, and for a search that is not to be had.
        """
        directory = Path(directory).absolute()
        if not directory.is_dir():
            raise InputError(f"memory {directory} does not exist; make it with: {job_command('build_memory')}")
        manifest = read_manifest(directory, kind=_KIND, fields=("shapes", "sha256", "largest_key_norm", "sketch"))
        arrays = {
            name: map_array(directory / f"{name}.npy", tuple(shape)).to(device)
            for name, shape in manifest["shapes"].items()
        }
        arrays.setdefault("keys", arrays["points"])
        sketch = _open_sketch(directory, manifest, device)
        return cls(directory, manifest, arrays, sketch, search, _open_space(directory, manifest, device))

    @property
    def fingerprint(self) -> str:
        """Changes when any key, point, feature, label or id does."""
        return content_hash(self.manifest["sha256"])

    def search(self, keys: Tensor, k: int, exclude_ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The k nearest rows of each key: positions (B, k) int64 and l2 distances (B, k) float64, ascending.

        keys (B, E). exclude_ids (B,): the row with this id is not a neighbor (leave-one-out); an exact duplicate
        of it under another id is. Raises InputError for a k, a dimension or a value that does not fit.
        """
        self._check_query(keys, k, exclude_ids)
        if exclude_ids is not None and exclude_ids.shape != keys.shape[:1]:
            raise InputError(f"exclude_ids must be (B,) = {tuple(keys.shape[:1])}, got {tuple(exclude_ids.shape)}")
        queries = keys.detach().to(self.keys.device, torch.float32).contiguous()
        count = k if exclude_ids is None else k + 1
        with stage("search"):
            index, distance = self._search.nearest(queries, count)
            if exclude_ids is None:
                return index, distance
            excluded = self.ids[index] == exclude_ids.to(self.ids.device).unsqueeze(1)
            return leave_out(excluded, index, distance)

    def verify(self, queries: Tensor, answers: Tensor) -> Verification:
        """Say, exactly, which answers of any other index are wrong.

        Args:
            queries: (B, E), the keys that neighbors were sought for; tensors or arrays.
            answers: (B, K), whole numbers, the positions in this memory that the index gave, in any order.

        Raises:
            InputError: for queries or answers of another shape or type.
        """
        queries, answers = torch.as_tensor(queries), torch.as_tensor(answers)
        whole = not (answers.is_floating_point() or answers.is_complex() or answers.dtype == torch.bool)
        if answers.dim() != 2 or len(answers) != len(queries) or not whole:
            raise InputError(
                f"answers must be positions (B, K) for B = {len(queries)} queries, got {tuple(answers.shape)} of "
                f"{answers.dtype}"
            )
        count = answers.shape[1]
        self._check_query(queries, count, None)
        queries = queries.detach().to(self.keys.device, torch.float32).contiguous()
        answers = answers.to(self.keys.device, torch.int64)
        rows = torch.arange(len(queries), device=self.keys.device).repeat_interleave(count)
        known = ((answers >= 0) & (answers < len(self))).flatten()
        squares = torch.full((answers.numel(),), torch.inf, dtype=torch.float64, device=self.keys.device)
        squares[known] = measure_pairs(self.keys, answers.flatten()[known], queries, rows[known])
        return judge_answers(answers, take_root(squares).view_as(answers), *self._exact.nearest(queries, count))

    def _check_query(self, keys: Tensor, k: int, exclude_ids: Tensor | None) -> None:
        if keys.dim() != 2 or keys.shape[1] != self.keys.shape[1]:
            raise InputError(
                f"this memory's keys have dimension {self.keys.shape[1]}, got queries of shape {tuple(keys.shape)}"
            )
        self.check_neighbors(k, leave_one_out=exclude_ids is not None)
        finite = torch.isfinite(keys).all(1)
        if not bool(finite.all()):
            row = int((~finite).nonzero()[0])
            raise InputError(f"query {row} of {len(keys)} holds NaN or infinite values; remove or repair it")
        largest = float(keys.detach().double().square().sum(1).max().sqrt()) if len(keys) else 0.0
        if largest > LARGEST_KEY_NORM:
            raise InputError(
                f"a query has norm {largest:.3g}, the largest allowed is {LARGEST_KEY_NORM:.0e}; rescale them"
            )

    def check_neighbors(self, k: int, *, leave_one_out: bool) -> None:
        """InputError unless k neighbors can be found, with one row left out or not."""
        available = len(self) - int(leave_one_out)
        if not 1 <= k <= available:
            kind = "leave-one-out neighbors" if leave_one_out else "neighbors"
            raise InputError(f"neighbors must be 1 to {available}, the {kind} in {self.directory}, got {k}")


def _check_dimensions(shapes: Mapping[str, Sequence[int]], point_space: TokenSpace | None) -> None:
    points, features = shapes["points"][1], shapes["features"][1]
    if point_space is None and points != features:
        raise InputError(
            f"points {tuple(shapes['points'])} and features {tuple(shapes['features'])} must agree in shape; "
            "coordinates of points in a smaller space need its point_space"
        )
    if point_space is not None and (points, features) != (point_space.num_coordinates, point_space.dimension):
        raise InputError(
            f"this point_space maps {point_space.num_coordinates} coordinates to {point_space.dimension} dimensions, "
            f"got points of {points} and features of {features}"
        )


def _open_space(directory: Path, manifest: Mapping[str, Any], device: str | torch.device) -> TokenSpace | None:
    if "point_space" not in manifest:
        return None
    path = directory / _SPACE_FILE
    try:
        return TokenSpace.restore(load_file(path), manifest["point_space"]).to(device)
    except (OSError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(f"{path} is missing or damaged ({error}); delete {directory} and build it again") from error


def _open_sketch(directory: Path, manifest: Mapping[str, Any], device: str | torch.device) -> Sketch | None:
    """Open the sketch of a memory; None for one that was written before sketches had today's format."""
    if manifest["sketch"] != SKETCH_FORMAT:
        logger.warning(
            "the sketch in %s is of an earlier version: search finds the same without it, several times slower; "
            "to mend that, delete the directory and build it again",
            directory,
        )
        return None
    try:
        return read_sketch(directory, manifest["rows"], device)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"the sketch in {directory} is missing or truncated ({error}); delete {directory} and build it again"
        ) from error
