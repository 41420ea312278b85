"""Training of CIP-net: it comes near the solver, goes on after a restart, and mixes targets by alpha."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from otad_ray.cip import Regularity
from otad_ray.defenses import OTADNN, load_defense
from otad_ray.errors import InputError
from otad_ray.memory import (
    IntegrationConfig,
    NeighborMemory,
    integrate_neighbors,
    label_positions,
    label_rows,
    label_weights,
)
from otad_ray.models import BackboneConfig, CipNet, CipNetConfig, ViTConfig, build_backbone, build_cip_net
from otad_ray.training import (
    CipNetTrainingConfig,
    EpochMetrics,
    SolvedRows,
    TrainingStore,
    approximation_errors,
    split_solved,
    train_cip_net,
)

INTEGRATION = IntegrationConfig(num_neighbors=6, regularity=Regularity(smoothness=3.0, strong_convexity=-0.5))
CONFIG = CipNetTrainingConfig(epochs=8, batch_size=32)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    options = BackboneConfig(
        architecture="vit", num_blocks=1, hidden=16, vit=ViTConfig(patch_size=2, width=8, num_heads=2)
    )
    net = build_backbone(options, shape=(1, 6, 6), num_outputs=3).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return net


@pytest.fixture(scope="module")
def memory(net, tmp_path_factory) -> NeighborMemory:
    x = torch.rand(600, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        points = net.coordinates(x)
        features = net.features(net.points_of(points))
    return NeighborMemory.build(
        tmp_path_factory.mktemp("root") / "memory",
        None,
        [points],
        [features],
        [torch.arange(600) % 3],
        [7 + torch.arange(600)],
        provenance={"backbone": net.fingerprint()},
        point_space=net.point_space,
    )


@pytest.fixture(scope="module")
def solved(memory) -> SolvedRows:
    table = label_rows(memory, np.arange(600), INTEGRATION)
    return SolvedRows(*label_positions(memory, table, 6), label_weights(table, 6))


def new_net(memory: NeighborMemory, head: str = "simplex", backbone: str | None = None) -> CipNet:
    torch.manual_seed(0)
    return build_cip_net(
        CipNetConfig(head=head, width=32, num_blocks=1, num_heads=2),
        num_neighbors=6,
        coordinates=memory.points.shape[1],
        dimension=memory.features.shape[1],
        backbone=backbone,
    )


def trained(memory, solved, config: CipNetTrainingConfig = CONFIG, head: str = "simplex", **options) -> CipNet:
    return train_cip_net(new_net(memory, head), memory, solved, INTEGRATION, config, **options)


def test_the_simplex_head_beats_the_neighbor_mean_and_the_papers_head(memory, solved) -> None:
    _, held_out = split_solved(solved, CONFIG)
    errors = {}
    for head in ("simplex", "feature"):
        history: list[EpochMetrics] = []
        cip_net = trained(memory, solved, head=head, on_epoch=history.append)
        errors[head] = approximation_errors(cip_net, memory, held_out, INTEGRATION)
        assert history[-1].squared_error == pytest.approx(history[-1].loss)
        assert history[-1].loss < history[0].loss
    assert errors["simplex"]["error_to_mean"] < 0.5
    assert errors["simplex"]["error_to_mean"] < errors["feature"]["error_to_mean"]


@torch.no_grad()
def test_errors_are_measured_against_the_solver(memory, solved) -> None:
    """On held-out rows: the exact features once more, by their leave-one-out neighbors."""
    _, held_out = split_solved(solved, CONFIG)
    rows = held_out.rows
    points = memory.points[rows]
    near, exact = integrate_neighbors(memory, points, points, INTEGRATION, exclude_ids=memory.ids[rows])
    new = new_net(memory)
    new.set_scales(1.0, 1.0)
    errors = approximation_errors(new, memory, held_out, INTEGRATION)
    displaced = memory.point_space.lift(points.unsqueeze(1) - memory.points[near])
    centers = memory.features[near] - 0.5 * displaced
    # A new net gives the mean of the w_i.
    squared = (centers.mean(1) - exact.feature).double().square().sum(1).mean()
    assert errors["squared_error"] == pytest.approx(float(squared), rel=1e-4)
    of_mean = (memory.features[near].mean(1) - exact.feature).double().square().sum(1).mean()
    assert errors["error_to_mean"] == pytest.approx(float(squared / of_mean), rel=1e-4)
    assert errors["relative_error"] == pytest.approx(
        float(squared / exact.feature.double().square().sum(1).mean()), rel=1e-4
    )


def test_alpha_leads_from_the_solvers_features_to_the_backbones_own(memory, solved) -> None:
    """Loss (24): what the feature head is near to follows alpha."""

    @torch.no_grad()
    def distance_to_own(cip_net: CipNet) -> float:
        neighbors = memory.features[solved.neighbors]
        own = memory.features[solved.rows]
        query = memory.points[solved.rows]
        found = cip_net(query, memory.points[solved.neighbors], neighbors).feature
        return float((found - own).square().sum(1).mean())

    config = replace(CONFIG, epochs=12)
    distances = [
        distance_to_own(trained(memory, solved, replace(config, alpha=alpha), head="feature"))
        for alpha in (0.0, 0.5, 1.0)
    ]
    assert distances[0] < distances[1] < distances[2]
    history: list[EpochMetrics] = []
    trained(memory, solved, replace(CONFIG, epochs=1, alpha=0.0), on_epoch=history.append)
    assert history[0].loss != pytest.approx(history[0].squared_error)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_training_is_exactly_the_uninterrupted_one(memory, solved, tmp_path: Path, precision: str) -> None:
    config = replace(CONFIG, epochs=3, precision=precision)
    expected = trained(memory, solved, config)

    class KilledError(Exception):
        pass

    def stop(metrics: EpochMetrics) -> None:
        if metrics.epoch == 2:
            raise KilledError

    store = TrainingStore(tmp_path)
    with pytest.raises(KilledError):
        trained(memory, solved, config, store=store, on_epoch=stop)
    assert trained(memory, solved, config, store=store).fingerprint() == expected.fingerprint()
    with pytest.raises(InputError, match="holds the state of another training"):
        trained(memory, solved.take(torch.arange(500)), config, store=store)


def test_held_out_rows_are_the_same_each_time_and_never_trained_on(solved) -> None:
    parts = split_solved(solved, CONFIG)
    assert [len(part.rows) for part in parts] == [540, 60]
    assert sorted(torch.cat([part.rows for part in parts]).tolist()) == list(range(600))
    assert torch.equal(split_solved(solved, CONFIG)[1].rows, parts[1].rows)
    assert not torch.equal(split_solved(solved, replace(CONFIG, seed=1))[1].rows, parts[1].rows)


@pytest.mark.parametrize("head", ["simplex", "feature"])
def test_the_defense_is_saved_and_has_a_gradient(memory, solved, net, tmp_path: Path, head: str) -> None:
    cip_net = new_net(memory, head, backbone=net.fingerprint())
    train_cip_net(cip_net, memory, solved, INTEGRATION, replace(CONFIG, epochs=1))
    defense = OTADNN(net, memory, cip_net, INTEGRATION)
    defense.save(tmp_path / "defense")
    loaded = load_defense(tmp_path / "defense")
    x = torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(2))
    logits, features, solution = loaded.forward_details(x)
    assert solution is None
    torch.testing.assert_close(logits, defense(x))
    inputs = x.clone().requires_grad_()
    loaded(inputs)[:, 0].sum().backward()
    assert inputs.grad.abs().sum((1, 2, 3)).gt(0).all()
    if head == "simplex":
        near, _ = memory.search(net.coordinates(x).detach(), 6)
        displaced = memory.point_space.lift(net.coordinates(x).detach().unsqueeze(1) - memory.points[near])
        centers = (memory.features[near] - 0.5 * displaced).detach()
        weights = cip_net(
            net.coordinates(x), memory.points[near], memory.features[near],
            memory.point_space.project(memory.features[near]),
        ).weights  # fmt: skip
        torch.testing.assert_close((weights.float().unsqueeze(1) @ centers).squeeze(1), features, rtol=1e-4, atol=1e-4)


def test_train_cip_net_refuses_labels_and_nets_that_do_not_fit(memory, solved, net) -> None:
    for alpha in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match=r"need alpha in \[0, 1\]"):
            CipNetTrainingConfig(alpha=alpha)
    with pytest.raises(InputError, match="need held_out between 0 and 1"):
        CipNetTrainingConfig(held_out=1.0)
    with pytest.raises(InputError, match="2 solved labels are too few"):
        split_solved(solved.take(torch.arange(2)), CONFIG)
    other = replace(INTEGRATION, num_neighbors=7)
    with pytest.raises(InputError, match="takes num_neighbors=6, got 7"):
        train_cip_net(new_net(memory), memory, solved, other, CONFIG)
    with pytest.raises(InputError, match="takes num_neighbors=6, got 7"):
        OTADNN(net, memory, new_net(memory), other)
    with pytest.raises(InputError, match="was trained on features of backbone 0123"):
        OTADNN(net, memory, new_net(memory, backbone="0123456789abcdef"), INTEGRATION)
