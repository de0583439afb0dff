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
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console

from bsp.io import write_text
from bsp_platform.plain_text import csv_cell, markdown_text, plain_table, printable
from bsp_platform.report.claims import check_claims, claim_lines
from bsp_platform.storage.stages import as_plain, write_json

_PACKAGES = ("ray", "torch", "mlflow", "numpy", "decord", "av")


def table_content(
    *,
    experiment,
    profile,
    rows,
    seeds: int,
    scores: dict,
    failures: dict,
    reused: dict,
    seconds: dict,
    costs: dict,
    notes: list[str],
    duration_s: float,
) -> dict[str, Any]:
    """All that a table says, as it is written to table.json."""
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
                "streams": [str(stream) for stream in row.streams],
                "heads": list(row.heads),
                "blind": row.blind,
                "scores": summary,
                "paper": row.paper,
                "failures": {str(cell[1]): failures[cell] for cell in cells if cell in failures},
                "cost": costs.get(row.name),
                "reused_stages": {str(cell[1]): reused.get(cell, {}) for cell in cells},
                "stage_seconds": {str(cell[1]): seconds[cell] for cell in cells if cell in seconds},
            }
        )
    return {
        "experiment": experiment.name,
        "title": experiment.title,
        "profile": profile.name,
        "about": profile.about,
        "paper_data": experiment.paper_data,
        "columns": list(experiment.columns),
        "seeds": seeds,
        "rows": table_rows,
        "references": [{"label": r.label, "source": r.source, "paper": r.paper} for r in experiment.references],
        "claims": check_claims(experiment.claims, table_rows),
        "note": experiment.note,
        "notes": notes,
        "duration_s": duration_s,
        "commit": commit(),
        "versions": {name: _version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        "hardware": hardware(),
    }


def write_tables(folder: Path, content: dict[str, Any]) -> None:
    """Write ``folder/table.{json,csv,md}``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "table.json", as_plain(content))
    write_text(folder / "table.csv", _csv(content))
    write_text(folder / "table.md", _markdown(content))


def hardware() -> str:
    """One line: processor, cores, GPUs."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
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


def commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    return done.stdout.strip() or "unknown"


def _ours(row: dict, metric: str) -> str:
    facts = row["scores"].get(metric)
    if facts is None:
        return "failed" if row["failures"] else ""
    spread = f" ± {facts['std']:.2f}" if facts["std"] is not None else ""
    return f"{facts['mean']:.2f}{spread}"


def _paper(row: dict, metric: str) -> str:
    return f"{row['paper'][metric]:.2f}" if metric in row["paper"] else ""


def _paper_columns(content: dict) -> list[str]:
    """Those in which the paper, or what it cites, has a number."""
    given = [*content["rows"], *content["references"]]
    return [c for c in content["columns"] if any(c in row["paper"] for row in given)]


def _header(content: dict) -> list[str]:
    return ["row", *(f"{c} (ours)" for c in content["columns"]), *(f"{c} (paper)" for c in _paper_columns(content))]


def _body(content: dict) -> list[list[str]]:
    columns, of_paper = content["columns"], _paper_columns(content)
    cited = [{**reference, "scores": {}, "failures": {}} for reference in content["references"]]
    return [
        [row["label"], *(_ours(row, c) for c in columns), *(_paper(row, c) for c in of_paper)]
        for row in [*[r | {"label": f"{r['label']} (cited)"} for r in cited], *content["rows"]]
    ]


def _csv(content: dict) -> str:
    """One line per row and seed, full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = content["columns"]
    writer.writerow(["row", "label", "streams", "heads", "seed", *columns, *(f"paper {c}" for c in columns), "profile"])
    for row in content["rows"]:
        seeds = sorted({seed for facts in row["scores"].values() for seed in facts["seeds"]}, key=int)
        for seed in seeds:
            ours = [repr(row["scores"][c]["seeds"][seed]) if c in row["scores"] else "" for c in columns]
            paper = [row["paper"].get(c, "") for c in columns]
            what = [" + ".join(row["streams"]), "+".join(row["heads"])]
            line = [row["name"], row["label"], *what, seed, *ours, *paper, content["profile"]]
            writer.writerow(map(csv_cell, line))
    for reference in content["references"]:
        paper = [reference["paper"].get(c, "") for c in columns]
        line = ["cited", reference["label"], reference["source"], "", "", *[""] * len(columns), *paper, ""]
        writer.writerow(map(csv_cell, line))
    return out.getvalue()


def _markdown(content: dict) -> str:
    lines = [
        f"# {content['title']}",
        "",
        f"Ours: profile `{content['profile']}`, {content['seeds']} seed(s), {markdown_text(content['about'])}.",
        f"Paper: {content['paper_data']}; shown for reference, not comparable in value.",
        "",
        *markdown_table(table_body(content)),
        "",
        f"Mean ± standard deviation over seeds, percent. {content['hardware']}; commit {content['commit']}.",
        *([content["note"]] if content["note"] else []),
        *(f"{markdown_text(note[0].upper() + note[1:], starts_line=True)}." for note in content["notes"]),
        *(f"{reference['label']} (cited): {reference['source']}" for reference in content["references"]),
    ]
    if content["claims"]:
        lines += ["", "Relations (difference of two rows, mean ± standard deviation over seeds, percent points):", ""]
        lines += markdown_table(claim_lines(content["claims"]))
    costs = _costs(content)
    if costs:
        lines += ["", "Cost of one clip at inference, one process:", "", *markdown_table(costs)]
    lines += ["", "Stages that were in the storage already:", "", *_reused(content)]
    return "\n".join(lines) + "\n"


def table_body(content: dict) -> list[list[str]]:
    """Header and a line per row: ours, then the paper's, cited rows first."""
    return [_header(content), *_body(content)]


def markdown_table(lines: list[list[str]]) -> list[str]:
    """Header and body, as plain text, as the lines of a Markdown table."""
    header, *body = [[markdown_text(cell) for cell in line] for line in lines]
    return ["| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *body]]


def _costs(content: dict) -> list[list[str]]:
    """Header and a line per row, or nothing."""
    rows = [row for row in content["rows"] if row["cost"]]
    if not rows:
        return []
    # Relative to the first row with two streams, of whatever depth.
    base_row = next((row for row in rows if row["cost"]["streams"] == 2), rows[0])
    base, name = base_row["cost"], base_row["label"]
    lines = [["row", "streams", "parameters", "MFLOPs per clip", "clips/s", f"FLOPs / {name}", f"time / {name}"]]
    for row in rows:
        cost = row["cost"]
        lines.append(
            [
                row["label"],
                str(cost["streams"]),
                f"{cost['parameters']:,}",
                f"{cost['flops_per_clip'] / 1e6:,.1f}",
                f"{cost['clips_per_s']:,.0f}",
                f"{cost['flops_per_clip'] / base['flops_per_clip']:.2f}",
                f"{base['clips_per_s'] / cost['clips_per_s']:.2f}",
            ]
        )
    return lines


def _reused(content: dict) -> list[str]:
    lines = []
    for row in content["rows"]:
        for seed, kinds in row["reused_stages"].items():
            if kinds:
                what = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in kinds.items())
                lines.append(f"- {row['name']} seed {seed}: {what}")
    return lines or ["- none"]


def print_table(content: dict) -> None:
    title = f"{content['title']}\nours: {content['about']}"
    print_tables(
        [(title, [_header(content), *_body(content)])],
        notes=[*([content["note"]] if content["note"] else []), *content["notes"]],
        more=[
            ("Cost of one clip at inference", _costs(content)),
            (
                "Relations between rows (differences in percent points)",
                claim_lines(content["claims"]) if content["claims"] else [],
            ),
        ],
    )


def print_tables(
    tables: list[tuple[str, list[list[str]]]],
    *,
    notes: Sequence[str] = (),
    more: Sequence[tuple[str, list[list[str]]]] = (),
    width: int = 160,
) -> None:
    """Tables, each a title and lines of which the first is the header, then notes, then ``more`` tables."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=width)
    for title, lines in tables:
        console.print(plain_table(lines[0], lines[1:], title=title, first_left=True))
    for note in notes:
        console.print(printable(note, lines=True), markup=False, highlight=False)
    for title, lines in more:
        if lines:
            console.print(plain_table(lines[0], lines[1:], title=title))
