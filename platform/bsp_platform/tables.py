"""Write an experiment's table as JSON, CSV and Markdown, and print it.

Ours and the paper's numbers stand in separate columns, and ours say which data they come from.
"""

from __future__ import annotations

import csv
import io
import os
import platform
import statistics
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bsp_platform.stages import as_plain, write_json

_PACKAGES = ("ray", "torch", "mlflow", "numpy", "decord", "av")


def write_tables(
    folder: Path,
    *,
    experiment,
    profile,
    rows,
    seeds: int,
    scores: dict,
    failures: dict,
    reused: dict,
    seconds: dict,
    duration_s: float,
) -> dict[str, Any]:
    """Write ``folder/table.{json,csv,md}`` and return the JSON's content."""
    folder.mkdir(parents=True, exist_ok=True)
    table_rows = []
    for row in rows:
        cells = [(row.name, seed) for seed in range(seeds)]
        have = {seed: scores[row.name, seed] for seed in range(seeds) if (row.name, seed) in scores}
        names = sorted({metric for s in have.values() for metric in s})
        summary = {
            metric: {
                "mean": statistics.fmean(s[metric] for s in have.values()),
                "std": statistics.stdev(s[metric] for s in have.values()) if len(have) > 1 else None,
                "seeds": {str(seed): s[metric] for seed, s in have.items()},
            }
            for metric in names
        }
        table_rows.append(
            {
                "name": row.name,
                "label": row.label,
                "task": row.task or "random",
                "kinds": [kind.name for kind in row.kinds],
                "scores": summary,
                "paper": row.paper,
                "failures": {str(cell[1]): failures[cell] for cell in cells if cell in failures},
                "found_stages": {str(cell[1]): reused.get(cell, []) for cell in cells},
                "stage_seconds": {str(cell[1]): seconds[cell] for cell in cells if cell in seconds},
            }
        )
    content = {
        "experiment": experiment.name,
        "title": experiment.title,
        "profile": profile.name,
        "about": profile.about,
        "paper_data": experiment.paper_data,
        "columns": list(experiment.columns),
        "seeds": seeds,
        "rows": table_rows,
        "duration_s": duration_s,
        "commit": _commit(),
        "versions": {name: _version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        "hardware": hardware(),
    }
    write_json(folder / "table.json", as_plain(content))
    (folder / "table.csv").write_text(_csv(content))
    (folder / "table.md").write_text(_markdown(content))
    return content


def hardware() -> str:
    """One line: processor, cores, GPUs."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass  # not Linux; the architecture must do
    import torch

    gpus = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    return ", ".join([name, f"{os.cpu_count()} cores", *gpus])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _ours(row: dict, metric: str) -> str:
    facts = row["scores"].get(metric)
    if facts is None:
        return "failed" if row["failures"] else ""
    spread = f" ± {facts['std']:.2f}" if facts["std"] is not None else ""
    return f"{facts['mean']:.2f}{spread}"


def _paper(row: dict, metric: str) -> str:
    return f"{row['paper'][metric]:.2f}" if metric in row["paper"] else ""


def _header(content: dict) -> list[str]:
    columns = content["columns"]
    return ["row", *(f"{c} (ours)" for c in columns), *(f"{c} (paper)" for c in columns)]


def _body(content: dict) -> list[list[str]]:
    columns = content["columns"]
    return [
        [row["label"], *(_ours(row, c) for c in columns), *(_paper(row, c) for c in columns)] for row in content["rows"]
    ]


def _csv(content: dict) -> str:
    """One line per row and seed, full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = content["columns"]
    writer.writerow(["row", "label", "task", "kinds", "seed", *columns, *(f"paper {c}" for c in columns), "profile"])
    for row in content["rows"]:
        seeds = sorted({seed for facts in row["scores"].values() for seed in facts["seeds"]}, key=int)
        for seed in seeds:
            ours = [repr(row["scores"][c]["seeds"][seed]) for c in columns]
            paper = [row["paper"].get(c, "") for c in columns]
            kinds = "+".join(row["kinds"])
            writer.writerow([row["name"], row["label"], row["task"], kinds, seed, *ours, *paper, content["profile"]])
    return out.getvalue()


def _markdown(content: dict) -> str:
    header = _header(content)
    lines = [
        f"# {content['title']}",
        "",
        f"Ours: profile `{content['profile']}`, {content['seeds']} seed(s), {content['about']}.",
        f"Paper: {content['paper_data']}; shown for reference, not comparable in value.",
        "",
        "| " + " | ".join(header) + " |",
        "| " + " | ".join(["---"] * len(header)) + " |",
        *("| " + " | ".join(line) + " |" for line in _body(content)),
        "",
        f"Mean ± standard deviation over seeds, percent. {content['hardware']}; commit {content['commit']}.",
    ]
    return "\n".join(lines) + "\n"


def print_table(content: dict) -> None:
    table = Table(title=f"{content['title']}\nours: {content['about']}")
    for name in _header(content):
        table.add_column(name, justify="left" if name == "row" else "right")
    for line in _body(content):
        table.add_row(*line)
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(table)
