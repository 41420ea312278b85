"""A sweep of planted records: its reports and manifest, without any defense or attack having run."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from helpers.planted import rows
from otad_ray.artifacts import replace_non_finite, to_jsonable, write_json
from otad_ray.attacks import AttackKind
from otad_ray.evaluation import Comparison, RobustnessReport, build_report, compare_defenses, sample_outcomes

EPS = (0.5, 1.0)
DIMENSION = 64
KINDS: dict[str, AttackKind] = {"noise": "noise", "pgd": "gradient"}


def plant_report(name: str, count: int, *, certified: bool = True, seed: int = 0) -> RobustnessReport:
    """Return the report of a classifier that is right on 90 % and loses samples as eps grows, within its radii."""
    random = np.random.default_rng(seed)
    right = random.random(count) < 0.9
    radius = np.where(right, random.exponential(0.5, count), 0.0)
    breaks = radius + random.exponential(0.5, count)
    records = [
        rows(
            attack,
            eps,
            breaks * strength > eps,
            right=right,
            l2=np.minimum(breaks * strength, eps),
            relaxations=random.integers(0, 4, count),
            clean_relaxations=random.integers(0, 3, count),
        )
        for attack, strength in (("noise", 4.0), ("pgd", 1.0))
        for eps in EPS
    ]
    clean = pa.table(
        {
            "id": np.arange(count),
            "radius": radius,
            "method": np.where(radius > 0, "hull", "").tolist(),
            "clean_correct": right,
            "relative_error": np.full(count, 0.1),
            "status": ["ok"] * count,
            "prediction": np.where(right, 0, 1),
        }
    )
    return build_report(
        name,
        pa.concat_tables(records),
        clean,
        kinds=KINDS,
        norm="l2",
        eps_unit="pixels in [0, 1]",
        dimension=DIMENSION,
        not_certified=None if certified else "nothing is proven of it",
    )


def plant_regression(name: str, count: int) -> RobustnessReport:
    """Return the report of a regression whose errors grow with eps."""
    columns = {"target": np.zeros(count), "clean_output": np.full(count, 0.1)}
    records = [rows("pgd", eps, np.zeros(count), regression=True, output=np.full(count, eps), **columns) for eps in EPS]
    clean = pa.table({"id": np.arange(count), "relative_error": np.full(count, 0.1)})
    return build_report(
        name,
        pa.concat_tables(records),
        clean,
        kinds=KINDS,
        norm="l2",
        eps_unit="units",
        dimension=DIMENSION,
        not_certified="a regression",
    )


def compare(reports: dict[str, RobustnessReport]) -> list[Comparison]:
    tables = [
        sample_outcomes(name, report.records, report.clean, "l2", by_attack=False) for name, report in reports.items()
    ]
    return list(compare_defenses(pa.concat_tables(tables), EPS))


def describe(reports: dict[str, RobustnessReport], count: int, **fields: Any) -> dict[str, Any]:
    """Return what the manifest of a sweep says that found these reports."""
    manifest = {
        "kind": "sweep",
        "complete": True,
        "identity": {},
        "preset": "digits",
        "data_set": "digits",
        "samples": count,
        "split": "test",
        "seed": 0,
        "norm": "l2",
        "eps": list(EPS),
        "eps_unit": "pixels in [0, 1]",
        "attacks": {name: {"steps": 100, "samples": count} for name in KINDS},
        "defenses": {
            name: {
                "fingerprint": f"of {name}",
                "not_certified": report.not_certified,
                "stage_seconds": {"solve": 1.5, "model": 0.25},
                "report": to_jsonable(report.bracket),
                "flags": to_jsonable(list(report.flags)),
            }
            for name, report in reports.items()
        },
        "comparisons": [],
        "seconds": 12.0,
        "run_id": None,
        "machine": {"processor": "a processor", "cores": "2", "memory": "24 GiB", "commit": "0123456"},
        "versions": {"otad_ray": "0.1.0", "python": "3.11.0"},
        "command": "python jobs/attack_sweep.py digits",
    }
    return replace_non_finite(manifest | fields)


def write_sweep(directory: Path, names: tuple[str, ...] = ("otad", "net"), count: int = 50, **fields: Any) -> Path:
    """Write the manifest of a planted sweep, as far as others read it."""
    reports = {name: plant_report(name, count, seed=place) for place, name in enumerate(names)}
    write_json(directory / "manifest.json", describe(reports, count, **fields))
    return directory


def draw_noise(path: Path, width: int = 1500, height: int = 800) -> None:
    """Write a picture that no format can make small."""
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
