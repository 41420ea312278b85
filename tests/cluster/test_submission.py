"""What is submitted, what is refused, and how a job's end becomes an exit code; no cluster is needed."""

import asyncio
import io
from argparse import Namespace
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.job_submission import JobStatus

from helpers.digits_jobs import REPOSITORY
from otad_ray.cluster import job_client
from otad_ray.cluster.submission import VARIABLES, Submission, plan_submission
from otad_ray.errors import InputError

SECRET = "opensesame"


def plan(*options: str, job: str = "label_qcp", env: tuple[str, ...] = (), **environment: str) -> Submission:
    arguments = Namespace(
        job=job, options=list(options), env=list(env), address=None, working_dir=None, driver_cpus=0.0, no_wait=False
    )
    return plan_submission(arguments, REPOSITORY, environment)


def test_submission_carries_the_variables_that_jobs_read_and_no_others() -> None:
    given = dict.fromkeys(VARIABLES, "/x") | {"HOME": "/root", "MLFLOW_TRACKING_PASSWORD": SECRET, "MINE": "1"}
    found = plan("mnist", "--labels", "a b", env=("MINE",), OTAD_COMMIT="abc", **given)
    assert found.variables == dict.fromkeys(VARIABLES, "/x") | {"MINE": "1", "OTAD_COMMIT": "abc"}
    assert found.entrypoint == "python jobs/label_qcp.py mnist --labels 'a b'"
    assert plan(job="jobs/label_qcp.py").entrypoint == plan().entrypoint
    with pytest.raises(InputError, match=r"unknown job 'labels'; known: attack_sweep, benchmark, .*train_backbone"):
        plan(job="labels")


@pytest.mark.parametrize(
    ("options", "environment"),
    [
        ((), {"MLFLOW_TRACKING_URI": f"https://user:{SECRET}@tracking.example"}),
        ((), {"MLFLOW_TRACKING_URI": f"https://{SECRET}@tracking.example"}),
        ((), {"MLFLOW_TRACKING_URI": f"https://tracking.example?token={SECRET}"}),
        ((), {"MLFLOW_TRACKING_URI": f"postgresql://user:{SECRET}@database/mlflow"}),
        (("--tracking-uri", f"https://user:{SECRET}@tracking.example"), {}),
        ((f"--tracking-uri=https://user:{SECRET}@tracking.example",), {}),
        ((), {"MINE": f"https://user:{SECRET}@tracking.example"}),
        ((), {"MLFLOW_TRACKING_PASSWORD": SECRET}),
        ((), {"AWS_SECRET_ACCESS_KEY": SECRET}),
    ],
)
def test_secrets_are_refused_and_not_repeated(options: tuple[str, ...], environment: dict[str, str]) -> None:
    env = tuple(name for name in environment if name not in VARIABLES)
    with pytest.raises(InputError, match=r"~/\.mlflow/credentials") as refused:
        plan(*options, env=env, **environment)
    assert SECRET not in str(refused.value)


def test_paths_of_this_folder_are_refused_and_license_servers_are_not() -> None:
    with pytest.raises(InputError, match="OTAD_STORAGE is 'runs', which is relative"):
        plan(OTAD_STORAGE="runs")
    assert plan(MOSEKLM_LICENSE_FILE="27007@license.example").variables["MOSEKLM_LICENSE_FILE"]
    with pytest.raises(InputError, match="--env MISSING: it is not set here"):
        plan(env=("MISSING",))


@pytest.mark.parametrize(
    ("status", "driver", "code"),
    [
        (JobStatus.SUCCEEDED, 0, 0),
        (JobStatus.FAILED, 1, 1),
        (JobStatus.FAILED, 2, 2),
        (JobStatus.FAILED, -9, 137),
        (JobStatus.FAILED, None, 1),
        (JobStatus.STOPPED, None, 130),
        (JobStatus.STOPPED, -15, 130),
    ],
)
def test_exit_codes(status: JobStatus, driver: int | None, code: int) -> None:
    assert job_client.exit_code(SimpleNamespace(status=status, driver_exit_code=driver)) == code


class Server:
    """A job server whose first agent is late, and whose log breaks off twice."""

    def __init__(self, status: JobStatus = JobStatus.FAILED, code: int | None = 2) -> None:
        self.details = SimpleNamespace(status=status, driver_exit_code=code, message="")
        self.submitted: list[dict] = []
        self.tails = 0

    def get_address(self) -> str:
        return "http://127.0.0.1:8265"

    def submit_job(self, **fields) -> str:
        self.submitted.append(fields)
        if len(self.submitted) == 1:
            raise RuntimeError("Request failed with status code 500: No available agent to submit job")
        return fields["submission_id"]

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        self.tails += 1
        for text in ("one\n", "two\n", "three\n")[: self.tails]:
            yield text
        await asyncio.sleep(0)
        if self.tails < 3:
            raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")

    def get_job_info(self, name: str) -> SimpleNamespace:
        return self.details


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr(job_client, "_connect", lambda address: server)
    monkeypatch.setattr(job_client, "_POLL_SECONDS", 0.001)
    return server


def test_a_late_agent_and_a_broken_log_cost_nothing(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    assert job_client.submit(plan(OTAD_STORAGE="/shared"), out=out) == 2
    assert out.getvalue() == "one\ntwo\nthree\n"
    assert len({fields["submission_id"] for fields in server.submitted}) == 1
    assert server.submitted[1]["runtime_env"]["env_vars"]["OTAD_STORAGE"] == "/shared"
    told = capsys.readouterr().err
    assert "ray job stop label_qcp-" in told
    assert "resume: submit the same again" in told
    assert "failed, exit code 2" in told


def test_a_log_that_stays_away_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_client, "_LOST_SECONDS", 0.0)
    with pytest.raises(InputError, match=r"lost sight of label_qcp-.*ask with: ray job status label_qcp-"):
        job_client.submit(plan(), out=io.StringIO())


def test_the_token_is_found_where_ray_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert job_client._token_header() == {}
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("home\n")
    assert job_client._token_header() == {"Authorization": "Bearer home"}
    (tmp_path / "mine").write_text("file")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "mine"))
    assert job_client._token_header() == {"Authorization": "Bearer file"}
    monkeypatch.setenv("RAY_AUTH_TOKEN", "variable")
    assert job_client._token_header() == {"Authorization": "Bearer variable"}
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert job_client._token_header() == {}
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name)
    (tmp_path / "mine").unlink()
    with pytest.raises(InputError, match=r"RAY_AUTH_TOKEN_PATH is .*mine', which cannot be read"):
        job_client._token_header()


def test_not_waiting_is_not_following(server: Server) -> None:
    assert job_client.submit(plan(), follow=False) == 0
    assert server.tails == 0


@pytest.mark.parametrize(("arguments", "code"), [(["--nowait"], 1), (["gone"], 1), (["--help"], 0)])
def test_bad_usage_never_looks_like_a_regression(
    arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["submit.py", *arguments])
    try:
        found = job_client.main(repository=REPOSITORY, description="")
    except SystemExit as end:
        found = end.code
    assert found == code


def test_the_upload_is_the_repository_of_the_script() -> None:
    assert plan().working_dir == REPOSITORY == Path(__file__).parents[2]
