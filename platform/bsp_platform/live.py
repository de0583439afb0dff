"""Live progress of a sweep: one line per running row on a terminal, a line per news elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

_PLAIN_EVERY_S = 15.0  # without a terminal: at most one line per row and stage in this time


class LiveView:
    """Context manager; :meth:`update` takes what a trial reported."""

    def __init__(self, cells: list[tuple[str, int]], at_a_time: int):
        self.cells, self.at_a_time = cells, at_a_time
        self.console = Console()
        self.state: dict[tuple[str, int], dict[str, Any]] = {}
        self.began = time.monotonic()
        self.live = Live(console=self.console, get_renderable=self._table, refresh_per_second=2)

    def __enter__(self) -> LiveView:
        print(f"running {len(self.cells)} rows and seeds, {self.at_a_time} at a time", flush=True)
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *exc) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def update(self, cell: tuple[str, int], news: dict[str, Any]) -> None:
        """Take news such as {"stage", "at", "total", "rate"} or a training record {"step", "steps", ...}."""
        now = time.monotonic()
        state = self.state.setdefault(cell, {"stage": "", "began": now, "printed": -1e9})
        stage = news.get("stage") or ("pretrain" if "step" in news else state["stage"])
        if stage != state["stage"]:
            state.update(stage=stage, began=now, printed=-1e9, text="")
        state["text"] = _progress(news, now - state["began"])
        if not self.console.is_terminal and (
            now - state["printed"] >= _PLAIN_EVERY_S or stage in ("finished", "FAILED")
        ):
            state["printed"] = now
            elapsed = now - self.began
            print(f"[{elapsed:6.0f} s] {cell[0]} seed {cell[1]}: {stage} {state['text']}".rstrip(), flush=True)
            sys.stdout.flush()

    def _table(self) -> Table:
        finished = sum(s["stage"] in ("finished", "FAILED") for s in self.state.values())
        title = f"{finished}/{len(self.cells)} finished, {time.monotonic() - self.began:.0f} s"
        table = Table("row", "seed", "stage", "progress", title=title)
        for cell in self.cells:
            state = self.state.get(cell)
            if state:
                table.add_row(cell[0], str(cell[1]), state["stage"], state.get("text", ""))
        return table


def _progress(news: dict[str, Any], elapsed_s: float) -> str:
    parts = []
    done, total = news.get("at", news.get("step")), news.get("total", news.get("steps"))
    if done is not None and total:
        parts.append(f"{done}/{total} ({done / total:.0%})")
        if 0 < done < total and elapsed_s > 1:
            parts.append(f"{elapsed_s / done * (total - done):.0f} s left")
    if news.get("rate"):
        parts.append(f"{news['rate']:.1f} videos/s")
    if "clips_per_s" in news:
        parts.append(f"{news['clips_per_s']:.0f} clips/s, waiting for data {news['data_wait_share']:.0%}")
    parts += [f"{name} {news[name]:.3f}" for name in ("loss", "accuracy", "change_point_error") if name in news]
    if news.get("skipped"):
        parts.append(f"{news['skipped']} clips skipped")
    return ", ".join(parts)
