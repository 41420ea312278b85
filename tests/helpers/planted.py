"""Records planted by hand: rows of what an attack did to samples, without a defense."""

import numpy as np
import pyarrow as pa

from otad_ray.evaluation import METRIC_COLUMNS, record_schema

SCHEMA = record_schema()
REGRESSION = record_schema(regression=True)


def rows(attack: str, eps: float, robust, *, norm: str = "l2", right=None, ids=None, regression=False, **columns):
    """Records of one attack: robust (n,) bool, right (n,) bool; columns replace what follows from them."""
    robust = np.asarray(robust, dtype=bool)
    right = np.ones(len(robust), dtype=bool) if right is None else np.asarray(right, dtype=bool)
    n = len(robust)
    robust = robust & right
    values = {
        "id": np.arange(n) if ids is None else np.asarray(ids),
        "label": np.zeros(n, dtype=np.int64),
        "attack": [attack] * n,
        "norm": [norm] * n,
        "eps": np.full(n, eps),
        "clean_prediction": np.where(right, 0, 1),
        "prediction": np.where(robust, 0, 1),
        "clean_correct": right,
        "success": right & ~robust,
        "broken": ~robust,
        "l2": np.full(n, eps),
        "linf": np.full(n, eps),
        "queries": np.full(n, 100),
        "gradient_queries": np.full(n, 100),
        "zero_gradient_share": np.zeros(n),
        "repeat_differs": np.zeros(n, dtype=bool),
        "status": ["ok"] * n,
        "clean_relaxations": np.full(n, -1),
        "relaxations": np.full(n, -1),
        "feature_distance": np.full(n, np.nan),
        **columns,
    }
    schema = REGRESSION if regression else SCHEMA
    arrays = {name: pa.array(values[name], schema.field(name).type) for name in METRIC_COLUMNS}
    return pa.table(arrays)


def first(count: int, n: int = 100) -> np.ndarray:
    """(n,) bool, the first `count` true."""
    return np.arange(n) < count


def certificates(radius, *, right=None) -> pa.Table:
    radius = np.asarray(radius, dtype=np.float64)
    right = np.ones(len(radius), dtype=bool) if right is None else right
    return pa.table(
        {"id": np.arange(len(radius)), "radius": radius, "method": ["hull"] * len(radius), "clean_correct": right}
    )
