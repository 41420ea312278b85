"""Where the results of a sweep lie, by what they depend on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from helpers.digits_jobs import quick_preset
from otad_ray.certification import certificate_revision
from otad_ray.data import DataFolders
from otad_ray.defenses import KNN, OTADGlobal
from otad_ray.sweep.probe import Probe
from otad_ray.sweep.samples import Samples
from otad_ray.sweep.units import make_clean_unit


def identify_clean(tmp_path: Path, probe: Probe) -> dict[str, Any]:
    workspace: Any = SimpleNamespace(
        rows=lambda split: SimpleNamespace(fingerprint="rows"),
        directory=lambda folder, identity: tmp_path / str(len(list(tmp_path.iterdir()))),
    )
    samples = Samples(quick_preset(), "test", DataFolders(), 0, 20)
    plan: Any = SimpleNamespace(samples=samples, rows_per_shard=20)
    source: Any = SimpleNamespace(fingerprint="defense", surrogate="/root/surrogate", search="torch")
    return make_clean_unit(workspace, plan, source, probe).output.manifest["identity"]


def test_radii_of_an_earlier_certificate_are_not_taken_for_those_of_a_later_one(tmp_path: Path) -> None:
    first, second = (identify_clean(tmp_path, Probe(None, 0.0, 0.0, certificate_revision=number)) for number in (1, 2))
    # Records of certificates that never changed stay where they are.
    assert "certificate_revision" not in first
    assert second == first | {"certificate_revision": 2}
    # Without a certificate there is nothing to tell apart.
    without = identify_clean(tmp_path, Probe("no certificate", 0.0, 0.0, certificate_revision=2))
    assert "certificate_revision" not in without


def test_the_certificate_of_the_potential_is_the_second_one() -> None:
    assert certificate_revision(KNN.__new__(KNN)) == 1
    assert certificate_revision(OTADGlobal.__new__(OTADGlobal)) == 2
