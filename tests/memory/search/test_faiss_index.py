"""FAISS indexes: exact kinds find what our search finds, approximate ones say so, and each is built once and mapped."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

from helpers.memories import build_memory
from helpers.searched_keys import draw_decaying
from otad_ray.errors import InputError
from otad_ray.memory import NeighborMemory

EXACT = ["Flat", "FlatL2Panorama4", "PCA24,FlatL2Panorama4", "PCA24,Flat", "RR24,Flat"]
APPROXIMATE = ["IVF8,Flat", "HNSW8", "PCA4,Flat", "PCAW24,Flat", "SQ8", "L2norm,Flat"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("faiss") / "memory"
    build_memory(directory, draw_decaying(900, 24))
    return directory


@pytest.fixture(scope="module")
def queries(directory: Path) -> torch.Tensor:
    return NeighborMemory.load(directory).keys[:60] + 0.125


@pytest.mark.parametrize("index", EXACT)
def test_exact_kinds_find_the_same(directory: Path, queries: torch.Tensor, index: str) -> None:
    expected = NeighborMemory.load(directory).search(queries, 7)
    found = NeighborMemory.load(directory, search=f"faiss:{index}").search(queries, 7)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_exact_kinds_find_the_same_among_duplicates_far_from_the_origin(tmp_path: Path) -> None:
    """FAISS's float32 distances cannot tell these keys apart."""
    points = 2000 + draw_decaying(600, 24)
    points[1::3] = points[0::3]
    expected = build_memory(tmp_path / "memory", points).search(points[:40], 5)
    for index in ("Flat", "PCA24,FlatL2Panorama4"):
        found = NeighborMemory.load(tmp_path / "memory", search=f"faiss:{index}").search(points[:40], 5)
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("index", APPROXIMATE)
def test_approximate_kinds_are_taken_only_by_request(directory: Path, queries: torch.Tensor, index: str) -> None:
    with pytest.raises(InputError, match=r"may miss neighbors: add --approximate .* or take an exact one"):
        NeighborMemory.load(directory, search=f"faiss:{index}")
    memory = NeighborMemory.load(directory, search=f"approximate:{index}")
    assert memory.search_name.approximate
    positions, distances = memory.search(queries, 7)
    measured = (memory.keys[positions].double() - queries.double().unsqueeze(1)).square().sum(2).sqrt()
    torch.testing.assert_close(distances, measured, rtol=1e-12, atol=0)
    assert (distances.diff(dim=1) >= 0).all()
    assert 0.1 < memory.verify(queries, positions).recall <= 1


def test_an_exact_index_is_not_called_approximate(directory: Path) -> None:
    with pytest.raises(InputError, match="'Flat' is exact: leave out --approximate"):
        NeighborMemory.load(directory, search="approximate:Flat")


def test_missing_answers_are_searched_exactly(directory: Path) -> None:
    """A list that is probed may hold fewer keys than are sought."""
    memory = NeighborMemory.load(directory, search="approximate:IVF64,Flat")
    positions, distances = memory.search(memory.keys[:40], 60)
    assert (positions >= 0).all()
    assert all(len(set(row)) == 60 for row in positions.tolist())
    assert (distances.diff(dim=1) >= 0).all()


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("Nonsense", r"FAISS makes no index 'Nonsense' of 900 keys of dimension 24"),
        ("PCA40,Flat", r"FAISS makes no index 'PCA40,Flat' of 900 keys of dimension 24"),
        ("IDMap,Flat", r"FAISS makes no index 'IDMap,Flat'"),
    ],
)
def test_an_index_that_faiss_cannot_make_is_refused(directory: Path, index: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        NeighborMemory.load(directory, search=f"faiss:{index}")


def test_an_index_is_built_once_and_damage_is_told(tmp_path: Path) -> None:
    build_memory(tmp_path / "memory", draw_decaying(300, 6))
    NeighborMemory.load(tmp_path / "memory", search="faiss")
    (path,) = (tmp_path / "memory" / "faiss").glob("*/index.faiss")
    manifest = json.loads((path.parent / "manifest.json").read_text())
    assert manifest["factory"] == "Flat"
    written = path.stat().st_mtime_ns
    NeighborMemory.load(tmp_path / "memory", search="faiss")
    assert path.stat().st_mtime_ns == written
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=r"cannot be read .* delete that folder, and it is built again"):
        NeighborMemory.load(tmp_path / "memory", search="faiss")
    other = faiss.IndexFlatL2(6)
    other.add(np.zeros((2, 6), dtype=np.float32))
    faiss.write_index(other, str(path))
    with pytest.raises(InputError, match="is of 2 x 6 keys, the memory of 300 x 6"):
        NeighborMemory.load(tmp_path / "memory", search="faiss")


def test_an_index_of_another_memory_is_refused(tmp_path: Path) -> None:
    """Its distances would make wrong neighbors look certain."""
    build_memory(tmp_path / "memory", draw_decaying(300, 6))
    build_memory(tmp_path / "other", 8 * draw_decaying(300, 6))
    NeighborMemory.load(tmp_path / "other", search="faiss")
    shutil.copytree(tmp_path / "other" / "faiss", tmp_path / "memory" / "faiss")
    with pytest.raises(InputError, match="is of another memory; delete that folder"):
        NeighborMemory.load(tmp_path / "memory", search="faiss")


def test_an_index_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    build_memory(tmp_path / "memory", draw_decaying(300, 6))
    (tmp_path / "memory" / "faiss").write_text("a file in its place")
    with pytest.raises(InputError, match=r"index 'Flat' cannot be written to .*; make that folder writable, or use"):
        NeighborMemory.load(tmp_path / "memory", search="faiss")


_MEASURE = """
import sys
from otad_ray.memory import NeighborMemory
def own_megabytes():
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Anonymous")) / 1024
small = NeighborMemory.load(sys.argv[1], search=sys.argv[3])
small.search(small.keys[:16], 5)
before = own_megabytes()
large = NeighborMemory.load(sys.argv[2], search=sys.argv[3])
large.search(large.keys[:16], 5)
print(own_megabytes() - before)
"""


@pytest.mark.parametrize(
    "search",
    [
        "faiss:Flat",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("faiss:PCA64,Flat", "approximate:IVF4,Flat")),
    ],
)
def test_an_index_is_mapped_not_copied(tmp_path: Path, search: str) -> None:
    sizes = (500, 100_000)
    for size in sizes:
        points = torch.rand(size, 64, generator=torch.Generator().manual_seed(0))
        build_memory(tmp_path / str(size), points, batch=10_000)
        NeighborMemory.load(tmp_path / str(size), search=search)
    directories = [str(tmp_path / str(size)) for size in sizes]
    result = subprocess.run(
        [sys.executable, "-c", _MEASURE, *directories, search],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    # The index has 24 MiB.
    assert float(result.stdout) < 8
