"""``--dry-run``: what an experiment would compute, what the storage has, and about how long it would take.

Nothing is started, rendered or written. Times are those of earlier stages of the same kind in the storage, as their
manifests hold them; of an encoder by clip, if it has the same architecture.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import override

from bsp.datasets.pantomime.render import is_complete
from bsp_platform.plain_text import duration, say
from bsp_platform.plan.options import Options
from bsp_platform.plan.recipes import EncoderRecipe
from bsp_platform.plan.rows import Experiment, Row, data_sets, row_recipes, startable
from bsp_platform.plan.sources import Sources, load_sources
from bsp_platform.storage.manifests import MANIFEST, as_plain, parse_manifest, recipe_hash
from bsp_platform.storage.s3 import is_address
from bsp_platform.storage.stages import StageStore
from bsp_platform.work.cluster.planning import joins_a_cluster, make_plan, this_machine

KINDS = ("encoders", "features", "class_scores", "heads")


class ReadOnlyStore(StageStore):
    """A storage whose notes are read, and kept nowhere when they are written."""

    @override
    def write_note(self, name: str, content: bytes) -> None:
        """Nothing."""


def open_to_read(storage: str | Path) -> ReadOnlyStore | None:
    """The storage; None for a folder that is not there, as opening it would make it."""
    if not is_address(storage) and not Path(storage).expanduser().is_dir():
        return None
    return ReadOnlyStore(storage)


def unrendered(options: Options, wanted: Collection[str], root: Path) -> list[str]:
    """The embedded data sets that would have to be rendered first, by name; none where folders are given."""
    profile = options.profile
    if profile.pantomime is None:
        return []
    settings: dict[str, Any] = {"trimmed and untrimmed videos": profile.pantomime}
    for name in sorted(set(wanted) - {"activitynet"}):
        found = profile.grounding if name == "charades" else profile.stories
        if found is not None:
            settings[name] = found
    out = root / "pantomime"
    return [name for name, one in settings.items() if not is_complete(out / one.fingerprint())]


def sources_to_read(options: Options, wanted: set[str], store: StageStore) -> Sources:
    """The sources, with what the storage knows about their files; what is not known yet is not kept either."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("catalogs", "glove"):
            if (store.root / name).is_dir():
                shutil.copytree(store.root / name, Path(folder) / name)
        return load_sources(
            options.profile, wanted, options.data, storage=store.root, caches=Path(folder), progress=False
        )


class Times:
    """Seconds that stages took, by what they were made with."""

    def __init__(self, store: StageStore | None):
        self.known: dict[str, list[tuple[dict[str, Any], float]]] = {kind: [] for kind in KINDS}
        for kind in KINDS if store else ():
            assert store is not None
            for name in store.notes(kind):
                if name.endswith(f"/{MANIFEST}"):
                    manifest = parse_manifest(store.read_note(name) or b"", name)
                    self.known[kind].append((manifest["recipe"], float(manifest["seconds"])))

    def of(self, kind: str, recipe: Any) -> float | None:
        """About how many seconds making this stage takes; None if there is no stage like it."""
        if kind == "encoders":
            return self._training(recipe)
        plain, found = as_plain(recipe), self.known[kind]
        same = [seconds for other, seconds in found if _like(other) == _like(plain)]
        return statistics.median(same) if same else None

    def _training(self, recipe: EncoderRecipe) -> float | None:
        if recipe.train is None:
            return 1.0
        encoder, rates = as_plain(recipe.encoder), []
        for other, seconds in self.known["encoders"]:
            if other.get("encoder") == encoder and isinstance(train := other.get("train"), dict):
                rates.append(seconds / train["clips"])
        return statistics.median(rates) * recipe.train.clips if rates else None


def _like(plain: dict[str, Any]) -> tuple[Any, ...]:
    """What decides the time of features and heads, roughly."""
    return plain["recipe"], plain.get("untrimmed"), plain.get("head"), len(plain.get("streams", ()))


def dry_run(experiment: Experiment, rows: Sequence[Row], options: Options) -> int:
    """Say what running ``rows`` would do. Returns the exit status, 0."""
    say(f"{experiment.title}: --dry-run, nothing is started, rendered or written")
    store, wanted = open_to_read(options.storage), data_sets(rows)
    missing = unrendered(options, wanted, store.root if store else Path(options.storage))
    if store is None or missing:
        what = f"not rendered yet: {', '.join(missing)}" if missing else f"{options.storage} is not there"
        count = len(rows) * options.seeds
        say(f"{what}; so all {count} rows and seeds would be computed: their stages' names follow from the videos")
        _say_machine(options)
        return 0
    sources = sources_to_read(options, wanted, store)
    rows = startable(rows, options.profile, sources, named=bool(options.rows))
    cells = [(row, seed) for seed in range(options.seeds) for row in rows]
    todo: dict[tuple[str, str], tuple[Any, list[str]]] = {}
    found: set[tuple[str, str]] = set()
    finished = 0
    for row, seed in cells:
        r = row_recipes(row, seed, options.profile, sources, options.workers)
        scores = [("class_scores", one) for one in r.class_scores()]
        if not options.fresh and all(store.has("heads", head) for head in r.heads.values()):
            finished += 1
            continue
        for kind, recipe in [*r.stages(), *scores]:
            name = recipe.name if kind == "encoders" else recipe_hash(recipe)
            if store.has(kind, recipe) and not options.fresh:
                found.add((kind, name))
            else:
                todo.setdefault((kind, name), (recipe, []))[1].append(f"{row.name} seed {seed}")
    say(f"{len(cells)} rows and seeds, {finished} finished, {len(found)} stages of the others found in {store.address}")
    _say_stages(todo, Times(store), _say_machine(options))
    return 0


def _say_machine(options: Options) -> int:
    """The plan for this machine; how many rows run at a time (1 where a cluster would be joined)."""
    if joins_a_cluster():
        say("a running Ray would be joined")
        return 1
    plan = make_plan(options.profile, this_machine(options.cpus), device=options.device, workers=options.workers)
    for line in plan.lines(options.profile, options.device):
        say(line)
    return plan.rows


def _say_stages(todo: dict[tuple[str, str], tuple[Any, list[str]]], times: Times, at_a_time: int) -> None:
    total, unknown = 0.0, 0
    for kind in KINDS:
        for (of, name), (recipe, cells) in todo.items():
            if of != kind:
                continue
            seconds = times.of(kind, recipe)
            total, unknown = total + (seconds or 0.0), unknown + (seconds is None)
            about = f"about {duration(seconds)}" if seconds is not None else "no earlier one to tell the time"
            say(f"compute {kind}/{name} for {', '.join(dict.fromkeys(cells))}: {about}")
    if not todo:
        say("nothing to compute")
        return
    rest = f", and {unknown} of unknown time" if unknown else ""
    together = f" with {at_a_time} rows at a time" if at_a_time > 1 else ""
    say(f"to compute: {len(todo)} stages, about {duration(total / at_a_time)}{together}{rest}")
