"""Every job of the table has its script, its module and the names in it, and can be described without its imports."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from otad_ray.jobs.table import COMMANDS, JOBS, Job, find_name, read_description
from otad_ray.presets import PRESETS

REPOSITORY = Path(__file__).parents[2]


def test_jobs_and_scripts_are_the_same() -> None:
    scripts = {path.stem for path in (REPOSITORY / "jobs").glob("*.py")}
    assert scripts == {*JOBS, "submit"}
    assert scripts - {"submit"} == {job.name for job in JOBS.values()}


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_job_has_what_the_table_names(job: Job) -> None:
    module = import_module(job.module)
    assert isinstance(getattr(module, job.config), type)
    assert callable(getattr(module, job.run))
    assert job.default_preset is None or job.default_preset in PRESETS
    # A job with a finding, which ends with 2, ends with 1 for bad input, and has no single preset.
    assert job.finding is None or job.default_preset is None


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_description_begins_with_a_sentence_and_names_the_script(job: Job) -> None:
    description = read_description(job.module)
    assert description == import_module(job.module).__doc__.strip()
    assert re.match(r"[A-Z][a-z]+,? .*\.$", description.splitlines()[0])
    assert f"python jobs/{job.name}.py" in description


def test_names_are_found_with_either_hyphens_or_underscores() -> None:
    assert find_name("label-qcp") == find_name("label_qcp") == "label_qcp"
    assert find_name("write-deployment") in COMMANDS
    assert find_name("labels") is None


def test_description_of_a_missing_module_is_refused() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"otad_ray\.jobs\.nothing"):
        read_description("otad_ray.jobs.nothing")
