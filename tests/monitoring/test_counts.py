"""What is counted of rows, by hand."""

from collections import Counter

import pyarrow as pa

from otad_ray.monitoring.counts import Counts, count_rows, count_tables

LABELS = pa.table({"status": ["solved", "relaxed", "infeasible"], "relaxations": pa.array([0, 3, 100], pa.int32())})
RECORDS = pa.table(
    {
        "status": ["ok", "ok", "nan_logits", "skipped", "attack_error"],
        "relaxations": [2, -1, 0, None, None],
        "queries": [10, 20, 30, 0, None],
        "gradient_queries": [5, 0, 1, 0, None],
        "broken": [True, False, True, True, None],
    }
)
CLEAN = pa.table(
    {"status": ["ok"] * 4, "radius": [0.5, 0.0, 0.7, 0.1], "clean_correct": pa.array([True, True, False, None])}
)


def test_counts_of_each_kind_of_rows() -> None:
    assert count_rows(LABELS) == Counts(Counter(solved=1, relaxed=1, infeasible=1), relaxations=103)
    records = count_rows(RECORDS)
    assert records.statuses == Counter(ok=2, nan_logits=1, skipped=1, attack_error=1)
    assert (records.relaxations, records.queries, records.gradient_queries) == (2, 60, 6)
    # Neither the one that was spared nor the one with an error was attacked.
    assert (records.attacked, records.broken) == (3, 2)
    assert count_rows(CLEAN) == Counts(Counter(ok=4), certified=1)


def test_a_manifest_counts_all_shards() -> None:
    both = count_tables([RECORDS, RECORDS])
    assert both.as_dict() == {
        "statuses": {"attack_error": 2, "nan_logits": 2, "ok": 4, "skipped": 2},
        "relaxations": 4,
        "queries": 120,
        "gradient_queries": 12,
        "attacked": 6,
        "broken": 4,
        "certified": 0,
    }


def test_each_metric_takes_the_labels_it_knows() -> None:
    labels = {"kind": "attack", "preset": "digits", "defense": "otad", "attack": "pgd", "norm": "l2", "eps": "0.5"}
    amounts = count_rows(RECORDS).amounts(labels, {"search": 2.5, "solve": 0.0})
    found = {(amount.metric.name, tuple(amount.labels.values())): amount.value for amount in amounts}
    assert found == {
        ("otad_rows", ("attack", "digits", "ok")): 2,
        ("otad_rows", ("attack", "digits", "nan_logits")): 1,
        ("otad_rows", ("attack", "digits", "skipped")): 1,
        ("otad_rows", ("attack", "digits", "attack_error")): 1,
        # A stage that took no time is not told.
        ("otad_stage_seconds", ("attack", "digits", "search")): 2.5,
        ("otad_relaxations", ("attack", "digits")): 2,
        ("otad_queries", ("digits", "otad", "pgd")): 60,
        ("otad_gradient_queries", ("digits", "otad", "pgd")): 6,
        ("otad_samples_attacked", ("digits", "otad", "pgd", "l2", "0.5")): 3,
        ("otad_samples_broken", ("digits", "otad", "pgd", "l2", "0.5")): 2,
    }
    labels = count_rows(LABELS).amounts({"kind": "labels", "preset": "digits"}, {})
    assert {amount.metric.name for amount in labels} == {"otad_rows", "otad_relaxations"}
