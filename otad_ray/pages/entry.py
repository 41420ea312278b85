"""Entries of the leaderboard: a defense's brackets on a data set, as JSON that anyone can add."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isclose, isfinite
from pathlib import Path
from typing import Any

from otad_ray.artifacts import MANIFEST, read_manifest
from otad_ray.errors import InputError
from otad_ray.evaluation import Proportion, wilson_interval
from otad_ray.pages.standing import Standing, StandingAt, read_proportion, read_standing

VERSION = 1
# What must be known of a sweep before anything is said of its numbers.
_QUESTION = ("data_set", "preset", "split", "samples", "seed", "norm", "eps_unit")
_ORIGIN = ("sweep", "fingerprint", "commit", "processor", "versions", "command")
# Flags that say why a certified share may be larger than the worst case.
_CONTRADICTIONS = {"broken_certificate", "crossed_bracket"}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A line of the leaderboard.

    Attributes:
        version: of this format.
        data_set: name of the data set.
        preset: what was trained.
        split: part of the data set that the samples are of.
        samples: their number.
        seed: of the samples and of the attacks.
        norm: of the budgets.
        eps_unit: unit of eps, in words.
        attacks: settings of each attack, by name.
        standing: the numbers.
        origin: the sweep, the defense's fingerprint, the commit, the machine, versions, and the command.
    """

    version: int
    data_set: str
    preset: str
    split: str
    samples: int
    seed: int
    norm: str
    eps_unit: str
    attacks: Mapping[str, Mapping[str, Any]]
    standing: Standing
    origin: Mapping[str, Any]

    @property
    def group(self) -> tuple[str, str]:
        """The data set and norm: what entries must share to be compared."""
        return self.data_set, self.norm

    @property
    def file_name(self) -> str:
        """The name of the entry's file, which no other defense of the preset, data set and norm has."""
        preset = () if self.preset == self.data_set else (self.preset,)
        words = (self.data_set, *preset, self.norm, self.standing.defense)
        return "-".join(re.sub(r"[^\w.]+", "_", word) for word in words) + ".json"


def read_sweep(directory: Path, defenses: Sequence[str] = ()) -> list[Entry]:
    """Return an entry for each defense of a sweep.

    Args:
        directory: a sweep's directory.
        defenses: names of those that are wanted; all if none is named.

    Raises:
        InputError: if there is no complete sweep of a classifier in the directory, or not of these defenses, or if its
            manifest is damaged.
    """
    manifest, path = read_manifest(directory, kind="sweep"), directory / MANIFEST
    if not manifest.get("complete"):
        raise InputError(f"{directory} is an incomplete sweep; run the same command again, which finishes it")
    missing = [name for name in (*_QUESTION, "attacks", "defenses", "machine", "command") if name not in manifest]
    if missing:
        raise InputError(
            f"{path} does not say {', '.join(missing)}: an earlier version wrote it, or it is damaged; run the same "
            "sweep again, which computes no record twice"
        )
    with _reading(path, "run the same sweep again, which computes no record twice"):
        unknown = [name for name in defenses if name not in manifest["defenses"]]
        if unknown:
            raise InputError(f"{directory} has no defense {unknown[0]!r}; it has: {', '.join(manifest['defenses'])}")
        described = {name: manifest["defenses"][name] for name in defenses or manifest["defenses"]}
        if any("clean_mse" in item["report"] for item in described.values()):
            raise InputError(f"{directory} is a sweep of a regression, which has no bracket; leave it out")
        return [_make_entry(directory, manifest, name, item) for name, item in described.items()]


def read_entry(path: Path) -> Entry:
    """Return the entry that a file holds.

    Raises:
        InputError: if it is not in the format, or its numbers are impossible.
    """
    with _reading(path, "write it anew with: otad report DIR --entries FOLDER"):
        content = json.loads(path.read_text())
        standing = content["standing"]
        budgets = tuple(_read_budget(item) for item in standing["budgets"])
        read = {
            "standard": read_proportion(standing["standard"]),
            "budgets": budgets,
            "flags": tuple(standing["flags"]),
        }
        entry = Entry(**{**content, "standing": Standing(**{**standing, **read})})
        check_entry(entry)
    if path.name != entry.file_name:
        raise InputError(f"{path} holds what belongs into {entry.file_name}; rename it")
    return entry


def check_entry(entry: Entry) -> None:
    """Refuse an entry whose numbers cannot be, or that does not say where they come from; ValueError says why."""
    for name in ("data_set", "preset", "split", "eps_unit"):
        value = getattr(entry, name)
        _need(isinstance(value, str) and value != "", f"{name} must be a text, got {value!r}")
    _need(entry.version == VERSION, f"version must be {VERSION}, got {entry.version!r}")
    _need(entry.norm in ("l2", "linf"), f"norm must be l2 or linf, got {entry.norm!r}")
    for name, least in (("samples", 1), ("seed", 0)):
        value = getattr(entry, name)
        _need(isinstance(value, int) and value >= least, f"{name} must be a whole number >= {least}, got {value!r}")
    missing = [name for name in _ORIGIN if not entry.origin.get(name)]
    _need(not missing, f"origin lacks {', '.join(missing)}")
    _need("otad_ray" in entry.origin["versions"], "origin.versions lacks otad_ray")
    _check_standing(entry.standing, entry.samples, entry.attacks)


def _check_standing(standing: Standing, samples: int, attacks: Mapping[str, Any]) -> None:
    """Refuse brackets that cannot be; ValueError says why."""
    _need(isinstance(standing.defense, str) and standing.defense != "", "the defense has no name")
    _check_share("standard", standing.standard, samples)
    eps = [budget.eps for budget in standing.budgets]
    _need(bool(eps), "there is no budget")
    _need(all(isfinite(value) and value >= 0 for value in eps), f"eps must be finite and >= 0, got {eps}")
    _need(eps == sorted(set(eps)), f"eps must ascend, got {eps}")
    for budget in standing.budgets:
        place = f"at eps {budget.eps:g}"
        _check_share(f"worst_case {place}", budget.worst_case, samples)
        _need_order(f"worst_case {place}", budget.worst_case, "standard", standing.standard)
        _need(budget.strongest is None or budget.strongest in attacks, f"{budget.strongest!r} {place} is no attack")
        if budget.certified is not None:
            _check_share(f"certified {place}", budget.certified, samples)
            if not _CONTRADICTIONS & set(standing.flags):
                _need_order(f"certified {place}", budget.certified, f"worst_case {place}", budget.worst_case)


def _check_share(name: str, share: Proportion, samples: int) -> None:
    _need(0 <= share.count <= share.n <= samples and share.n > 0, f"{name} is {share.count} of {share.n} of {samples}")
    _need(isclose(share.value, share.count / share.n, abs_tol=1e-9), f"{name} is {share.value}, not count / n")
    interval = wilson_interval(share.count, share.n)
    is_wilson = all(isclose(*pair, abs_tol=1e-6) for pair in zip((share.low, share.high), interval, strict=True))
    _need(is_wilson, f"{name} has the interval {share.low} to {share.high}, Wilson's is {interval}")


def _need_order(name: str, smaller: Proportion, other: str, larger: Proportion) -> None:
    """Refuse a share that is larger than one of the same samples that contains it."""
    is_possible = smaller.n != larger.n or smaller.count <= larger.count
    _need(is_possible, f"{name} is {smaller.value:g}, more than {other}, {larger.value:g}")


def _need(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


def _make_entry(directory: Path, manifest: Mapping[str, Any], name: str, described: Mapping[str, Any]) -> Entry:
    question = {field: manifest[field] for field in _QUESTION}
    # Your own data set is named by its path.
    question["data_set"] = Path(question["data_set"]).name
    entry = Entry(
        version=VERSION,
        **question,
        attacks=manifest["attacks"],
        standing=read_standing(name, described["report"], described["flags"], manifest["norm"]),
        origin={
            "sweep": directory.resolve().name,
            "fingerprint": described["fingerprint"],
            **manifest["machine"],
            "versions": manifest["versions"],
            "command": manifest["command"],
        },
    )
    check_entry(entry)
    return entry


def _read_budget(described: Mapping[str, Any]) -> StandingAt:
    certified = described["certified"]
    shares = {
        "certified": None if certified is None else read_proportion(certified),
        "worst_case": read_proportion(described["worst_case"]),
    }
    return StandingAt(**{**described, **shares})


@contextmanager
def _reading(path: Path, advice: str) -> Iterator[None]:
    """Raise InputError, naming the file, for whatever in the block does not fit its format."""
    try:
        yield
    except InputError:
        raise
    except KeyError as error:
        raise InputError(f"{path} lacks {error}; {advice}") from error
    except (AttributeError, OSError, TypeError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}; {advice}") from error
