"""An experiment's table: its content, as it is written to table.json, and its forms for readers.

Our numbers and the paper's are in separate columns; the text names the data of both.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bsp.pretraining.held_out import Level, at_chance
from bsp_platform.plain_text import markdown_text
from bsp_platform.plan.profiles import Profile
from bsp_platform.plan.rows import Cell, Experiment, PretextScore, Row
from bsp_platform.report.claims import check_claims, claim_lines, how_told
from bsp_platform.report.resampling import Resampled
from bsp_platform.report.table_files import markdown_table, mean_and_spread, print_tables, write_table

_PACKAGES = ("ray", "torch", "mlflow", "numpy", "decord", "av")


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """The results of a sweep over an experiment's rows and seeds."""

    experiment: Experiment
    profile: Profile
    rows: Sequence[Row]  # those that were asked for
    seeds: int
    scores: dict[Cell, dict[str, float]]  # percent, by metric; of finished cells
    failures: dict[Cell, str]  # why
    reused: dict[Cell, dict[str, list[str]]] = field(default_factory=dict)  # by kind, stages from the store
    seconds: dict[Cell, dict[str, float]] = field(default_factory=dict)  # by kind, of its stages when they were made
    pretexts: dict[Cell, list[PretextScore]] = field(default_factory=dict)  # held-out scores of its encoders
    costs: dict[str, dict[str, Any]] = field(default_factory=dict)  # of inference, by row (costs.row_costs)
    notes: Sequence[str] = ()  # about the data
    resampled: Resampled = field(default_factory=dict)  # of rows in claims
    duration_s: float


def table_content(result: SweepResult) -> dict[str, Any]:
    """The content of table.json."""
    experiment, profile = result.experiment, result.profile
    rows = [_row_content(row, result) for row in result.rows]
    return {
        "experiment": experiment.name,
        "title": experiment.title,
        "profile": profile.name,
        "about": profile.about,
        "paper_data": experiment.paper_data,
        "other_paper": experiment.other_paper,
        "other_data": experiment.other_data,
        "columns": list(experiment.columns),
        "seeds": result.seeds,
        "rows": rows,
        "references": [
            {"label": r.label, "source": r.source, "paper": r.paper, "other": r.other} for r in experiment.references
        ],
        "claims": check_claims(experiment.claims, rows, result.resampled),
        "note": experiment.note,
        "notes": list(result.notes),
        "duration_s": result.duration_s,
        "commit": commit(),
        "versions": {name: _version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        "hardware": hardware(),
    }


def _row_content(row: Row, result: SweepResult) -> dict[str, Any]:
    cells = {str(seed): (row.name, seed) for seed in range(result.seeds)}
    scores = {seed: result.scores[cell] for seed, cell in cells.items() if cell in result.scores}
    return {
        "name": row.name,
        "label": row.label,
        "streams": [str(stream) for stream in row.streams],
        "heads": list(row.heads),
        "blind": row.blind,
        "scores": {
            metric: over_seeds({seed: s[metric] for seed, s in scores.items()})
            for metric in sorted({metric for s in scores.values() for metric in s})
        },
        "pretext": _pretext_content(row, {seed: result.pretexts.get(cell, []) for seed, cell in cells.items()}),
        "paper": row.paper,
        "other": row.other,
        "failures": {seed: result.failures[cell] for seed, cell in cells.items() if cell in result.failures},
        "cost": result.costs.get(row.name),
        "reused_stages": {seed: result.reused.get(cell, {}) for seed, cell in cells.items()},
        "stage_seconds": {seed: result.seconds[cell] for seed, cell in cells.items() if cell in result.seconds},
    }


def _pretext_content(row: Row, by_seed: dict[str, list[PretextScore]]) -> list[dict[str, Any]]:
    """Held-out scores of each stream's pretext over seeds, and whether they are no better than chance."""
    found = []
    for stream, statistic in dict.fromkeys((s.stream, s.statistic) for scores in by_seed.values() for s in scores):
        mine = {
            seed: next(s for s in scores if (s.stream, s.statistic) == (stream, statistic))
            for seed, scores in by_seed.items()
            if any((s.stream, s.statistic) == (stream, statistic) for s in scores)
        }
        values = over_seeds({seed: score.value for seed, score in mine.items()})
        level = Level(*(statistics.fmean(numbers) for numbers in zip(*(score.level for score in mine.values()))))
        found.append({
            "stream": str(row.streams[stream]), "statistic": statistic, **values,
            "chance": level.value, "margin": level.margin, "at_chance": at_chance(statistic, values["mean"], level),
        })  # fmt: skip
    return found


def over_seeds(values: dict[str, float]) -> dict[str, Any]:
    """Mean and standard deviation (None for one seed) of a score by seed."""
    return {
        "mean": statistics.fmean(values.values()),
        "std": statistics.stdev(values.values()) if len(values) > 1 else None,
        "seeds": values,
    }


def write_tables(folder: Path, content: dict[str, Any]) -> None:
    """Write ``folder/table.{json,csv,md}``."""
    write_table(folder, content, _csv_lines(content), _markdown(content))


def hardware() -> str:
    """One line: processor, cores, GPUs."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass  # not Linux: the architecture is enough
    import torch

    gpus = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    return ", ".join([name, f"{os.cpu_count()} cores", *gpus])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def commit() -> str:
    """Git's name of this code, "unknown" outside of a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    return done.stdout.strip() or "unknown"


def _ours(row: dict, metric: str) -> str:
    facts = row["scores"].get(metric)
    if facts is None:
        return "failed" if row["failures"] else ""
    return mean_and_spread(facts["mean"], facts["std"])


def _given(row: dict, paper: str, metric: str) -> str:
    """A number of the paper ("paper") or of another one ("other"), which tables of before do not have."""
    scores = row.get(paper, {})
    return f"{scores[metric]:.2f}" if metric in scores else ""


def _pretexts(row: dict) -> str:
    """Held-out scores of a row's pretexts, and chance, marked where the pretext was not learnt."""
    texts = [
        f"{score['statistic'].replace('_', ' ')} {score['mean']:.2f} (chance {score['chance']:.2f})"
        f"{' AT CHANCE' if score['at_chance'] else ''}"
        for score in row.get("pretext", ())
    ]
    return "; ".join(dict.fromkeys(texts))


def _given_columns(content: dict, paper: str) -> list[str]:
    """The columns in which the paper, another one, or a row that it cites, has a number."""
    rows = [*content["rows"], *content["references"]]
    return [c for c in content["columns"] if any(c in row.get(paper, {}) for row in rows)]


def table_body(content: dict) -> list[list[str]]:
    """Header and a line per row: ours, the paper's, another paper's; cited rows first."""
    columns = content["columns"]
    of_paper, of_other = _given_columns(content, "paper"), _given_columns(content, "other")
    cited = [
        reference | {"label": f"{reference['label']} (cited)", "scores": {}, "failures": {}}
        for reference in content["references"]
    ]
    learnt = any(map(_pretexts, content["rows"]))
    return [
        ["row", *(f"{c} (ours)" for c in columns), *(f"{c} (paper)" for c in of_paper),
         *(f"{c} ({content['other_paper']})" for c in of_other), *(["pretext on held-out videos"] if learnt else [])],
        *(
            [row["label"], *(_ours(row, c) for c in columns), *(_given(row, "paper", c) for c in of_paper),
             *(_given(row, "other", c) for c in of_other), *([_pretexts(row)] if learnt else [])]
            for row in [*cited, *content["rows"]]
        ),
    ]  # fmt: skip


def _csv_lines(content: dict) -> Iterator[list[object]]:
    """Header and a line per row and seed, full precision."""
    columns, other = content["columns"], content["other_paper"]
    papers = {"paper": "paper", **({"other": other} if other else {})}

    def given(row: dict) -> list[object]:
        return [row[paper].get(c, "") for paper in papers for c in columns]

    names = [f"{name} {c}" for name in papers.values() for c in columns]
    yield ["row", "label", "streams", "heads", "seed", *columns, *names, "profile"]
    for row in content["rows"]:
        seeds = sorted({seed for facts in row["scores"].values() for seed in facts["seeds"]}, key=int)
        for seed in seeds:
            ours = [repr(row["scores"][c]["seeds"][seed]) if c in row["scores"] else "" for c in columns]
            what = [" + ".join(row["streams"]), "+".join(row["heads"])]
            yield [row["name"], row["label"], *what, seed, *ours, *given(row), content["profile"]]
    for reference in content["references"]:
        what = [reference["label"], reference["source"]]
        yield ["cited", *what, "", "", *[""] * len(columns), *given(reference), ""]


def of_papers(content: dict) -> list[str]:
    """What the numbers of the paper are of, and those of another one, whose columns have its name; a line each."""
    other = content.get("other_paper", "")
    return [f"Paper: {content['paper_data']}", *([f"{other}: {content['other_data']}"] if other else [])]


def _markdown(content: dict) -> str:
    lines = [
        f"# {content['title']}",
        "",
        f"Ours: profile `{content['profile']}`, {content['seeds']} seed(s), {markdown_text(content['about'])}.",
        *(f"{line}; shown for reference, not comparable in value." for line in of_papers(content)),
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
        lines += [*markdown_table(claim_lines(content["claims"])), "", how_told(content["claims"])]
    costs = _costs(content)
    if costs:
        lines += ["", "Cost of one clip at inference, one process:", "", *markdown_table(costs)]
    lines += ["", "Stages that were in the storage already:", "", *_reused(content)]
    return "\n".join(lines) + "\n"


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


def print_table(content: dict[str, Any]) -> None:
    """The table on the console, with notes, costs and relations under it."""
    title = f"{content['title']}\nours: {content['about']}"
    claims = claim_lines(content["claims"]) if content["claims"] else []
    print_tables(
        [(title, table_body(content))],
        notes=[*([content["note"]] if content["note"] else []), *content["notes"]],
        more=[
            ("Cost of one clip at inference", _costs(content)),
            ("Relations between rows (differences in percent points)", claims),
        ],
    )
