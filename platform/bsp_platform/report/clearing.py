"""Removing from a storage what nothing needs: never what somebody is making, and nothing while a run uses it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import ExitStack

from bsp_platform.report.stock import Item
from bsp_platform.storage.manifests import MANIFEST
from bsp_platform.storage.stages import REPLACED, StageStore

_CLAIMS = (".lock", ".lease")  # ends of the names of claims, in a folder and on S3


class InUse(RuntimeError):
    """Somebody holds the claim."""


def choose(
    items: Iterable[Item], what: Collection[str], older_than_s: float, kinds: Collection[str], now: float
) -> list[Item]:
    """The items to remove: ``what`` of "incomplete", "replaced", "unused" (damaged ones count as incomplete).

    "unused": complete, and no table or model uses it, directly or through another stage.
    """

    def chosen(item: Item) -> bool:
        state: str = "incomplete" if item.state == "damaged" else item.state
        state = "unused" if state == "complete" and not item.needed else state
        return state in what and item.age_s(now) >= older_than_s and (not kinds or item.kind in kinds)

    return [item for item in items if chosen(item)]


def claimed_runs(store: StageStore, names: Iterable[str]) -> list[str]:
    """Experiments and searches that run with this storage now; ``names`` are those of its files."""
    runs = [name.rpartition(".")[0] for name in names if "/" not in name and name.endswith(_CLAIMS)]
    return [run for run in runs if not _free(store, run)]


def _free(store: StageStore, name: str) -> bool:
    try:
        with store.claim(store.root / name, _refuse):
            return True
    except InUse:
        return False


def _refuse() -> None:
    raise InUse


def remove(store: StageStore, item: Item) -> bool:
    """Remove an item, its manifest first, under its claim; False, and nothing removed, while somebody holds that."""
    with ExitStack() as stack:
        if not item.place.startswith(f"{REPLACED}/"):
            try:
                stack.enter_context(store.claim(store.root / item.place, _refuse))
            except InUse:
                return False
            made_since = f"{item.place}/{MANIFEST}" not in item.files and store.read_note(f"{item.place}/{MANIFEST}")
            if made_since:
                return False
        store.files.remove(item.files)
    return True
