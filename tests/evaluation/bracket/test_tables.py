"""The text and the entry of a report, and that figures show what they should."""

import json
from math import inf
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.colors import same_color

from helpers.planted import certificates, first, rows
from otad_ray.errors import InputError
from otad_ray.evaluation import (
    Flag,
    bracket_table,
    compute_bracket,
    compute_regression_report,
    eps_text,
    example_figure,
    format_flags,
    radius_figure,
    regression_table,
    relaxation_figure,
    robustbench_entry,
    robustness_figure,
)

UNIT = "norm on pixels scaled to [0, 1]"


@pytest.fixture(scope="module")
def report():
    right = first(95)
    parts = [
        rows(attack, eps, first(count), right=right)
        for attack, budgets in {
            "pgd": {0.0: 95, 0.5: 80, 1.0: 40},
            "autoattack": {0.5: 78, 1.0: 30},
            "noise": {0.5: 95, 1.0: 94},
        }.items()
        for eps, count in budgets.items()
    ]
    parts += [
        rows("cw", 0.5, first(18, 20), right=right[:20]),
        rows("pgd", 8 / 255, first(50), norm="linf", right=right),
        rows("ngopt", inf, first(0), l2=np.full(100, 50.0), right=right),
    ]
    proofs = certificates(np.linspace(1.2, 0.0, 100), right=right)
    return compute_bracket(pa.concat_tables(parts), dimension=784, certificates=proofs)


def test_the_table(report) -> None:
    flags = (
        Flag(name="masked_gradients", severity="grave", message="square finds more"),
        Flag(name="not_checked", severity="info", message="the net was not attacked"),
    )
    table = bracket_table("otad", report, norm="l2", eps_unit=UNIT)
    lines = [*table.splitlines(), *format_flags(flags)]
    assert lines[0] == f"otad: accuracy in % under l2 perturbations, eps: {UNIT}"
    columns = "eps standard certified worst case [95 %] autoattack cw ngopt noise pgd"
    assert lines[1].split() == columns.split()
    assert lines[3].split() == ["0.5", "95.0", "58.0", "76.0", "[66.8,", "83.3]", "78.0", "90.0*", "-", "95.0", "80.0"]
    assert len({len(line) for line in lines[1:6]}) == 1
    assert lines[6:] == [
        "  n = 100",
        "  * eps 0.5: n of cw 20; where all ran, n = 20: worst case 90.0",
        "  GRAVE masked_gradients: square finds more",
        "  INFO not_checked: the net was not attacked",
    ]


def test_the_table_says_what_is_missing() -> None:
    records = rows("pgd", 1.0, first(5, 10), status=["ok"] * 7 + ["skipped", "attack_error", "unsolved"])
    text = bracket_table("net", compute_bracket(records, dimension=4), norm="l2", eps_unit=UNIT)
    assert "1 samples had adversarial inputs that were not solved" in text
    assert "its column contains the others'" in text
    assert "no results" in bracket_table("net", compute_bracket(records, dimension=4), norm="linf", eps_unit=UNIT)


def test_the_robustbench_entry(report) -> None:
    entry = robustbench_entry(report, name="OTAD", dataset="mnist", norm="l2", eps=0.5, architecture="FC-ResNet")
    assert entry["eps"] == "0.5"
    assert entry["clean_acc"] == "95.00"
    assert entry["autoattack_acc"] == "78.00"
    assert entry["external"] == entry["reported"] == "76.00"
    assert entry["certified_acc"] == "58.00"
    assert (entry["threat_model"], entry["num_samples"]) == ("L2", 100)
    json.dumps(entry, allow_nan=False)
    linf = robustbench_entry(report, name="OTAD", dataset="mnist", norm="linf", eps=8 / 255)
    assert (linf["eps"], linf["threat_model"], linf["autoattack_acc"]) == ("8/255", "Linf", None)
    with pytest.raises(InputError, match=r"no result at l2 eps 3; there are: l2 0, l2 0.5"):
        robustbench_entry(report, name="OTAD", dataset="mnist", norm="l2", eps=3.0)


@pytest.mark.parametrize(
    ("eps", "text"),
    [
        (4 / 255, "4/255"),
        (0.2, "0.2"),
        (1.0, "1"),
        (128 / 255, "128/255"),
        (0.0, "0"),
        (inf, "inf"),
        (0.0316, "0.0316"),
    ],
)
def test_eps_as_robustbench_writes_it(eps: float, text: str) -> None:
    assert eps_text(eps) == text


def test_the_regression_table() -> None:
    nothing = pa.nulls(2, pa.bool_())
    plain = {"label": [0.0, 0.0], "clean_prediction": [1.0, 1.0], "clean_correct": nothing, "success": nothing}
    records = rows("pgd", 0.5, [1, 1], regression=True, prediction=[3.0, 1.0], **plain)
    lines = regression_table("wine", compute_regression_report(records), norm="l2", eps_unit="standard deviations")
    lines = lines.splitlines()
    assert lines[0].endswith("eps: standard deviations; clean MSE 1.0000")
    assert lines[2].split() == ["0.5", "pgd", "2", "5.0000", "1.0000", "0.5000"]
    assert lines[3].split() == ["0.5", "worst", "case", "2", "5.0000", "-", "-"]


def test_the_curves(report, tmp_path: Path) -> None:
    figure = robustness_figure(report, norm="l2", eps_unit=UNIT, title="digits")
    axes = figure.axes[0]
    curves = {container.get_label(): container.lines[0] for container in axes.containers}
    assert list(curves) == ["worst case", "certified", "autoattack", "cw", "noise", "pgd"]
    # Two samples that only cw broke, at 0.5, are broken at 1 too.
    assert curves["worst case"].get_ydata().tolist() == [0.95, 0.76, 0.28]
    assert curves["worst case"].get_xdata().tolist() == [0.0, 0.5, 1.0]
    assert curves["worst case"].get_linewidth() > 2 * curves["pgd"].get_linewidth()
    assert axes.get_xlabel() == f"l2 eps ({UNIT})"
    figure.savefig(tmp_path / "curves.png")
    bare = robustness_figure(report, norm="linf", eps_unit=UNIT, title="digits")
    bare.savefig(tmp_path / "bare.png")


def test_the_examples(tmp_path: Path) -> None:
    images, neighbors = np.random.default_rng(0).random((2, 3, 4, 4)), np.zeros((2, 3, 3, 4, 4))
    captions = [("cat", "dog"), ("dog", "cat")]
    figure = example_figure(images, images, neighbors, neighbors, captions=captions, title="examples")
    assert len(figure.axes) == 16
    assert [axes.get_title() for axes in figure.axes[:5]] == ["cat", "neighbor", "neighbor", "neighbor", "dog"]
    figure.savefig(tmp_path / "examples.png")
    gray = example_figure(
        images[:, :1], images[:, :1], neighbors[:, :, :1], neighbors[:, :, :1], captions=captions, title=""
    )
    assert same_color(gray.axes[0].images[0].cmap(0.0), "black")
    cells = np.zeros((2, 7))
    assert example_figure(cells, cells, cells, cells, captions=captions, title="") is None


def test_the_distributions(tmp_path: Path) -> None:
    proofs = pa.table(
        {
            "id": np.arange(4),
            "radius": [0.1, 0.2, inf, 0.3],
            "method": ["hull", "set", "hull", "hull"],
            "clean_correct": [True, True, True, False],
        }
    )
    figure = radius_figure(proofs, eps_unit=UNIT, title="radii")
    assert figure.axes[0].get_ylabel() == "of 3 right samples"
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert texts == ["hull", "set"]
    figure.savefig(tmp_path / "radii.png")
    assert radius_figure(proofs.slice(2), eps_unit=UNIT, title="none") is None
    records = rows("pgd", 1.0, first(1, 3), clean_relaxations=[0, 0, 1], relaxations=[0, 2, 2])
    figure = relaxation_figure(records, title="relaxations")
    heights = [patch.get_height() for patch in figure.axes[0].patches]
    assert heights == pytest.approx([2 / 3, 1 / 3, 1 / 3, 0, 2 / 3])
    records = rows("pgd", 1.0, first(1, 3), clean_relaxations=[0, 0, 0], relaxations=[0, 0, 0])
    (axes,) = relaxation_figure(records, title="none relaxed").axes
    assert all(float(tick).is_integer() for tick in axes.get_xticks())
    assert relaxation_figure(rows("pgd", 1.0, first(1, 3)), title="none") is None
