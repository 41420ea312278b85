"""Ray's job server: submitting under a token, following a log, and what became of the driver."""

import asyncio
import logging
import os
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from otad_ray.cluster.submission import Submission, parse_submission, plan_submission
from otad_ray.errors import InputError

_ADDRESS = "RAY_API_SERVER_ADDRESS"
# A head that has just started has no agent for the first few seconds.
_AGENT_SECONDS = 90.0
# A log that breaks off, as with a tunnel that is made anew, is taken up again within this time.
_LOST_SECONDS = 300.0
_POLL_SECONDS = 1.0
_INTERRUPTED = 130


def main(
    *, repository: Path | None, description: str, arguments: Sequence[str] | None = None, prog: str | None = None
) -> int:
    """Submit as the command line says; the exit code: the driver's, or 1 where there is none."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    try:
        parsed = parse_submission(description, arguments, prog=prog)
        submission = plan_submission(parsed, repository, os.environ)
        return submit(submission, follow=not parsed.no_wait)
    except InputError as error:
        _say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        _say("interrupted before the job was followed; ray job list shows whether it was submitted")
        return _INTERRUPTED


def submit(submission: Submission, *, follow: bool = True, out: TextIO | None = None) -> int:
    """Submit, and follow until the job ends; its driver's exit code, 0 without following.

    Signals are 128 and their number, a job that was stopped is 130, and one that never had a driver is 1. Raises
    InputError where no server answers, or where it refuses the token.
    """
    client = _connect(submission.address)
    name = _submit(client, submission)
    address = client.get_address()
    _say(f"submitted {name}: {submission.entrypoint}")
    _say(f"  follow: ray job logs --follow {name} --address {address}")
    _say(f"  stop:   ray job stop {name} --address {address}")
    _say("  resume: submit the same again; what is finished is kept")
    if not follow:
        return 0
    try:
        details = _follow(client, name, out or sys.stdout)
    except KeyboardInterrupt:
        _say(f"{name} goes on without you; stop it with: ray job stop {name} --address {address}")
        return _INTERRUPTED
    code = exit_code(details)
    _say(f"{name}: {details.status.value.lower()}, exit code {code}")
    if details.status == JobStatus.FAILED and details.driver_exit_code is None:
        _say(f"  {details.message}")
    return code


def exit_code(details: JobDetails) -> int:
    """What a shell would say of the driver."""
    if details.status == JobStatus.SUCCEEDED:
        return 0
    if details.status == JobStatus.STOPPED:
        return _INTERRUPTED
    code = details.driver_exit_code
    return 1 if not code else code if code > 0 else 128 - code


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _connect(address: str | None) -> JobSubmissionClient:
    if address:
        # Ray prefers its variables to an address that is given.
        os.environ[_ADDRESS] = address
    headers = _token_header()
    try:
        return JobSubmissionClient(headers=headers)
    except AuthenticationError as error:
        raise InputError(_refused(error)) from error
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        asked = address or os.environ.get(_ADDRESS) or os.environ.get("RAY_ADDRESS") or "this machine"
        raise InputError(
            f"no job server answers at {asked} ({type(error).__name__}); start a cluster, open the tunnel "
            f"(ray dashboard cluster.yaml), or give its address with --address or {_ADDRESS}"
        ) from error


def _token_header() -> dict[str, str]:
    """The header with the cluster's token, from where Ray looks for it; none where there is no token.

    Ray itself sends one only if RAY_AUTH_MODE says so; where there is a token, it is meant.
    """
    if os.environ.get("RAY_AUTH_MODE") == "disabled":
        return {}
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        token = os.environ.get("RAY_AUTH_TOKEN") or path.read_text()
    except OSError as error:
        if named:
            raise InputError(f"RAY_AUTH_TOKEN_PATH is {named!r}, which cannot be read: {error.strerror}") from error
        return {}
    return {"Authorization": f"Bearer {token.strip()}"}


def _refused(error: AuthenticationError) -> str:
    what = "wants a token" if "required" in str(error) else "refuses the token that was sent"
    return (
        f"the cluster {what}: set RAY_AUTH_TOKEN_PATH to a file with the cluster's token, RAY_AUTH_TOKEN to the "
        "token itself, or put it into ~/.ray/auth_token"
    )


def _submit(client: JobSubmissionClient, submission: Submission) -> str:
    """Submit under a name of our own, so that a second try cannot start a second driver."""
    name = f"{submission.job}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    runtime_env = {"working_dir": str(submission.working_dir), "env_vars": dict(submission.variables)}
    deadline = time.monotonic() + _AGENT_SECONDS
    while True:
        try:
            return client.submit_job(
                entrypoint=submission.entrypoint,
                submission_id=name,
                runtime_env=runtime_env,
                entrypoint_num_cpus=submission.driver_cpus,
            )
        except AuthenticationError as error:
            raise InputError(_refused(error)) from error
        except RuntimeError as error:
            if "No available agent" not in str(error):
                raise InputError(f"the cluster does not take the job: {_first_line(error)}") from error
            if time.monotonic() > deadline:
                raise InputError(
                    f"no agent of the cluster took the job within {_AGENT_SECONDS:.0f} s; is its head running?"
                ) from error
            time.sleep(_POLL_SECONDS)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:500]


def _follow(client: JobSubmissionClient, name: str, out: TextIO) -> JobDetails:
    """Print the log until the job ends, across connections that break; InputError where it is lost for long."""
    log, contact = _Log(out), time.monotonic()
    while True:
        try:
            asyncio.run(log.tail(client, name))
            details = client.get_job_info(name)
            contact = time.monotonic()
            if details.status.is_terminal():
                return details
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            if time.monotonic() - contact > _LOST_SECONDS:
                raise InputError(
                    f"lost sight of {name}, which may go on ({_first_line(error)}); ask with: ray job status {name}"
                ) from error
        time.sleep(_POLL_SECONDS)


class _Log:
    """A job's log as far as it was printed."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._printed = 0

    async def tail(self, client: JobSubmissionClient, name: str) -> None:
        """Print what is new until the log or the connection ends; each connection tells it from its start."""
        seen = 0
        async for text in client.tail_job_logs(name):
            seen += len(text)
            if seen > self._printed:
                self._out.write(text[self._printed - seen :])
                self._out.flush()
                self._printed = seen
