"""The throughput benchmark's numbers as tables, as verdicts on the targets, and as a plot."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bsp_platform.report.table_files import markdown_table
from throughput_clock import ratio
from throughput_processes import APART
from throughput_sources import PREPARED, RAW

Result = dict[str, Any]


def loader_ratio(loaders: list[Result], source: str, workers: int, ours: str, theirs: str) -> dict[str, float]:
    """Clips/s of one loader over another's, round by round."""
    rates = {
        row["loader"]: row["clips_per_s"] for row in loaders if (row["source"], row["workers"]) == (source, workers)
    }
    return ratio(rates[ours], rates[theirs])


def targets(result: Result) -> list[Result]:
    """A row per target that was measured: name, target, ours (median, lowest, highest round), reached or not."""
    rows = []

    def add(what: str, wanted: float, found: dict[str, float]) -> None:
        rows.append({"target": what, "wanted": wanted, **found, "reached": found["ratio"] >= wanted})

    loaders = result["loaders"]
    for source, workers in dict.fromkeys((row["source"], row["workers"]) for row in loaders):
        where = f"{source}, {workers} worker{'s' * (workers > 1)}"
        for other, wanted in (("process pool", 0.9), ("DataLoader", 1.0)):
            add(f"Ray Data / {other}: {where}", wanted, loader_ratio(loaders, source, workers, "Ray Data", other))
    for workers in dict.fromkeys(row["workers"] for row in loaders if row["source"] == RAW):
        rates = {
            row["source"]: row["clips_per_s"]
            for row in loaders
            if (row["loader"], row["workers"]) == ("process pool", workers)
        }
        what = f"prepared / raw files, process pool, {workers} worker{'s' * (workers > 1)}"
        add(what, 8.0, ratio(rates[PREPARED], rates[RAW]))
    steps = result["steps"]
    for row in steps:
        if row["network"] == "TSM":
            plain = next(r for r in steps if r["network"] != "TSM" and r["setting"] == row["setting"])
            wanted = 0.9 if row["memory_mb"] is not None else 0.95
            add(f"training step, TSM / no shift: {row['setting']}", wanted, ratio(row["rates"], plain["rates"]))
    for feed in _feeds(result):
        add(f"two training processes / one: {feed}", 1.8, process_ratio(result, feed, "2", "1"))
    return rows


def process_ratio(result: Result, feed: str, ours: str, theirs: str) -> dict[str, float]:
    """Ratio of two numbers of training processes ("1", "2" or "2 apart") with the same feed."""
    rates = ([r["clips_per_s"] for r in result["processes"][f"{feed}, {n}"]] for n in (ours, theirs))
    return ratio(*rates)


def _feeds(result: Result) -> list[str]:
    return [name.removesuffix(", 1") for name in result["processes"] if name.endswith(", 1")]


def markdown(result: Result) -> str:
    """All tables, ready to be pasted into docs/performance.md."""
    parts = [
        f"{result['hardware']}; {result['date']}; `{result['command']}`. Ratios are medians over the rounds of this "
        f"run (lowest to highest round in brackets); rates are of this machine at that time.",
        "### Targets",
        _targets_table(result),
        "### Loaders",
        "CPU is the time of all processes together, Ray's own included; one core gives 1000 ms a second.",
        _loaders_table(result),
        f"Ray's own processes used {result['ray_idle_cores']:.0%} of a core while nothing ran in it.",
        "### Readers",
        "CPU ms for the frames of one clip, the file opened each time; one thread.",
        _readers_table(result),
        "### Stages",
        "ms per clip in one process with one thread; training step: TSM R18, width 16.",
        _stages_table(result),
        "Object store: " + "; ".join(_transfer(name, row) for name, row in result["stages"].items()) + ".",
        "### Training fed by each loader",
        f"One training process (TSM R18, width 16, one thread), {result['waiting_workers']} loader workers. Cores "
        f"busy: CPU time of all processes per second.",
        _waiting_table(result),
        "### Training steps on ready batches",
        _steps_table(result),
    ]
    if result["processes"]:
        parts += [
            "### One and two training processes",
            "The same clips per process and step (TSM R18, width 16, one thread); gradients are averaged at every "
            f"step. Two that train {APART}, each on its own, share nothing but the machine: they show what it has to "
            "give. ms of a step: own work; waiting for the slower process; averaging, from when both are there.",
            _processes_table(result),
            "What two apart reach, and two together of that: "
            + "; ".join(_ceiling(result, feed) for feed in _feeds(result))
            + ".",
        ]
    return "\n\n".join(parts) + "\n"


def _targets_table(result: Result) -> str:
    rows = []
    for row in result["targets"]:
        measured = f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        rows.append((row["target"], f"{row['wanted']:g}", measured, "reached" if row["reached"] else "not reached"))
    return _table(("ratio", "wanted", "measured", ""), rows)


def _loaders_table(result: Result) -> str:
    measured = ("clips_per_s", "cpu_ms", "first_s")
    rows = [
        (row["source"], row["workers"], row["loader"], *(_number(statistics.median(row[name])) for name in measured))
        for row in result["loaders"]
    ]
    return _table(("videos", "workers", "loader", "clips/s", "CPU ms per clip", "s to the first batch"), rows)


def _readers_table(result: Result) -> str:
    readers = next(iter(result["readers"].values()))
    rows = [(name, *map(_number, row.values())) for name, row in result["readers"].items()]
    return _table(("videos", *readers), rows)


def _stages_table(result: Result) -> str:
    by_source = result["stages"].values()
    stages = [stage for stage in next(iter(by_source)) if stage != "bytes"]
    return _table(
        ("stage", *result["stages"]), [(stage, *(_number(row[stage]) for row in by_source)) for stage in stages]
    )


def _waiting_table(result: Result) -> str:
    rows = [
        (name, loader, _number(_median(rounds, "clips_per_s")), *_busy(rounds))
        for name, loaders in result["waiting"].items()
        for loader, rounds in loaders.items()
    ]
    return _table(("videos", "loader", "clips/s", "waiting for data", "cores busy"), rows)


def _steps_table(result: Result) -> str:
    header, rows = ["network", "setting", "clips/s"], []
    for row in result["steps"]:
        rows.append([row["network"], row["setting"], _number(statistics.median(row["rates"]))])
    if result["steps"][0]["memory_mb"] is not None:  # on a GPU
        header.append("MiB of a step")
        for line, row in zip(rows, result["steps"], strict=True):
            line.append(f"{row['memory_mb']:,.0f}")
    return _table(header, rows)


def _processes_table(result: Result) -> str:
    rows = []
    for name, rounds in result["processes"].items():
        parts = [_ms(_median(rounds, f"{part}_ms")) for part in ("own", "slower", "averaging")]
        rows.append((name, _number(_median(rounds, "clips_per_s")), *parts, *_busy(rounds)))
    header = ("fed by, processes", "clips/s", "own", "slower", "averaging", "waiting for data", "cores busy")
    return _table(header, rows)


def _busy(rounds: list[Result]) -> tuple[str, str]:
    """Share of the time that training waits for data, and cores busy."""
    return f"{_median(rounds, 'data_wait_share'):.1%}", f"{_median(rounds, 'cores'):.2f}"


def plot(result: Result, path: Path) -> None:
    """Three panels: loaders against the pool, where the time of a clip goes, targets."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(21, 6.5), layout="constrained")
    loaders = result["loaders"]
    groups = list(dict.fromkeys((row["source"], row["workers"]) for row in loaders))
    for place, loader in enumerate(("process pool", "DataLoader", "Ray Data")):
        found = [loader_ratio(loaders, source, workers, loader, "process pool") for source, workers in groups]
        heights = [entry["ratio"] for entry in found]
        spread = [[h - f["low"] for h, f in zip(heights, found)], [f["high"] - h for h, f in zip(heights, found)]]
        left.bar([k + 0.27 * (place - 1) for k in range(len(groups))], heights, 0.25, yerr=spread, label=loader)
    left.axhline(0.9, color="black", linestyle=":", linewidth=1)
    left.set_xticks(range(len(groups)), [_lines(s, f"{w} worker{'s' * (w > 1)}") for s, w in groups])
    left.set_ylabel("clips/s, process pool = 1")
    left.tick_params(axis="x", labelsize=8)
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)
    left.set_title("Loaders doing the same work (bars: lowest and highest round)")

    names = list(result["stages"])
    bottoms = [0.0] * len(names)
    for stage in (s for s in result["stages"][names[0]] if s != "bytes"):
        values = [result["stages"][name][stage] for name in names]
        middle.bar([_lines(name) for name in names], values, 0.6, bottom=bottoms, label=stage)
        bottoms = [a + b for a, b in zip(bottoms, values)]
    middle.tick_params(axis="x", labelsize=8)
    middle.set_ylabel("ms per clip, one core")
    middle.legend()
    middle.set_title("Where the time of a clip goes")

    rows = result["targets"][::-1]
    shares = [row["ratio"] / row["wanted"] for row in rows]
    colours = ["tab:green" if row["reached"] else "tab:red" for row in rows]
    right.barh(range(len(rows)), shares, color=colours)
    right.axvline(1.0, color="black", linewidth=1)
    right.set_yticks(range(len(rows)), [row["target"] for row in rows], fontsize=8)
    right.set_xlabel("measured / wanted")
    right.set_title("Targets")
    figure.suptitle(f"{result['hardware']}, {result['date']}")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _lines(*texts: str) -> str:
    """A label for an axis: a line per text and per part of it between commas, or more."""
    return "\n".join(textwrap.fill(part, 12) for text in texts for part in text.split(", "))


def _ceiling(result: Result, feed: str) -> str:
    apart = f"2 {APART}"
    ceiling = process_ratio(result, feed, apart, "1")["ratio"]
    share = process_ratio(result, feed, "2", apart)["ratio"]
    return f"{feed}: {ceiling:.2f} of one, {share:.0%}"


def _transfer(name: str, row: dict[str, float]) -> str:
    making = sum(ms for stage, ms in row.items() if stage not in ("bytes", "training step"))
    share = row["object store"] / making
    return f"{name}: {row['bytes'] / row['object store'] / 1e6:.2f} GB/s, {share:.1%} of a clip's time before training"


def _median(rounds: list[Result], name: str) -> float:
    return statistics.median(row[name] for row in rounds)


def _ms(value: float) -> str:
    return f"{value:.1f}" if value >= 0.1 else "0"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    return "\n".join(markdown_table([header, *rows]))
