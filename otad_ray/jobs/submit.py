"""Submit a job to a Ray cluster, follow it, and end with its driver's exit code.

python jobs/submit.py label_qcp mnist --num-actors 16
python jobs/submit.py --no-wait nightly_sweep
"""

from collections.abc import Sequence
from pathlib import Path

import otad_ray
from otad_ray.jobs.table import JOBS


def main(arguments: Sequence[str], *, prog: str, repository: Path | None = None) -> int:
    """Submit as the command line says, and return the exit code.

    Args:
        arguments: the command line, without the program.
        prog: how messages call the program.
        repository: checkout to upload unless --working-dir names another; None for the one that this package is part
            of, if it is not installed from a wheel.

    Returns:
        The driver's exit code, or 1 if there was no driver.
    """
    from otad_ray.cluster.job_client import main as submit_job

    return submit_job(
        repository=repository or find_checkout(), description=__doc__ or "", arguments=arguments, prog=prog
    )


def find_checkout() -> Path | None:
    """Return the repository that this package lies in; None for a package installed from a wheel."""
    root = Path(otad_ray.__file__).resolve().parents[1]
    return root if all((root / "jobs" / f"{name}.py").is_file() for name in JOBS) else None
