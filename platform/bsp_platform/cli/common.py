"""Shared by the parts of the ``bsp`` command; imports little, so that the command starts fast."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from bsp.errors import AnnotationError, Diverged, MissingExtra, TooManyBroken, VideoError
from bsp_platform.plain_text import duration, plain_table, printable, say

INPUT_FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
INPUT_FOLDER = click.Path(exists=True, file_okay=False, readable=True, path_type=Path)
_FIRST_S, _EVERY_S = 10.0, 60.0  # lines of progress without a terminal
SOME_LEFT_OUT = 3  # exit code: done, but some videos were left out, each named on stderr
OUTPUT_FILE = click.Path(dir_okay=False, writable=True, path_type=Path)


class CommandGroup(click.Group):
    """Shows errors in the user's files as one line and exit code 1; anything else keeps its traceback."""

    @property
    def shown(self) -> tuple[type[Exception], ...]:
        """The errors whose message is all that the user needs."""
        return (AnnotationError, MissingExtra, TooManyBroken, VideoError, OSError)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error of the kinds ``shown`` becomes one line."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # click ends silently when the output's reader has closed
        except EOFError as error:  # click would say "Aborted!" and nothing else
            raise RuntimeError(f"a file ends too early ({error})") from error
        except self.shown as error:
            raise click.ClickException(printable(error, lines=True)) from error


class FileCommandGroup(CommandGroup):
    """For commands that read features and weights, whose errors (ValueError) name file, value and remedy."""

    @property
    def shown(self) -> tuple[type[Exception], ...]:
        """Also the errors of stages and of values, and what settings can lead to."""
        from bsp_platform.storage.errors import StageDamaged, StorageUnavailable

        return (*super().shown, ValueError, Diverged, MemoryError, StageDamaged, StorageUnavailable)


class FileCommand(click.Command):
    """A command by itself whose errors are shown as those of :class:`FileCommandGroup`."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it."""
        shown = FileCommandGroup(name=self.name).shown
        try:
            return super().invoke(ctx)
        except shown as error:
            if isinstance(error, BrokenPipeError):
                raise
            raise click.ClickException(printable(error, lines=True)) from error


class LazyChoice(click.Choice[str]):
    """One of the names that ``names`` gives when the option is used or its help is shown: importing them is slow."""

    def __init__(self, names: Callable[[], Iterable[str]], case_sensitive: bool = True):
        self._names, self.case_sensitive = names, case_sensitive

    @property
    def choices(self) -> tuple[str, ...]:  # type: ignore[override]  # click sets it in its own __init__
        """The names."""
        return tuple(self._names())


def not_nan(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """Refuse nan, which click's ranges accept."""
    if value is not None and math.isnan(value):
        raise click.BadParameter("nan is not a number", ctx, param)
    return value


def check_output_folder(output_json: Path | None) -> None:
    """Refuse a report whose folder does not exist, before the work."""
    if output_json is not None and not output_json.absolute().parent.is_dir():
        raise click.BadParameter(f"folder {output_json.parent} does not exist", param_hint="--output-json")


def print_percentages(title: str, rows: dict[str, float]) -> None:
    """A title and a table of two columns on stdout."""
    from rich.console import Console

    say(title)
    table = plain_table(("", ""), [(name, f"{value:.2f} %") for name, value in rows.items()], first_left=True)
    table.show_header = False
    Console().print(table)


@contextmanager
def progress_shown(what: str, unit: str, *, leave: bool = True) -> Iterator[Callable[..., None]]:
    """A function of (done, total, more=...), on stderr: a bar on a terminal, else a line a minute with rate and rest.

    ``leave``: the bar stays when all is done. What is done at the first call was done before, and tells no rate.
    """
    from tqdm import tqdm

    began = time.monotonic()
    said = began + _FIRST_S - _EVERY_S
    before: list[int] = []
    with tqdm(desc=printable(what), unit=unit, disable=None, leave=leave) as bar:

        def show(done: int, total: int, more: str = "") -> None:
            nonlocal said
            before[:] = before or [done]
            if not bar.disable:
                bar.total = total
                bar.set_postfix_str(more, refresh=False)
                bar.update(done - bar.n)
            elif time.monotonic() - said >= _EVERY_S:
                said = time.monotonic()
                rate = (done - before[0]) / (said - began)
                left = f", {rate:.3g}/s, {duration((total - done) / rate)} left" if rate > 0 else ""
                say(f"{what}: {done:,} of {total:,} {unit}s{', ' if more else ''}{more}{left}", err=True)

        yield show


@contextmanager
def epochs_shown(title: str) -> Iterator[Callable[[int, int, Mapping[str, Any]], None]]:
    """Epochs with their loss, as :func:`progress_shown`."""
    with progress_shown(f"training {title}", "epoch") as progress:

        def show(done: int, total: int, entry: Mapping[str, Any]) -> None:
            shown = {k: v for k, v in entry.items() if k == "loss" or k.startswith("validation")}
            progress(done, total, ", ".join(f"{name} {value:.4g}" for name, value in shown.items()))

        yield show


def kept_epoch(history: Sequence[Mapping[str, Any]]) -> str:
    """A line on the epoch that is kept, from the records of all: that which is best on the videos that choose it."""
    name = next((name for name in ("validation_miou", "validation_loss") if name in history[-1]), "") if history else ""
    if not name:
        return ""
    sign = 1 if name == "validation_miou" else -1
    best = max(history, key=lambda entry: sign * entry[name])  # the first of equals, as BestEpoch
    number, value = int(best["epoch"]) + 1, best[name]
    return f"kept: epoch {number} of {len(history)}, whose {name.replace('_', ' ')} is best ({value:.4g})"


@contextmanager
def complete(out: Path) -> Iterator[Path]:
    """A temporary folder, renamed to ``out`` at the end and removed after an error."""
    from bsp.features.interchange_files import refuse_existing
    from bsp.io import atomic_path
    from bsp_platform.storage.manifests import PROGRESS

    refuse_existing(out)
    with atomic_path(out) as partial:
        partial.mkdir()
        yield partial
        (partial / PROGRESS).unlink(missing_ok=True)
