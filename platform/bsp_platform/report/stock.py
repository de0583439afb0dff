"""What is in a storage, and what uses it: stages, incomplete tries, damaged ones, and what was put aside.

A stage uses those whose recipes its own recipe contains. A result table uses the stages that the records of its runs
name, and a model folder in the storage those whose hashes stand in its ``model.json``.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from bsp_platform.storage.errors import StageDamaged
from bsp_platform.storage.manifests import MANIFEST, parse_manifest, plain_hash
from bsp_platform.storage.stages import REPLACED, StageStore
from bsp_platform.tracking.record import RunRecord, all_records

State = Literal["complete", "incomplete", "damaged", "replaced"]
KINDS = ("encoders", "features", "class_scores", "heads")  # other folders, such as rendered data, are no stages
_STAGE = re.compile(r"[0-9a-f]{16}")
_MODEL = "model.json"


@dataclass(kw_only=True)
class Item:
    """A stage, or a try at one, as it lies in the storage."""

    kind: str  # "encoders", "features", ...
    place: str  # name of its folder in the storage
    hash: str
    state: State
    name: str  # readable
    bytes: int
    changed: float  # seconds since 1970: when it was made, or else last written
    seconds: float = 0.0  # that making it took
    reason: str = ""  # why it counts as damaged
    users: list[str] = field(default_factory=list)  # places of other stages, tables and models
    needed: bool = False  # a table or model uses it, directly or through other stages
    files: tuple[str, ...] = field(default=(), repr=False)  # all names in the folder, the manifest first

    def age_s(self, now: float | None = None) -> float:
        """Seconds since it was made, or last written."""
        return max(0.0, (time.time() if now is None else now) - self.changed)


def take_stock(store: StageStore) -> list[Item]:
    """Everything of the storage that is a stage, by kind and age; nothing is read but manifests, records and models.

    A stage counts as damaged if its manifest is not whole, or files that it lists are missing or have other sizes.
    """
    folders: dict[str, dict[str, tuple[int, float]]] = {}
    models: list[str] = []
    for name, looks in store.files.listing().items():
        parts = name.split("/")
        depth = 4 if parts[0] == REPLACED else 2
        if parts[-1] == _MODEL:
            models.append(name)
        if len(parts) > depth and parts[depth - 2] in KINDS and _STAGE.fullmatch(parts[depth - 1]):
            folders.setdefault("/".join(parts[:depth]), {})["/".join(parts[depth:])] = looks
    recipes: dict[str, Any] = {}  # by place, as JSON
    facts: dict[str, dict[str, Any]] = {}
    items = [_item(store, place, files, recipes, facts) for place, files in folders.items() if files]
    _name_items(items, recipes, facts)
    _find_users(store, items, recipes, models)
    return sorted(items, key=lambda item: (item.state == "replaced", item.kind, item.changed))


def _item(
    store: StageStore,
    place: str,
    files: dict[str, tuple[int, float]],
    recipes: dict[str, Any],
    facts: dict[str, dict[str, Any]],
) -> Item:
    *_, kind, digest = place.split("/")
    item = Item(
        kind=kind,
        place=place,
        hash=digest,
        state="incomplete",
        name="",
        bytes=sum(size for size, _ in files.values()),
        changed=max(changed for _, changed in files.values()),
        files=tuple(f"{place}/{name}" for name in sorted(files, key=lambda name: name != MANIFEST)),
    )
    text = store.read_note(f"{place}/{MANIFEST}")
    if text is not None:
        try:
            manifest = parse_manifest(text, store.where(f"{place}/{MANIFEST}"))
            item.state, item.seconds = "complete", float(manifest["seconds"])
            item.changed = _made(manifest) or item.changed
            recipes[place], facts[place] = manifest["recipe"], manifest["facts"]
            item.reason = _wrong_files(manifest["files"], files)
        except StageDamaged as error:
            item.reason = str(error)
        if item.reason:
            item.state = "damaged"
    if place.startswith(f"{REPLACED}/"):
        item.state = "replaced"
    return item


def _wrong_files(listed: dict[str, dict[str, Any]], there: dict[str, tuple[int, float]]) -> str:
    """What is wrong with the first file that is; "" if all have the sizes of the manifest."""
    for name, facts in listed.items():
        size = there[name][0] if name in there else None
        if size != facts["bytes"]:
            found = "is missing" if size is None else f"has {size} bytes"
            return f"{name} {found}, its manifest says {facts['bytes']} bytes"
    return ""


def _made(manifest: dict[str, Any]) -> float:
    try:
        return datetime.fromisoformat(manifest["made"]).timestamp()
    except (KeyError, ValueError, TypeError):  # of earlier versions
        return 0.0


def _name_items(items: list[Item], recipes: dict[str, Any], facts: dict[str, dict[str, Any]]) -> None:
    """Readable names: an encoder has one in its manifest; others are named by the encoders that they come from."""
    encoders = {item.hash: str(facts[item.place]["name"]) for item in items if "name" in facts.get(item.place, {})}
    for item in items:
        recipe = recipes.get(item.place)
        if item.hash in encoders or not isinstance(recipe, dict):
            item.name = encoders.get(item.hash, "")
            continue
        inside = dict.fromkeys(_encoders_in(recipe))
        names = [encoders.get(digest) or name for digest, name in inside]
        seed = f", seed {recipe['seed']}" if "seed" in recipe else ""
        item.name = (f"{_head_name(recipe)}: " if item.kind == "heads" else "") + " + ".join(names) + seed


def _encoders_in(plain: Any) -> Iterator[tuple[str, str]]:
    """(hash, a name by its settings) of the outermost encoders in a recipe; their teachers are left out."""
    if isinstance(plain, dict) and plain.get("recipe") == "EncoderRecipe":
        yield plain_hash(plain), _encoder_name(plain)
    elif isinstance(plain, dict | list):
        for name, inner in plain.items() if isinstance(plain, dict) else enumerate(plain):
            if name != "class_scores":  # of a head: made by an encoder that is not its own
                yield from _encoders_in(inner)


def _head_name(recipe: dict[str, Any]) -> str:
    head = recipe.get("head")
    name = head.get("recipe", "") if isinstance(head, dict) else ""
    return str(name).removesuffix("Settings") or "head"


def _encoder_name(recipe: dict[str, Any]) -> str:
    pretext, encoder = recipe.get("pretext"), recipe.get("encoder") or {}
    if not isinstance(pretext, dict):
        method = "given" if recipe.get("weights") else "random"
    else:
        kinds = "+".join(str(kind).lower() for kind in pretext.get("kinds", ()))
        method = "_".join(filter(None, (kinds, str(pretext.get("task") or pretext.get("recipe", "")))))
    backbone = f"{str(encoder.get('recipe', '')).removesuffix('Settings').lower()}{encoder.get('depth', '')}"
    return f"{method}/{backbone}"


def _recipes_in(value: Any) -> Iterator[dict[str, Any]]:
    """All recipes inside of a plain recipe, itself included."""
    if isinstance(value, dict):
        if "recipe" in value:
            yield value
        for inner in value.values():
            yield from _recipes_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _recipes_in(inner)


def _find_users(store: StageStore, items: list[Item], recipes: dict[str, Any], models: list[str]) -> None:
    by_hash = {item.hash: item for item in items if item.state != "replaced"}
    uses: dict[str, list[Item]] = {}
    for place, recipe in recipes.items():
        if place.startswith(f"{REPLACED}/"):
            continue
        inside = dict.fromkeys(plain_hash(one) for one in _recipes_in(recipe))
        uses[place] = [by_hash[digest] for digest in inside if digest in by_hash and by_hash[digest].place != place]
        for used in uses[place]:
            used.users.append(place)
    wanted: list[Item] = []
    for user, digests in _outside_users(store, models):
        for item in (by_hash[digest] for digest in digests if digest in by_hash):
            if user not in item.users:
                item.users.append(user)
            wanted.append(item)
    while wanted:
        item = wanted.pop()
        if not item.needed:
            item.needed = True
            wanted += uses.get(item.place, ())


def unreadable_users(store: StageStore) -> list[str]:
    """Records of runs and models that cannot be read, each with the reason: what they use is not known."""
    found = [str(record) for record in all_records(store) if not isinstance(record, RunRecord)]
    for name in store.files.listing():
        if name.endswith(f"/{_MODEL}"):
            try:
                json.loads(store.read_note(name) or b"")
            except ValueError as error:
                found.append(f"{store.where(name)} is no JSON ({error}); make the model again, or remove it")
    return found


def _outside_users(store: StageStore, models: list[str]) -> Iterator[tuple[str, list[str]]]:
    """(name, hashes of stages) of what is no stage: tables by the records of their runs, and model folders."""
    for record in all_records(store):
        if isinstance(record, RunRecord):
            yield f"table {record.experiment}", [stage.name.rpartition("/")[2] for stage in record.stages]
    for name in models:
        try:
            document = json.loads(store.read_note(name) or b"{}")
        except ValueError:
            continue  # a broken model uses nothing
        yield f"model {name.rpartition('/')[0]}", re.findall(r'"([0-9a-f]{16})"', json.dumps(document))
