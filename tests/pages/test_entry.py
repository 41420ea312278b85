"""Entries of the leaderboard: made of sweeps, read again, and refused where they cannot be."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.planted_sweeps import describe, plant_regression, write_sweep
from otad_ray.artifacts import write_json
from otad_ray.errors import InputError
from otad_ray.pages import read_entry, read_sweep, write_entries

SWEEP = "0123456789ab"


@pytest.fixture
def entry_file(tmp_path: Path) -> Path:
    entries = read_sweep(write_sweep(tmp_path / SWEEP), ["otad"])
    (path,) = write_entries(tmp_path / "entries", entries)
    return path


def test_entry_holds_the_numbers_of_the_sweep(tmp_path: Path, entry_file: Path) -> None:
    manifest = json.loads((tmp_path / SWEEP / "manifest.json").read_text())
    entry = read_entry(entry_file)
    assert entry_file.name == "digits-l2-otad.json"
    for budget, described in zip(
        entry.standing.budgets, manifest["defenses"]["otad"]["report"]["budgets"], strict=True
    ):
        assert budget.worst_case.count == described["worst_case"]["count"]
        assert budget.certified is not None
        assert budget.certified.low == described["certified"]["low"]
    assert entry.origin["sweep"] == SWEEP
    assert entry.origin["fingerprint"] == "of otad"
    assert read_sweep(tmp_path / SWEEP, ["otad"]) == [entry]


def test_own_data_is_named_without_its_folder(tmp_path: Path) -> None:
    (entry,) = read_sweep(write_sweep(tmp_path, ("a/b:c",), data_set="/home/me/shells", preset="mine"))
    assert entry.data_set == "shells"
    assert entry.file_name == "shells-mine-l2-a_b_c.json"


def change(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


IMPOSSIBLE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "certified above": (
        lambda entry: entry["standing"]["budgets"][0].update(certified=entry["standing"]["standard"]),
        r"certified at eps 0.5 is 0.\d+, more than worst_case at eps 0.5",
    ),
    "worst case above": (
        lambda entry: entry["standing"]["budgets"][0].update(
            worst_case={"count": 50, "n": 50, "value": 1.0, "low": 0.9286524, "high": 1.0}
        ),
        r"worst_case at eps 0.5 is 1, more than standard",
    ),
    "count above n": (lambda entry: entry["standing"]["standard"].update(count=51), "standard is 51 of 50"),
    "n above samples": (lambda entry: entry.update(samples=10), "of 50 of 10"),
    "value": (lambda entry: entry["standing"]["standard"].update(value=0.5), "not count / n"),
    "interval": (lambda entry: entry["standing"]["standard"].update(low=0.0), "Wilson's is"),
    "eps": (lambda entry: entry["standing"]["budgets"].reverse(), "eps must ascend"),
    "no budgets": (lambda entry: entry["standing"].update(budgets=[]), "there is no budget"),
    "norm": (lambda entry: entry.update(norm="l1"), "norm must be l2 or linf, got 'l1'"),
    "version": (lambda entry: entry.update(version=2), "version must be 1, got 2"),
    "seed": (lambda entry: entry.update(seed="0"), "seed must be a whole number"),
    "origin": (lambda entry: entry["origin"].pop("fingerprint"), "origin lacks fingerprint"),
    "versions": (lambda entry: entry["origin"].update(versions={"torch": "2"}), "lacks otad_ray"),
    "attack": (lambda entry: entry["attacks"].pop("pgd"), "'pgd' at eps 0.5 is no attack"),
    "missing": (lambda entry: entry.pop("standing"), "lacks 'standing'"),
    "unknown field": (lambda entry: entry.update(better=True), "unexpected keyword argument 'better'"),
    "name": (lambda entry: entry["standing"].update(defense="knn"), "belongs into digits-l2-knn.json"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_impossible_entry_is_refused_by_name(case: str, entry_file: Path) -> None:
    edit, told = IMPOSSIBLE[case]
    change(entry_file, edit)
    with pytest.raises(InputError, match=told) as refused:
        read_entry(entry_file)
    assert str(entry_file) in str(refused.value)


def test_certified_share_may_exceed_the_worst_case_if_a_flag_says_so(entry_file: Path) -> None:
    change(entry_file, IMPOSSIBLE["certified above"][0])
    change(entry_file, lambda entry: entry["standing"].update(flags=["broken_certificate"]))
    assert read_entry(entry_file).standing.flags == ("broken_certificate",)


def test_damaged_entry_is_refused(entry_file: Path) -> None:
    entry_file.write_text(entry_file.read_text()[:100])
    with pytest.raises(InputError, match=rf"{entry_file} cannot be read.*write it anew"):
        read_entry(entry_file)


def test_directory_without_a_finished_sweep_of_a_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no sweep directory: it has no manifest\.json"):
        read_sweep(tmp_path)
    with pytest.raises(InputError, match="incomplete sweep; run the same command again"):
        read_sweep(write_sweep(tmp_path / "incomplete", complete=False))
    write_json(tmp_path / "regression" / "manifest.json", describe({"otad": plant_regression("otad", 9)}, 9))
    with pytest.raises(InputError, match="a sweep of a regression, which has no bracket; leave it out"):
        read_sweep(tmp_path / "regression")
    with pytest.raises(InputError, match="has no defense 'knn'; it has: otad, net"):
        read_sweep(write_sweep(tmp_path / "other"), ["knn"])


def test_damaged_and_old_manifests_are_refused(tmp_path: Path) -> None:
    path = write_sweep(tmp_path) / "manifest.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        read_sweep(tmp_path)
    path.write_text(whole)
    change(path, lambda manifest: manifest["defenses"]["net"]["report"].pop("standard"))
    with pytest.raises(InputError, match=rf"{path} lacks 'standard'; run the same sweep again"):
        read_sweep(tmp_path)
    change(path, lambda manifest: manifest.pop("machine"))
    with pytest.raises(InputError, match="does not say machine: an earlier version wrote it"):
        read_sweep(tmp_path)
