"""The training loop: restarts, several processes, precision, regression, bad input."""

import logging
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from helpers.processes import run_in_two_processes
from otad_ray.data import data_set, load_all, open_split
from otad_ray.errors import InputError
from otad_ray.models import Backbone, BackboneConfig, build_backbone
from otad_ray.training import (
    EpochMetrics,
    TrainingConfig,
    TrainingStore,
    accuracy,
    held_out_metric,
    mean_squared_error,
    train_backbone,
)

# 1437 rows in batches of 64 leave 29 for the last: an odd number, for two processes.
CONFIG = TrainingConfig(epochs=4, batch_size=64, learning_rate=0.1, energy_weight=0.01)


@pytest.fixture(scope="module")
def rows() -> tuple[torch.Tensor, torch.Tensor]:
    train = load_all(open_split(data_set("digits"), "train"))
    return train.x, train.y


def new_backbone(num_outputs: int = 10, architecture: str = "fc_resnet") -> Backbone:
    torch.manual_seed(0)
    config = BackboneConfig(architecture=architecture, num_blocks=2)
    return build_backbone(config, shape=(64,), num_outputs=num_outputs)


def trained(
    rows: tuple[torch.Tensor, torch.Tensor], config: TrainingConfig = CONFIG, store: TrainingStore | None = None
) -> tuple[Backbone, list[EpochMetrics]]:
    history: list[EpochMetrics] = []
    return train_backbone(new_backbone(), *rows, config, on_epoch=history.append, store=store), history


@pytest.fixture(scope="module")
def uninterrupted(rows: tuple[torch.Tensor, torch.Tensor]) -> tuple[Backbone, list[EpochMetrics]]:
    return trained(rows)


class KilledError(Exception):
    pass


def train_until(epoch: int, rows: tuple[torch.Tensor, torch.Tensor], store: TrainingStore) -> None:
    def stop(metrics: EpochMetrics) -> None:
        if metrics.epoch == epoch:
            raise KilledError

    with pytest.raises(KilledError):
        train_backbone(new_backbone(), *rows, CONFIG, on_epoch=stop, store=store)


def test_a_resumed_training_is_exactly_the_uninterrupted_one(rows, uninterrupted, tmp_path: Path) -> None:
    store = TrainingStore(tmp_path)
    train_until(2, rows, store)
    backbone, history = trained(rows, store=store)
    assert [metrics.epoch for metrics in history] == [3, 4]
    assert store.load(4).history == tuple(uninterrupted[1])
    assert backbone.fingerprint() == uninterrupted[0].fingerprint()
    # A finished one has nothing left to do.
    assert trained(rows, store=store)[1] == []


def test_states_are_kept_as_often_as_asked_and_at_the_end(rows, uninterrupted, tmp_path: Path) -> None:
    store = TrainingStore(tmp_path, every=3)
    train_until(2, rows, store)
    assert not list(tmp_path.iterdir())
    assert trained(rows, store=store)[0].fingerprint() == uninterrupted[0].fingerprint()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-00003.safetensors", "epoch-00004.safetensors"]


def test_a_damaged_state_costs_its_epoch_and_nothing_else(
    rows, uninterrupted, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = TrainingStore(tmp_path)
    train_until(3, rows, store)
    newest = tmp_path / "epoch-00003.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"epoch-00003\.safetensors cannot be read .* delete it"):
        store.load(3)
    with caplog.at_level(logging.WARNING):
        backbone, history = trained(rows, store=store)
    assert "epoch-00003.safetensors cannot be read" in caplog.text
    assert [metrics.epoch for metrics in history] == [3, 4]
    assert backbone.fingerprint() == uninterrupted[0].fingerprint()


def test_the_state_of_another_training_is_refused(rows, tmp_path: Path) -> None:
    store = TrainingStore(tmp_path)
    train_until(1, rows, store)
    x, y = rows
    with pytest.raises(InputError, match="holds the state of another training"):
        train_backbone(new_backbone(architecture="fc_plain"), x, y, CONFIG, store=store)
    with pytest.raises(InputError, match="holds the state of another training"):
        train_backbone(new_backbone(), x, y, TrainingConfig(epochs=4, batch_size=32), store=store)
    with pytest.raises(InputError, match="holds the state of another training"):
        train_backbone(new_backbone(), x[1:], y[1:], CONFIG, store=store)
    with pytest.raises(InputError, match="holds the state of another training"):
        train_backbone(new_backbone(), x, y.flip(0), CONFIG, store=store)


def _train_as_one_of(rank: int, size: int, directory: str, config: TrainingConfig, take: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/rendezvous", rank=rank, world_size=size)
    train = load_all(open_split(data_set("digits"), "train"))
    store = TrainingStore(Path(directory) / "state")
    try:
        train_backbone(new_backbone(), train.x[:take], train.y[:take], config, store=store)
    except FloatingPointError as error:
        Path(directory, f"diverged-{rank}").write_text(str(error))
    finally:
        # gloo aborts a process whose peer is gone, also one that is taking its own group down: nobody does.
        dist.barrier()
        os._exit(0)


@pytest.mark.timeout(120)
def test_two_processes_learn_what_one_learns(rows, uninterrupted, tmp_path: Path) -> None:
    """Also when they go on from a state that one process left."""
    store = TrainingStore(tmp_path / "state")
    train_until(1, rows, store)
    run_in_two_processes(_train_as_one_of, str(tmp_path), CONFIG, 1437)
    state = store.load(4)
    for found, expected in zip(state.history, uninterrupted[1], strict=True):
        assert found.values() == pytest.approx(expected.values(), rel=1e-4)
    for name, expected in uninterrupted[0].state_dict().items():
        torch.testing.assert_close(state.network[name], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.timeout(120)
def test_every_process_sees_that_training_diverges_and_may_have_no_rows(tmp_path: Path) -> None:
    # The last batch has one row, for two processes.
    diverging = TrainingConfig(epochs=3, batch_size=64, learning_rate=1e6)
    run_in_two_processes(_train_as_one_of, str(tmp_path), diverging, 65)
    for rank in range(2):
        assert "lower learning_rate (1000000.0)" in (tmp_path / f"diverged-{rank}").read_text()


@pytest.mark.parametrize("architecture", ["fc_resnet", "fc_plain"])
def test_bfloat16_trains_as_well_with_parameters_and_energy_in_float32(architecture: str, rows) -> None:
    backbone = new_backbone(architecture=architecture)
    with torch.autocast("cpu", torch.bfloat16):
        features, energy = backbone.transport(backbone.embed(rows[0][:4]))
    assert features.dtype == energy.dtype == torch.float32
    losses = {}
    for precision in ("float32", "bfloat16"):
        config = TrainingConfig(epochs=4, batch_size=64, learning_rate=0.1, energy_weight=0.0, precision=precision)
        history: list[EpochMetrics] = []
        backbone = train_backbone(new_backbone(architecture=architecture), *rows, config, on_epoch=history.append)
        assert {value.dtype for value in backbone.state_dict().values()} == {torch.float32}
        losses[precision] = history[-1].loss
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.2)
    assert losses["bfloat16"] != losses["float32"]


@pytest.fixture
def linear_rows() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(600, 64, generator=generator)
    return x, x @ torch.randn(64, generator=generator) / 8 + 3


def test_regression_minimizes_the_squared_error(linear_rows) -> None:
    x, y = linear_rows
    history: list[EpochMetrics] = []
    config = TrainingConfig(epochs=20, batch_size=32, learning_rate=0.02, energy_weight=0.01)
    backbone = train_backbone(new_backbone(1), x[:500], y[:500], config, on_epoch=history.append)
    assert {metrics.accuracy for metrics in history} == {None}
    assert history[0].mse > history[-1].mse
    with torch.no_grad():
        expected = (backbone(x[500:])[:, 0] - y[500:]).square().mean()
    found = mean_squared_error(backbone, x[500:], y[500:], batch_size=7)
    assert found == pytest.approx(float(expected))
    assert found < float(y.var()) / 4
    assert held_out_metric(backbone, x[500:], y[500:]) == ("mse", pytest.approx(found))
    assert history[-1].loss == pytest.approx(history[-1].mse + 0.01 * history[-1].energy)
    assert history[-1].values().keys() == {"loss", "energy", "mse"}


def test_held_out_accuracy(uninterrupted, rows) -> None:
    backbone = uninterrupted[0]
    expected = float((backbone(rows[0]).argmax(1) == rows[1]).double().mean())
    assert accuracy(backbone, *rows, batch_size=100) == pytest.approx(expected)
    assert held_out_metric(backbone, *rows) == ("accuracy", pytest.approx(expected))


def test_rows_that_do_not_fit_the_backbone_are_refused(rows) -> None:
    x, y = rows
    cases = {
        "one target per row": (new_backbone(), x, y[1:]),
        "at least one row": (new_backbone(), x[:0], y[:0]),
        "num_outputs = 1, got 10": (new_backbone(), x, y.float()),
        r"classes 0 \.\. 8": (new_backbone(9), x, y),
    }
    for message, (backbone, inputs, targets) in cases.items():
        with pytest.raises(InputError, match=message):
            train_backbone(backbone, inputs, targets, CONFIG)
    with pytest.raises(InputError, match="at least 1 epoch"):
        TrainingStore(Path("unused"), every=0)
