"""The baselines without certificates on digits: each learns, and survives save and load; and what `all` stands for."""

from pathlib import Path

import pytest

from helpers.baselines import CERTIFIED, FLOORS, check_learned_and_loaded, open_workspace
from otad_ray.recipes.baselines.catalog import BASELINES
from otad_ray.recipes.defenses import expand_names
from otad_ray.recipes.workspace import Workspace


def test_every_baseline_has_a_floor() -> None:
    assert FLOORS.keys() == BASELINES.keys()


@pytest.mark.parametrize("name", [name for name in BASELINES if name not in CERTIFIED])
def test_baseline_learns_and_is_the_same_when_loaded(name: str, workspace: Workspace) -> None:
    check_learned_and_loaded(name, workspace)


def test_all_stands_for_the_defenses_that_fit(tmp_path: Path) -> None:
    names = expand_names(open_workspace(tmp_path), ("all",))
    assert set(BASELINES) < set(names)
    assert {"otad", "otad_nn", "knn", "net"} < set(names)
    tables = expand_names(open_workspace(tmp_path, "citeseq_cbmc"), ("net", "all"))
    assert tables.count("net") == 1
    assert "pgd_at" in tables
    assert "median_filter" not in tables
