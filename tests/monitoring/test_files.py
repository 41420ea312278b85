"""What is generated is current, and what Grafana needs of it is there."""

import json
from pathlib import Path

import pytest

from otad_ray.errors import InputError
from otad_ray.monitoring.alerts import ALERTS
from otad_ray.monitoring.files import files, write_files
from otad_ray.monitoring.grafana import dashboard
from otad_ray.monitoring.metrics import METRICS, ROWS, Amount
from otad_ray.monitoring.panels import PANELS

REPOSITORY = Path(__file__).parents[2]


def test_the_committed_files_are_current() -> None:
    stale = [str(path) for path, text in files(REPOSITORY).items() if path.read_text() != text]
    assert not stale, f"run python -m otad_ray.monitoring: {stale}"


def test_only_what_is_stale_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"docs/monitoring\.md does not exist; give the root"):
        write_files(tmp_path)
    for folder in ("docs", "dashboards"):
        (tmp_path / folder).mkdir()
    document = tmp_path / "docs" / "monitoring.md"
    blocks = "".join(f"<!-- {name}: begin -->\nold\n<!-- {name}: end -->\n" for name in ("metrics", "alerts"))
    document.write_text(f"Before.\n{blocks}After.\n")
    assert set(write_files(tmp_path)) == {
        document,
        *(tmp_path / "dashboards" / name for name in ("otad.json", "alerts.yml")),
    }
    assert write_files(tmp_path) == []
    text = document.read_text()
    assert text.startswith("Before.\n")
    assert text.endswith("After.\n")
    assert "old" not in text
    assert all(metric.series in text for metric in METRICS)
    assert all(f"### {alert.name}" in text for alert in ALERTS)
    document.write_text("No blocks.\n")
    with pytest.raises(InputError, match="no block between '<!-- metrics: begin -->'"):
        write_files(tmp_path)


def test_the_dashboard_is_one_that_grafana_can_place() -> None:
    made = json.loads(json.dumps(dashboard()))
    panels = made["panels"]
    assert [panel["title"] for panel in panels] == [panel.title for panel in PANELS]
    assert len({panel["title"] for panel in panels}) == len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    variables = {variable["name"] for variable in made["templating"]["list"]}
    assert variables == {"datasource", "preset"}
    for panel in panels:
        (target,) = panel["targets"]
        assert panel["datasource"]["uid"] == target["datasource"]["uid"] == "${datasource}"
        assert panel["description"]
        assert target["refId"] == "A"


def test_no_expression_names_a_series_that_there_is_not() -> None:
    known = {metric.series for metric in METRICS}
    for expression in [*(panel.expression for panel in PANELS), *(alert.expression for alert in ALERTS)]:
        used = {
            word
            for word in expression.replace("{", " ").replace("[", " ").replace(")", " ").replace("(", " ").split()
            if word.startswith("ray_")
        }
        assert used <= known


def test_an_amount_has_the_labels_of_its_metric() -> None:
    with pytest.raises(ValueError, match="otad_rows has labels"):
        Amount(ROWS, {"kind": "labels"}, 1)
