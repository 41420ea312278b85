"""The neighbor memory: search against FAISS and brute force, leave-one-out, and broken directories."""

import json
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

from helpers.memories import build_memory
from otad_ray.errors import InputError
from otad_ray.memory import SEARCHES, NeighborMemory


def clustered(count: int, dimension: int, seed: int = 0) -> torch.Tensor:
    """Points far from the origin, with exact duplicates: hard for float32 distances."""
    generator = torch.Generator().manual_seed(seed)
    points = 30 + torch.randn(count, dimension, generator=generator)
    points[1::7] = points[0::7][: len(points[1::7])]
    return points


def brute_force(points: torch.Tensor, query: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    distances = (points.double()[None] - query.double()[:, None]).square().sum(2).sqrt().numpy()
    order = np.lexsort((np.broadcast_to(np.arange(len(points)), distances.shape), distances.round(12)))[:, :k]
    return order, np.take_along_axis(distances, order, 1)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize(("count", "dimension", "k"), [(500, 8, 10), (300, 200, 5), (12, 3, 12), (2000, 30, 1)])
def test_search_is_exact(tmp_path: Path, search: str, count: int, dimension: int, k: int) -> None:
    points = clustered(count, dimension)
    build_memory(tmp_path / "memory", points)
    memory = NeighborMemory.load(tmp_path / "memory", search=search)
    query = points[:40] + 0.1
    index, distance = memory.search(query, k)
    expected_index, expected_distance = brute_force(points, query, k)
    np.testing.assert_array_equal(index, expected_index)
    np.testing.assert_allclose(distance, expected_distance, rtol=1e-12)
    alone, _ = memory.search(query[7:8], k)
    assert torch.equal(alone, index[7:8])


def test_search_agrees_with_faiss(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    points, query = torch.rand(3000, 64, generator=generator), torch.rand(50, 64, generator=generator)
    index = faiss.IndexFlatL2(64)
    index.add(points.numpy())
    distances, positions = index.search(query.numpy(), 10)
    found, distance = build_memory(tmp_path / "memory", points).search(query, 10)
    np.testing.assert_array_equal(found, positions)
    np.testing.assert_allclose(distance, np.sqrt(distances), rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-22, 1e-3, 1e15])
@pytest.mark.parametrize("search", SEARCHES)
def test_search_is_exact_at_any_scale(tmp_path: Path, search: str, scale: float) -> None:
    generator = torch.Generator().manual_seed(3)
    points = scale * torch.randn(400, 6, generator=generator)
    build_memory(tmp_path / "memory", points)
    index, _ = NeighborMemory.load(tmp_path / "memory", search=search).search(points[:30] * 1.01, 5)
    distances = torch.cdist(points[:30].double() * 1.01 / scale, points.double() / scale)
    np.testing.assert_array_equal(index, distances.argsort(1)[:, :5])


def test_search_is_exact_far_from_the_origin(tmp_path: Path) -> None:
    """There, inner products in float32 say nothing, and sketches do, whose center is that of the keys."""
    points = 3000 + torch.randn(700, 4, generator=torch.Generator().manual_seed(4))
    index, distance = build_memory(tmp_path / "memory", points).search(points[:50], 3)
    assert index[:, 0].tolist() == list(range(50))
    expected_index, expected_distance = brute_force(points, points[:50], 3)
    np.testing.assert_array_equal(index, expected_index)
    np.testing.assert_allclose(distance, expected_distance, rtol=1e-12)


def test_a_memory_with_a_sketch_of_an_earlier_version_is_searched_without_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    points = torch.rand(300, 5, generator=torch.Generator().manual_seed(0))
    directory = tmp_path / "memory"
    expected = build_memory(directory, points).search(points[:20], 4)
    for path in directory.glob("s*.npy"):
        path.unlink()
    manifest = json.loads((directory / "manifest.json").read_text())
    (directory / "manifest.json").write_text(json.dumps(manifest | {"sketch": {"error": 0.1, "largest_norm": 1.0}}))
    with caplog.at_level("WARNING"):
        found = NeighborMemory.load(directory).search(points[:20], 4)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert f"the sketch in {directory} is of an earlier version" in caplog.text


def test_verify_says_which_answers_are_wrong(tmp_path: Path) -> None:
    points = torch.tensor([0.0, 1.0, 2.0, 4.0, 4.0, 9.0]).unsqueeze(1)
    memory = build_memory(tmp_path / "memory", points)
    queries = torch.tensor([[0.0], [0.0], [4.5], [4.5], [8.0]])
    answers = torch.tensor([[1, 0], [0, 2], [4, 3], [3, 3], [5, -1]])
    found = memory.verify(queries, answers)
    assert found.wrong.tolist() == [
        [False, False], [False, True], [False, False], [False, True], [False, True],
    ]  # fmt: skip
    assert found.positions.tolist() == [[0, 1], [0, 1], [3, 4], [3, 4], [5, 3]]
    assert found.recall == pytest.approx(0.7)


def test_any_of_the_keys_at_the_last_distance_is_a_right_answer(tmp_path: Path) -> None:
    memory = build_memory(tmp_path / "memory", torch.tensor([[0.0], [1.0], [-1.0], [1.0], [3.0]]))
    assert not memory.verify(torch.zeros(3, 1), torch.tensor([[0, 1], [0, 2], [3, 0]])).wrong.any()
    assert memory.verify(torch.zeros(1, 1), torch.tensor([[0, 4]])).wrong.tolist() == [[False, True]]


def test_a_key_at_the_last_distance_in_place_of_a_nearer_one_is_wrong(tmp_path: Path) -> None:
    memory = build_memory(tmp_path / "memory", torch.tensor([[0.0], [1.0], [-1.0], [1.0], [3.0]]))
    found = memory.verify(torch.zeros(2, 1), torch.tensor([[1, 2, 3], [3, 0, 1]]))
    assert found.wrong.tolist() == [[False, False, True], [False, False, False]]


def test_verify_refuses_what_are_no_answers(tmp_path: Path) -> None:
    memory = build_memory(tmp_path / "memory", torch.rand(5, 3))
    with pytest.raises(InputError, match=r"answers must be positions \(B, K\) for B = 2 queries, got \(3, 1\)"):
        memory.verify(torch.rand(2, 3), torch.zeros(3, 1, dtype=torch.int64))
    with pytest.raises(InputError, match=r"of torch\.bool"):
        memory.verify(torch.rand(2, 3), torch.zeros(2, 1, dtype=torch.bool))
    with pytest.raises(InputError, match=r"of torch\.float32"):
        memory.verify(torch.rand(2, 3), torch.zeros(2, 1))
    with pytest.raises(InputError, match="neighbors must be 1 to 5"):
        memory.verify(torch.rand(2, 3), torch.zeros(2, 6, dtype=torch.int64))


def test_leave_one_out_by_id(tmp_path: Path) -> None:
    points = torch.arange(6.0).unsqueeze(1)
    points[3] = 2.0  # an exact duplicate of row 2
    memory = build_memory(tmp_path / "memory", points)
    index, distance = memory.search(points[[2, 0]], 2, exclude_ids=torch.tensor([102, 999]))
    assert index.tolist() == [[3, 1], [0, 1]]
    assert distance.tolist() == [[0, 1], [0, 1]]


def test_keys_may_differ_from_points(tmp_path: Path) -> None:
    points = torch.rand(50, 5)
    keys = torch.arange(50.0).unsqueeze(1)
    memory = build_memory(tmp_path / "memory", points, keys=keys)
    index, _ = memory.search(torch.tensor([[7.2]]), 3)
    assert index.tolist() == [[7, 8, 6]]
    torch.testing.assert_close(memory.features[index[0]], 2 * points[index[0]])


def test_arrays_are_read_back_and_mapped(tmp_path: Path) -> None:
    points = torch.rand(131, 4)
    memory = build_memory(tmp_path / "memory", points, batch=50)
    torch.testing.assert_close(memory.points, points)
    assert memory.ids.tolist() == list(range(100, 231))
    assert memory.labels.dtype == torch.int64
    assert memory.keys.data_ptr() == memory.points.data_ptr()
    assert sorted(path.name for path in (tmp_path / "memory").iterdir()) == [
        "features.npy", "ids.npy", "labels.npy", "manifest.json", "points.npy", "sketch_basis.npy",
        "sketch_center.npy", "sketch_codes.npy", "sketch_terms.npy", "squared_norms.npy",
    ]  # fmt: skip


def test_build_takes_generators_in_lockstep(tmp_path: Path) -> None:
    points = torch.rand(90, 4)
    pulled = []

    def stream(name: str, array: torch.Tensor):
        for batch in array.split(30):
            pulled.append(name)
            yield batch

    NeighborMemory.build(
        tmp_path / "memory",
        None,
        stream("points", points),
        stream("features", points),
        stream("labels", torch.zeros(90)),
        stream("ids", torch.arange(90)),
    )
    assert pulled == ["points", "features", "labels", "ids"] * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": torch.tensor([1, 2, 2, 4])}, r"1 ids occur more than once, first \[2\]"),
        ({"points": torch.tensor([[1.0], [2], [float("nan")], [4]])}, "points of id 102 hold NaN or infinite"),
        ({"features": torch.full((4, 1), float("inf"))}, "features of id 100 hold NaN or infinite"),
        ({"features": torch.zeros(4, 2)}, "must agree in shape"),
        ({"labels": torch.zeros(3)}, "batches must agree in length"),
        ({"ids": torch.tensor([0.2, 0.7, 1.5, 2.0])}, "ids must be whole numbers"),
        ({"points": torch.zeros(4)}, "points batches must have 2"),
        ({"keys": torch.zeros(4, 0)}, r"rows of keys must have a coordinate at least, got shape \(4, 0\)"),
        ({"points": torch.full((4, 1), 1e19)}, "norm 1e.19"),
    ],
)
def test_build_refuses_bad_rows_and_leaves_nothing(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_memory(tmp_path / "memory", **{"points": torch.arange(4.0).unsqueeze(1), **changes})
    assert list(tmp_path.iterdir()) == []


def test_build_never_overwrites(tmp_path: Path) -> None:
    build_memory(tmp_path / "memory", torch.rand(4, 1))
    with pytest.raises(InputError, match="never overwritten"):
        build_memory(tmp_path / "memory", torch.rand(4, 1))


def test_search_refuses(tmp_path: Path) -> None:
    memory = build_memory(tmp_path / "memory", torch.rand(5, 3))
    with pytest.raises(InputError, match="dimension 3"):
        memory.search(torch.rand(2, 4), 1)
    with pytest.raises(InputError, match="neighbors must be 1 to 5"):
        memory.search(torch.rand(2, 3), 6)
    with pytest.raises(InputError, match="1 to 4, the leave-one-out neighbors"):
        memory.search(torch.rand(1, 3), 5, exclude_ids=torch.tensor([100]))
    with pytest.raises(InputError, match="neighbors must be 1 to 5"):
        memory.search(torch.rand(2, 3), 0)
    with pytest.raises(InputError, match="query 1 of 2 holds NaN"):
        memory.search(torch.tensor([[0, 0, 0], [0, float("nan"), 0]]), 1)
    with pytest.raises(InputError, match=r"a query has norm 1e\+25, the largest allowed is 1e\+18"):
        memory.search(torch.tensor([[1e25, 0, 0]]), 1)
    with pytest.raises(InputError, match="exclude_ids must be"):
        memory.search(torch.rand(3, 3), 1, exclude_ids=torch.tensor([100]))
    with pytest.raises(InputError, match="unknown search 'hnsw'; known: torch, faiss"):
        NeighborMemory.load(tmp_path / "memory", search="hnsw")


def test_missing_and_broken_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        NeighborMemory.load(tmp_path / "memory")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no memory directory: it has no manifest\.json"):
        NeighborMemory.load(tmp_path / "empty")
    build_memory(tmp_path / "memory", torch.rand(50, 3))
    points = tmp_path / "memory" / "points.npy"
    whole = points.read_bytes()
    for keep in (0, 60, len(whole) - 4):
        points.write_bytes(whole[:keep])
        with pytest.raises(InputError, match="missing or truncated"):
            NeighborMemory.load(tmp_path / "memory")
    points.write_bytes(whole)
    for name in (
        "sketch_codes.npy", "sketch_terms.npy", "squared_norms.npy", "sketch_basis.npy", "sketch_center.npy",
    ):  # fmt: skip
        sketch = (tmp_path / "memory" / name).read_bytes()
        (tmp_path / "memory" / name).write_bytes(sketch[:-1])
        with pytest.raises(InputError, match=r"the sketch in .* is missing or truncated"):
            NeighborMemory.load(tmp_path / "memory")
        (tmp_path / "memory" / name).write_bytes(sketch)
    points.unlink()
    with pytest.raises(InputError, match="missing or truncated"):
        NeighborMemory.load(tmp_path / "memory")
    np.save(points, np.zeros((49, 3), dtype=np.float32))
    with pytest.raises(InputError, match="its manifest says"):
        NeighborMemory.load(tmp_path / "memory")
    (tmp_path / "memory" / "manifest.json").write_text('{"kind": "memory"}')
    with pytest.raises(InputError, match="lacks 'shapes'"):
        NeighborMemory.load(tmp_path / "memory")
    (tmp_path / "memory" / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        NeighborMemory.load(tmp_path / "memory")
