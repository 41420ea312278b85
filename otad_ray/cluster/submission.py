"""What is submitted to a cluster: a job script, its options, and what it needs of this environment; no secrets."""

import argparse
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from otad_ray.errors import InputError
from otad_ray.machine import find_commit
from otad_ray.options import CAPACITY_WAIT
from otad_ray.tracking import redacted

# What jobs read from the environment, and a cluster would not know.
VARIABLES = (
    "OTAD_STORAGE",
    "OTAD_DATA",
    CAPACITY_WAIT,
    "MLFLOW_TRACKING_URI",
    "MLFLOW_HTTP_REQUEST_TIMEOUT",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
    "MLFLOW_DISABLE_TELEMETRY",
    "MOSEKLM_LICENSE_FILE",
    "OMP_NUM_THREADS",
)
_COMMIT = "OTAD_COMMIT"
_FOLDERS = ("OTAD_STORAGE", "OTAD_DATA")
_SECRET_NAME = re.compile(r"TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIAL|(^|_)KEY($|_)", re.IGNORECASE)
_URI = re.compile(r"[a-zA-Z][\w+.-]*://\S*")
_WHERE_CREDENTIALS_BELONG = (
    "credentials belong into ~/.mlflow/credentials, or into the environment (MLFLOW_TRACKING_USERNAME, "
    "MLFLOW_TRACKING_PASSWORD, MLFLOW_TRACKING_TOKEN), of the node that drivers run on: the head"
)


@dataclass(frozen=True)
class Submission:
    """A job script with its options, and where it runs.

    address: of the cluster's job server; None for RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or the cluster on this machine.
    variables: environment of driver and actors. working_dir: uploaded for them. driver_cpus: 0 for one on the head.
    """

    job: str
    options: tuple[str, ...]
    working_dir: Path
    variables: Mapping[str, str]
    address: str | None = None
    driver_cpus: float = 0.0

    @property
    def entrypoint(self) -> str:
        """The command line of the driver, in a shell's syntax."""
        return shlex.join(["python", f"jobs/{self.job}.py", *self.options])


def parse_submission(
    description: str, arguments: Sequence[str] | None = None, *, prog: str | None = None
) -> argparse.Namespace:
    """Return the options of a command line; None for that of this process, whose program `prog` names."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        exit_on_error=False,
    )
    parser.add_argument(
        "--address", help="job server, such as http://127.0.0.1:8265 (default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS)"
    )
    parser.add_argument("--no-wait", action="store_true", help="submit and end, instead of following the log")
    parser.add_argument("--working-dir", type=Path, help="what is uploaded (default: the repository of this program)")
    parser.add_argument("--env", action="append", default=[], metavar="NAME", help="pass another variable; no secrets")
    parser.add_argument(
        "--driver-cpus",
        type=float,
        default=0.0,
        help="run the driver on a worker with so many CPUs (default: the head)",
    )
    parser.add_argument("job", help="a script of jobs/, such as label_qcp")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="the job's own options")
    try:
        return parser.parse_args(arguments)
    except argparse.ArgumentError as error:
        raise InputError(str(error)) from error
    except SystemExit as end:
        # Its usage error is 2, which is also that of a regression found.
        raise SystemExit(1 if end.code else 0) from None


def plan_submission(
    arguments: argparse.Namespace, repository: Path | None, environment: Mapping[str, str]
) -> Submission:
    """Return what is to be submitted.

    Args:
        arguments: what `parse_submission` returned.
        repository: what is uploaded unless the arguments name another folder; None if there is none.
        environment: variables of this process.

    Raises:
        InputError: for an unknown job, for a secret, for a path that means nothing on the cluster, and if no folder
            is known that could be uploaded.
    """
    uploaded = arguments.working_dir or repository
    if uploaded is None:
        raise InputError(
            "this otad_ray is installed from a wheel, and what is uploaded is a checkout of its repository (jobs/ and "
            "otad_ray/); name one with --working-dir DIR"
        )
    working_dir = uploaded.absolute()
    job = Path(arguments.job).name.removesuffix(".py")
    known = sorted(path.stem for path in working_dir.glob("jobs/*.py") if path.stem != "submit")
    if job not in known:
        raise InputError(f"unknown job {arguments.job!r}; known: {', '.join(known) or f'none in {working_dir}/jobs'}")
    for name in arguments.env:
        if _SECRET_NAME.search(name):
            raise InputError(
                f"{name} looks like a secret, and variables are shown by ray job list; {_WHERE_CREDENTIALS_BELONG}"
            )
        if name not in environment:
            raise InputError(f"--env {name}: it is not set here")
    variables = {name: environment[name] for name in (*VARIABLES, *arguments.env) if environment.get(name)}
    if commit := environment.get(_COMMIT) or find_commit(working_dir):
        variables[_COMMIT] = commit
    for name, value in variables.items():
        _refuse_secret(name, value)
    for option in arguments.options:
        _refuse_secret("the job's options", option)
    _check_paths(variables)
    return Submission(job, tuple(arguments.options), working_dir, variables, arguments.address, arguments.driver_cpus)


def _refuse_secret(where: str, value: str) -> None:
    """InputError for a URI with user info or a query: the job's command and variables are shown to all who may look."""
    for uri in _URI.findall(value):
        if redacted(uri) != uri:
            raise InputError(
                f"{where}: {redacted(uri)} names a user, a password or a token, which ray job list, the dashboard and "
                f"logs would show; {_WHERE_CREDENTIALS_BELONG}"
            )


def _check_paths(variables: Mapping[str, str]) -> None:
    for name in _FOLDERS:
        if name in variables and not Path(variables[name]).is_absolute():
            raise InputError(
                f"{name} is {variables[name]!r}, which is relative to this folder; give an absolute path on the cluster"
            )
