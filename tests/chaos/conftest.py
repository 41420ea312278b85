"""One trained preset and one cluster for all faults, and what every test ends with."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from helpers.chaos_disk import Disk
from helpers.chaos_jobs import JOBS, LOOPBACK, PRESET, Job, Rows, run_here
from helpers.chaos_verdict import Verdict
from otad_ray.jobs.cli import parse
from otad_ray.options import JobConfig
from otad_ray.recipes.defenses import find_defenses
from otad_ray.recipes.workspace import Workspace


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage root with backbone, memory and defenses."""
    root = tmp_path_factory.mktemp("trained")
    workspace = Workspace(parse(JobConfig, [*PRESET, "--storage", str(root)], description=""))
    find_defenses(workspace, ("otad",))
    return root


@pytest.fixture
def storage(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained preset, without results."""
    return Path(shutil.copytree(trained, tmp_path / "root"))


@pytest.fixture(scope="session")
def expected(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Job], Rows]:
    """All rows of an undisturbed run, computed once."""
    known: dict[str, Rows] = {}

    def of(job: Job) -> Rows:
        if job.name not in known:
            root = shutil.copytree(trained, tmp_path_factory.mktemp("undisturbed") / "root")
            known[job.name] = job.expected(Path(root))
        return known[job.name]

    return of


@pytest.fixture(scope="session")
def head() -> Iterator[str]:
    """Address of a cluster on loopback that outlives the drivers which join it.

    Room for two of them, and for what others that were just killed have not given back yet.
    """
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 12, "node_ip_address": LOOPBACK, "include_dashboard": False},
    )
    yield cluster.address
    cluster.shutdown()


@pytest.fixture(params=JOBS, ids=lambda job: job.name.replace(" ", "_"))
def job(request: pytest.FixtureRequest) -> Job:
    return request.param


@pytest.fixture
def verdict(expected: Callable[[Job], Rows], record_property: Callable[[str, object], None]) -> Verdict:
    return Verdict(expected, record_property)


@pytest.fixture(scope="session")
def finished(trained: Path, head: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Job], Path]:
    """A storage root with the results of a job that was left alone, made once."""
    known: dict[str, Path] = {}

    def of(job: Job) -> Path:
        if job.name not in known:
            root = Path(shutil.copytree(trained, tmp_path_factory.mktemp("finished") / "root"))
            assert run_here(job, root, "--address", head) == 0
            known[job.name] = root
        return known[job.name]

    return of


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A file system of its own, which can be full or read-only; skips where none may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    with Disk.mounted(place) as mounted:
        yield mounted
