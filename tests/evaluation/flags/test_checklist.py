"""Each flag comes up on planted records, and stays away from honest ones."""

import json
from math import inf

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from helpers.planted import certificates, first, rows
from otad_ray.artifacts import to_jsonable
from otad_ray.attacks import AttackResult, Budget
from otad_ray.data import Batch
from otad_ray.errors import InputError
from otad_ray.evaluation import AttackRun, Evidence, attack_records, find_flags

KINDS = {"pgd": "gradient", "pgd2": "gradient", "fgsm": "one_step", "square": "black_box", "noise": "noise"}


def honest() -> pa.Table:
    """Records of a sweep with nothing to say against it: 100 samples, of which 95 are right."""
    left = {
        "pgd": {0.0: 95, 1.0: 60, 2.0: 20, 4.0: 0},
        "pgd2": {2.0: 19},
        "fgsm": {1.0: 75, 2.0: 50},
        "square": {1.0: 70, 2.0: 35},
        "noise": {1.0: 94, 2.0: 90, 4.0: 30},
    }
    parts = [
        rows(attack, eps, first(count), right=first(95))
        for attack, budgets in left.items()
        for eps, count in budgets.items()
    ]
    return pa.concat_tables(parts)


def net() -> pa.Table:
    return pa.concat_tables(
        [rows(attack, eps, first(0)) for attack, eps in [("pgd", 4.0), ("pgd", 2.0), ("pgd2", 2.0), ("square", 2.0)]]
    )


def flags(records: pa.Table, **changes):
    options = {
        "kinds": KINDS,
        "net_records": net(),
        "unbounded_eps": {"l2": 3.0},
        "certificates": certificates(np.where(first(20), 2.0, 0.0), right=first(95)),
        "doubled": (("pgd", "pgd2"),),
    }
    return find_flags(Evidence(records=records, **{**options, **changes}))


def without(records: pa.Table, attack: str, eps: float) -> pa.Table:
    keep = (records["attack"].to_numpy() != attack) | (records["eps"].to_numpy() != eps)
    return records.filter(pa.array(keep))


def planted(attack: str, eps: float, robust, **columns) -> pa.Table:
    """The honest records with those of one attack at one budget replaced."""
    replaced = without(honest(), attack, eps)
    return pa.concat_tables([replaced, rows(attack, eps, robust, **{"right": first(95), **columns})])


def test_an_honest_sweep_raises_no_flag() -> None:
    assert flags(honest()) == ()


@pytest.mark.parametrize(
    ("name", "severity", "records", "value"),
    [
        ("masked_gradients", "grave", planted("square", 1.0, first(52)), 0.5**8),
        ("one_step_beats_iterative", "warning", planted("fgsm", 1.0, first(52)), 0.5**8),
        ("noise_comes_close", "warning", planted("noise", 2.0, first(50)), 45 / 76),
        ("zero_gradients", "warning", planted("pgd", 1.0, first(60), zero_gradient_share=np.full(100, 0.6)), 0.6),
        ("rising_curve", "warning", planted("fgsm", 2.0, first(84)), 0.5**9),
        ("eps_zero_differs", "grave", planted("pgd", 0.0, first(94)), 1),
        ("robust_when_unbounded", "grave", rows("pgd", 4.0, first(6)), 0.06),
        ("more_iterations", "warning", planted("pgd2", 2.0, first(12)), 0.08),
        ("repeat_differs", "grave", planted("pgd", 1.0, first(60), repeat_differs=first(3)), 3),
        ("broken_certificate", "grave", planted("pgd", 1.0, first(62) & ~first(2)), 2),
        ("invalid_examples", "warning", planted("fgsm", 1.0, first(75), status=["invalid"] + ["ok"] * 99), 1 / 200),
        ("unsolved", "warning", planted("fgsm", 1.0, first(75), status=["ok"] * 99 + ["unsolved"]), 1 / 200),
        ("attack_error", "warning", planted("fgsm", 1.0, first(75), status=["attack_error"] * 2 + ["ok"] * 98), 0.01),
    ],
)
def test_a_planted_fault_raises_its_flag(name: str, severity: str, records: pa.Table, value: float) -> None:
    found = [flag for flag in flags(records) if flag.severity != "info"]
    assert [(flag.name, flag.severity) for flag in found] == [(name, severity)]
    assert found[0].value == pytest.approx(value)
    json.dumps(to_jsonable(found), allow_nan=False)


def test_the_broken_certificates_are_named() -> None:
    found = flags(planted("pgd", 1.0, first(72) & ~first(12)))[0]
    assert found.message.endswith("ids 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...")


def test_an_attack_that_fails_on_the_net_is_weak() -> None:
    found = flags(
        honest(), net_records=pa.concat_tables([without(net(), "square", 2.0), rows("square", 2.0, first(5))])
    )
    assert [(flag.name, flag.attack, flag.value) for flag in found] == [("weak_attack", "square", 0.05)]


def test_what_was_not_checked_is_said() -> None:
    found = flags(honest(), net_records=None)
    assert [(flag.name, flag.severity, flag.attack) for flag in found] == [("not_checked", "info", None)]
    found = flags(honest(), net_records=without(net(), "square", 2.0))
    assert [(flag.name, flag.attack) for flag in found] == [("not_checked", "square")]
    skipped = planted("square", 1.0, first(40), status=["ok"] * 50 + ["skipped"] * 50)
    found = flags(skipped)
    assert [flag.name for flag in found] == ["not_checked"]
    assert "masked_gradients" in found[0].message


def test_chance_is_no_fault() -> None:
    # Six more of the discordant pairs: p = 0.0156.
    assert flags(planted("square", 1.0, first(54))) == ()
    assert flags(planted("noise", 1.0, first(86))) == ()
    # Noise at an unbounded budget breaks everything, and may.
    assert flags(planted("noise", 4.0, first(0))) == ()


def test_an_unbounded_budget_is_judged_by_the_samples_it_ran_on() -> None:
    records = pa.concat_tables([without(without(honest(), "pgd", 4.0), "noise", 4.0), rows("pgd", 4.0, first(0, 10))])
    assert flags(records) == ()
    (flag,) = flags(without(without(honest(), "pgd", 4.0), "noise", 4.0))
    assert (flag.name, flag.message) == ("not_checked", "robust_when_unbounded: no attack was run at l2 eps 3")
    # An attack that chooses the norm need not reach everything.
    found = flags(pa.concat_tables([records, rows("square", inf, first(50), l2=np.full(100, 9.0))]))
    assert "robust_when_unbounded" not in {flag.name for flag in found}


def test_an_ensemble_with_a_black_box_in_it_does_not_hide_masked_gradients() -> None:
    masking = planted("square", 1.0, first(30))
    records = pa.concat_tables([masking, rows("auto", 1.0, first(25), right=first(95), ids=np.arange(100))])
    kinds = {**KINDS, "auto": "ensemble"}
    assert "masked_gradients" in {flag.name for flag in flags(records, kinds=kinds)}


def test_a_stronger_gradient_attack_on_fewer_samples_takes_no_power_from_the_others() -> None:
    records = planted("square", 1.0, first(40))
    few = rows("pgd2", 1.0, first(18, 20), right=first(20, 20), ids=np.arange(20))
    assert "masked_gradients" in {flag.name for flag in flags(pa.concat_tables([records, few]))}


def test_clean_predictions_that_differ_between_records() -> None:
    clean = pa.table({"id": np.arange(100), "prediction": np.where(first(95), 0, 1), "status": ["ok"] * 100})
    assert flags(honest(), clean=clean) == ()
    other = clean.set_column(1, "prediction", pa.array(np.where(first(93), 0, 1)))
    (flag,) = flags(honest(), clean=other)
    assert (flag.name, flag.severity, flag.value) == ("clean_differs", "grave", 2)


def test_certified_samples_without_an_answer_cross_the_bracket() -> None:
    silent = planted("pgd", 1.0, first(60), status=np.where(first(3), "unsolved", "ok"), broken=first(3) | ~first(60))
    found = {flag.name: flag for flag in flags(silent)}
    assert found["crossed_bracket"].value == 3
    assert "broken_certificate" not in found


def test_norms_and_samples_are_not_mixed() -> None:
    elsewhere = rows("square", 1.0, first(10), norm="linf", l2=np.full(100, 9.0))
    others = rows("square", 1.0, first(0), ids=np.arange(100) + 1000)
    replaced = without(honest(), "square", 1.0)
    found = flags(pa.concat_tables([replaced, elsewhere, others]))
    assert {flag.name for flag in found} == {"not_checked"}


def test_grave_flags_come_first_and_eps_may_be_unbounded() -> None:
    records = planted("pgd", inf, first(50), repeat_differs=first(1), zero_gradient_share=np.ones(100))
    names = [flag.name for flag in flags(records)]
    assert names[0] == "repeat_differs"
    assert {"rising_curve", "zero_gradients"} <= set(names)


def test_an_attack_without_a_kind_is_refused() -> None:
    with pytest.raises(InputError, match="kind of attack 'square' is None, need one of gradient"):
        Evidence(records=honest(), kinds={name: kind for name, kind in KINDS.items() if name != "square"})


def test_a_regression_has_the_checks_of_rows_alone() -> None:
    nothing = pa.nulls(3, pa.bool_())
    records = rows(
        "pgd", 0.0, [0, 1, 1], regression=True, clean_correct=nothing, success=nothing, repeat_differs=[True] * 3
    )
    assert [flag.name for flag in flags(records, net_records=None)] == ["repeat_differs"]


def test_a_doubled_certificate_of_a_linear_classifier_is_refuted() -> None:
    """Its exact radius is `|margin| / |w|`: no example is inside it, and one just beyond it is inside twice it."""
    weight = torch.tensor([[3.0, 4.0]])
    net = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.cat([-weight, weight]))
    x = torch.rand(8, 2, generator=torch.Generator().manual_seed(0)) + 0.1
    margin = (x @ weight.T)[:, 0]
    x_adv = x - 1.01 * margin.unsqueeze(1) * weight / 25
    counts = torch.zeros(8, dtype=torch.int64)
    result = AttackResult(x_adv=x_adv, queries=counts, gradient_queries=counts, zero_gradient_share=counts.double())
    batch = Batch(torch.arange(8), x, torch.ones(8, dtype=torch.int64))
    records = attack_records(net, batch, result, AttackRun(name="pgd", budget=Budget(eps=inf), seed=0))
    radius = (margin / 5).double().numpy()
    assert records["success"].to_pylist() == [True] * 8
    found = {scale: flags(records, certificates=certificates(scale * radius), doubled=()) for scale in (1, 2)}
    assert "broken_certificate" not in [flag.name for flag in found[1]]
    assert [flag.value for flag in found[2] if flag.name == "broken_certificate"] == [8]
