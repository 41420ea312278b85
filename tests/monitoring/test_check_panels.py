"""The comparison of `make dashboards-check`: what it expects of manifests, and that it sees a difference."""

from helpers.check_panels import compare
from helpers.expected_panels import EXPECTED, Facts, Output
from otad_ray.monitoring.panels import PANELS

LABELS = Output(
    "labels", {}, 8, {"statuses": {"solved": 6, "failed": 2}, "relaxations": 4}, {"search": 1.0, "solve": 3.0}
)
ATTACKS = [
    Output(
        "attack",
        {"defense": "otad", "attack": "pgd", "eps": eps},
        10,
        {
            "statuses": {"ok": 10},
            "relaxations": 0,
            "queries": 50,
            "gradient_queries": 5,
            "attacked": 10,
            "broken": broken,
            "certified": 0,
        },
        {"search": 0.5},
    )
    for eps, broken in (("0.5", 0), ("1", 4))
]
CLEAN = Output("clean", {"defense": "otad"}, 10, {"statuses": {"ok": 10}, "relaxations": 0, "certified": 7}, {})
FACTS = Facts(
    (LABELS, *ATTACKS, CLEAN),
    {"label_qcp": 2.5, "attack_sweep": 3.5},
    frozenset({"attack", "clean"}),
    {"finished_at": 1000.0},
    at=1060.0,
)


def expected(title: str) -> dict[str, float]:
    return {" ".join(value for _, value in labels): value for labels, value in EXPECTED[title](FACTS).items()}


def test_every_panel_is_expected_to_show_something() -> None:
    assert set(EXPECTED) == {panel.title for panel in PANELS}
    assert all(EXPECTED[panel.title](FACTS) for panel in PANELS)


def test_expected_values_follow_from_manifests() -> None:
    assert expected("Rows done") == {"label_qcp digits": 8, "attack_sweep digits": 30}
    assert expected("Rows without a result") == {"labels": 2, "attack": 0, "clean": 0}
    assert expected("Rows by status") == {"labels solved": 6, "labels failed": 2, "attack ok": 20, "clean ok": 10}
    assert expected("Share of rows by status")["labels failed"] == 0.25
    assert expected("Relaxations per row") == {"labels": 0.5}
    assert expected("Share of time by stage")["labels solve"] == 0.75
    assert expected("Rows per second, over 5 minutes") == {"attack": 20 / 300, "clean": 10 / 300}
    # By attack and defense: names of labels are in order.
    assert expected("Samples broken") == {"pgd otad": 4}
    assert expected("Share of samples broken") == {"pgd otad 0.5": 0, "pgd otad 1": 0.4}
    assert expected("Samples certified") == {"otad": 7}
    assert expected("Age of the last good night") == {"digits": 60}


def test_compare_finds_a_difference() -> None:
    (panel,) = [panel for panel in PANELS if panel.title == "Rows by status"]
    right = EXPECTED[panel.title](FACTS)
    assert all(line.agrees for line in compare(panel, right, FACTS))
    missing = dict(list(right.items())[1:])
    for shown in (
        {**right, next(iter(right)): 7.0},
        missing,
        {**right, (("kind", "labels"), ("status", "relaxed")): 1.0},
    ):
        assert [line.agrees for line in compare(panel, shown, FACTS)].count(False) == 1
        assert sum("DIFFERS" in str(line) for line in compare(panel, shown, FACTS)) == 1
