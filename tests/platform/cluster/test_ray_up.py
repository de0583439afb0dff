"""`ray up`, `ray exec ... ablation_table4.py --profile smoke`, `ray down`, for real, on two hosts made for the test.

The configuration is cluster.yaml with another provider, another key and other sizes: each of its commands runs as it
is there, and its files go where it says. What stands in for a rented machine's apt-get and file server is said in
cluster_hosts.py. By hand:

    BSP_RAY_UP_ROWS=all pytest -k ray_up            # every row of Table 4; otherwise the cheapest one
    BSP_RAY_UP_TRANSCRIPT=up.txt pytest -k ray_up   # what was typed and what came out
    pip download -r requirements-dev.txt setuptools -d wheels; BSP_RAY_UP_WHEELS=wheels pytest -k ray_up
        # ~/venv made on each host by the setup commands, instead of a link to this test's environment
    BSP_RAY_UP_CLOUD=1 pytest -k ray_up
        # storage and MLflow's files on S3, its database PostgreSQL: cluster_services.py says what that needs
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from bsp_platform.plan.rows import Experiment
from bsp_platform.tracking.names import metric_name, our_scores
from cluster_hosts import ADDRESSES, HOSTS, USER, Lab, why_not
from cluster_services import BUCKET, CREDENTIALS, start_services, use_services, why_no_services
from repository import ROOT

pytestmark = pytest.mark.ray  # on two hosts of the test's own

SCRIPT = ROOT / "experiments" / "ablation_table4.py"
SWAPPED = {"cluster_name", "provider", "auth", "max_workers", "available_node_types", "head_node_type"}
CONFIG = "/mnt/lab/cluster.yaml"  # on the laptop
ROWS = os.environ.get("BSP_RAY_UP_ROWS", "random")
CLOUD = "BSP_RAY_UP_CLOUD" in os.environ
STORAGE = f"{BUCKET}/storage" if CLOUD else "/mnt/bsp/storage"
LIMIT_S = 3600 if ROWS == "all" or "BSP_RAY_UP_WHEELS" in os.environ else 900  # of one command


def local_config(aws: dict[str, Any]) -> dict[str, Any]:
    """cluster.yaml for the hosts of a lab: provider, key and sizes are swapped, all else is as it was."""
    return {name: value for name, value in aws.items() if name not in SWAPPED} | {
        "cluster_name": "bsp-local",
        "provider": {"type": "local", "head_ip": ADDRESSES["head"], "worker_ips": [ADDRESSES["worker"]]},
        "auth": {**aws["auth"], "ssh_private_key": "/mnt/lab/key"},
        "max_workers": 1,
    }


class Story:
    """What was typed on the laptop and what came out; the facts that the tests look at."""

    def __init__(self, lab: Lab):
        self.lab, self.facts = lab, {}
        self.transcript = Path(os.environ.get("BSP_RAY_UP_TRANSCRIPT", lab.scratch / "transcript.txt"))
        self.transcript.write_text("")

    def type(self, command: str) -> str:
        """Run a command on the laptop; returns its output. AssertionError, with the output, if it fails."""
        began = time.monotonic()
        try:
            done = self.lab.run(f"export RAY_UP_enable_autoscaler_v2=0; {command}", timeout=LIMIT_S)
        except subprocess.TimeoutExpired as error:
            told = (error.output or b"").decode(errors="replace")
            raise AssertionError(f"{command}\ndid not end in {LIMIT_S} s:\n{told[-6000:]}") from None
        took = time.monotonic() - began
        output = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", done.stdout)
        with self.transcript.open("a") as file:
            file.write(f"$ {command}\n{output.rstrip()}\n[{took:.0f} s]\n\n")
        assert done.returncode == 0, f"{command}\nended with status {done.returncode}:\n{output[-6000:]}"
        return output

    def on_head(self, program: str) -> str:
        """Run a Python program on the head by ``ray exec``; returns what it prints after RESULT."""
        (self.lab.scratch / "home" / "program.py").write_text(program)
        self.type(f"ray rsync-up {CONFIG} ~/program.py '~/program.py'")
        return self.type(f"ray exec {CONFIG} 'python ~/program.py'").rpartition("RESULT")[2].splitlines()[0]


_PLACES = """
import json, os, ray, socket
from collections import Counter
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from ray.util.state import list_actors
ray.init(log_to_driver=False)
names = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
actors = Counter(names[actor.node_id] for actor in list_actors(limit=1000, detail=True) if actor.node_id in names)

@ray.remote
def look():  # what work finds on a host
    import bsp_platform
    return socket.gethostname(), bsp_platform.__file__, os.environ["BSP_STORAGE"]

on_each = [look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)) for node in names]
print("RESULT", json.dumps([sorted(ray.get([task.remote() for task in on_each])), actors]))
"""

_PREEMPTED = """
import ray, time
from ray._private.state import state
from ray.core.generated.common_pb2 import NodeDeathInfo
ray.init(log_to_driver=False)
for _ in range(100):
    draining, gone = state.get_draining_nodes(), NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED
    names = {n["NodeManagerHostname"] for n in ray.nodes() if n["NodeID"] in draining or n["DeathReason"] == gone}
    if names:
        break
    time.sleep(0.2)
print("RESULT", *names)
"""

# EC2's metadata service, as far as cluster/spot_notice.py asks it. The notice is there once the file says so.
_METADATA = """
import http.server, pathlib
notice = pathlib.Path("/mnt/lab/notice")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_PUT(self):
        self.answer("token")
    def do_GET(self):
        if self.path.endswith("instance-life-cycle"):
            self.answer("spot")
        else:
            self.answer(notice.read_text() if notice.exists() else None)
    def answer(self, text):
        self.send_response(404 if text is None else 200)
        self.end_headers()
        self.wfile.write((text or "").encode())
    def log_message(self, *_):
        pass
http.server.HTTPServer(("169.254.169.254", 80), Handler).serve_forever()
"""


LIST_OBJECTS = f"""
export {" ".join(f"{name}={value}" for name, value in CREDENTIALS.items())}
python -c 'import boto3; [print(o.key) for o in boto3.resource("s3").Bucket("bsp").objects.all()]'
"""


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """The whole run, from bare hosts to nothing; its facts are what the tests below look at."""
    if reason := why_not() or (CLOUD and why_no_services()):
        pytest.skip(f"ray up is not tried on hosts of the test's own: {reason}")
    scratch = tmp_path_factory.mktemp("ray_up")
    wheels = os.environ.get("BSP_RAY_UP_WHEELS")
    before = installed_project()
    with Lab(scratch / "lab", ROOT, wheels=wheels and Path(wheels).resolve()) as lab:
        story = Story(lab)
        for step in (start_cluster, run_table, look_at_servers, give_notice, stop_cluster):
            step(story)
        running = lab.processes()
    story.facts["left"] = [process for process in running if _runs(process)]
    story.facts["project"] = before, installed_project()
    story.facts["links"] = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    story.facts["mounts"] = [line for line in Path("/proc/mounts").read_text().splitlines() if str(scratch) in line]
    return story


def start_cluster(story: Story) -> None:
    """Write the configuration, start what stands in for EC2 on the worker, and `ray up` until both hosts are there."""
    lab = story.lab
    aws = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    config = local_config(aws)
    if CLOUD:
        start_services(lab)
        config = use_services(config)
    (lab.scratch / "cluster.yaml").write_text(yaml.safe_dump(config, sort_keys=False, width=10**6))
    (lab.scratch / "metadata.py").write_text(_METADATA)
    serve = "ip address add 169.254.169.254/32 dev lo; setsid ~/bin/python3 /mnt/lab/metadata.py > /dev/null 2>&1 &"
    assert lab.on("worker", serve).returncode == 0

    story.type("ray get-auth-token --generate > /dev/null && chmod 600 ~/.ray/auth_token")
    try:
        story.type(f"ray up -y --no-config-cache {CONFIG}")
    except AssertionError:
        # Ray gives its own processes 30 s to start, whatever the load of the machine; `ray up` may be repeated.
        if "The current node timed out during startup" not in story.transcript.read_text():
            raise
        story.type(f"ray up -y --no-config-cache {CONFIG}")
    both = "for i in $(seq 100); do ray status | grep -w 2.local.cluster.node && break; sleep 1; done"
    story.type(f"ray exec {CONFIG} '{both}'")


def run_table(story: Story) -> None:
    """Table 4 on the cluster, its result taken home, and on which hosts the work was."""
    rows = "" if ROWS == "all" else f" --rows {ROWS}"
    story.type(f"ray exec {CONFIG} 'cd ~/bsp && python experiments/ablation_table4.py --profile smoke{rows}'")
    story.facts["found"], story.facts["actors"] = json.loads(story.on_head(_PLACES))
    story.type(f"ray rsync-down {CONFIG} '~/bsp/results/' ~/results/")
    table = story.lab.scratch / "home/results/ablation_table4/smoke/table.json"
    story.facts["table"] = json.loads(table.read_text())


def look_at_servers(story: Story) -> None:
    """MLflow and the dashboard, from outside (curl's status 7: nobody listens there) and through the tunnels."""
    lab, facts = story.lab, story.facts
    facts["outside"] = {
        port: lab.run(f"curl -s -m 20 http://{ADDRESSES['head']}:{port}/", timeout=60).returncode
        for port in (5000, 8265)
    }
    facts["mlflow"] = story.type(
        f"ray exec -p 5000 {CONFIG} 'sleep 600' > /dev/null 2>&1 & tunnel=$!; trap 'kill $tunnel' EXIT; "
        "until curl -fs http://127.0.0.1:5000/health > /dev/null; do kill -0 $tunnel || exit 1; sleep 0.2; done; "
        "curl -fsS http://127.0.0.1:5000/api/2.0/mlflow/runs/search -H 'Content-Type: application/json' "
        """-d '{"experiment_ids": ["1"]}'"""
    )
    facts["dashboard"] = story.type(
        f"ray dashboard {CONFIG} > /dev/null 2>&1 & tunnel=$!; trap 'kill $tunnel' EXIT; "
        "until curl -s http://127.0.0.1:8265/ > /dev/null; do kill -0 $tunnel || exit 1; sleep 0.2; done; "
        "for token in wrong $(cat ~/.ray/auth_token); do curl -s -o /dev/null -w '%{http_code} ' "
        '-H "Authorization: Bearer $token" http://127.0.0.1:8265/api/version; done'
    )
    facts["shared"] = {path.relative_to(lab.shared).as_posix() for path in lab.shared.glob("*/*")}
    if CLOUD:
        facts["objects"] = lab.run(LIST_OBJECTS).stdout.split()


def give_notice(story: Story) -> None:
    """The worker's metadata service says that it will be taken back in two minutes."""
    in_two_minutes = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 120))
    (story.lab.scratch / "notice").write_text(json.dumps({"action": "terminate", "time": in_two_minutes}))
    for _ in range(300):
        story.facts["notice"] = story.lab.on("worker", "cat ~/spot_notice.log").stdout
        if "drained" in story.facts["notice"]:
            break
        time.sleep(0.2)
    story.facts["preempted"] = story.on_head(_PREEMPTED).split()


def stop_cluster(story: Story) -> None:
    story.type(f"ray exec {CONFIG} 'kill $(cat ~/.mlflow_server.pid)'")
    story.type(f"ray down -y {CONFIG}")
    for _ in range(300):
        story.facts["on head"] = story.lab.on("head", "ps -eo args").stdout
        if "mlflow" not in story.facts["on head"]:
            break
        time.sleep(0.2)


def installed_project() -> dict[str, str]:
    """Where this test's environment finds this project, as pip wrote it."""
    folder = Path(sys.prefix) / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    return {path.name: path.read_text() for path in folder.glob("__editable__*bsp_platform*")}


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_configuration_is_cluster_yaml_but_for_provider_key_and_sizes():
    aws = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    local = local_config(aws)
    kept = set(aws) - SWAPPED
    assert {name for name in kept if name.endswith("_commands")} == {
        "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
        "head_start_ray_commands", "worker_start_ray_commands",
    }  # fmt: skip
    assert {"file_mounts", "rsync_exclude"} <= kept
    for name in kept:
        assert local[name] == aws[name], name
    assert local["auth"]["ssh_user"] == aws["auth"]["ssh_user"]


def test_a_machine_that_cannot_make_hosts_says_why(monkeypatch):
    monkeypatch.setattr("cluster_hosts.os.geteuid", lambda: 1000)
    assert "run this test as root" in why_not()
    monkeypatch.setattr("cluster_hosts.os.geteuid", lambda: 0)
    monkeypatch.setattr("cluster_hosts.shutil.which", lambda name: None if name in ("/usr/sbin/sshd", "ip") else name)
    assert "apt-get install iproute2 openssh-server" in why_not()
    monkeypatch.setattr("cluster_hosts.shutil.which", lambda name: name)
    monkeypatch.setattr("cluster_hosts._UNSHARE", ("bash", "-c", "echo unshare failed: not permitted >&2; exit 1"))
    assert "not allowed here: unshare failed: not permitted" in why_not()


def test_both_hosts_join_and_work_with_what_was_sent_to_them(story: Story):
    source = f"/home/{USER}/bsp/platform/bsp_platform/__init__.py"
    assert story.facts["found"] == [[host, source, STORAGE] for host in sorted(HOSTS)]
    used = {host for host, actors in story.facts["actors"].items() if actors}
    assert used == set(HOSTS) if ROWS == "all" else used <= set(HOSTS) and used  # one row may well fit on one host


def test_the_table_comes_out_and_mlflow_has_the_same_scores(story: Story):
    rows = story.facts["table"]["rows"]
    asked = ROWS.split(",") if ROWS != "all" else re.findall(r'_row\("([^"]+)"', SCRIPT.read_text(encoding="utf-8"))
    assert [row["name"] for row in rows] == asked
    logged = [
        (run["info"]["status"], {metric["key"]: metric["value"] for metric in run["data"].get("metrics", ())})
        for run in json.loads(story.facts["mlflow"][story.facts["mlflow"].index("{") :])["runs"]
    ]
    for row in rows:
        assert row["failures"] == {}
        assert 0 <= row["scores"]["mAP_avg"]["mean"] <= 100
        scores = {
            metric_name(name): value
            for name, value in our_scores(
                {metric: value["mean"] for metric, value in row["scores"].items()}, Experiment.columns
            ).items()
        }
        assert any(
            status == "FINISHED" and all(metrics.get(name) == value for name, value in scores.items())
            for status, metrics in logged
        ), (row["name"], scores, logged)


def test_servers_listen_on_loopback_and_are_reached_by_ssh(story: Story):
    assert story.facts["outside"] == {5000: 7, 8265: 7}
    assert '"FINISHED"' in story.facts["mlflow"]
    assert story.facts["dashboard"].split() == ["403", "200"]  # with a wrong token, with the right one


def test_stages_and_records_are_where_the_settings_say(story: Story):
    """A row's G-TAD scores, as a stage and as an artifact."""
    objects, shared = story.facts.get("objects", []), story.facts["shared"]
    in_bucket = [
        [name for name in objects if re.fullmatch(pattern, name)]
        for pattern in (r"storage/heads/\w+/scores\.json", r"mlflow/.*/gtad/scores\.json")
    ]
    on_disk = shared & {"mlflow/mlflow.db", "mlflow/artifacts", "storage/heads"}
    assert (all(in_bucket), len(on_disk)) == ((True, 0) if CLOUD else (False, 3)), (objects, shared)


def test_a_notice_that_the_spot_machine_goes_drains_the_worker(story: Story):
    assert "node drained" in story.facts["notice"]
    assert story.facts["preempted"] == ["worker"]  # to Ray a preemption, whether still draining or gone


def test_ray_down_ends_ray_and_the_lab_leaves_nothing(story: Story):
    facts = story.facts
    assert not re.findall(r"gcs_server|raylet|mlflow", facts["on head"]), facts["on head"]
    assert facts["left"] == []
    assert facts["mounts"] == []
    assert not re.search(r"\b(bridge|head|worker)[@:]", facts["links"])
    before, after = facts["project"]
    assert before == after != {}  # what the hosts installed went to layers of their own
