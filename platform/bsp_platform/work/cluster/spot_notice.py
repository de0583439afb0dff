"""Drain a Ray node when EC2 announces the end of its spot machine; runs on each worker of cluster.yaml.

The notice is in the machine's own metadata two minutes ahead. This program reads it every five seconds and then has
Ray drain the node: nothing new is started on it, and Ray Train counts the loss as a preemption, which has a budget of
its own, and not as a failure of the training. On a machine that is no spot machine at EC2 the program says so and
ends.

python -m bsp_platform.work.cluster.spot_notice

Source: "Spot Instance interruption notices" and "Use the Instance Metadata Service" in the Amazon EC2 User Guide.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime

METADATA = "http://169.254.169.254"  # of EC2, on every machine
POLL_S = 5.0
ANSWER_S = 2.0  # how long to wait for an answer


def metadata(path: str, server: str = METADATA) -> str | None:
    """The value at ``path`` of the machine's metadata; None where there is none (404). OSError without an answer."""
    ask = urllib.request.Request(f"{server}/latest/api/token", method="PUT")
    ask.add_header("X-aws-ec2-metadata-token-ttl-seconds", "60")
    try:
        with urllib.request.urlopen(ask, timeout=ANSWER_S) as answer:
            token = answer.read().decode()
        ask = urllib.request.Request(f"{server}/latest/meta-data/{path}", headers={"X-aws-ec2-metadata-token": token})
        with urllib.request.urlopen(ask, timeout=ANSWER_S) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise


def seconds_left(notice: str, now: datetime) -> int:
    """Whole seconds until the machine goes, at least 0, from a notice such as
    ``{"action": "terminate", "time": "2026-01-02T03:04:05Z"}``."""
    end = datetime.fromisoformat(json.loads(notice)["time"])
    return max(0, int((end - now).total_seconds()))


def drain_this_node(left_s: int) -> None:
    """Have Ray drain the node on which this runs; RuntimeError with Ray's message if it refuses."""
    import ray

    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    context = ray.get_runtime_context()
    command = ["ray", "drain-node", f"--address={context.gcs_address}", f"--node-id={context.get_node_id()}"]
    command += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=EC2 takes this spot machine back"]
    done = subprocess.run(
        [*command, f"--deadline-remaining-seconds={left_s}"],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    ray.shutdown()
    if done.returncode:
        raise RuntimeError(f"Ray did not drain this node: {done.stdout}{done.stderr}")


def watch(server: str = METADATA, *, drain: Callable[[int], None] = drain_this_node, poll_s: float = POLL_S) -> str:
    """Wait for the notice and drain the node. Returns a message."""
    try:
        life_cycle = metadata("instance-life-cycle", server)
    except OSError as error:
        return f"not a machine at EC2 ({error}): no notice to wait for"
    if life_cycle != "spot":
        return f"this machine is {life_cycle}, not spot: no notice to wait for"
    print("waiting for EC2's notice", flush=True)
    while True:
        try:
            notice = metadata("spot/instance-action", server)
        except OSError as error:  # the next request may succeed
            print(f"no answer: {error}", flush=True)
            notice = None
        if notice is not None:
            left_s = seconds_left(notice, datetime.now(UTC))
            drain(left_s)
            return f"notice {notice}: node drained, {left_s} s before its end"
        time.sleep(poll_s)


if __name__ == "__main__":
    print(watch(*sys.argv[1:2]), flush=True)
