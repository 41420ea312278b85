"""cluster.yaml: Ray takes it, and what Ray does not look at is as the documentation says."""

import copy
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from otad_ray.engine.capacity import MOSEK_TOKEN
from otad_ray.options import CAPACITY_WAIT

REPOSITORY = Path(__file__).parents[2]
CLUSTER = REPOSITORY / "cluster.yaml"


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load(CLUSTER.read_text())


def validate(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(copy.deepcopy(config)))


def test_cluster_file_is_accepted_by_ray(cluster: dict[str, Any]) -> None:
    validate(cluster)


@pytest.mark.parametrize(
    "path",
    [
        ("max_worker",),
        ("security_group",),
        ("auth", "ssh_usr"),
        ("available_node_types", "solver", "min_worker"),
        ("available_node_types", "train", "resource"),
    ],
)
def test_a_wrong_key_is_found(cluster: dict[str, Any], path: tuple[str, ...]) -> None:
    place = cluster
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = 1
    with pytest.raises(Exception, match=path[-1]):
        validate(cluster)


def node_types(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return cluster["available_node_types"]


def test_the_head_does_no_work_and_workers_come_only_when_asked_for(cluster: dict[str, Any]) -> None:
    types = node_types(cluster)
    assert cluster["head_node_type"] == "head"
    assert types["head"]["resources"] == {"CPU": 0}
    assert types["head"]["max_workers"] == 0
    assert types["solver"]["resources"] == {"CPU": 16, "solver": 16}
    assert types["train"]["resources"] == {"CPU": 8, "GPU": 1}
    for name in ("solver", "train"):
        assert types[name]["min_workers"] == 0
        assert 0 < types[name]["max_workers"] <= cluster["max_workers"]
        assert types[name]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in types["head"]["node_config"]
    assert not cluster["provider"]["cache_stopped_nodes"]


def test_nothing_is_exposed_that_need_not_be(cluster: dict[str, Any]) -> None:
    # A group of Ray's making takes SSH from everywhere, whatever else is asked for.
    assert "security_group" not in cluster["provider"]
    for name, kind in node_types(cluster).items():
        node = kind["node_config"]
        assert node["SecurityGroupIds"] == cluster["metadata"]["security_groups"], name
        assert node["MetadataOptions"]["HttpTokens"] == "required", name
        assert all(disk["Ebs"]["Encrypted"] for disk in node["BlockDeviceMappings"]), name
    assert "0.0.0.0" not in CLUSTER.read_text()
    starts = {where: cluster[f"{where}_start_ray_commands"] for where in ("head", "worker")}
    assert "--dashboard-host=127.0.0.1" in starts["head"][-1]
    for commands in starts.values():
        assert all("node_environment.sh" in command for command in commands)
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    environment = (REPOSITORY / "deploy" / "node_environment.sh").read_text()
    assert "export RAY_AUTH_MODE=token\n" in environment
    setup = (REPOSITORY / "deploy" / "setup_node.sh").read_text()
    assert 'chmod 600 "$HOME/.ray/auth_token"' in setup


def test_cluster_file_mounts_files_that_exist_and_install(cluster: dict[str, Any]) -> None:
    mounted = {target: source for target, source in cluster["file_mounts"].items() if target.startswith("~/otad/")}
    assert all(target == f"~/otad/{source}" for target, source in mounted.items())
    assert all((REPOSITORY / source).exists() for source in mounted.values())
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert {project["readme"], *project["license-files"], "pyproject.toml", "constraints.txt"} <= set(mounted.values())
    assert {"otad_ray", "jobs", "deploy"} <= set(mounted.values())
    commands = [*cluster["head_setup_commands"]]
    commands += [command for kind in node_types(cluster).values() for command in kind.get("worker_setup_commands", [])]
    for command in commands:
        (script,) = re.findall(r"~/otad/(deploy/\S+)", command)
        subprocess.run(["bash", "-n", str(REPOSITORY / script)], check=True)
    assert node_types(cluster)["train"]["worker_setup_commands"] == ["bash ~/otad/deploy/setup_node.sh cuda"]
    pins = (REPOSITORY / "constraints.txt").read_text()
    assert re.search(r"^torch==", pins, re.MULTILINE)
    assert re.search(r"^boto3==", pins, re.MULTILINE)
    assert project["optional-dependencies"]["aws"]


def test_cluster_file_names_its_placeholders_in_two_places(cluster: dict[str, Any]) -> None:
    first, block, rest = re.split(r"# -{4,}.*\n", CLUSTER.read_text())
    assert "FILL-IN" in block
    assert "FILL-IN" not in first + rest
    example = (REPOSITORY / "deploy" / "cluster.env.example").read_text()
    for name in ("OTAD_FILE_SYSTEM", "OTAD_STORAGE", "MLFLOW_TRACKING_URI", "MOSEKLM_LICENSE_FILE", CAPACITY_WAIT):
        assert re.search(rf"^#?{name}=", example, re.MULTILINE), name
    for ignore in (".gitignore", ".rayignore"):
        assert "deploy/cluster.env" in (REPOSITORY / ignore).read_text().splitlines()
    assert f'"{MOSEK_TOKEN}": ' in CLUSTER.read_text()
