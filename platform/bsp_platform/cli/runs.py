"""``bsp runs`` and ``bsp gc``: what is in a storage and what uses it; ``bsp completion``: for the shell."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bsp_platform.cli.common import FileCommandGroup
from bsp_platform.plain_text import duration, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bsp_platform.report.stock import Item
    from bsp_platform.storage.stages import StageStore

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
STORAGE = click.option(
    "--storage", envvar="BSP_STORAGE", default="storage", show_default=True, metavar="FOLDER|s3://...",
    help="Also by the variable BSP_STORAGE.",
)  # fmt: skip
KIND = click.option(
    "--kind", "kinds", multiple=True, help="Only these: encoders, features, heads, ...; may be repeated."
)


class _OneLineErrors(click.Command):
    """As FileCommandGroup: errors of the storage are one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        from bsp_platform.plain_text import printable

        try:
            return super().invoke(ctx)
        except FileCommandGroup().shown as error:
            raise click.ClickException(printable(error, lines=True)) from error


def _open(storage: str) -> StageStore:
    from bsp_platform.storage.stages import StageStore

    if "://" not in storage and not Path(storage).is_dir():
        raise click.UsageError(f"--storage {storage}: no such folder")
    return StageStore(storage)


@click.command(cls=_OneLineErrors)
@STORAGE
@KIND
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def runs(storage: str, kinds: tuple[str, ...], as_json: bool) -> None:
    """List the stages in a storage: age, size, and what uses them.

    A stage is an encoder, the features of a data set, class scores or a trained head. It is used by the stages whose
    recipes contain it, by the tables whose runs name it, and by model folders in the storage. Incomplete tries, damaged
    stages and those put aside by --fresh are marked.

    \b
    bsp runs --storage storage
    bsp runs --storage s3://bucket/prefix --kind encoders --json
    """
    from bsp_platform.report.stock import take_stock

    store = _open(storage)
    items = [item for item in take_stock(store) if not kinds or item.kind in kinds]
    if as_json:
        click.echo(json.dumps({"storage": store.address, "stages": [_plain(item) for item in items]}, indent=1))
        return
    _print(items, f"{store.address}: {_total(items)}")
    for item in items:
        if item.reason:
            say(f"damaged: {item.place}: {item.reason}; it is made again when it is needed", err=True)


@click.command(cls=_OneLineErrors)
@STORAGE
@KIND
@click.option(
    "--older-than", "older_than", default="7d", show_default=True, metavar="AGE", help="30m, 12h, 7d, 4w; 0d: any."
)
@click.option("--incomplete", is_flag=True, help="Tries that were not finished, and damaged stages.")
@click.option("--replaced", is_flag=True, help="What --fresh or damage has put aside.")
@click.option(
    "--unused", is_flag=True, help="Complete stages that no table and no model uses; all of these must be readable."
)
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@click.option("--yes", is_flag=True, help="Remove without asking.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout; needs --yes or --dry-run.")
def gc(
    storage: str,
    kinds: tuple[str, ...],
    older_than: str,
    incomplete: bool,
    replaced: bool,
    unused: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Remove from a storage what nothing needs.

    Without one of --incomplete, --replaced and --unused: the first two. An incomplete try may hold checkpoints from
    which the same command would continue. What somebody is making is left alone, and while an experiment runs with the
    storage nothing is removed (exit code 1). Nothing is removed without --yes or an answer.

    \b
    bsp gc --storage storage --dry-run
    bsp gc --storage storage --unused --kind features --older-than 30d --yes
    """
    from bsp_platform.report.clearing import choose, claimed_runs, remove
    from bsp_platform.report.stock import take_stock, unreadable_users

    if as_json and not (yes or dry_run):
        raise click.UsageError("--json does not ask; add --yes or --dry-run")
    given = {"incomplete": incomplete, "replaced": replaced, "unused": unused}
    what = [name for name, wanted in given.items() if wanted] or ["incomplete", "replaced"]
    store, age_s = _open(storage), _seconds(older_than)
    if unused and (reasons := unreadable_users(store)):
        raise click.ClickException(
            f"{reasons[0]}. What it uses is not known, so nothing counts as unused ({len(reasons)} such); without"
            " --unused the rest can be removed"
        )
    chosen = choose(take_stock(store), what, age_s, kinds, time.time())
    if not as_json:
        _print(chosen, f"{store.address}: {', '.join(what)}, older than {older_than}: {_total(chosen)}")
    removed: list[Item] = []
    left: list[Item] = []
    if chosen and not dry_run:
        if running := claimed_runs(store, store.files.listing()):
            raise click.ClickException(f"{', '.join(running)} runs with {store.address}; nothing was removed")
        if not yes and not click.confirm(f"Remove {_total(chosen)}?", err=True):
            raise click.exceptions.Exit(1)
        for item in chosen:
            (removed if remove(store, item) else left).append(item)
    for item in left:
        say(f"in use, left: {item.place}", err=True)
    if as_json:
        document = {"storage": store.address, "chosen": [_plain(item) for item in chosen]}
        click.echo(json.dumps(document | {"removed": [item.place for item in removed]}, indent=1))
    elif removed:
        say(f"removed {_total(removed)}")
    elif dry_run and chosen:
        say("nothing was removed (--dry-run)")


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip())
    if match is None:
        raise click.BadParameter(f"{text!r} is no age; write 30m, 12h, 7d or 4w", param_hint="--older-than")
    return float(match[1]) * _UNITS[match[2]]


def _plain(item: Item) -> dict[str, Any]:
    facts = {
        name: getattr(item, name) for name in ("kind", "hash", "state", "name", "bytes", "users", "needed", "place")
    }
    age_s = round(item.age_s())
    return facts | {"age_s": age_s, "seconds": item.seconds} | ({"reason": item.reason} if item.reason else {})


def _total(items: Sequence[Item]) -> str:
    count = len(items)
    return f"{count} stage{'' if count == 1 else 's'}, {_size(sum(item.bytes for item in items))}"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _print(items: Sequence[Item], title: str) -> None:
    from rich.console import Console

    from bsp_platform.plain_text import plain_table, printable

    if not items:
        say(title)
        return
    rows = [
        (
            item.kind,
            item.hash[:8],
            printable(item.name),
            duration(item.age_s()),
            _size(item.bytes),
            "" if item.state == "complete" else item.state,
            printable(_users(item)),
        )
        for item in items
    ]
    header = ("kind", "hash", "name", "age", "size", "state", "used by")
    console = Console()
    if not console.is_terminal:  # in a file or pipe no line is broken
        width = sum(3 + max(map(len, column)) for column in zip(header, *rows, strict=True))
        console = Console(width=max(80, 1 + width))
    console.print(plain_table(header, rows, title=title))


def _users(item: Item) -> str:
    """Tables and models by name, other stages by number."""
    stages = [user for user in item.users if not user.startswith(("table ", "model "))]
    named = [user for user in item.users if user not in stages]
    return ", ".join(named + ([f"{len(stages)} stage{'' if len(stages) == 1 else 's'}"] if stages else [])) or "-"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script by which a shell completes commands, options, choices and paths.

    \b
    bash: add to ~/.bashrc:                   eval "$(bsp completion bash)"
    zsh:  add to ~/.zshrc:                    eval "$(bsp completion zsh)"
    fish: write once:   bsp completion fish > ~/.config/fish/completions/bsp.fish

    In a new shell, "bsp " and the tabulator key then list the commands.
    """
    from click.shell_completion import get_completion_class

    from bsp_platform.cli.main import main

    found = get_completion_class(shell)
    assert found is not None  # one of click's own three
    click.echo(found(main, {}, "bsp", "_BSP_COMPLETE").source())
