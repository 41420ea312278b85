"""Standard metrics: sums over evaluated rows, failed ones counted apart."""

import pyarrow as pa
import pytest

from otad_ray.evaluation import NO_PREDICTION, StandardMetrics


def test_statuses_and_failed_rows_are_counted_apart() -> None:
    statuses = ["solved", "relaxed", "relaxed", "infeasible", "failed"]
    table = pa.table(
        {
            "label": [0, 1, 1, 1, 1],
            "prediction_otad": [0, 1, 0, 1, NO_PREDICTION],
            "relaxations": [0, 3, 1, 100, 0],
            "relative_error": [0.0, 0.1, 0.2, 0.3, 0.4],
            "status": statuses,
        }
    )
    totals = StandardMetrics()
    totals.add(table)
    totals.add(table)
    assert totals.metrics() == pytest.approx(
        {
            "accuracy_otad": 0.6,
            "relative_error": 0.2,
            "share_relaxed": 0.4,
            "share_infeasible": 0.2,
            "share_unsolved": 0.2,
        }
    )


def test_squared_errors_are_of_rows_with_a_prediction() -> None:
    table = pa.table(
        {
            "label": pa.array([1.0, 2.0, 3.0], pa.float32()),
            "prediction_net": [1.0, 2.0, 5.0],
            "prediction_otad": [2.0, 4.0, float("nan")],
            "relative_error": [0.0, 0.0, 0.3],
            "status": ["solved", "solved", "failed"],
        }
    )
    totals = StandardMetrics()
    totals.add(table)
    totals.add(table)
    metrics = totals.metrics()
    assert metrics["mse_net"] == pytest.approx(4 / 3)
    assert metrics["mse_otad"] == pytest.approx(2.5)
    assert metrics["share_unsolved"] == pytest.approx(1 / 3)
    assert not any(name.startswith("accuracy") for name in metrics)


def test_no_prediction_at_all_has_no_squared_error() -> None:
    totals = StandardMetrics()
    labels = pa.array([1.0], pa.float32())
    totals.add(
        pa.table(
            {"label": labels, "prediction_otad": [float("nan")], "relative_error": [0.1], "status": ["interrupted"]}
        )
    )
    assert "mse_otad" not in totals.metrics()
    assert totals.metrics()["share_unsolved"] == 1
