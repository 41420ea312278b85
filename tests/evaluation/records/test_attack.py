"""Records of planted examples: each verdict, status and measurement."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from otad_ray.attacks import AttackResult, Budget, Norm, Streams, find_attack
from otad_ray.cip import Regularity, Status
from otad_ray.data import Batch
from otad_ray.defenses import OTAD, Undefended
from otad_ray.errors import InputError
from otad_ray.evaluation import (
    METRIC_COLUMNS,
    AttackRun,
    attack_records,
    failed_records,
    record_attack,
    record_schema,
    skipped_records,
)
from otad_ray.memory import IntegrationConfig, NeighborMemory
from otad_ray.models import BackboneConfig, build_backbone


class Sign(nn.Module):
    """Class 1 where the first value is positive, in two logits; NaN where the second is above 5."""

    def forward(self, inputs: Tensor) -> Tensor:
        first, second = inputs.flatten(1)[:, 0], inputs.flatten(1)[:, 1]
        return torch.stack([-first, torch.where(second > 5, torch.nan, first)], 1)


class Noisy(Sign):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) + 0.1 * torch.rand(len(inputs), 2)


def records(
    defense: nn.Module,
    x: Tensor,
    y: Tensor,
    x_adv: Tensor,
    *,
    norm: Norm = "l2",
    eps: float = 1.0,
    bounds: tuple[float, float] | None = None,
) -> pa.Table:
    nothing = torch.zeros(len(x), dtype=torch.int64)
    result = AttackResult(
        x_adv=x_adv,
        queries=nothing + 7,
        gradient_queries=nothing,
        zero_gradient_share=torch.full((len(x),), torch.nan, dtype=torch.float64),
    )
    run = AttackRun(name="planted", budget=Budget(eps=eps, norm=norm, bounds=bounds), seed=3)
    return attack_records(defense, Batch(torch.arange(len(x)) + 10, x, y), result, run, cohort=2)


def test_a_verdict_for_every_case() -> None:
    x = torch.tensor([[0.5, 0.0], [0.5, 0.0], [0.5, 0.0], [0.5, 4.5], [0.5, 0.0], [0.5, 9.0]])
    step = torch.tensor([[-0.6, 0.0], [0.1, 0.0], [0.0, 0.0], [0.0, 0.9], [-2.0, 0.0], [0.0, 0.1]])
    y = torch.tensor([1, 1, 0, 1, 1, 1])
    table = records(Sign(), x, y, x + step)
    assert table["status"].to_pylist() == ["ok", "ok", "ok", "nan_logits", "invalid", "nan_logits"]
    assert table["clean_prediction"].to_pylist() == [1, 1, 1, 1, 1, -1]
    assert table["prediction"].to_pylist() == [0, 1, 1, -1, 1, -1]
    assert table["clean_correct"].to_pylist() == [True, True, False, True, True, False]
    assert table["success"].to_pylist() == [True, False, False, False, False, False]
    assert table["broken"].to_pylist() == [True, False, True, True, False, True]
    assert table["id"].to_pylist() == [10, 11, 12, 13, 14, 15]
    moved = (x + step).double() - x.double()
    np.testing.assert_allclose(table["l2"].to_numpy(), moved.norm(dim=1), rtol=1e-12)
    np.testing.assert_allclose(table["linf"].to_numpy(), moved.abs().amax(1), rtol=0)
    assert set(table["solver_status"].to_pylist()) == {""}
    assert set(table["relaxations"].to_pylist()) == {-1}
    assert np.isnan(table["feature_distance"].to_numpy()).all()
    assert not any(table["repeat_differs"].to_pylist())
    assert set(METRIC_COLUMNS) <= set(table.column_names)
    np.testing.assert_array_equal(np.array(table["x_adv"].to_pylist(), dtype=np.float32), (x + step).numpy())


@pytest.mark.parametrize(
    ("x_adv", "norm", "eps", "bounds", "status"),
    [
        ([0.5, 0.5 + 0.25 * (1 + 0.5e-6)], "l2", 0.25, None, "ok"),
        ([0.5, 0.5 + 0.25 * (1 + 3e-6)], "l2", 0.25, None, "invalid"),
        ([0.7, 0.7], "l2", 0.25, None, "invalid"),
        ([0.7, 0.7], "linf", 0.25, None, "ok"),
        ([0.5, 1.0], "linf", 1.0, (0.0, 1.0), "ok"),
        ([0.5, 1.0000001], "linf", 1.0, (0.0, 1.0), "invalid"),
        ([0.5, 0.1], "linf", 1.0, (0.1, 0.9), "ok"),
        ([0.5, float("nan")], "linf", 1.0, (0.0, 1.0), "invalid"),
        ([0.5, float("inf")], "linf", float("inf"), None, "invalid"),
        ([0.5, 1e6], "l2", float("inf"), None, "nan_logits"),
        ([0.5, 0.5], "l2", 0.0, None, "ok"),
        ([0.5, 0.50001], "l2", 0.0, None, "invalid"),
    ],
)
def test_examples_keep_to_their_budget(x_adv, norm, eps, bounds, status) -> None:
    x = torch.tensor([[0.5, 0.5]])
    table = records(Sign(), x, torch.tensor([1]), torch.tensor([x_adv]), norm=norm, eps=eps, bounds=bounds)
    assert table["status"].to_pylist() == [status]
    assert table["broken"].to_pylist() == [status == "nan_logits"]


def test_a_random_defense_is_found_out() -> None:
    x = torch.rand(4, 2)
    table = records(Noisy(), x, torch.ones(4, dtype=torch.int64), x)
    assert all(table["repeat_differs"].to_pylist())


def test_regression_records_values() -> None:
    net = nn.Linear(2, 1)
    x, y = torch.rand(3, 2), torch.rand(3)
    table = records(net, x, y, x + 0.1)
    np.testing.assert_allclose(table["prediction"].to_numpy(), net(x + 0.1)[:, 0].detach(), rtol=1e-6)
    np.testing.assert_allclose(table["label"].to_numpy(), y.double())
    assert table["clean_correct"].null_count == table["success"].null_count == 3
    assert table["broken"].to_pylist() == [False] * 3
    assert table.schema == record_schema(regression=True)
    with torch.no_grad():
        net.bias.fill_(torch.nan)
    table = records(net, x, y, x)
    assert table["broken"].to_pylist() == [True] * 3
    assert all(math.isnan(value) for value in table["prediction"].to_pylist())


def test_every_kind_of_record_has_the_same_schema_also_on_disk(tmp_path: Path) -> None:
    x = torch.rand(3, 1, 2, 2)
    y = torch.ones(3, dtype=torch.int64)
    attacked = records(Sign(), x, y, x - 2.0, eps=9.0)
    run = AttackRun(name="square", budget=Budget(eps=9.0), seed=0)
    skipped = skipped_records(attacked, run)
    failed = failed_records(Batch(torch.arange(3), x, y), run, cohort=0, error="boom")
    whole = pa.concat_tables([attacked, skipped, failed])
    assert whole.schema == record_schema()
    pq.write_table(whole, tmp_path / "records.parquet")
    assert str(pq.read_table(tmp_path / "records.parquet").to_pylist()) == str(whole.to_pylist())
    assert skipped["broken"].to_pylist() == skipped["clean_correct"].to_pylist() == [True] * 3
    assert skipped["clean_logits"] == attacked["clean_logits"]
    assert skipped["success"].to_pylist() == [False] * 3
    assert skipped["x_adv"].null_count == failed["x_adv"].null_count == failed["broken"].null_count == 3
    assert failed["error"].to_pylist() == ["boom"] * 3
    with pytest.raises(InputError, match="only be skipped if an earlier attack broke them"):
        skipped_records(records(Sign(), x, y, x), run)


@pytest.fixture
def otad(tmp_path: Path) -> OTAD:
    torch.manual_seed(0)
    net = build_backbone(BackboneConfig(num_blocks=1), shape=(12,), num_outputs=4).eval()
    torch.nn.init.normal_(net.blocks[0][2].weight, std=0.3)
    points = torch.rand(60, 12)
    with torch.no_grad():
        features = net.features(points)
    memory = NeighborMemory.build(
        tmp_path / "memory", None, [points], [features], [torch.arange(60) % 4], [torch.arange(60)]
    )
    regularity = Regularity(strong_convexity=-0.5)
    return OTAD(net, memory, IntegrationConfig(num_neighbors=5, regularity=regularity))


def test_otad_tells_of_its_solver(otad: OTAD) -> None:
    x = torch.rand(6, 1, 3, 4)
    x_adv = x + 0.05 * torch.randn(x.shape)
    table = records(otad, x, torch.zeros(6, dtype=torch.int64), x_adv, eps=5.0)
    before, after = otad.integrate(x)[1], otad.integrate(x_adv)[1]
    assert table["solver_status"].to_pylist() == [Status(code).label for code in after.status.tolist()]
    assert table["clean_relaxations"].to_pylist() == before.relaxations.tolist()
    assert table["relaxations"].to_pylist() == after.relaxations.tolist()
    np.testing.assert_allclose(table["smoothness_used"].to_numpy(), after.smoothness_used)
    np.testing.assert_allclose(table["feature_distance"].to_numpy(), (after.feature - before.feature).norm(dim=1))
    np.testing.assert_allclose(np.array(table["logits"].to_pylist()), otad(x_adv).detach(), rtol=1e-6)
    assert not any(table["repeat_differs"].to_pylist())


def test_an_unsolved_row_is_no_prediction(otad: OTAD, monkeypatch: pytest.MonkeyPatch) -> None:
    solve = OTAD.integrate

    def interrupted(self, inputs):
        index, solution = solve(self, inputs)
        solution.status[0] = int(Status.INTERRUPTED)
        solution.status[1] = int(Status.INFEASIBLE)
        return index, solution

    x = torch.rand(3, 1, 3, 4)
    y = otad(x).argmax(1)
    with monkeypatch.context() as patch:
        patch.setattr(OTAD, "integrate", interrupted)
        table = records(otad, x, y, x)
    assert table["status"].to_pylist() == ["unsolved", "ok", "ok"]
    assert table["broken"].to_pylist() == [True, False, False]
    assert table["prediction"].to_pylist()[0] == table["clean_prediction"].to_pylist()[0] == -1
    assert table["solver_status"].to_pylist()[:2] == ["interrupted", "infeasible"]


def test_the_undefended_net_and_a_users_defense_have_features(otad: OTAD) -> None:
    class Purified(OTAD):
        """Another forward: what the parent would answer does not count."""

        def forward(self, inputs: Tensor) -> Tensor:
            return super().forward(inputs).roll(1, 1)

    class Detailed(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.flatten(1)

        def forward_details(self, inputs: Tensor):
            return inputs.flatten(1), 3 * inputs.flatten(1), None

    x = torch.rand(3, 1, 3, 4)
    x_adv = x + 0.1
    y = torch.zeros(3, dtype=torch.int64)
    net = otad.backbone
    moved = (net.features(x_adv.flatten(1)) - net.features(x.flatten(1))).norm(dim=1).detach()
    np.testing.assert_allclose(records(Undefended(net), x, y, x_adv)["feature_distance"].to_numpy(), moved, rtol=1e-5)
    table = records(Detailed(), x, y, x_adv)
    np.testing.assert_allclose(table["feature_distance"].to_numpy() / table["l2"].to_numpy(), 3.0, rtol=1e-5)
    purified = records(Purified(net, otad.memory, otad.config), x, y, x_adv)
    np.testing.assert_allclose(np.array(purified["logits"].to_pylist()), otad(x_adv).roll(1, 1).detach(), rtol=1e-6)
    assert not any(purified["repeat_differs"].to_pylist())


def test_an_attack_is_run_with_streams_of_its_own_name_and_budget() -> None:
    x = torch.rand(6, 2, generator=torch.Generator().manual_seed(0))
    batch = Batch(torch.arange(6) + 40, x, torch.ones(6, dtype=torch.int64))
    budget = Budget(eps=0.3, bounds=(0.0, 1.0))
    table = record_attack(Sign(), batch, find_attack("noise"), AttackRun(name="noise", budget=budget, seed=5))
    streams = Streams.of(5, batch.ids.tolist(), "noise", "l2", 0.3)
    expected = find_attack("noise")(Sign(), batch.x, batch.y, budget, streams)
    np.testing.assert_array_equal(
        np.array(table["x_adv"].to_pylist(), dtype=np.float32), expected.x_adv.flatten(1).numpy()
    )
    assert (table["attack"][0].as_py(), table["eps"][0].as_py(), table["seed"][0].as_py()) == ("noise", 0.3, 5)
