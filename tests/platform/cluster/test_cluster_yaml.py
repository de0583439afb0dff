"""Checks cluster.yaml and cluster_local.yaml without a network: Ray's own schema, then what the schema lets pass.

Ray's check accepts anything inside `provider` and `node_config`, knows nothing about who may listen where,
and fills what is missing with defaults that show the dashboard to the network. `problems` looks at those.
The commands run for real in test_ray_up.py; renting machines is not tested.
"""

from __future__ import annotations

import copy
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from repository import ROOT

COMMAND_LISTS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
LOOPBACK_SERVERS = {  # what starts a server that people look at -> the option that keeps it on loopback
    r"\bmlflow (server|ui)\b": r"--host[ =]127\.0\.0\.1\b",
    r"\bray start\b.*--head\b": r"--dashboard-host[ =]127\.0\.0\.1\b",
}

Config = dict[str, Any]


def prepare_and_validate(config: Config) -> Config:
    """Returns `config` with Ray's defaults filled in, or raises what `ray up` would raise before any network.

    The one place that touches Ray's private API.
    """
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def problems(config: Config) -> list[str]:
    """Returns what is wrong with a cluster config although Ray's schema accepts it; an empty list is good."""
    return _command_problems(config) + (
        _aws_problems(config) if config["provider"].get("type") == "aws" else _local_problems(config)
    )


def _command_problems(config: Config) -> list[str]:
    found = []
    for name in COMMAND_LISTS:
        if name not in config:
            found.append(f"{name} is missing, so Ray's default would run")
    commands = [command for name in COMMAND_LISTS for command in config.get(name, [])]

    for command in commands:
        for starts, closed in LOOPBACK_SERVERS.items():
            if re.search(starts, command) and not re.search(closed, command):
                found.append(f"listens beyond loopback: {command}")
        if "0.0.0.0" in command or "::0" in command:
            found.append(f"names every address: {command}")
        if "ray-wheels" in command or ".dev0" in command:
            found.append(f"installs a nightly Ray: {command}")
        if command.startswith("("):  # Ray adds a parenthesis of its own: "((" is arithmetic to bash
            found.append(f"begins with a parenthesis: {command}")

    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [command for command in config.get(name, []) if re.search(r"\bray start\b", command)]
        if len(starts) != 1:
            found.append(f"{name} starts Ray {len(starts)} times")
        found += [f"{name}: no token asked for" for c in starts if "RAY_AUTH_MODE=token" not in c]
    setup = "\n".join(config.get("setup_commands", []))
    if not ("'export RAY_AUTH_MODE=token'" in setup and ">> ~/.bashrc" in setup):
        found.append("login shells do not set RAY_AUTH_MODE")
    if config.get("file_mounts", {}).get("~/.ray/auth_token") != "~/.ray/auth_token":
        found.append("the token is not shipped")
    if not re.search(r"pip install .*-r \S*requirements\.txt", setup):
        found.append("requirements are not installed")
    if not re.search(r"pip install .*-e ~/bsp'\[s3,search\]'", setup):
        found.append("the project is not installed with its extras")
    if ".venv/" not in config.get("rsync_exclude", []):
        found.append("rsync_exclude lacks .venv/")
    return found


def _local_problems(config: Config) -> list[str]:
    """What Ray says of these only when it starts, or never."""
    unused = {"available_node_types", "head_node_type", "head_node", "worker_nodes"} & set(config)
    found = [f"{name}: not for machines of one's own" for name in sorted(unused)]
    commands = [command for name in COMMAND_LISTS for command in config.get(name, [])]
    found += [f"needs the superuser: {command}" for command in commands if re.search(r"\bsudo\b", command)]
    key = config.get("auth", {}).get("ssh_private_key", "")
    if not key or Path(key).name.startswith("id_"):
        found.append(f"ssh_private_key {key!r} is missing, or one that opens other doors would be copied to the head")
    return found


def _aws_problems(config: Config) -> list[str]:
    found = []
    region = config["provider"].get("region")
    zones = str(config["provider"].get("availability_zone", "")).split(",")
    if not (isinstance(region, str) and all(re.fullmatch(rf"{region}[a-f]", zone.strip()) for zone in zones)):
        found.append(f"zones {zones} are not in region {region}")
    if config["provider"].get("security_group", {}).get("IpPermissions"):
        found.append("the security group admits more than ssh")
    if "ssh_private_key" in config.get("auth", {}):
        found.append("a private key of the user's would be copied to the head")

    for name, node_type in config["available_node_types"].items():
        node = node_type["node_config"]
        if not re.fullmatch(r"[a-z]\w+\.\w+", str(node.get("InstanceType"))):
            found.append(f"{name}: InstanceType {node.get('InstanceType')!r}")
        if not (isinstance(node.get("ImageId"), str) and node["ImageId"].startswith("ami-")):
            found.append(f"{name}: ImageId {node.get('ImageId')!r}")
        if not 0 <= node_type.get("min_workers", 0) <= node_type.get("max_workers", config["max_workers"]):
            found.append(f"{name}: min_workers over max_workers")
    return found


@pytest.fixture(scope="module")
def text() -> str:
    return (ROOT / "cluster.yaml").read_text(encoding="utf-8")


@pytest.fixture
def config(text: str) -> Config:
    """A fresh copy without YAML's shared anchors, so changing one node type leaves the others alone."""
    return json.loads(json.dumps(yaml.safe_load(text)))


# -- the file as it is --


def test_ray_accepts_it(config: Config) -> None:
    prepared = prepare_and_validate(config)
    assert set(prepared["available_node_types"]) == set(config["available_node_types"])
    for name in ("head_start_ray_commands", "worker_start_ray_commands", "setup_commands"):
        assert prepared[name] == config[name]  # ours, not Ray's defaults
    assert problems(config) == []


def test_cluster_has_the_promised_machines(config: Config) -> None:
    types = config["available_node_types"]
    head = types[config["head_node_type"]]
    assert head["max_workers"] == 0
    workers = {name: node for name, node in types.items() if name != config["head_node_type"]}
    gpu = [name for name, node in workers.items() if re.match(r"(g|p)\d", node["node_config"]["InstanceType"])]
    cpu = [name for name, node in workers.items() if re.match(r"[cm]\d", node["node_config"]["InstanceType"])]
    assert gpu
    assert cpu
    assert sorted(gpu + cpu) == sorted(workers)
    assert all(node["min_workers"] == 0 and node["max_workers"] > 0 for node in workers.values())
    assert sum(node["max_workers"] for node in workers.values()) >= config["max_workers"] > 0
    assert 0 < config["idle_timeout_minutes"] <= 30


def test_placeholders_are_few_and_in_one_place_each(text: str) -> None:
    live = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    assert live.count("ami-REPLACE-ME") == 1
    assert live.count("fs-REPLACE-ME") == 1
    assert live.count("REPLACE") == 2


def test_spot_is_a_line_to_uncomment_for_each_type_of_worker(text: str, config: Config) -> None:
    off = "      # InstanceMarketOptions: {MarketType: spot}\n"
    assert text.count(off) == 2
    spot = yaml.safe_load(text.replace(off, off.replace("# ", "")))
    for name, node in json.loads(json.dumps(spot))["available_node_types"].items():
        market = node["node_config"].pop("InstanceMarketOptions", None)
        assert market == (None if name == config["head_node_type"] else {"MarketType": "spot"})
        assert node == config["available_node_types"][name]  # nothing else changed
    prepare_and_validate(spot)
    assert problems(spot) == []
    notices = [
        command for command in config["worker_start_ray_commands"] if "bsp_platform.work.cluster.spot_notice" in command
    ]
    assert len(notices) == 1  # workers tell Ray of EC2's notice ...
    assert "'export RAY_TRAIN_ENABLE_PREEMPTION_WATCHER=1'" in " ".join(config["setup_commands"])  # ... and Train asks


def test_storage_is_mounted_and_mlflow_keeps_its_data_there(config: Config) -> None:
    mounts = [command for command in config["initialization_commands"] if " mount -t nfs4 " in command]
    assert len(mounts) == 1
    assert f".efs.{config['provider']['region']}.amazonaws.com:/ /mnt/bsp;" in mounts[0]
    server = [command for command in config["head_start_ray_commands"] if "mlflow server" in command]
    assert len(server) == 1
    assert server[0].startswith("MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false ")
    assert not re.search(r"--(backend-store-uri|artifacts-destination|default-artifact-root)", server[0])  # settings


def test_mounted_sources_exist_and_hold_both_packages(config: Config) -> None:
    local = {target: source for target, source in config["file_mounts"].items() if target.startswith("~/bsp/")}
    for target, source in local.items():
        assert (ROOT / source).exists(), f"{target}: {source}"
        assert target == f"~/bsp/{source}"
    # `ray up` reads mounted folders whole, whatever rsync_exclude says: never mount the root or results.
    assert set(local.values()) == {"bsp", "platform", "experiments", "pyproject.toml", "requirements.txt"}


def test_exclusions_spare_the_sources(config: Config) -> None:
    """A pattern such as `data/` without a leading slash would also drop a folder of that name inside bsp/."""
    names = {path.name for folder in ("bsp", "platform", "experiments") for path in (ROOT / folder).rglob("*")}
    names -= {"__pycache__"}
    loose = [pattern.strip("/") for pattern in config["rsync_exclude"] if not pattern.startswith("/")]
    assert not names & set(loose)


def test_commands_are_shell(config: Config) -> None:
    for name in COMMAND_LISTS:
        for command in config[name]:
            assert "\n" not in command
            done = subprocess.run(["bash", "-n", "-c", f"({command})"], capture_output=True, text=True)
            assert done.returncode == 0, f"{command}\n{done.stderr}"


SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1",
    "BSP_STORAGE": "/mnt/bsp/storage",
    "BSP_DATA": "/mnt/bsp/data",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}
HEAD_SETTINGS = {
    "RAY_ADDRESS": "auto",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
    "MLFLOW_BACKEND_STORE_URI": "sqlite:////mnt/bsp/mlflow/mlflow.db",  # four: absolute
    "MLFLOW_ARTIFACTS_DESTINATION": "/mnt/bsp/mlflow/artifacts",
}


@pytest.mark.parametrize("which", ["cluster.yaml", "cluster_local.yaml"])
def test_settings_arrive_in_login_shells_and_follow_a_change(which: str, tmp_path: Path) -> None:
    """Runs the commands that write settings in an empty home folder, as Ray wraps them, for a worker and a head."""
    config = yaml.safe_load((ROOT / which).read_text(encoding="utf-8"))
    (tmp_path / ".bashrc").touch()

    def ray_runs(command: str) -> str:
        return subprocess.run(
            ["bash", "-c", f"source ~/.bashrc; export OMP_NUM_THREADS=1 PYTHONWARNINGS=ignore && ({command})"],
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    def set_up(commands: list[str]) -> dict[str, str]:
        for command in commands:
            if "~/.bsp_settings" in command:
                ray_runs(command)
        shown = dict(line.partition("=")[::2] for line in ray_runs("env").splitlines())
        assert shown["PATH"].startswith(f"{tmp_path}/venv/bin:")
        return {name: value for name, value in shown.items() if name in SETTINGS | HEAD_SETTINGS}

    worker, head = config["setup_commands"], config["setup_commands"] + config["head_setup_commands"]
    assert set_up(worker) == SETTINGS
    assert set_up(head) == SETTINGS | HEAD_SETTINGS
    once = (tmp_path / ".bsp_settings").read_text(), (tmp_path / ".bashrc").read_text()
    set_up(head)
    assert ((tmp_path / ".bsp_settings").read_text(), (tmp_path / ".bashrc").read_text()) == once
    moved = [command.replace("/mnt/bsp/storage", "s3://bucket/bsp") for command in head]
    assert set_up(moved) == SETTINGS | HEAD_SETTINGS | {"BSP_STORAGE": "s3://bucket/bsp"}
    assert "/mnt/bsp/storage" not in (tmp_path / ".bsp_settings").read_text()


# -- machines of one's own: cluster_local.yaml --


@pytest.fixture
def local() -> Config:
    return yaml.safe_load((ROOT / "cluster_local.yaml").read_text(encoding="utf-8"))


def test_local_ray_accepts_it_and_takes_all_machines(local: Config) -> None:
    local["provider"].update(head_ip="10.0.0.1", worker_ips=["10.0.0.2", "10.0.0.3"])
    prepared = prepare_and_validate(local)
    assert prepared["max_workers"] == 2
    (machines,) = prepared["available_node_types"].values()
    assert machines["min_workers"] == machines["max_workers"] == 2
    for name in COMMAND_LISTS:  # ours, not Ray's defaults; the head's and workers' setup comes after everyone's
        before = local["setup_commands"] if name in ("head_setup_commands", "worker_setup_commands") else []
        assert prepared[name] == before + local[name]
    assert problems(local) == []
    local["provider"]["worker_ips"] = []
    assert prepare_and_validate(local)["max_workers"] == 0


def test_local_differs_from_aws_only_where_machines_differ(config: Config, local: Config) -> None:
    """What test_ray_up.py runs of cluster.yaml, on machines of a local provider, is what this file runs."""
    for name in ("file_mounts", "rsync_exclude", "setup_commands", "head_start_ray_commands"):
        assert local[name] == config[name], name
    assert local["head_setup_commands"] == [*config["head_setup_commands"], "hostname > /mnt/bsp/cluster_head"]
    (looks_for_it,) = local["worker_setup_commands"]
    assert looks_for_it.startswith("test -s /mnt/bsp/cluster_head ||")
    *starts, notice = config["worker_start_ray_commands"]
    assert local["worker_start_ray_commands"] == starts
    assert "spot_notice" in notice


def test_local_places_to_fill_in_are_marked(local: Config) -> None:
    lines = (ROOT / "cluster_local.yaml").read_text(encoding="utf-8").splitlines()
    marked = [line.split(":")[0].strip() for line in lines if "# FILL IN" in line]
    assert marked == ["head_ip", "worker_ips", "ssh_user", "ssh_private_key"]
    assert not [line for line in lines if "FILL-IN" in line and "# FILL IN" not in line]
    assert any("export RAY_UP_enable_autoscaler_v2=0" in line for line in lines)


def test_local_says_what_a_machine_lacks(local: Config, tmp_path: Path) -> None:
    """Its first commands, on a machine that has bash's own commands and nothing else, and on one without /mnt/bsp."""
    programs, folder = local["initialization_commands"]
    (tmp_path / "hostname").symlink_to("/bin/hostname")
    bare = subprocess.run(["/bin/bash", "-c", programs], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert bare.returncode == 1
    assert "lacks python3" in bare.stdout
    (looks_for_head,) = local["worker_setup_commands"]
    for status in (1, 0):  # before and after the head has left its name there
        looks = looks_for_head.replace("/mnt/bsp", str(tmp_path))
        done = subprocess.run(["bash", "-c", looks], capture_output=True, text=True)
        assert done.returncode == status
        assert ("not the folder that the head has" in done.stdout) == (status == 1)
        leaves = local["head_setup_commands"][-1].replace("/mnt/bsp", str(tmp_path))
        subprocess.run(["bash", "-c", leaves], check=True)
    refused = folder.replace("/mnt/bsp", "/proc/bsp")
    done = subprocess.run(["bash", "-c", refused], capture_output=True, text=True)
    assert done.returncode == 1
    assert "must be the shared folder" in done.stdout


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda c: c["auth"].pop("ssh_private_key"), "is missing"),
        (lambda c: c["auth"].update(ssh_private_key="~/.ssh/id_ed25519"), "opens other doors"),
        (lambda c: c["setup_commands"].insert(0, "sudo apt-get update"), "needs the superuser"),
        (lambda c: c.update(available_node_types={}), "not for machines of one's own"),
    ],
)
def test_local_checks_find_what_is_wrong(local: Config, spoil: Callable[[Config], Any], complaint: str) -> None:
    spoil(local)
    assert any(complaint in problem for problem in problems(local)), problems(local)


# -- the checks can fail --


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c.update(max_wokers=3),
        lambda c: c["available_node_types"]["gpu_worker"].update(instance_type="g5.xlarge"),
        lambda c: c.update(head_node_type="heads"),
        lambda c: c["available_node_types"]["gpu_worker"].update(min_workers=99),
        lambda c: c["available_node_types"]["head"].pop("node_config"),
        lambda c: c.update(setup_commands=[["pip", "install"]]),
    ],
    ids=[
        "unknown key",
        "unknown node-type key",
        "head type",
        "min over max",
        "no node_config",
        "command list",
    ],
)
def test_ray_refuses(config: Config, spoil: Callable[[Config], Any]) -> None:
    from jsonschema import ValidationError

    spoil(config)
    with pytest.raises((ValidationError, ValueError)):
        prepare_and_validate(config)


def _replace(name: str, old: str, new: str) -> Callable[[Config], None]:
    """Returns a change that replaces `old` in every command of list `name`; it must occur there."""

    def change(config: Config) -> None:
        assert any(old in command for command in config[name]), f"{old!r} is not in {name}"
        config[name] = [command.replace(old, new) for command in config[name]]

    return change


def _node(name: str, **changes: Any) -> Callable[[Config], None]:
    return lambda config: config["available_node_types"][name]["node_config"].update(changes)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (_node("gpu_worker", InstanceType=5), "gpu_worker: InstanceType 5"),
        (_node("cpu_worker", InstanceType=None), "cpu_worker: InstanceType None"),
        (_node("head", ImageId=None), "head: ImageId None"),
        (_replace("head_start_ray_commands", "--dashboard-host=127.0.0.1", ""), "listens beyond loopback"),
        (
            _replace("head_start_ray_commands", "--host 127.0.0.1", "--host 10.0.0.1"),
            "listens beyond loopback",
        ),
        (_replace("head_start_ray_commands", "127.0.0.1", "0.0.0.0"), "names every address"),
        (
            _replace("head_start_ray_commands", "RAY_AUTH_MODE=token", "A=b"),
            "head_start_ray_commands: no token",
        ),
        (
            _replace("worker_start_ray_commands", "RAY_AUTH_MODE=token", "A=b"),
            "worker_start_ray_commands: no token",
        ),
        (_replace("setup_commands", "RAY_AUTH_MODE", "RAY_AUTH"), "login shells do not set RAY_AUTH_MODE"),
        (_replace("setup_commands", "-r ~/bsp/requirements.txt", "ray"), "requirements are not installed"),
        (_replace("setup_commands", "-e ~/bsp", "pip"), "the project is not installed with its extras"),
        (_replace("setup_commands", "[s3,search]", ""), "the project is not installed with its extras"),
        (_replace("head_start_ray_commands", "ray stop", "(ray stop)"), "begins with a parenthesis"),
        (lambda c: c["setup_commands"].append("pip install https://x/ray-3.0.0.dev0.whl"), "a nightly Ray"),
        (lambda c: c.pop("head_start_ray_commands"), "head_start_ray_commands is missing"),
        (lambda c: c.pop("head_setup_commands"), "head_setup_commands is missing"),
        (lambda c: c["file_mounts"].pop("~/.ray/auth_token"), "the token is not shipped"),
        (lambda c: c["rsync_exclude"].remove(".venv/"), "rsync_exclude lacks .venv/"),
        (lambda c: c["provider"].update(region="eu-west-1"), "are not in region eu-west-1"),
        (
            lambda c: c["provider"].update(security_group={"IpPermissions": [{"FromPort": 8265}]}),
            "more than ssh",
        ),
        (lambda c: c["auth"].update(ssh_private_key="~/.ssh/id_rsa"), "would be copied to the head"),
    ],
)
def test_own_checks_find_what_ray_accepts(config: Config, spoil: Callable[[Config], Any], complaint: str) -> None:
    spoil(config)
    prepare_and_validate(config)  # Ray sees nothing wrong
    assert any(complaint in problem for problem in problems(config)), problems(config)


def test_rays_own_defaults_would_not_pass() -> None:
    """Ray's default AWS config shows the dashboard to the network and installs a nightly: both are found."""
    import ray.autoscaler

    path = Path(ray.autoscaler.__file__).parent / "aws" / "defaults.yaml"
    found = " ".join(problems(yaml.safe_load(path.read_text(encoding="utf-8"))))
    for complaint in ("listens beyond loopback", "nightly Ray", "no token", "ImageId None"):
        assert complaint in found
