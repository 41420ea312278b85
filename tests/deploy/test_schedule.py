"""The night as cron runs it, with a stand-in for what submits; and its form on Kubernetes."""

import fcntl
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from otad_ray.cluster.submission import VARIABLES
from otad_ray.jobs.nightly_sweep import NightlyConfig

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"


def script(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


class Night:
    """A home folder, and the script run from it with the environment that cron gives."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.logs = folder, folder / "storage" / "nightly-logs"
        # Beside it there may be a cluster.env that is filled in.
        self.script = Path(shutil.copy(DEPLOY / "nightly.sh", folder))
        script(folder / "hook", f'echo "$1 $2" >> {folder}/hooked')

    def run(self, *submit: str, **environment: str) -> subprocess.CompletedProcess:
        command = script(self.folder / "submit", *submit)
        given = {
            "HOME": str(self.folder),
            "PATH": "/usr/bin:/bin",
            "OTAD_STORAGE": str(self.folder / "storage"),
            "OTAD_SUBMIT": str(command),
            "OTAD_NIGHTLY_HOOK": str(self.folder / "hook"),
            **environment,
        }
        return subprocess.run(
            ["bash", str(self.script)],
            env=given,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    @property
    def log(self) -> Path:
        """The newest."""
        return max(self.logs.glob("night-*.log"), key=lambda path: path.stat().st_mtime_ns)

    @property
    def last(self) -> str:
        return (self.logs / "last").read_text().rstrip()

    @property
    def hooked(self) -> list[str]:
        path = self.folder / "hooked"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path)


def test_a_good_night(night: Night) -> None:
    done = night.run('echo "$@"; echo "$RAY_API_SERVER_ADDRESS"', OTAD_NIGHTLY_OPTIONS="--num-actors 16 --samples 50")
    assert done.returncode == 0, done.stderr
    assert night.log.read_text().splitlines()[:2] == [
        "nightly_sweep --num-actors 16 --samples 50",
        "http://127.0.0.1:8265",
    ]
    assert night.last == f"0 {night.log.name} good"
    assert night.hooked == []


@pytest.mark.parametrize(
    ("lines", "code", "told"),
    [
        (
            ["echo REGRESSION digits: otad fell", "echo REGRESSION b", "exit 2"],
            2,
            "regression: 2 found, the first: REGRESSION digits: otad fell",
        ),
        (["echo error: unknown preset >&2", "exit 1"], 1, "the night failed: error: unknown preset"),
        (["echo gone", "exit 137"], 137, "the night failed: gone"),
    ],
)
def test_a_night_that_is_not_good_is_told(night: Night, lines: list[str], code: int, told: str) -> None:
    done = night.run(*lines)
    assert done.returncode == code
    assert told in done.stderr
    assert night.last == f"{code} {night.log.name} {told}"
    assert night.hooked == [f"{code} {night.log}"]
    assert told in night.log.read_text()


def test_no_two_nights_at_once(night: Night) -> None:
    started = night.folder / "started"
    with (night.folder / ".otad-nightly.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = night.run(f"touch {started}")
        assert done.returncode == 75
        assert "another night still runs" in done.stderr
        assert not started.exists()
        assert night.hooked[0].startswith("75 ")
    assert night.run(f"touch {started}").returncode == 0
    assert started.exists()


def test_lock_is_not_held_by_processes_that_outlive_a_night(night: Night) -> None:
    """Ray's client may leave processes behind; the lock is the night's alone."""
    assert night.run("sleep 20 > /dev/null 2>&1 & echo $!").returncode == 0
    left = int(night.log.read_text().splitlines()[0])
    try:
        assert night.run("true").returncode == 0
    finally:
        os.kill(left, 9)


def test_old_logs_are_removed_and_others_left_alone(night: Night) -> None:
    night.logs.mkdir(parents=True)
    ages = {"night-old.log": 40, "night-new.log": 20, "mine.log": 40}
    for name, days in ages.items():
        (night.logs / name).touch()
        os.utime(night.logs / name, (time.time() - days * 86400,) * 2)
    assert night.run("true").returncode == 0
    assert {name for name in ages if (night.logs / name).exists()} == {"night-new.log", "mine.log"}


def test_a_hook_that_fails_changes_nothing(night: Night) -> None:
    done = night.run("exit 2", OTAD_NIGHTLY_HOOK="/nowhere/hook")
    assert done.returncode == 2
    assert "the hook failed: /nowhere/hook" in night.log.read_text()


def test_without_a_place_for_results_it_says_so(night: Night) -> None:
    done = night.run("true", OTAD_STORAGE="")
    assert done.returncode != 0
    assert "fill in deploy/cluster.env" in done.stderr


def test_the_schedule_is_installed_once(night: Night) -> None:
    """With a stand-in for crontab that keeps the table in a file."""
    home = night.folder / "otad" / "deploy"
    home.mkdir(parents=True)
    for name in ("install_schedule.sh", "nightly.sh", "node_environment.sh"):
        (home / name).write_text((DEPLOY / name).read_text())
    (home / "cluster.env").write_text((DEPLOY / "cluster.env.example").read_text())
    table = night.folder / "table"
    table.write_text("1 1 * * * mine\n")
    script(
        night.folder / "crontab",
        f'if [ "$1" = -l ]; then cat {table}; else cat > {table}.new && mv {table}.new {table}; fi',
    )
    environment = {"HOME": str(night.folder), "PATH": f"{night.folder}:/usr/bin:/bin"}
    for _ in range(2):
        subprocess.run(["bash", str(home / "install_schedule.sh")], env=environment, check=True)
    assert table.read_text().splitlines() == ["1 1 * * * mine", f"17 2 * * * bash {home}/nightly.sh"]
    # What node_environment.sh says is what the night gets.
    found = subprocess.run(
        ["bash", "-c", f'. {home}/node_environment.sh && echo "$RAY_AUTH_MODE $OTAD_NIGHTLY_OPTIONS $PATH"'],
        env=environment, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert found.startswith(f"token --num-actors 16 {night.folder}/venv/bin:")


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((KUBERNETES / name).read_text()))


def test_kubernetes_night_may_do_little_and_runs_alone() -> None:
    found = {item["kind"]: item for item in documents("nightly.yaml")}
    cron = found["CronJob"]["spec"]
    assert cron["concurrencyPolicy"] == "Forbid"
    job = cron["jobTemplate"]["spec"]
    assert job["backoffLimit"] == 0
    pod = job["template"]["spec"]
    assert pod["serviceAccountName"] == found["ServiceAccount"]["metadata"]["name"]
    assert found["Role"]["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get"]}]
    assert found["RoleBinding"]["subjects"][0]["name"] == pod["serviceAccountName"]
    assert found["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]
    assert found["NetworkPolicy"]["spec"]["policyTypes"] == ["Ingress"]
    assert {item["metadata"].get("namespace", "otad") for item in found.values()} == {"otad"}
    (generator,) = documents("kustomization.yaml")[0]["configMapGenerator"]
    assert generator["name"] == pod["volumes"][0]["configMap"]["name"]
    mounted = pod["containers"][0]["volumeMounts"][0]["mountPath"]
    assert pod["containers"][0]["command"][1] == f"{mounted}/{generator['files'][0]}"
    assert f"{mounted}/{generator['files'][1]}" in (KUBERNETES / "night.sh").read_text()
    (rayjob,) = documents("rayjob.yaml")
    # The pod outlives the night that it waits for.
    assert rayjob["spec"]["activeDeadlineSeconds"] < job["activeDeadlineSeconds"]


def test_kubernetes_night_is_a_cluster_with_a_token_that_ends() -> None:
    (rayjob,) = documents("rayjob.yaml")
    assert (rayjob["apiVersion"], rayjob["kind"]) == ("ray.io/v1", "RayJob")
    spec = rayjob["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["backoffLimit"] == spec["submitterConfig"]["backoffLimit"] == 0
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert f"ray=={cluster['rayVersion']}" in (DEPLOY.parent / "constraints.txt").read_text().splitlines()
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    actors = int(spec["entrypoint"].split("--num-actors ")[1])
    (workers,) = cluster["workerGroupSpecs"]
    cpus = int(workers["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    # One CPU stays free, as choose_num_actors demands.
    assert NightlyConfig(num_actors=actors).num_actors < workers["replicas"] * cpus
    for group in (cluster["headGroupSpec"], workers):
        (container,) = group["template"]["spec"]["containers"]
        names = {item["name"] for item in container["env"]}
        assert {"OTAD_STORAGE", "OTAD_CAPACITY_WAIT", "MOSEKLM_LICENSE_FILE"} <= names <= set(VARIABLES)
        assert container["envFrom"][0]["secretRef"]
        claims = [
            volume.get("persistentVolumeClaim", {}).get("claimName") for volume in group["template"]["spec"]["volumes"]
        ]
        assert "otad-shared" in claims
        assert not group["template"]["spec"]["automountServiceAccountToken"]


@pytest.mark.parametrize(
    ("states", "message", "code"),
    [
        (["/Initializing", "RUNNING/Running", "SUCCEEDED/Complete"], "", 0),
        (
            ["RUNNING/Running", "FAILED/Complete"],
            "Job entrypoint command failed with exit code 2, last available logs",
            2,
        ),
        (["FAILED/Failed"], "Job entrypoint command failed with exit code 2. No logs available.", 2),
        (["FAILED/Complete"], "Job entrypoint command failed with exit code 20, last available logs", 1),
        (["STOPPED/Complete"], "stopped", 1),
        (["/Failed"], "no nodes", 1),
    ],
)
def test_kubernetes_night_ends_as_its_driver(tmp_path: Path, states: list[str], message: str, code: int) -> None:
    """With a stand-in for kubectl that goes through states, one a poll."""
    (tmp_path / "states").write_text("\n".join(states) + "\n")
    script(
        tmp_path / "kubectl",
        f'case "$*" in create*) echo otad-night-abc ;; *message*) echo "{message}" ;;',
        f"*jobStatus*) head -n 1 {tmp_path}/states | cut -d/ -f1 ;;",
        f"*) head -n 1 {tmp_path}/states | cut -d/ -f2",
        f"[ $(wc -l < {tmp_path}/states) = 1 ] || sed -i 1d {tmp_path}/states ;; esac",
    )
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "POLL_SECONDS": "0"}
    command = ["sh", str(KUBERNETES / "night.sh"), "night.yaml"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == code, done.stderr
    assert "created otad-night-abc" in done.stdout
