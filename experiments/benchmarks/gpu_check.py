"""All checks that need a GPU, in one call: the paper profile end to end, and the speeds on a GPU.

    bash experiments/benchmarks/gpu_check.sh OUT [SETUP]       # on a bare machine; SETUP is sourced first
    python experiments/benchmarks/gpu_check.py --out OUT       # where everything is installed
    BSP_LOGICAL_GPUS=1 python experiments/benchmarks/gpu_check.py --out OUT --tiny     # a trial run without a GPU

Each part is a process with a time limit, a log and a file of its own, so that what fails costs only itself. Ends with a
summary, also in OUT/summary.txt, and exit status 1 if a part failed. At most seven and a half minutes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Part:
    """A script beside this one."""

    name: str
    limit_s: int
    arguments: tuple[str, ...] = ()


# The most important first: with less time than planned the last ones are missing.
PARTS = (
    Part("end_to_end", 170),
    Part("extraction", 100, ("--seconds", "15")),
    Part("training", 80, ("--seconds", "20")),
    Part("steps", 100),
)


def run_part(part: Part, out: Path, work: Path, limit_s: float, more: list[str]) -> dict:
    """Run one part; its status, seconds and the lines that it printed last."""
    began = time.monotonic()
    command = [sys.executable, str(HERE / f"{part.name}.py"), "--work", str(work / part.name), *part.arguments, *more]
    log = out / f"{part.name}.log"
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = str(process.wait(limit_s))
        except subprocess.TimeoutExpired:
            status = f"stopped after {limit_s:.0f} s"
        # Ray ends with its driver; other processes that the part has left are ended here.
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, sign)
            except ProcessLookupError:
                break
            time.sleep(2.0)
        process.wait()
    result = work / part.name / f"{part.name}.json"
    if result.exists():
        (out / result.name).write_bytes(result.read_bytes())
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return {"part": part.name, "status": status, "seconds": round(time.monotonic() - began, 1), "last": lines[-8:]}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="results")
@click.option("--work", type=click.Path(path_type=Path), help="videos, storage  [default: OUT/work]")
@click.option("--parts", default=",".join(part.name for part in PARTS), show_default=True)
@click.option("--limit", default=450.0, show_default=True, help="seconds for everything")
@click.option("--tiny", is_flag=True, help="tiny numbers, to see that it runs")
@click.option("--cpus", type=int, help="for the parts that plan")
def main(out: Path, work: Path | None, parts: str, limit: float, tiny: bool, cpus: int | None) -> None:
    """Run the parts one after another and sum up."""
    began = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    work = (work or out / "work").absolute()
    names = parts.split(",")
    done: list[dict[str, Any]] = []
    for part in PARTS:
        if part.name not in names:
            continue
        left = limit - (time.monotonic() - began)
        more = ["--tiny"] if tiny else []
        if cpus and part.name in ("end_to_end", "extraction"):
            more += ["--cpus", str(cpus)]
        if left < 15:
            done.append({"part": part.name, "status": "no time left", "seconds": 0, "last": []})
            continue
        print(f"{time.monotonic() - began:5.0f} s  {part.name}", flush=True)
        done.append(run_part(part, out, work, min(part.limit_s, left) if not tiny else left, more))
        (out / "summary.json").write_text(json.dumps(done, indent=1), encoding="utf-8")
    lines = []
    for row in done:
        lines.append(f"== {row['part']}: {'ok' if row['status'] == '0' else row['status']}, {row['seconds']} s")
        lines += [f"   {line}" for line in row["last"]]
    lines.append(f"{time.monotonic() - began:.0f} s in all")
    (out / "summary.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    sys.exit(any(row["status"] != "0" for row in done))


if __name__ == "__main__":
    main()
