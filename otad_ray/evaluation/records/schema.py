"""The table of attack records: its columns, and the statuses of a row.

A null says that something was not evaluated; NaN, -1 or "" that it does not apply: no solver, feature or prediction.
"""

from enum import StrEnum
from typing import Any

import pyarrow as pa
from torch import Tensor

from otad_ray.memory import make_column


class RecordStatus(StrEnum):
    """What became of one example.

    `OK`: the example keeps to its budget and the defense answered.
    `NAN_LOGITS`: logits that are not finite; the sample is broken.
    `UNSOLVED`: the defense's solver failed or was interrupted; counted apart, never robust.
    `INVALID`: the example is too far, out of bounds or not finite; the attack has a bug and counts as failed.
    `ATTACK_ERROR`: the attack or the defense raised; neither robust nor broken, but unevaluated.
    `SKIPPED`: not attacked, because an earlier attack broke the sample; broken.
    """

    OK = "ok"
    NAN_LOGITS = "nan_logits"
    UNSOLVED = "unsolved"
    INVALID = "invalid"
    ATTACK_ERROR = "attack_error"
    SKIPPED = "skipped"


# What metrics and flags read: all but logits and examples, whose size is that of the data.
METRIC_COLUMNS = (
    "id",
    "label",
    "attack",
    "norm",
    "eps",
    "clean_prediction",
    "prediction",
    "clean_correct",
    "success",
    "broken",
    "l2",
    "linf",
    "queries",
    "gradient_queries",
    "zero_gradient_share",
    "repeat_differs",
    "status",
    "clean_relaxations",
    "relaxations",
    "feature_distance",
)


def record_schema(*, regression: bool = False) -> pa.Schema:
    """Columns of attack records.

    clean_ columns are of the clean input, the others of the adversarial one (of the clean one where it is invalid).
    prediction: a class, -1 for none; in regression the value, NaN for none.
    success: was right, and is verified wrong. broken: not verified right (of clean errors too). In regression
        success and clean_correct are null, and broken says that there is no prediction.
    l2, linf: norms of the perturbation, float64. x_adv: the example as the attack gave it.
    queries, gradient_queries: forward and backward passes per sample that the attack used.
    zero_gradient_share: of the gradients the attack asked for, the share that is zero; NaN if it asked for none.
    repeat_differs: a second evaluation of the same input gave other logits.
    solver_status: label of the solver's `Status`. relaxations, smoothness_used, strong_convexity_used: of its solution.
    feature_distance: l2 distance of the adversarial and the clean feature. error: what was raised.
    """
    value = pa.float64() if regression else pa.int64()
    # Of any length: Parquet cannot give back a null among lists of a fixed one.
    floats = pa.list_(pa.float32())
    return pa.schema(
        [
            ("id", pa.int64()),
            ("cohort", pa.int32()),
            ("label", value),
            ("attack", pa.string()),
            ("norm", pa.string()),
            ("eps", pa.float64()),
            ("seed", pa.int64()),
            ("clean_logits", floats),
            ("logits", floats),
            ("clean_prediction", value),
            ("prediction", value),
            ("clean_correct", pa.bool_()),
            ("success", pa.bool_()),
            ("broken", pa.bool_()),
            ("l2", pa.float64()),
            ("linf", pa.float64()),
            ("queries", pa.int64()),
            ("gradient_queries", pa.int64()),
            ("zero_gradient_share", pa.float64()),
            ("repeat_differs", pa.bool_()),
            ("status", pa.string()),
            ("error", pa.string()),
            ("clean_solver_status", pa.string()),
            ("solver_status", pa.string()),
            ("clean_relaxations", pa.int64()),
            ("relaxations", pa.int64()),
            ("smoothness_used", pa.float64()),
            ("strong_convexity_used", pa.float64()),
            ("feature_distance", pa.float64()),
            ("x_adv", floats),
        ]
    )


def record_table(columns: dict[str, Any], schema: pa.Schema, num_rows: int) -> pa.Table:
    """Return a table of the schema; a column that is not given is null, a single value fills its column."""
    return pa.table([_column(columns.get(field.name), field.type, num_rows) for field in schema], schema=schema)


def _column(values: Any, kind: pa.DataType, num_rows: int) -> pa.Array:
    if isinstance(values, pa.Array):
        return values
    if isinstance(values, list | Tensor):
        return make_column(values, kind)
    return pa.nulls(num_rows, kind) if values is None else pa.repeat(pa.scalar(values, kind), num_rows)
