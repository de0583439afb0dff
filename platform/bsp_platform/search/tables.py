"""The table of a search: each trial's setting, probe scores, outcome and mAP, and the probe's rank correlation."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bsp.figures.sweep import SweepTrial, draw_parallel, draw_responses
from bsp_platform.plain_text import markdown_text
from bsp_platform.report.table_files import markdown_table, mean_and_spread, print_tables, write_table
from bsp_platform.report.tables import commit, hardware, over_seeds
from bsp_platform.search.space import PARAMETERS, shown
from bsp_platform.search.state import Search, rungs_of


def spearman(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Rank correlation of pairs, ties at their mean rank; None for fewer than 3, or if one side is constant."""
    from scipy.stats import spearmanr

    if len(pairs) < 3 or any(len(set(side)) == 1 for side in zip(*pairs, strict=True)):
        return None
    return float(spearmanr(*zip(*pairs, strict=True)).statistic)


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
    """The correlations as text, with a warning that stopped trials are not in them."""
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
    for trial in search.trials():
        plan = search.plans(trial.setting)[0]
        scores = search.scores(trial) if trial.status == "finished" else None
        values = {str(seed): s["mAP_avg"] for seed, s in enumerate(scores or [])}
        rows.append(
            {
                "trial": trial.number,
                **trial.setting.values(),
                "status": trial.status,
                "stopped_at": trial.stopped_at,
                "steps": plan.train.steps,
                "rungs": list(rungs_of(plan, search.spec)),
                "reason": trial.reason,
                "probes": {str(rung): score for rung, score in sorted(trial.probes.items())},
                "last_probe": trial.last_probe,
                "mAP_avg": over_seeds(values) if values else None,
                "scores": {n: statistics.fmean(s[n] for s in scores) for n in scores[0]} if scores else {},
                "seconds": trial.seconds,
            }
        )
    return rows


def search_content(search: Search, *, duration_s: float) -> dict[str, Any]:
    """The content of table.json of a search."""
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
    write_table(folder, content, _csv_lines(content["trials"]), _markdown(content))
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


def _outcome(row: dict[str, Any]) -> str:
    if row["status"] == "stopped":
        return f"stopped at step {row['stopped_at']} of {row['steps']}"
    return f"failed: {row['reason']}" if row["status"] == "failed" else row["status"]


def _rungs(rows: Sequence[dict[str, Any]]) -> range:
    return range(max((len(row["rungs"]) for row in rows), default=0))


def _lines(content: dict[str, Any]) -> list[list[str]]:
    """Header and a line per trial, the best first, then those without a score."""
    rungs = _rungs(content["trials"])
    names = [name for name in PARAMETERS if len(content["space"][name]) > 1]
    lines = [["trial", *names, *(f"probe {k + 1}" for k in rungs), "last probe", "mAP_avg", "status", "seconds"]]
    without = {"mean": None, "std": None}
    for row in sorted(content["trials"], key=lambda row: -row["mAP_avg"]["mean"] if row["mAP_avg"] else 1.0):
        score = row["mAP_avg"] or without
        probes = [row["probes"].get(str(k)) for k in rungs]
        lines.append(
            [
                str(row["trial"]),
                *(row[name] for name in names),
                *(mean_and_spread(probe, None, ".1f") for probe in [*probes, row["last_probe"]]),
                mean_and_spread(score["mean"], score["std"]),
                _outcome(row),
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


def _csv_lines(rows: Sequence[dict[str, Any]]) -> Iterator[list[object]]:
    """Header and a line per trial, full precision."""
    rungs = _rungs(rows)
    probes = [f"probe_{k + 1}" for k in rungs]
    yield ["trial", *PARAMETERS, *probes, "last_probe", "mAP_avg", "status", "stopped_at", "reason", "seconds"]
    for row in rows:
        scores = [row["probes"].get(str(k), "") for k in rungs]
        value = repr(row["mAP_avg"]["mean"]) if row["mAP_avg"] else ""
        last = "" if row["last_probe"] is None else row["last_probe"]
        end = [row["status"], row["stopped_at"] or "", row["reason"], row["seconds"]]
        yield [row["trial"], *(row[name] for name in PARAMETERS), *scores, last, value, *end]


def print_search(content: dict[str, Any]) -> None:
    """The table on the console."""
    title = f"{content['title']}\n{content['about']}"
    print_tables([(title, _lines(content))], notes=content["notes"], width=180)
