"""Where the time goes from an experiment's command to its first training step, and from one row to the next.

python experiments/benchmarks/first_step.py                       # three runs of two rows of Table 4, profile smoke
python experiments/benchmarks/first_step.py --data FOLDER         # a storage whose rendered data are used: no rendering

Runs the experiment in a process of its own with a new storage and takes the times of the lines on its console, so
that it measures what a user waits for. Each part is the time from the line before it; medians over the runs.
"""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[2]
# What a line says when the part is over; those of rows are looked for in the first row's lines.
PARTS = (
    ("imports, rendering, catalogs", r" runs, \d+ already finished"),
    ("MLflow's store", r"^starting Ray"),
    ("Ray", r"^plan: "),
    ("Tune: data to the object store", r"^running \d+ rows"),
    ("Tune: the first row's process", r": pretrain (?!random)\S+$"),
    ("Ray Train's controller", r": starting the training process"),
    ("Ray Train's process", r": first clips"),
    ("Ray Data, first clips, first record", r": step \d+/"),
)
_ROW = re.compile(r"^\[ *\d+ s\] (?P<cell>\S+ seed \d+): pretrain (?P<encoder>\S+?)(?P<rest>$|:.*)")


def parts_of(lines: list[tuple[float, str]]) -> dict[str, float]:
    """Seconds of each part that the console's ``lines`` (seconds since the command, text) show."""
    found: dict[str, float] = {}
    before, remaining = 0.0, iter(lines)
    for name, pattern in PARTS:
        at = next((at for at, text in remaining if re.search(pattern, text)), None)
        if at is None:
            break
        found[name], before = at - before, at
    return found


def trainings_of(lines: list[tuple[float, str]]) -> list[float]:
    """Seconds from the beginning of each training to its first record: what every row pays."""
    began: dict[tuple[str, str], float] = {}
    waits: dict[tuple[str, str], float] = {}
    for at, text in lines:
        if match := _ROW.match(text):
            key = match["cell"], match["encoder"]
            began.setdefault(key, at)
            if ": step " in match["rest"]:
                waits.setdefault(key, at - began[key])
    return list(waits.values())


def run_once(rows: str, profile: str, data: Path | None) -> list[tuple[float, str]]:
    """The console's lines of one run, with their times."""
    with tempfile.TemporaryDirectory() as folder:
        storage = Path(folder) / "storage"
        for name in ("pantomime", "catalogs") if data else ():
            assert data is not None
            shutil.copytree(data / name, storage / name)
        command = [sys.executable, "-u", str(ROOT / "experiments" / "ablation_table4.py"), "--rows", rows]
        command += ["--profile", profile, "--storage", str(storage), "--results", f"{folder}/results"]
        command += ["--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
        began = time.monotonic()
        lines = []
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append((time.monotonic() - began, line.rstrip()))
        if process.returncode:
            raise SystemExit("\n".join(text for _, text in lines[-20:]))
    return lines


@click.command(context_settings={"show_default": True})
@click.option("--runs", type=click.IntRange(1), default=3)
@click.option("--rows", default="cls-dc,reg-sc")
@click.option("--profile", default="smoke")
@click.option(
    "--data", type=click.Path(exists=True, file_okay=False, path_type=Path), help="storage with rendered data"
)
@click.option("--json", "output", type=click.Path(dir_okay=False, path_type=Path), help="all numbers, as JSON")
def main(runs: int, rows: str, profile: str, data: Path | None, output: Path | None) -> None:
    """Print the medians of all parts."""
    parts: list[dict[str, float]] = []
    waits: list[list[float]] = []
    for number in range(runs):
        lines = run_once(rows, profile, data)
        parts.append(parts_of(lines))
        waits.append(trainings_of(lines))
        click.echo(f"run {number + 1}: first record after {sum(parts[-1].values()):.1f} s", err=True)
    for name in parts[0]:
        click.echo(f"{name:40s} {statistics.median(one[name] for one in parts):6.1f} s")
    click.echo(f"{'command to first record':40s} {statistics.median(sum(one.values()) for one in parts):6.1f} s")
    if all(waits):
        last = statistics.median(one[-1] for one in waits)
        click.echo(f"{'a later training to its first record':40s} {last:6.1f} s")
    if output:
        output.write_text(json.dumps({"parts": parts, "trainings": waits}, indent=1), "utf-8")


if __name__ == "__main__":
    main()
