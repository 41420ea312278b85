"""Rankings: by the worst case, with the strongest attack, and tests against a reference."""

from helpers.planted_sweeps import compare, describe, plant_report
from otad_ray.evaluation import Bracket
from otad_ray.pages import rank_defenses, read_standing

REPORTS = {"otad": plant_report("otad", 100), "net": plant_report("net", 100, certified=False, seed=1)}
DESCRIBED = describe(REPORTS, 100)["defenses"]
STANDINGS = [read_standing(name, item["report"], item["flags"], "l2") for name, item in DESCRIBED.items()]


def test_defenses_are_ranked_by_their_worst_case() -> None:
    tables = rank_defenses(STANDINGS, norm="l2", comparisons=compare(REPORTS), reference="otad")
    assert [table.title for table in tables] == ["l2 eps 0.5", "l2 eps 1"]
    for table, budgets in zip(tables, zip(*(item.budgets for item in STANDINGS), strict=True), strict=True):
        worst = {item.defense: budget.worst_case.value for item, budget in zip(STANDINGS, budgets, strict=True)}
        assert [row[1].text for row in table.rows] == sorted(worst, key=lambda name: -worst[name])
        assert [row[0].text for row in table.rows] == ["1", "2"]
        shown = {row[1].text: [cell.key for cell in row[3:6]] for row in table.rows}
        for item, budget in zip(STANDINGS, budgets, strict=True):
            certified = None if budget.certified is None else budget.certified.value
            assert shown[item.defense] == [item.standard.value, certified, budget.worst_case.value]
        tests = {row[1].text: row[-1].key for row in table.rows}
        assert tests["otad"] is None
        (p,) = [item.p for item in compare(REPORTS) if f"l2 eps {item.eps:g}" == table.title]
        assert tests["net"] == p


def test_strongest_attack_is_the_one_that_leaves_least() -> None:
    bracket = REPORTS["otad"].bracket
    assert isinstance(bracket, Bracket)
    for budget in STANDINGS[0].budgets:
        left = {item.attack: item.robust.count for item in bracket.attacks if item.eps == budget.eps}
        assert budget.strongest == min(left, key=lambda name: left[name]) == "pgd"


def test_an_attack_on_fewer_samples_is_not_the_strongest() -> None:
    report = DESCRIBED["otad"]["report"]
    fewer = [
        item | {"robust": {**item["robust"], "n": 10, "count": 0}} if item["attack"] == "pgd" else item
        for item in report["attacks"]
    ]
    standing = read_standing("otad", {**report, "attacks": fewer}, [], "l2")
    assert [budget.strongest for budget in standing.budgets] == ["noise", "noise"]


def test_defense_without_certificate_has_a_bar_from_zero_that_says_so() -> None:
    (table, _) = rank_defenses(STANDINGS, norm="l2")
    bars = {row[1].text: row[2].bar for row in table.rows}
    assert bars["net"] is not None
    assert bars["otad"] is not None
    assert (bars["net"].low, bars["net"].is_certified) == (0.0, False)
    assert bars["otad"].low == STANDINGS[0].budgets[0].certified.value  # type: ignore[union-attr]


def test_marks_of_probabilistic_certificates_are_explained() -> None:
    report = {**DESCRIBED["otad"]["report"], "probabilistic": "probabilistic, 99.9 %"}
    (_, table) = rank_defenses([read_standing("otad", report, [], "l2")], norm="l2")
    assert table.rows[0][4].text.endswith("~")
    assert any(note.startswith("~") for note in table.notes)
