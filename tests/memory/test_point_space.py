"""A memory that keeps coordinates of points gives what one that keeps the points gives."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from otad_ray.cip import Regularity, integrate
from otad_ray.defenses import KNN, OTAD, load_defense
from otad_ray.errors import InputError
from otad_ray.memory import IntegrationConfig, NeighborMemory, integrate_neighbors, label_features, label_rows
from otad_ray.models import ViT, ViTArchitecture

ROWS = 80
RELAXING = Regularity(smoothness=1.05, strong_convexity=0.95, relax_smoothness=0.1, relax_strong_convexity=0.1)
CONFIG = IntegrationConfig(num_neighbors=6, regularity=RELAXING)


@pytest.fixture(scope="module", params=["mean", "class_token"])
def net(request) -> ViT:
    torch.manual_seed(0)
    config = ViTArchitecture(
        shape=(1, 8, 8), num_outputs=4, patch_size=2, width=16, num_blocks=2, num_heads=2, hidden=16,
        pooling=request.param,
    )  # fmt: skip
    net = ViT(config).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return net


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Some near each other, so that neighborhoods are small enough to be relaxed little."""
    generator = torch.Generator().manual_seed(1)
    centers = torch.rand(8, 1, 8, 8, generator=generator)
    return (centers[torch.arange(ROWS + 10) % 8] + 0.2 * torch.rand(ROWS + 10, 1, 8, 8, generator=generator)) / 1.2


@torch.no_grad()
def build(directory: Path, net: ViT, x: torch.Tensor, *, full: bool) -> NeighborMemory:
    coordinates = net.coordinates(x)
    points = net.embed(x)
    features = net.features(points)
    return NeighborMemory.build(
        directory,
        None,
        [points if full else coordinates],
        [features],
        [torch.arange(len(x)) % 4],
        [torch.arange(len(x))],
        provenance={"backbone": net.fingerprint()},
        point_space=None if full else net.point_space,
    )


@torch.no_grad()
def test_coordinates_and_points_give_the_same_neighbors_potentials_and_features(tmp_path: Path, net, images) -> None:
    whole = build(tmp_path / "whole", net, images[:ROWS], full=True)
    small = build(tmp_path / "small", net, images[:ROWS], full=False)
    assert small.points.shape == (ROWS, 64)
    assert whole.points.shape[1] == net.dimension > 4 * 64 - 1
    queries = images[ROWS:]
    coordinates, points = net.coordinates(queries), net.embed(queries)
    near, found = integrate_neighbors(small, coordinates, coordinates, CONFIG)
    expected_near, expected = integrate_neighbors(whole, points, points, CONFIG)
    assert torch.equal(near, expected_near)
    assert torch.equal(found.relaxations, expected.relaxations)
    assert found.relaxations.max() > 0
    torch.testing.assert_close(found.potentials, expected.potentials, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.value, expected.value, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.feature, expected.feature, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_conic_solver_solves_it_in_all_dimensions(tmp_path: Path, net, images) -> None:
    memory = build(tmp_path / "memory", net, images[:ROWS], full=False)
    coordinates = net.coordinates(images[ROWS : ROWS + 2])
    near, exact = integrate_neighbors(memory, coordinates, coordinates, CONFIG)
    conic = integrate(
        coordinates,
        memory.points[near],
        memory.features[near],
        CONFIG.regularity,
        solver="clarabel",
        potentials=exact.potentials,
        isometry=memory.point_space,
    )
    torch.testing.assert_close(conic.value, exact.value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(conic.feature, exact.feature, rtol=1e-2, atol=1e-2)


def test_the_gradient_in_the_coordinates(tmp_path: Path, net, images) -> None:
    memory = build(tmp_path / "memory", net, images[:ROWS], full=False)
    near, _ = memory.search(net.coordinates(images[ROWS:]).detach(), 6)
    query = net.coordinates(images[ROWS:]).detach().double().requires_grad_()
    direction = torch.randn(10, net.dimension, generator=torch.Generator().manual_seed(2)).double()

    def value(at: torch.Tensor) -> torch.Tensor:
        points, features = memory.points[near].double(), memory.features[near].double()
        return (integrate(at, points, features, RELAXING, isometry=memory.point_space).feature * direction).sum(1)

    (gradient,) = torch.autograd.grad(value(query).sum(), query)
    step = 1e-6 * torch.randn(query.shape, generator=torch.Generator().manual_seed(3)).double()
    with torch.no_grad():
        difference = (value(query + step) - value(query - step)) / 2
    torch.testing.assert_close((gradient * step).sum(1), difference, rtol=1e-4, atol=1e-9)


def test_labels_say_the_features(tmp_path: Path, net, images) -> None:
    memory = build(tmp_path / "memory", net, images[:ROWS], full=False)
    table = label_rows(memory, np.arange(20), CONFIG, dense=True)
    dense = torch.from_numpy(np.stack(table["feature"].to_numpy(zero_copy_only=False)))
    assert dense.shape == (20, net.dimension)
    torch.testing.assert_close(label_features(memory, table, CONFIG), dense, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["otad", "knn"])
def test_a_saved_defense_is_loaded(tmp_path: Path, net, images, kind: str) -> None:
    memory = build(tmp_path / "memory", net, images[:ROWS], full=False)
    defense = OTAD(net, memory, CONFIG) if kind == "otad" else KNN(net, memory, 6)
    defense.save(tmp_path / "defense")
    queries = images[ROWS:].clone().requires_grad_()
    logits = load_defense(tmp_path / "defense")(queries)
    torch.testing.assert_close(logits, defense(images[ROWS:]))
    logits.sum().backward()
    assert torch.isfinite(queries.grad).all()


def test_point_space_refuses_points_that_do_not_fit(tmp_path: Path, net, images) -> None:
    memory = build(tmp_path / "memory", net, images[:ROWS], full=False)
    arrays = {"labels": [memory.labels], "ids": [memory.ids]}
    with pytest.raises(InputError, match="must agree in shape; coordinates of points in a smaller space need"):
        NeighborMemory.build(tmp_path / "a", None, [memory.points], [memory.features], **arrays)
    with pytest.raises(InputError, match=r"maps 64 coordinates to \d+ dimensions, got points of \d+ and features"):
        NeighborMemory.build(
            tmp_path / "b", None, [memory.features], [memory.features], **arrays, point_space=net.point_space
        )
    with pytest.raises(InputError, match="the memory's points have dimension 64"):
        integrate_neighbors(memory, memory.points[:2], memory.features[:2], CONFIG)
    (memory.directory / "point_space.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="is missing or damaged"):
        NeighborMemory.load(memory.directory)
    manifest = json.loads((memory.directory / "manifest.json").read_text())
    assert manifest["point_space"]["num_moving"] == 16
