"""Train, attack and certify presets afresh, and compare with the last good night; ends with 2 on a regression.

python jobs/nightly_sweep.py
python jobs/nightly_sweep.py --presets digits --samples 100
"""

import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from otad_ray.artifacts import (
    MANIFEST,
    content_hash,
    read_manifest,
    storage_root,
    write_json,
    write_json_once,
)
from otad_ray.attacks import Norm, find_attack
from otad_ray.data import DataFolders, open_split
from otad_ray.engine.run import open_session
from otad_ray.errors import InputError
from otad_ray.evaluation import Worsening, find_worsenings
from otad_ray.jobs.attack_sweep import run_attack_sweep
from otad_ray.machine import describe_machine, versions
from otad_ray.options import PoolRequest, refuse_cluster_options
from otad_ray.presets import Preset, find_preset
from otad_ray.recipes.defense_source import NET
from otad_ray.recipes.workspace import NIGHTS
from otad_ray.sweep.config import SweepConfig
from otad_ray.sweep.manifest import KIND as SWEEP
from otad_ray.sweep.night_page import write_night_page
from otad_ray.sweep.report import OUTCOMES
from otad_ray.tracking import RunRecord, TrackedRun, default_tracking_uri, how_to_look, latest_run, redacted, track

logger = logging.getLogger(__name__)

EXPERIMENT = "nightly"
_KIND = "nightly"
_NIGHT = "night.json"
_ATTACKS = ("noise", "neighbor_aware", "pgd", "bpda_pgd", "square_500")
_GRAVE = "grave"
# Flags of bugs: the first night, with nothing to compare with, is not good with one of them.
_BUGS = ("broken_certificate", "crossed_bracket", "clean_differs", "eps_zero_differs", "repeat_differs")


@dataclass(frozen=True, kw_only=True)
class NightlyConfig:
    """Options of the nightly sweep.

    Attributes:
        presets: what is swept.
        defense: as of the attack sweep.
        attacks: as of the attack sweep, on all samples.
        samples: of each preset, or all where it has fewer.
        seed: of samples and attacks; nights with another seed are not compared.
        night: the folder below `<storage>/nightly` that everything is made in, anew (default: today's date, UTC). One
            that was interrupted is gone on with; one that is finished is not opened again.
        accept: take this night for the good one, whatever it finds: after a change that was meant.
        storage: storage root (default: OTAD_STORAGE, else ~/otad_ray).
        tracking_uri: MLflow (default: MLFLOW_TRACKING_URI, else SQLite in the storage root).
        num_actors: size of the actor pool (default: one per spare CPU of the cluster).
        capacity_wait: as of the attack sweep.
        address: Ray cluster to join (default: RAY_ADDRESS, else a local one is started).
        local: compute in this process, without Ray.
    """

    presets: tuple[str, ...] = ("digits", "mnist", "fashion_mnist")
    defense: tuple[str, ...] = ("otad", "knn", "net")
    attacks: tuple[str, ...] = _ATTACKS
    norm: Norm = "l2"
    eps: tuple[float, ...] = (0.5, 1.0, 2.0)
    samples: int = 200
    seed: int = 0
    night: str | None = None
    accept: bool = False
    storage: str | None = None
    tracking_uri: str | None = None
    num_actors: int | None = None
    capacity_wait: float | None = None
    address: str | None = None
    local: bool = False

    def __post_init__(self) -> None:
        if not self.presets:
            raise InputError("need a preset to sweep, got none")
        for name in self.attacks:
            find_attack(name)
        if NET not in self.defense:
            raise InputError(f"defense must name {NET!r}: on the undefended net a night sees attacks become weaker")
        if self.night is not None and (not self.night or Path(self.night).name != self.night):
            raise InputError(f"night must be the name of a folder, got {self.night!r}")
        refuse_cluster_options(
            self.local, address=self.address, num_actors=self.num_actors, capacity_wait=self.capacity_wait
        )


def run_nightly(config: NightlyConfig) -> dict[str, Any]:
    """Sweep the presets and compare; what the last line of the job's output says, with all regressions by name."""
    presets = [find_preset(name) for name in config.presets]
    return sweep_presets(config, presets)


def sweep_presets(config: NightlyConfig, presets: list[Preset]) -> dict[str, Any]:
    """`run_nightly` for presets that need not be among the named ones."""
    root = storage_root(config.storage)
    tracking_uri = default_tracking_uri(config.tracking_uri, root)
    night = root / NIGHTS / (config.night or time.strftime("%Y-%m-%d", time.gmtime()))
    state = _open_night(night)
    _share_downloads(root, night)
    sweeps = [_sweep_config(config, preset, night, tracking_uri) for preset in presets]
    with open_session(PoolRequest(address=config.address, local=config.local)):
        results = [_sweep_and_compare(config, sweep, root, tracking_uri) for sweep in sweeps]
        finished = time.time()
        page = write_night_page(night, results)
        write_json(night / _NIGHT, {**state, "finished": True, "finished_at": finished})
        if not config.local:
            _record_night(config.address, results, finished)
    for result in results:
        for name in result["regressions"]:
            print(f"REGRESSION {result['preset']}: {name}", file=sys.stderr)
    logger.info("MLflow: %s", how_to_look(tracking_uri))
    return {
        "night": str(night),
        "page": str(page),
        "presets": results,
        "regressions": [f"{result['preset']}: {name}" for result in results for name in result["regressions"]],
        "tracking_uri": redacted(tracking_uri),
    }


def _record_night(address: str | None, results: list[dict[str, Any]], finished: float) -> None:
    """Publish the night in the cluster's metrics."""
    from otad_ray.engine.metrics_actor import record_night

    record_night(address, {item["preset"]: len(item["regressions"]) for item in results}, finished)


def _open_night(night: Path) -> dict[str, Any]:
    """What the night is made with; InputError for a finished one, and for one of other code."""
    state = {"kind": _KIND, "commit": describe_machine()["commit"], "finished": False}
    if not write_json_once(night / _NIGHT, state):
        found = json.loads((night / _NIGHT).read_text())
        if found["finished"]:
            raise InputError(f"{night} is finished, and shows nothing of the code as it is now; give another --night")
        if found["commit"] != state["commit"]:
            raise InputError(
                f"{night} was begun at commit {found['commit']}, this is {state['commit']}; give another --night"
            )
    return state


def _share_downloads(root: Path, night: Path) -> None:
    """Everything is made afresh but the data sets, which are downloaded once."""
    (root / "data").mkdir(parents=True, exist_ok=True)
    night.mkdir(parents=True, exist_ok=True)
    if not (night / "data").is_symlink():
        (night / "data").symlink_to(os.path.relpath(root / "data", night))


def _sweep_config(config: NightlyConfig, preset: Preset, night: Path, tracking_uri: str) -> SweepConfig:
    if preset.definition.task == "regression":
        raise InputError(f"preset {preset.name!r} is a regression; nights compare classifiers")
    there = len(open_split(preset.definition, "test", DataFolders.from_environment(cache=night / "data")))
    return SweepConfig(
        preset=preset,
        storage=str(night),
        tracking_uri=tracking_uri,
        num_actors=config.num_actors,
        capacity_wait=config.capacity_wait,
        address=config.address,
        local=config.local,
        defense=config.defense,
        attacks=config.attacks,
        costly_attacks=(),
        eps=config.eps,
        norm=config.norm,
        seed=config.seed,
        samples=min(config.samples, there),
    )


def _sweep_and_compare(config: NightlyConfig, sweep: SweepConfig, root: Path, tracking_uri: str) -> dict[str, Any]:
    """One preset's night. A sweep that fails is a regression too, and costs the other presets nothing."""
    started = time.time()
    try:
        result = run_attack_sweep(sweep)
    except InputError as error:
        failed = f"the sweep failed: {error}"
        return {"preset": sweep.preset.name, "compared_with": None, "regressions": [failed], "run_id": None}
    directory = Path(result["sweep"])
    manifest = read_manifest(directory, kind=SWEEP)
    # What two nights must share to be compared: the question, not the code or the network that answers it.
    question = {
        "preset": sweep.preset.name,
        "data_set": sweep.preset.data_set,
        **{name: manifest[name] for name in ("samples", "split", "seed", "norm", "eps")},
        "attacks": sorted(config.attacks),
        "defenses": sorted(config.defense),
    }
    tags = {"otad.kind": _KIND, "otad.question": content_hash(question)}
    with tempfile.TemporaryDirectory() as scratch:
        before, not_compared = _last_good(tracking_uri, tags, Path(scratch), directory)
        significant = [] if before is None else _compare(sweep, manifest, before.artifacts / OUTCOMES, directory)
        known = set() if before is None else _grave_flags(read_manifest(before.artifacts, kind=SWEEP))
    # What attacks find of a defense may be known; what shows a bug never may.
    grave = sorted(flag for flag in _grave_flags(manifest) - known if before is not None or flag[1].split()[0] in _BUGS)
    regressions = [*(f"{defense}: flag {name}" for defense, name in grave), *map(str, significant)]
    compared_with = None if before is None else before.run_id
    good = "true" if config.accept or not regressions else "false"
    record = RunRecord(
        experiment=EXPERIMENT,
        kind=_KIND,
        name=f"night {sweep.preset.name} {Path(str(sweep.storage)).name}",
        job="nightly_sweep",
        started=started,
        result={"directory": directory},
        outcome={"good": good, "regressions": regressions, "shares": _shares(result)},
        params={**question, "compared_with": compared_with, "sweep": directory.name, **versions()},
        metrics={"regressions": len(regressions), "seconds": result["seconds"]} | _shares(result),
        artifacts=(directory / MANIFEST, directory / OUTCOMES),
        tags={
            **tags,
            "otad.good": good,
            "otad.directory": str(directory),
        },
    )
    return {
        "preset": sweep.preset.name,
        "sweep": str(directory),
        "compared_with": compared_with,
        "not_compared": not_compared,
        "regressions": [] if config.accept else regressions,
        "accepted": regressions if config.accept else [],
        "run_id": track(record, tracking_uri=tracking_uri, root=root),
    }


def _last_good(
    tracking_uri: str, tags: Mapping[str, str], scratch: Path, directory: Path
) -> tuple[TrackedRun | None, str | None]:
    """Return the last good night, if there is one, and why it is not known, if the tracking server cannot say.

    A night is worth having without its comparison: the reason is a warning. directory: of this night's own sweep,
    which an interrupted night may have tracked.
    """
    try:
        good, own = {**tags, "otad.good": "true"}, {"otad.directory": str(directory)}
        return latest_run(tracking_uri, EXPERIMENT, good, scratch, unlike=own), None
    except InputError as error:
        logger.warning("not compared: %s", error)
        return None, str(error)


def _compare(sweep: SweepConfig, manifest: dict[str, Any], before: Path, directory: Path) -> list[Worsening]:
    return find_worsenings(
        pq.read_table(before),
        pq.read_table(directory / OUTCOMES),
        eps=manifest["eps"],
        norm=manifest["norm"],
        dimension=sweep.preset.definition.dimension,
        undefended=NET,
    )


def _grave_flags(manifest: dict[str, Any]) -> set[tuple[str, str]]:
    """Defense, and name and attack, of each grave flag."""
    return {
        (name, " ".join(filter(None, (flag["name"], flag["attack"]))))
        for name, defense in manifest["defenses"].items()
        for flag in defense["flags"]
        if flag["severity"] == _GRAVE
    }


def _shares(result: dict[str, Any]) -> dict[str, float]:
    return {
        f"{name}.{quantity}_eps_{eps}": share
        for name, bracket in result["brackets"].items()
        for eps, shares in bracket.items()
        for quantity, share in shares.items()
        if share is not None
    }
