"""Training of metric nets and transformers: restarts, several processes, augmentation, bad input."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional

from helpers.processes import run_in_two_processes
from otad_ray.data import data_set, load_all, open_split
from otad_ray.errors import InputError
from otad_ray.models import (
    BackboneConfig,
    MetricNet,
    MetricNetConfig,
    ViTConfig,
    build_backbone,
    build_metric_net,
)
from otad_ray.training import (
    EpochMetrics,
    MetricTrainingConfig,
    TrainingConfig,
    TrainingStore,
    accuracy,
    train_backbone,
    train_metric_net,
)
from otad_ray.training.augmentation import CropAndFlip

# 301 rows in batches of 64 leave 45 for the last: an odd number, for two processes.
ROWS = 301
METRIC = MetricTrainingConfig(epochs=3, batch_size=64, learning_rate=2e-3, augmentation="crop_flip")
VIT = BackboneConfig(architecture="vit", num_blocks=1, vit=ViTConfig(patch_size=2, width=16, num_heads=2))
TRANSFORMER = TrainingConfig(
    epochs=3, batch_size=64, optimizer="adamw", learning_rate=3e-3, energy_weight=0.01, augmentation="crop_flip"
)


@pytest.fixture(scope="module")
def rows() -> tuple[torch.Tensor, torch.Tensor]:
    train = load_all(open_split(data_set("digits"), "train"))
    return train.x[:ROWS], train.y[:ROWS]


def new_metric() -> MetricNet:
    torch.manual_seed(0)
    return build_metric_net(MetricNetConfig(architecture="cnn", width=8, num_keys=16), shape=(1, 8, 8))


def new_vit():
    torch.manual_seed(0)
    return build_backbone(VIT, shape=(1, 8, 8), num_outputs=10)


class KilledError(Exception):
    pass


def stop_after(epoch: int):
    def stop(metrics: EpochMetrics) -> None:
        if metrics.epoch == epoch:
            raise KilledError

    return stop


@pytest.mark.parametrize(
    ("new", "train", "config"), [(new_metric, train_metric_net, METRIC), (new_vit, train_backbone, TRANSFORMER)]
)
def test_a_resumed_training_is_exactly_the_uninterrupted_one(rows, tmp_path: Path, new, train, config) -> None:
    history: list[EpochMetrics] = []
    expected = train(new(), *rows, config, on_epoch=history.append)
    store = TrainingStore(tmp_path)
    with pytest.raises(KilledError):
        train(new(), *rows, config, on_epoch=stop_after(1), store=store)
    found = train(new(), *rows, config, store=store)
    assert store.load(3).history == tuple(history)
    assert found.fingerprint() == expected.fingerprint() != new().fingerprint()
    other = replace(config, learning_rate=1e-4)
    with pytest.raises(InputError, match="holds the state of another training"):
        train(new(), *rows, other, store=store)


def _train_as_one_of(rank: int, size: int, directory: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/rendezvous", rank=rank, world_size=size)
    train = load_all(open_split(data_set("digits"), "train"))
    store = TrainingStore(Path(directory) / "state")
    try:
        train_metric_net(new_metric(), train.x[:ROWS], train.y[:ROWS], METRIC, store=store)
    finally:
        # gloo aborts a process whose peer is gone, also one that is taking its own group down: nobody does.
        dist.barrier()
        os._exit(0)


@pytest.mark.timeout(120)
def test_two_processes_learn_from_the_triplets_of_the_whole_batch(rows, tmp_path: Path) -> None:
    history: list[EpochMetrics] = []
    expected = train_metric_net(new_metric(), *rows, METRIC, on_epoch=history.append)
    run_in_two_processes(_train_as_one_of, str(tmp_path))
    state = TrainingStore(tmp_path / "state").load(3)
    for found, wanted in zip(state.history, history, strict=True):
        assert found.values() == pytest.approx(wanted.values(), rel=1e-3)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(state.network[name], value, rtol=1e-2, atol=1e-4)


def test_a_metric_net_brings_neighbors_of_one_class_together(rows) -> None:
    history: list[EpochMetrics] = []
    net = train_metric_net(new_metric(), *rows, replace(METRIC, epochs=8, augmentation="none"), on_epoch=history.append)
    assert history[-1].active < 0.8 * history[0].active
    test = load_all(open_split(data_set("digits"), "test"))

    @torch.no_grad()
    def vote(metric) -> float:
        nearest = torch.cdist(metric(test.x), metric(rows[0])).argmin(1)
        return float((rows[1][nearest] == test.y).double().mean())

    assert vote(net) > vote(new_metric().eval()) + 0.1


def test_a_transformer_learns_digits_in_either_precision(rows) -> None:
    train, test = (load_all(open_split(data_set("digits"), split)) for split in ("train", "test"))
    for precision in ("float32", "bfloat16"):
        config = replace(
            TRANSFORMER, epochs=12, learning_rate=1e-2, energy_weight=0.0, augmentation="none", precision=precision
        )
        net = train_backbone(new_vit(), train.x, train.y, config)
        assert {value.dtype for value in net.state_dict().values()} == {torch.float32}
        assert accuracy(net, test.x, test.y) > 0.8


@pytest.mark.parametrize("architecture", ["vit", "attention", "resnet", "cnn", "orthogonal"])
def test_a_process_may_have_no_rows_of_a_batch(architecture: str) -> None:
    net = build_metric_net(MetricNetConfig(architecture=architecture, width=8, num_keys=8), shape=(1, 8, 8))
    keys = net(torch.zeros(0, 1, 8, 8))
    assert keys.shape == (0, 8)
    keys.sum().backward()
    vit = new_vit()
    points = vit.embed(torch.zeros(0, 1, 8, 8))
    features, energy = vit.transport(points)
    (vit.head(features).sum() + energy.sum()).backward()
    assert vit.coordinates(torch.zeros(0, 1, 8, 8)).shape == (0, 64)


def test_images_are_shifted_and_mirrored_alike_whoever_asks(rows) -> None:
    images = torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    changed = CropAndFlip(num_rows=20, edge=16, seed=3)
    changed.start_epoch(2)
    whole = changed(images, torch.arange(20))
    some = torch.tensor([7, 3, 19])
    assert torch.equal(changed(images[some], some), whole[some])
    padded = functional.pad(images, [2] * 4)
    crops = torch.stack([padded[:, :, i : i + 16, j : j + 16] for i in range(5) for j in range(5)])
    found = (torch.cat([crops, crops.flip(4)]) == whole).flatten(2).all(2)
    assert found.any(0).all()
    # Many different ones, and others in another epoch.
    assert len({int(place) for place in found.int().argmax(0)}) > 8
    changed.start_epoch(3)
    assert not torch.equal(changed(images, torch.arange(20)), whole)


def test_train_metric_refuses_rows_and_nets_that_do_not_fit(rows) -> None:
    x, y = rows
    for inputs, labels, message in [
        (x, y.float(), "trained on classes, got labels of torch.float32"),
        (x, y[1:], "one label per row"),
        (x[:0], y[:0], "at least one row"),
        (torch.rand(4, 3, 8, 8), y[:4], r"takes samples of shape \(1, 8, 8\), got \(3, 8, 8\)"),
    ]:
        with pytest.raises(InputError, match=message):
            train_metric_net(new_metric(), inputs, labels, METRIC)
    with pytest.raises(InputError, match="unknown metric loss 'circle'; known: triplet, contrastive"):
        MetricTrainingConfig(loss="circle")
    with pytest.raises(InputError, match=r"need a finite margin > 0, got -1\.0"):
        MetricTrainingConfig(margin=-1.0)
    torch.manual_seed(0)
    net = build_backbone(BackboneConfig(num_blocks=1), shape=(64,), num_outputs=10)
    with pytest.raises(InputError, match=r"is for images .* got samples of shape \(64,\)"):
        train_backbone(net, x.flatten(1), y, TrainingConfig(augmentation="crop_flip"))
    with pytest.raises(InputError, match="unknown augmentation 'mixup'"):
        train_backbone(net, x, y, TrainingConfig(augmentation="mixup"))  # type: ignore[arg-type]
