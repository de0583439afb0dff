"""The table of a search: each trial's setting, probe scores, fate and mAP, and how well the probe ranked them."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bsp.figures.sweep import SweepTrial, draw_parallel, draw_responses
from bsp_platform.plain_text import csv_cell, markdown_text
from bsp_platform.report.tables import commit, hardware, markdown_table, print_tables, write_text
from bsp_platform.search.proposals import rung_steps
from bsp_platform.search.space import PARAMETERS, shown
from bsp_platform.storage.stages import as_plain, write_json

if TYPE_CHECKING:
    from bsp_platform.search.state import Search


def spearman(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Rank correlation of pairs, ties at their mean rank; None for fewer than 3, or if one side is constant."""
    from scipy.stats import rankdata

    if len(pairs) < 3:
        return None
    ranks = [rankdata(side) for side in zip(*pairs, strict=True)]
    if min(np.ptp(side) for side in ranks) == 0:
        return None
    return float(np.corrcoef(*ranks)[0, 1])


def proxy_quality(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Spearman correlation of each rung's probe, and of the last, with mAP_avg among finished trials."""
    finished = [row for row in rows if row["mAP_avg"]]
    names = sorted({rung for row in finished for rung in row["probes"]}, key=int)
    found = {}
    for name in [*names, "last"]:
        scores = [row["last_probe"] if name == "last" else row["probes"].get(name) for row in finished]
        pairs = [(s, row["mAP_avg"]["mean"]) for s, row in zip(scores, finished, strict=True) if s is not None]
        found[name] = {"trials": len(pairs), "spearman": spearman(pairs)}
    return found


def quality_note(quality: dict[str, dict[str, Any]], stopped: int) -> str:
    """What the correlations say, in a sentence; that ASHA hides the low end is part of it."""
    parts = []
    for name, facts in quality.items():
        what = "last" if name == "last" else f"rung {int(name) + 1}"
        value = "none" if facts["spearman"] is None else f"{facts['spearman']:+.2f}"
        parts.append(f"{what} {value} ({facts['trials']} trials)")
    text = f"Spearman correlation of the probe with mAP_avg among finished trials: {', '.join(parts)}."
    if stopped:
        text += (
            f" {stopped} trials that were stopped have no mAP and are not in it, so it says little about low scores."
        )
    return text


def search_rows(search: Search) -> list[dict[str, Any]]:
    """A record per trial, in their order."""
    rows = []
    for trial in search.ledger.trials:
        train = search.plans(trial.setting)[0].searched.train
        scores = search.scores(trial) if trial.status == "finished" else None
        values = [s["mAP_avg"] for s in scores or []]
        mean = {
            "mean": statistics.fmean(values),
            "std": statistics.stdev(values) if len(values) > 1 else None,
            "seeds": {str(seed): value for seed, value in enumerate(values)},
        } if values else None  # fmt: skip
        rows.append(
            {
                "trial": trial.number,
                **trial.setting.values(),
                "status": trial.status,
                "stopped_at": trial.stopped_at,
                "steps": train.steps,
                "rungs": list(rung_steps(train.steps, train.checkpoint_every_steps, search.spec.eta)),
                "reason": trial.reason,
                "probes": {str(rung): score for rung, score in sorted(trial.probes.items())},
                "last_probe": trial.last_probe,
                "mAP_avg": mean,
                "scores": {n: statistics.fmean(s[n] for s in scores) for n in scores[0]} if scores else {},
                "seconds": trial.seconds,
            }
        )
    return rows


def search_content(search: Search, *, duration_s: float) -> dict[str, Any]:
    """All that the table of a search says, as it is written to table.json."""
    spec, options = search.spec, search.options
    profile = options.profile
    rows = search_rows(search)
    quality = proxy_quality(rows)
    stopped = sum(row["status"] == "stopped" for row in rows)
    ends = f"ASHA with eta {spec.eta}" if spec.proxy == "asha" else "no early stopping"
    length = f"searched encoders trained on {spec.clips} clips" if spec.clips else "training of the profile's length"
    return {
        "experiment": spec.name,
        "title": f"Search over boundary settings ({spec.search}, {ends})",
        "profile": profile.name,
        "about": profile.about,
        "length": length,
        "seeds": options.seeds,
        "search": spec.search,
        "search_seed": spec.search_seed,
        "proxy": spec.proxy,
        "eta": spec.eta,
        "space": {name: list(map(shown, values)) for name, values in spec.space.items()},
        "trials": rows,
        "probe_ranks": quality,
        "notes": [
            quality_note(quality, stopped),
            "mAP_avg is of the test videos that the search chose by: the best trial's score flatters it.",
            *search.sources.notes,
        ],
        "duration_s": duration_s,
        "commit": commit(),
        "hardware": hardware(),
    }


def write_search(folder: Path, content: dict[str, Any]) -> None:
    """Write ``table.{json,csv,md}``, ``parallel.png`` and ``response.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "table.json", as_plain(content))
    write_text(folder / "table.csv", _csv(content["trials"]))
    write_text(folder / "table.md", _markdown(content))
    _draw(folder, content)


def _draw(folder: Path, content: dict[str, Any]) -> None:
    trials = [
        SweepTrial(
            values={name: row[name] for name in PARAMETERS},
            probes=tuple(row["probes"].get(str(rung)) for rung in range(len(row["rungs"]))),
            score=row["mAP_avg"]["mean"] if row["mAP_avg"] else None,
        )
        for row in content["trials"]
        if row["status"] in ("finished", "stopped")
    ]
    axes = {name: [*values, "-"] for name, values in content["space"].items() if len(values) > 1}
    axes = {name: [v for v in values if v != "-" or any(t.values[name] == "-" for t in trials)]
            for name, values in axes.items()}  # fmt: skip
    caption = f"{content['about'][0].upper()}{content['about'][1:]}; {content['length']}; {content['seeds']} seed(s). "
    caption += content["notes"][0]
    draw_parallel(trials, axes, folder / "parallel.png", title=content["title"], caption=caption)
    draw_responses(trials, axes, folder / "response.png", title=content["title"], caption=caption)


def _fate(row: dict[str, Any]) -> str:
    if row["status"] == "stopped":
        return f"stopped at step {row['stopped_at']} of {row['steps']}"
    return f"failed: {row['reason']}" if row["status"] == "failed" else row["status"]


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _lines(content: dict[str, Any]) -> list[list[str]]:
    """Header and a line per trial, the best first, then those without a score."""
    rungs = max((len(row["rungs"]) for row in content["trials"]), default=0)
    names = [name for name in PARAMETERS if len(content["space"][name]) > 1]
    probes = [f"probe {k + 1}" for k in range(rungs)]
    lines = [["trial", *names, *probes, "last probe", "mAP_avg", "status", "seconds"]]

    def order(row: dict[str, Any]) -> tuple[bool, float]:
        return row["mAP_avg"] is None, -(row["mAP_avg"] or {"mean": 0})["mean"]

    for row in sorted(content["trials"], key=order):
        mean = row["mAP_avg"] or {"mean": None, "std": None}
        spread = f" ± {mean['std']:.2f}" if mean["std"] is not None else ""
        scores = [_number(row["probes"].get(str(k)), 1) for k in range(rungs)]
        lines.append(
            [
                str(row["trial"]),
                *(row[name] for name in names),
                *scores,
                _number(row["last_probe"], 1),
                _number(mean["mean"]) + spread,
                _fate(row),
                f"{row['seconds']:.0f}",
            ]
        )
    return lines


def _markdown(content: dict[str, Any]) -> str:
    fixed = [f"{name} {values[0]}" for name, values in content["space"].items() if len(values) == 1]
    lines = [
        f"# {content['title']}",
        "",
        f"Profile `{content['profile']}`, {content['seeds']} seed(s), {content['length']}; {content['about']}.",
        "Probe: boundary average precision (percent) of a linear probe on held-out training videos, at the rungs "
        "during pre-training and after it. mAP_avg: G-TAD, percent.",
        *([f"The same in all trials: {', '.join(fixed)}."] if fixed else []),
        "",
        *markdown_table(_lines(content)),
        "",
        f"{content['hardware']}; commit {content['commit']}.",
        *(markdown_text(note, starts_line=True) for note in content["notes"]),
    ]
    return "\n".join(lines) + "\n"


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    """One line per trial, full precision."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    rungs = max((len(row["rungs"]) for row in rows), default=0)
    probes = [f"probe_{k + 1}" for k in range(rungs)]
    writer.writerow(
        ["trial", *PARAMETERS, *probes, "last_probe", "mAP_avg", "status", "stopped_at", "reason", "seconds"]
    )
    for row in rows:
        scores = [row["probes"].get(str(k), "") for k in range(rungs)]
        value = repr(row["mAP_avg"]["mean"]) if row["mAP_avg"] else ""
        last = "" if row["last_probe"] is None else row["last_probe"]
        end = [row["status"], row["stopped_at"] or "", row["reason"], row["seconds"]]
        line = [row["trial"], *(row[name] for name in PARAMETERS), *scores, last, value, *end]
        writer.writerow(map(csv_cell, line))
    return out.getvalue()


def print_search(content: dict[str, Any]) -> None:
    """The table on the console."""
    title = f"{content['title']}\n{content['about']}"
    print_tables([(title, _lines(content))], notes=content["notes"], width=180)
