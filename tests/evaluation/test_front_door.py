"""Robust accuracy in one call: on plain modules, against closed forms, and what is refused before any attack."""

import json
import subprocess
import sys
from collections.abc import Callable
from math import sqrt

import pytest
import torch
from torch import Tensor, nn

import otad_ray
from otad_ray.attacks import PGD
from otad_ray.errors import InputError
from otad_ray.evaluation import METRIC_COLUMNS, RobustnessReport


class TwoClasses(nn.Module):
    """A linear classifier of two classes, whose distance to the border is known."""

    def __init__(self, weight: Tensor, bias: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = bias

    def forward(self, inputs: Tensor) -> Tensor:
        score = inputs.flatten(1) @ self.weight + self.bias
        return torch.stack([-score, score], 1)

    def distances(self, inputs: Tensor) -> Tensor:
        """Return the l2 distances to the border."""
        return (inputs.flatten(1) @ self.weight + self.bias).abs() / self.weight.norm()


@pytest.fixture
def model() -> TwoClasses:
    return TwoClasses(torch.tensor([1.0, -2.0, 0.5, 1.5]), bias=-0.4)


@pytest.fixture
def x() -> Tensor:
    return torch.rand(130, 1, 2, 2, generator=torch.Generator().manual_seed(0))


def test_the_example_of_a_notebook(model: TwoClasses, x: Tensor) -> None:
    y = model(x).argmax(1)
    y[:3] = 1 - y[:3]
    report = otad_ray.evaluate_robustness(
        model, x, y, eps=(0.05, 0.2), norm="l2", attacks=("pgd", "square_500"), bounds=(0, 1)
    )
    text = str(report)
    assert text.startswith("TwoClasses: accuracy in % under l2 perturbations")
    assert "worst case [95 %]" in text
    assert "pgd" in text.splitlines()[1]
    assert len(report.records) == 130 * 2 * 2
    assert set(METRIC_COLUMNS) <= set(report.records.column_names)
    assert report.not_certified is not None
    for budget in report.bracket.budgets:
        rows = report.records.to_pylist()
        broken = {row["id"] for row in rows if row["broken"] and row["l2"] <= budget.eps * (1 + 1e-6)}
        assert budget.worst_case.value == pytest.approx(1 - len(broken) / 130)
        # Bounds can only keep an attack from the border, so that the distance to it is a lower bound.
        robust = (model.distances(x) > budget.eps) & (model(x).argmax(1) == y)
        assert budget.worst_case.value >= float(robust.double().mean()) - 1e-9
    assert json.loads(report.to_json())["bracket"]["standard"]["count"] == 127
    assert len(report.figure().axes) == 1


def test_pgd_breaks_a_linear_model_exactly_as_far_as_its_margin(model: TwoClasses) -> None:
    inputs = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))
    report = otad_ray.evaluate_robustness(
        model, inputs, model(inputs).argmax(1), eps=0.5, attacks=("pgd",), bounds=None
    )
    expected = float((model.distances(inputs) > 0.5).double().mean())
    assert report.bracket.budgets[0].worst_case.value == pytest.approx(expected)


def test_certificates_join_the_bracket(model: TwoClasses, x: Tensor) -> None:
    class Certified(TwoClasses):
        def certified_radius(self, inputs: Tensor) -> tuple[Tensor, list[str]]:
            return 0.999 * self.distances(inputs).double(), ["margin"] * len(inputs)

    certified = Certified(model.weight.detach(), model.bias)
    report = otad_ray.evaluate_robustness(
        certified, x, certified(x).argmax(1), eps=0.1, attacks=("pgd", "noise"), bounds=(0, 1)
    )
    (budget,) = report.bracket.budgets
    assert report.not_certified is None
    assert 0 < budget.certified.value <= budget.worst_case.value
    assert "broken_certificate" not in {flag.name for flag in report.flags}
    without = otad_ray.evaluate_robustness(
        certified, x, certified(x).argmax(1), eps=0.1, attacks=("noise",), bounds=(0, 1), certify=False
    )
    assert without.bracket.budgets[0].certified is None
    assert without.not_certified == "certificates were not asked for"


def test_a_planted_certificate_is_caught(model: TwoClasses, x: Tensor) -> None:
    class Boasting(TwoClasses):
        def certified_radius(self, inputs: Tensor) -> tuple[Tensor, list[str]]:
            return 1.5 * self.distances(inputs).double(), ["margin"] * len(inputs)

    boasting = Boasting(model.weight.detach(), model.bias)
    report = otad_ray.evaluate_robustness(
        boasting, x, boasting(x).argmax(1), eps=(0.1, 0.3), attacks=("pgd",), bounds=(0, 1)
    )
    assert "broken_certificate" in {flag.name for flag in report.flags}


def test_the_same_call_gives_the_same_records(model: TwoClasses, x: Tensor) -> None:
    def call(count: int) -> list[dict]:
        report = otad_ray.evaluate_robustness(
            model, x[:count], model(x[:count]).argmax(1), eps=0.2, attacks=("noise", "square_500"), bounds=(0, 1)
        )
        return report.records.to_pylist()

    assert str(call(120)) == str(call(120))
    # What is found of a sample does not depend on those of other cohorts.
    whole, part = call(130), call(100)
    assert str([row for row in whole if row["id"] < 100]) == str(part)


def test_the_model_is_left_as_it_was(x: Tensor) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 3))
    model[1].eval()
    model.train(False)
    model[2].train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    y = torch.zeros(10, dtype=torch.int64)
    otad_ray.evaluate_robustness(model, x[:10], y, eps=0.1, attacks=("pgd",), bounds=(0, 1))
    assert [module.training for module in model] == [False, False, True]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_regression_has_errors(x: Tensor) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 1))
    y = model(x)[:, 0].detach()
    report = otad_ray.evaluate_robustness(model, x.numpy(), y.numpy(), eps=(0.1, 0.2), bounds=(0, 1))
    weight = float(model[1].weight.detach().norm())
    worst = [budget.worst_mse for budget in report.bracket.budgets]
    assert 0 < worst[0] < worst[1] <= (0.2 * weight) ** 2 * (1 + 1e-4)
    assert "MSE" in str(report)
    with pytest.raises(InputError, match="a regression has no robust accuracy to draw"):
        report.figure()


def test_an_attack_object_serves_as_well_as_its_name(model: TwoClasses, x: Tensor) -> None:
    y = model(x).argmax(1)
    report = otad_ray.evaluate_robustness(model, x, y, eps=0.2, attacks=(PGD(steps=5), "noise"), bounds=(0, 1))
    assert set(report.records["attack"].to_pylist()) == {"PGD", "noise"}
    norm = otad_ray.evaluate_robustness(model, x, y, eps=0.1, norm="linf", attacks=("fgsm",), bounds=(0, 1))
    assert norm.records["linf"].to_numpy().max() <= 0.1 * (1 + 1e-6)
    assert norm.records["l2"].to_numpy().max() <= 0.1 * sqrt(4) * (1 + 1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eps": -0.1}, "need eps >= 0, got -0.1"),
        ({"eps": float("inf")}, "need a finite eps"),
        ({"eps": ()}, "eps must hold at least one radius"),
        ({"norm": "l1"}, "unknown norm 'l1'; known: l2, linf"),
        ({"attacks": ("pdg",)}, "unknown attack 'pdg'; known: noise"),
        ({"attacks": "pgd"}, "attacks must be a sequence of names or attacks, got 'pgd'"),
        ({"attacks": ("pgd", "pgd")}, "attack 'pgd' is given twice"),
        ({"attacks": PGD(steps=5)}, "attacks must be a sequence of names or attacks"),
        ({"attacks": (PGD,)}, "attacks must be names or attacks such as"),
        ({"eps": "large"}, "eps must be a radius or a sequence of radii, got 'large'"),
        ({"eps": None}, "eps must be a radius or a sequence of radii|need eps >= 0"),
        ({"bounds": (0, 1, 2)}, r"bounds must be \(least, largest\) value of an input or None, got \(0, 1, 2\)"),
        ({"bounds": (1, 0)}, "need finite bounds, the lesser first"),
        ({"bounds": (0, float("nan"))}, "need finite bounds, the lesser first"),
        ({"surrogate": nn.Linear(4, 2)}, "surrogate must be a defense with a memory, such as KNN or OTAD, got Linear"),
        ({"y": torch.full((130,), torch.nan)}, "y holds NaN or infinite targets"),
        ({"attacks": ("transfer",)}, "attack 'transfer' needs an undefended net and training points"),
        ({"attacks": ("neighbor_aware",)}, "give surrogate=, a defense with a memory"),
        ({"attacks": ("bpda_pgd",)}, "attack 'bpda_pgd' needs an undefended net"),
        ({"bounds": (0.4, 0.6)}, "outside the data set's bounds"),
        ({"x": torch.rand(0, 4)}, "x must hold at least one sample"),
        ({"x": torch.full((3, 4), torch.nan), "y": torch.zeros(3, dtype=torch.int64)}, "inputs hold NaN"),
        ({"x": torch.ones(3, 4, dtype=torch.uint8)}, "x must be floating point, within the bounds, got torch.uint8"),
        ({"y": torch.zeros(7, dtype=torch.int64)}, r"y must be \(N,\) = \(130,\), one label per sample, got \(7,\)"),
        ({"y": torch.full((130,), 2)}, "labels lie in 2 .. 2, but the defense returns 2 classes"),
    ],
)
def test_bad_input_is_refused_before_any_attack(
    model: TwoClasses, x: Tensor, changes: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "otad_ray.evaluation.front_door.record_attack", lambda *arguments, **named: pytest.fail("an attack was run")
    )
    arguments = {"x": x, "y": model(x).argmax(1), "eps": 0.1, "attacks": ("noise",), "bounds": (0, 1), **changes}
    with pytest.raises(InputError, match=message):
        otad_ray.evaluate_robustness(model, arguments.pop("x"), arguments.pop("y"), **arguments)


@pytest.mark.parametrize("label", [5, -1])
def test_labels_of_a_later_cohort_are_checked_first(model: TwoClasses, x: Tensor, label: int) -> None:
    y = model(x).argmax(1)
    y[-1] = label
    with pytest.raises(InputError, match=r"labels lie in .*, but the defense returns 2 classes"):
        otad_ray.evaluate_robustness(model, x, y, eps=0.1, attacks=("noise",), bounds=(0, 1))


def test_inference_mode_hides_no_gradient(model: TwoClasses, x: Tensor) -> None:
    """An attack without gradients would leave samples robust that are not."""
    y = model(x).argmax(1)
    expected = otad_ray.evaluate_robustness(model, x, y, eps=0.2, attacks=("pgd",), bounds=(0, 1))
    with torch.inference_mode():
        found = otad_ray.evaluate_robustness(model, x.clone(), y.clone(), eps=0.2, attacks=("pgd",), bounds=(0, 1))
    assert str(found) == str(expected)


def test_attacks_of_one_class_are_told_apart(model: TwoClasses, x: Tensor) -> None:
    attacks = (PGD(steps=2), PGD(steps=20))
    report = otad_ray.evaluate_robustness(
        model, x.numpy()[::-1], model(x).argmax(1).numpy()[::-1], eps=torch.tensor(0.1), attacks=attacks, bounds=(0, 1)
    )
    assert set(report.records["attack"].to_pylist()) == {"PGD", "PGD_2"}


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda inputs: inputs.flatten(1)[:, :2].long(), "must return float32 logits, got torch.int64"),
        (lambda inputs: (inputs.flatten(1)[:, :2],), "must return a tensor of logits .* got tuple"),
        (lambda inputs: inputs @ torch.zeros(7, 2), "the model raised RuntimeError: .*, on samples"),
    ],
)
def test_a_model_that_answers_no_logits_is_refused(
    forward: Callable[[Tensor], object], message: str, x: Tensor
) -> None:
    class Answering(nn.Module):
        def forward(self, inputs: Tensor) -> object:
            return forward(inputs)

    y = torch.zeros(len(x), dtype=torch.int64)
    with pytest.raises(InputError, match=message):
        otad_ray.evaluate_robustness(Answering(), x, y, eps=0.1, attacks=("noise",), bounds=(0, 1))


def test_a_model_that_works_in_place_in_bfloat16_gets_the_numbers_of_one_that_does_not(x: Tensor) -> None:
    class OutOfPlace(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return ((inputs - 0.5) / 0.25).flatten(1)[:, :2].bfloat16().float()

    class InPlace(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.sub_(0.5).div_(0.25).flatten(1)[:, :2].bfloat16()

    y = OutOfPlace()(x).argmax(1)
    reports = [
        otad_ray.evaluate_robustness(model, x, y, eps=0.1, attacks=("noise", "pgd"), bounds=(0, 1))
        for model in (OutOfPlace(), InPlace())
    ]
    columns = ["id", "success", "broken", "repeat_differs", "gradient_queries"]
    expected, found = (report.records.select(columns) for report in reports)
    assert found.equals(expected)
    assert not any(found["repeat_differs"].to_pylist())


def test_a_function_is_no_model(x: Tensor) -> None:
    y = torch.zeros(len(x), dtype=torch.int64)
    with pytest.raises(InputError, match=r"the model must be a torch\.nn\.Module, got function; wrap a function"):
        otad_ray.evaluate_robustness(lambda inputs: inputs, x, y, eps=0.1, bounds=(0, 1))


def test_the_front_door_is_imported_lazily() -> None:
    script = "import sys, otad_ray; print('torch' in sys.modules, otad_ray.__version__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", otad_ray.__version__]
    assert otad_ray.RobustnessReport is RobustnessReport
    with pytest.raises(AttributeError, match="has no attribute 'evaluate'"):
        otad_ray.evaluate  # noqa: B018
