"""The plot of experiments/tools/simulate_scale.py: memory of a long stream in the object store over time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bsp.figures.style import BSP, OTHER, VANILLA, add_axes, new_figure


def draw_store(content: dict[str, Any], path: Path) -> None:
    """One panel per stream of table.json: MB used of the object store and capacity, over thousands of clips."""
    streams = content["samples"]
    figure = new_figure(
        9.0,
        2.7 * len(streams) + 0.3,
        title="Object-store use of a long stream of clips",
        caption=f"Synthetic catalog of {max(row['videos'] for row in content['catalogs'].values()):,} videos, decode "
        f"stub; Ray's own counters, once a second. {content['hardware']}, {content['date']}.",
    )
    for place, (name, samples) in enumerate(streams.items()):
        axes = add_axes(figure, 0.9, 0.8 + 2.7 * place, 7.7, 2.0)
        clips = [sample["clips"] / 1000 for sample in samples]
        axes.plot(clips, [sample["used_mb"] for sample in samples], color=BSP, label="used")
        axes.axhline(samples[-1]["capacity_mb"], color=OTHER, linestyle="--", label="capacity")
        axes.plot(clips, [sample["process_mb"] for sample in samples], color=VANILLA, label="reading process")
        axes.set(xlabel="thousand clips", ylabel="MB", title=f"{name}: {content['streams'][name]['size_px']} px")
        axes.set_ylim(bottom=0)
        axes.legend(loc="lower center", ncols=3, fontsize=8)
    figure.savefig(path, dpi=120)
