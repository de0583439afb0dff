"""Live progress of a sweep: a table of the rows on a terminal; elsewhere a line per row and minute, and per stage.

[   120 s] cls-ds seed 0: pretrain ...: step 400/800 (50%), loss 0.512, 210 clips/s, waiting for data 3%, 2 min left
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from bsp_platform.plain_text import duration, plain_table, printable, say
from bsp_platform.tracking.record import TIME
from bsp_platform.work.bottleneck import SHARES

DOING = "doing"  # in a report: what a stage waits for, until it has progress to show
_EVERY_S = 60.0  # without a terminal: at most one line per row and stage in this time
_ENDS = ("finished", "FAILED")
# Entries of a training record that are no losses or statistics of the pretext.
_SPEED = {"step", TIME, "clips_per_s", "data_wait_share", "learning_rate", "max_memory_mb", "damaged_share", *SHARES}


@contextmanager
def waiting(what: str, file: TextIO) -> Iterator[None]:
    """Says on the console what the command waits for meanwhile: with its seconds on a terminal, else a line."""
    console, began = Console(file=file), time.monotonic()
    if not console.is_terminal:
        say(f"{what} ...", file=file)
        yield
        return
    shown = _Seconds(what, began)
    with Live(
        shown, console=console, refresh_per_second=2, transient=True, redirect_stdout=False, redirect_stderr=False
    ):
        yield


class _Seconds:
    """ "what (12 s) ...", anew whenever it is shown."""

    def __init__(self, what: str, began: float):
        self.what, self.began = what, began

    def __rich__(self) -> str:
        return f"{self.what} ({time.monotonic() - self.began:.0f} s) ..."


class LiveView:
    """Context manager; :meth:`update` takes reports of trials. ``file`` is the console, ``clock`` gives seconds."""

    def __init__(
        self,
        cells: list[tuple[str, int]],
        at_a_time: int,
        file: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.cells, self.at_a_time, self.clock = cells, at_a_time, clock
        self.console = Console(file=file or sys.stdout)
        self.state: dict[tuple[str, int], dict[str, Any]] = {}
        self.began = clock()
        self.live = Live(
            console=self.console,
            get_renderable=self._table,
            refresh_per_second=2,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> LiveView:
        self._print(f"running {len(self.cells)} rows and seeds, {self.at_a_time} at a time")
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *exc) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def update(self, cell: tuple[str, int], report: dict[str, Any]) -> None:
        """Take a report: {"stage", "at", "total", "rate"}, or of training {"encoder", "step", "steps", "record"}."""
        now = self.clock()
        state = self.state.setdefault(cell, {"stage": "", "text": "", "printed": now, "doing": ""})
        # A training record carries no stage; it belongs to the encoder that is being trained.
        stage = report.get("stage") or (f"pretrain {report['encoder']}" if "encoder" in report else state["stage"])
        if stage != state["stage"]:
            if state["text"]:
                self._line(cell, state, now)  # the last progress of the previous stage
            state.update(stage=stage, text="", measured={}, first=None, doing="")
            self._line(cell, state, now)
        # Measurements are shown until the next ones of the same stage.
        numbers = {name: report[name] for name in ("skipped", "rate") if name in report}
        state["measured"] |= numbers | report.get("record", {})
        state["text"] = self._progress(state, report, now) or state["text"]
        if DOING in report and report[DOING] != state["doing"]:
            state.update(doing=report[DOING], since=now)
            self._line(cell, state | {"text": f"{report[DOING]} ..."}, now)
        elif state["text"] and state["doing"]:
            state["doing"] = ""
            self._line(cell, state, now)
        if state["text"] and now - state["printed"] >= _EVERY_S:
            self._line(cell, state, now)

    def warn(self, cell: tuple[str, int], text: str) -> None:
        """A warning about a row, at once."""
        self._print(f"[{self.clock() - self.began:6.0f} s] {cell[0]} seed {cell[1]}: WARNING: {text}")

    def _line(self, cell: tuple[str, int], state: dict[str, Any], now: float) -> None:
        state["printed"] = now
        if not self.console.is_terminal:
            text = f": {state['text']}" if state["text"] else ""
            self._print(f"[{now - self.began:6.0f} s] {cell[0]} seed {cell[1]}: {state['stage']}{text}")

    def _print(self, line: str) -> None:
        """One line, never wrapped or coloured, above the table if there is one."""
        self.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
        self.console.file.flush()

    def _progress(self, state: dict[str, Any], report: dict[str, Any], now: float) -> str:
        """The progress of a stage as text; "" for a report without a position or measurements."""
        parts, measured = [], state["measured"]
        done, total = report.get("at", report.get("step")), report.get("total", report.get("steps"))
        if done is not None and total:
            parts.append(f"{'step ' if 'step' in report else ''}{done}/{total} ({done / total:.0%})")
        parts += [f"{name} {v:.3f}" for name, v in measured.items() if name not in {*_SPEED, "skipped", "rate"}]
        if "clips_per_s" in measured:
            parts.append(f"{measured['clips_per_s']:.0f} clips/s, waiting for data {measured['data_wait_share']:.0%}")
        if measured.get("rate"):
            parts.append(f"{measured['rate']:.1f} videos/s")
        if measured.get("skipped"):
            parts.append(f"{measured['skipped']} clips skipped")
        if done is not None and total:
            # Measured from the first report on: steps done before a restart say nothing about the speed now.
            began, done_then = state["first"] = state["first"] or (now, done)
            if done_then < done < total and now > began:
                parts.append(f"{duration((now - began) / (done - done_then) * (total - done))} left")
        return ", ".join(parts)

    def _table(self) -> Table:
        finished = sum(s["stage"] in _ENDS for s in self.state.values())
        title = f"{finished}/{len(self.cells)} finished, {self.clock() - self.began:.0f} s"
        states = [(cell, self.state[cell]) for cell in self.cells if cell in self.state]
        rows = [(*cell, state["stage"], self._shown(state)) for cell, state in states]
        if not states:
            title += f"; starting the rows' processes ({self.clock() - self.began:.0f} s) ..."
        return plain_table(("row", "seed", "stage", "progress"), rows, title=title)

    def _shown(self, state: dict[str, Any]) -> str:
        doing = state["doing"]
        return f"{doing} ({self.clock() - state['since']:.0f} s) ..." if doing else state["text"]
