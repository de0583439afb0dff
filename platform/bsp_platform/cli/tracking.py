"""``bsp deliver``: send to MLflow what experiments recorded while the tracking server was away."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bsp_platform.plain_text import say

if TYPE_CHECKING:
    from bsp_platform.tracking.outbox import Outbox


@click.command()
@click.option(
    "--home",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("mlflow"),
    show_default=True,
    help="Folder that holds outbox/: beside MLflow's data base; with a server, mlflow/ of the project.",
)
@click.option("--show", is_flag=True, help="Only say what waits.")
def deliver(home: Path, show: bool) -> None:
    """Send to MLflow what waits since its server was away.

    The next experiment with the same server does so by itself. Exit code 1 if something still waits.
    """
    from bsp_platform.tracking.outbox import Outbox, shown_uri

    outboxes = Outbox.all_in(home)
    if not outboxes:
        say(f"{home}: no outbox; no experiment has recorded anything from here")
    left = 0
    for outbox in outboxes:
        waiting = _waiting(outbox)
        say(f"{shown_uri(outbox.uri)}: {sum(count for *_, count in waiting)} records wait")
        for path, experiment, since_ms, count in waiting:
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since_ms / 1000))
            say(f"  {experiment}: {count} since {since}, {path}")
        if waiting and not show:
            _deliver(outbox)
            waiting = _waiting(outbox)
        left += len(waiting)
        if outbox.refused.exists():
            refused = len(outbox.refused.read_text("utf-8").splitlines())
            say(f"  {refused} records that MLflow refused: {outbox.refused}")
    if left:
        raise click.exceptions.Exit(1)


def _waiting(outbox: Outbox) -> list[tuple[Path, str, int, int]]:
    """Path, experiment, time of the first record (ms) and number of records, of each file that holds some."""
    from bsp_platform.tracking.outbox import read_records

    files = []
    for path in outbox.files():
        header, *records = read_records(path) or [{}]
        if records:
            files.append((path, header.get("experiment", "damaged"), records[0]["time"], len(records)))
    return files


def _deliver(outbox: Outbox) -> None:
    from bsp_platform.tracking.delivery import Delivery

    try:
        say(f"  {Delivery(outbox).deliver()} records delivered")
    except Exception as error:  # whatever the store or the network raises
        say(f"  not delivered: {error}", err=True)
    if _waiting(outbox):
        say("  some still wait, of an experiment that runs now, or as above")
