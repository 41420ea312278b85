"""Jobs submitted to a local head with token authentication, on ports of its own, bound to loopback."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.digits_jobs import QUICK_OPTIONS, REPOSITORY, ROWS, read_labels, wait_for
from helpers.local_servers import ray_head

BIN = Path(sys.executable).parent
SECRET = "opensesame"
QUICK_NIGHT = ["--presets", "digits", "--samples", "100", "--attacks", "noise", "neighbor_aware"]
QUICK_NIGHT += ["--defense", "otad", "net", "--eps", "0.5", "--num-actors", "2"]


@pytest.fixture(scope="module")
def head() -> Iterator[dict[str, str]]:
    """Environment in which `ray` talks to a new head; `OTAD_HEAD` is the address of its job server."""
    # Sockets lie below the temporary folder, and their paths must stay short.
    with tempfile.TemporaryDirectory(prefix="otad-", dir="/tmp", ignore_cleanup_errors=True) as temporary:
        variables = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            # Where credentials may be: in the environment of the head, which drivers inherit.
            "MLFLOW_TRACKING_URI": f"http://user:{SECRET}@127.0.0.1:9",
        }
        with ray_head(Path(temporary), **variables) as running:
            own = {"OTAD_HEAD": running.job_server, "RAY_API_SERVER_ADDRESS": running.job_server}
            shared = {name: value for name, value in running.environment.items() if name != "RAY_ADDRESS"}
            yield {**shared, **own, "OTAD_SESSION": temporary}


def at_home(head: dict[str, str], storage: Path, **variables: str) -> dict[str, str]:
    """The environment of who submits, with a tracking store in the storage root; an empty variable is left out."""
    own = {
        "OTAD_STORAGE": str(storage),
        "MLFLOW_TRACKING_URI": f"sqlite:///{storage}/mlflow.db",
        "OMP_NUM_THREADS": "1",
    }
    return {name: value for name, value in {**head, **own, **variables}.items() if value}


def submitted(
    head: dict[str, str], storage: Path, *arguments: str, code: int = 0, timeout: float = 240, **variables: str
) -> subprocess.CompletedProcess:
    """Run jobs/submit.py to its end, which must be `code`."""
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "jobs" / "submit.py"), *arguments],
        env=at_home(head, storage, **variables),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def check_labels(storage: Path) -> None:
    (directory,) = storage.glob("digits/labels/*")
    labels = read_labels(directory)
    assert len(set(labels["id"].to_pylist())) == len(labels) == ROWS


@pytest.mark.slow
def test_submitted_labels_are_complete(head: dict[str, str], tmp_path: Path) -> None:
    done = submitted(head, tmp_path, "label_qcp", *QUICK_OPTIONS, RAY_AUTH_MODE="")
    check_labels(tmp_path)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["rows"] == ROWS
    assert Path(result["labels"]).is_relative_to(tmp_path)
    assert result["tracking_uri"] == f"sqlite:///{tmp_path}/mlflow.db"
    assert "exit code 0" in done.stderr


@pytest.mark.slow
def test_ray_job_submit_by_hand(head: dict[str, str], tmp_path: Path) -> None:
    variables = {"OTAD_STORAGE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [str(BIN / "ray"), "job", "submit", "--working-dir", str(REPOSITORY)]
    command += ["--runtime-env-json", json.dumps({"env_vars": variables})]
    command += ["--", "python", "jobs/label_qcp.py", *QUICK_OPTIONS]
    deadline = time.monotonic() + 90
    while True:
        done = subprocess.run(command, env=head, capture_output=True, text=True, timeout=200, check=False)
        not_ready = any(sign in done.stdout + done.stderr for sign in ("No available agent", "Failed to connect"))
        if not not_ready or time.monotonic() > deadline:
            break
        time.sleep(1)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    check_labels(tmp_path)


@pytest.mark.slow
def test_a_failure_ends_with_the_drivers_exit_code(head: dict[str, str], tmp_path: Path) -> None:
    done = submitted(head, tmp_path, "label_qcp.py", "--solver", "simplex", code=2)
    assert "error: unknown solver 'simplex'" in done.stdout
    done = submitted(head, tmp_path, "jobs/nightly_sweep.py", "--sampels", "3", code=1)
    assert "failed, exit code 1" in done.stderr


@pytest.mark.slow
def test_without_the_token_nothing_is_taken(head: dict[str, str], tmp_path: Path) -> None:
    for token, message in (("0" * 64, "refuses the token"), ("", "wants a token")):
        # A home without a token of its own; and RAY_AUTH_MODE is not needed.
        variables = {"RAY_AUTH_TOKEN": token, "RAY_AUTH_MODE": "", "HOME": str(tmp_path)}
        done = submitted(head, tmp_path, "label_qcp", code=1, **variables)
        assert f"error: the cluster {message}" in done.stderr
        assert "RAY_AUTH_TOKEN_PATH" in done.stderr
        assert head["RAY_AUTH_TOKEN"] not in done.stderr
    done = submitted(head, tmp_path, "--address", "http://127.0.0.1:9", "label_qcp", code=1)
    assert "no job server answers at http://127.0.0.1:9" in done.stderr
    assert not list(tmp_path.iterdir())


def shards(storage: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in storage.glob("digits/labels/*/shard-*.parquet")}


@pytest.mark.slow
def test_a_stopped_job_goes_on_when_it_is_submitted_again(head: dict[str, str], tmp_path: Path) -> None:
    # A slow solver on one actor, so that there is a middle.
    job = ["label_qcp", *QUICK_OPTIONS, "--solver", "clarabel", "--rows-per-shard", "20", "--num-actors", "1"]
    command = [sys.executable, str(REPOSITORY / "jobs" / "submit.py"), *job]
    with (tmp_path / "log").open("w") as log:
        # Started in the background of a shell, tests ignore interrupts, and so would what they start.
        following = subprocess.Popen(
            command,
            env=at_home(head, tmp_path),
            stdout=log,
            stderr=log,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    wait_for(lambda: following.poll() is not None or len(shards(tmp_path)) >= 3, 180)
    # Whoever follows may leave; the job goes on, and is stopped by the line that was printed.
    following.send_signal(signal.SIGINT)
    assert following.wait(timeout=30) == 130
    told = (tmp_path / "log").read_text()
    stop_command = re.search(r"goes on without you; stop it with: ray (.*)", told)[1].split()
    before = len(shards(tmp_path))
    wait_for(lambda: len(shards(tmp_path)) > before, 60)
    subprocess.run([str(BIN / "ray"), *stop_command], env=head, check=True, capture_output=True, timeout=60)
    kept = shards(tmp_path)
    assert 3 <= len(kept) < ROWS // 20
    time.sleep(3)
    assert len(shards(tmp_path)) == len(kept)
    done = submitted(head, tmp_path, *job)
    check_labels(tmp_path)
    assert {path: time_ for path, time_ in shards(tmp_path).items() if path in kept} == kept
    assert json.loads(done.stdout.splitlines()[-1])["rows_computed"] == ROWS - 20 * len(kept)
    assert not list(tmp_path.rglob("*.tmp.*"))


@pytest.mark.slow
def test_a_secret_of_the_heads_environment_is_shown_nowhere(head: dict[str, str], tmp_path: Path) -> None:
    done = submitted(head, tmp_path, "build_memory", *QUICK_OPTIONS, MLFLOW_TRACKING_URI="")
    # It was there to be shown: the driver tried that server.
    assert "***@127.0.0.1:9" in done.stdout
    listed = subprocess.run(
        [str(BIN / "ray"), "job", "list"], env=head, check=True, capture_output=True, text=True, timeout=60
    )
    told = [done.stdout, done.stderr, listed.stdout, listed.stderr]
    for folder in (tmp_path, Path(head["OTAD_SESSION"])):
        files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size < 50_000_000]
        assert len(files) > 3
        told += [path.read_bytes().decode(errors="replace") for path in files]
    assert "build_memory" in listed.stdout + listed.stderr
    assert not [text[:200] for text in told if SECRET in text]
    assert not [text[:200] for text in told if head["RAY_AUTH_TOKEN"] in text]
    refused = submitted(head, tmp_path, "label_qcp", "--tracking-uri", f"https://u:{SECRET}@h", code=1)
    assert "~/.mlflow/credentials" in refused.stderr
    assert SECRET not in refused.stderr


@pytest.mark.slow
def test_every_job_starts(head: dict[str, str], tmp_path: Path) -> None:
    jobs = sorted(path.stem for path in (REPOSITORY / "jobs").glob("*.py") if path.stem != "submit")
    assert len(jobs) >= 7
    for job in jobs:
        assert "usage:" in submitted(head, tmp_path, job, "--help").stdout, job


def working_copy(directory: Path, training: str) -> Path:
    """What is submitted, with another training of the preset digits."""
    for name in ("otad_ray", "jobs"):
        shutil.copytree(REPOSITORY / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    presets = directory / "otad_ray" / "presets.py"
    changed = f'replace(PRESETS["digits"], training=replace(PRESETS["digits"].training, {training}))'
    lines = ["", "from dataclasses import replace", f'PRESETS = {{**PRESETS, "digits": {changed}}}', ""]
    presets.write_text(presets.read_text() + "\n".join(lines))
    return directory


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_night_ends_with_two_where_the_submitted_code_is_worse(head: dict[str, str], tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    storage.mkdir()
    good = working_copy(tmp_path / "good", "epochs=3")
    bad = working_copy(tmp_path / "bad", "epochs=1, learning_rate=1e-6")

    def night(name: str, code: Path, expected: int) -> tuple[dict, str]:
        arguments = ["--working-dir", str(code), "nightly_sweep", "--night", name, *QUICK_NIGHT]
        done = submitted(head, storage, *arguments, code=expected, timeout=400, OTAD_COMMIT=f"commit-{name}")
        (line,) = [line for line in done.stdout.splitlines() if line.startswith('{"night"')]
        return json.loads(line), done.stdout

    first, _ = night("first", good, 0)
    assert first["regressions"] == []
    second, log = night("second", bad, 2)
    assert second["presets"][0]["compared_with"] == first["presets"][0]["run_id"]
    assert any("otad: standard accuracy went from" in name for name in second["regressions"])
    assert "REGRESSION digits: otad: standard accuracy went from" in log
    assert json.loads((storage / "nightly" / "second" / "night.json").read_text())["commit"] == "commit-second"
    third, _ = night("third", good, 0)
    assert third["presets"][0]["compared_with"] == first["presets"][0]["run_id"]
