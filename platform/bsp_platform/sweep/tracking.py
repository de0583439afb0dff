"""A sweep in MLflow: a parent run, and for every row and seed a child run with curves, scores and files."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from bsp.localization.gtad.network import GTADSettings
from bsp.models.kept import HEAD
from bsp.tasks.head import HISTORY
from bsp_platform.plain_text import markdown_text, say
from bsp_platform.plan.options import Options
from bsp_platform.plan.profiles import Profile
from bsp_platform.plan.recipes import EncoderRecipe
from bsp_platform.plan.rows import Cell, Experiment, RowRecipes
from bsp_platform.plan.sources import Sources
from bsp_platform.storage.manifests import MANIFEST, as_plain, recipe_hash
from bsp_platform.storage.stages import StageStore
from bsp_platform.sweep.example_page import PAGE
from bsp_platform.sweep.models import BestModel
from bsp_platform.tracking import names
from bsp_platform.tracking.record import RunRecord, ShownStage, new_record, now_ms, opened
from bsp_platform.tracking.registry import register
from bsp_platform.tracking.tracker import Tracker
from bsp_platform.work.pretraining import WEIGHTS

log = logging.getLogger(__name__)
# Of a head's stage: its curves are metrics, and what is kept of it for new videos is in the model folder.
_NOT_SHOWN = (HISTORY, MANIFEST, f"{HEAD}.json")


class SweepTracking:
    """The MLflow side of one sweep."""

    def __init__(self, experiment: Experiment, profile: Profile, sources: Sources, options: Options, store: StageStore):
        self.experiment, self.profile, self.store = experiment, profile, store
        self.tracker = Tracker(options.tracking_uri, experiment.name, options.tracking_home, store)
        data: dict[str, Any] = {"trimmed": sources.trimmed_print}
        for name in sources.data:
            data |= {name: sources.videos_prints[name], f"{name} labels": sources.labels_prints[name]}
        if sources.notes:
            data["notes"] = "; ".join(sources.notes)
        settings = naming_settings(profile)
        key = f"{profile.name}/{recipe_hash({'settings': settings, **data, 'workers': options.workers})}"
        params = {"profile": profile.name, "about": profile.about, **data}
        self.data = {name: text for name, text in data.items() if name != "notes"}
        self.parent = new_record(
            experiment.name, key, f"{experiment.name} {profile.name}", params, columns=self._columns(),
            note=_note(experiment, profile), data=self.data,
        )  # fmt: skip
        self.runs: dict[Cell, RunRecord] = {}

    def open(self, recipes: dict[Cell, RowRecipes]) -> None:
        """Show all runs before any trial starts; finished rows with their results from the storage."""
        self.recipes = recipes
        # Without the means over seeds, which earlier versions showed as its metrics; they are in the table.
        self.parent = self.tracker.show(replace(opened(self.parent, self.store), points=()))
        for cell, r in recipes.items():
            done, record = r.finished(self.store), self._new_record(cell, r)
            record = opened(record, self.store, running=not done)
            row = next(row for row in self.experiment.rows if row.name == cell[0])
            record = record.with_numbers(names.paper(row.paper), time_ms=record.started_ms)
            self.runs[cell] = self.tracker.show(
                finished(record, r, self.store, self.experiment.columns) if done else record
            )

    def _columns(self, failed: bool = False) -> list[str]:
        """Of the table in MLflow: ours and the paper's side by side."""
        given = {metric for row in self.experiment.rows for metric in row.paper}
        columns: list[str] = []
        for metric in sorted(self.experiment.columns, key=lambda name: not name.endswith("avg")):  # the headline first
            columns.append(f"metrics.{names.OURS}{metric}")
            if metric in given:
                columns.append(f"metrics.{names.PAPER}{metric}")
        return [*(["tags.failure"] if failed else []), *columns, "attributes.Dataset"]

    def _new_record(self, cell: Cell, r: RowRecipes) -> RunRecord:
        rows = self.experiment.rows
        number, row = next((k, row) for k, row in enumerate(rows, 1) if row.name == cell[0])
        encoders = "+".join(recipe_hash(encoder) for encoder in r.encoders)
        # Parameters are what the comparison page offers as axes; the profile's own are the same in all rows.
        encoder, train = r.encoders[0].encoder, self.profile.train
        assert is_dataclass(encoder)  # as every Architecture
        kinds = dict.fromkeys(kind.name.lower() for stream in row.streams for kind in stream.kinds)
        params = {
            **asdict(encoder), "row": row.label, "row_order": number, "seed": cell[1],
            "task": " + ".join(stream.method for stream in row.streams), "kinds": "+".join(kinds) or "none",
            "streams": len(row.streams), "heads": "+".join(row.heads), "blind": row.blind or "no",
            "profile": self.profile.name, "backbone": encoder.name,
            "size_px": self.profile.size_of(encoder), "clips": train.clips, "learning_rate": train.learning_rate,
        }  # fmt: skip
        for head, recipe in r.heads.items():
            if hasattr(recipe.head, "epochs"):
                params[f"{head}_epochs"] = recipe.head.epochs
            if head == "gtad" and isinstance(recipe.head, GTADSettings):
                params["head_cells"] = recipe.head.cells
        heads = list(r.heads.values())
        key = f"{self.parent.key}/{recipe_hash(heads[0] if len(heads) == 1 else heads)}"
        name = f"{number:02d} {row.label} seed {cell[1]}"
        tags = {"paper.data": self.experiment.paper_data, "encoder": encoders}
        record = new_record(
            self.experiment.name, key, name, params, parent=self.parent.key, tags=tags, data=self.data,
            note=f"{self.experiment.title}: row {number}, {row.label}, seed {cell[1]}.\n{_how_to_read(self.profile)}",
        )  # fmt: skip
        return record

    def pretrain_record(self, cell: Cell, result: Mapping[str, Any]) -> None:
        """Show a training record, if it is of the row's own encoder and not of that of the shared class scores."""
        own = {encoder.name: place for place, encoder in enumerate(self.recipes[cell].encoders)}
        if result["encoder"] in own:
            self.tracker.live(self.runs[cell], _pretrain_prefix(own[result["encoder"]]), result["record"])

    def warn(self, cell: Cell, encoder: str, text: str) -> None:
        """A warning about the training of an encoder, as a tag of the row's run."""
        record = self.runs[cell]
        self.runs[cell] = self.tracker.show(replace(record, tags=record.tags | {f"warning.{encoder}": text}))

    def close_cell(self, cell: Cell, failure: str = "") -> None:
        """Show the scores, curves and files of a finished row and seed; without scores it has failed."""
        record, r = self.runs[cell], self.recipes[cell]
        if r.finished(self.store):
            record = finished(record, r, self.store, self.experiment.columns)
        elif record.status == "RUNNING":
            record = record.with_state("FAILED", now_ms(), failure)
        self.runs[cell] = self.tracker.show(record)

    def costs(self, costs: Mapping[str, Mapping[str, Any]]) -> None:
        """Show the cost of inference of each row's encoders as metrics of its runs."""
        for cell, record in self.runs.items():
            found = costs.get(cell[0], {})
            numbers = {name: value for name, value in found.items() if isinstance(value, int | float)}
            self.runs[cell] = self.tracker.show(record.with_numbers(names.usage(numbers)))

    def close(self, failures: Mapping[Cell, str], results: Path, best: BestModel | None) -> None:
        """Tables, example page, description, state of the parent; wait until all is sent, if MLflow answers; then
        register the best row's model: one copy, as every row's would be much for nothing."""
        table = results / "table.md"
        text = table.read_text("utf-8") if table.exists() else ""
        note = _note(self.experiment, self.profile, text, failures)
        parent = replace(self.parent, columns=tuple(self._columns(bool(failures))), note=note)
        files = [*sorted(results.glob("table.*")), *results.glob(PAGE)]
        self.tracker.end(parent, files, failed=bool(failures))
        if best is not None:
            self._register(best)

    def _register(self, best: BestModel) -> None:
        name, store = f"{self.experiment.name}-{self.profile.name}", self.tracker.mlflow
        try:
            said = register(best.folder, name, "best", store=store, run_id=store.run_id(self.runs[best.cell]))
        except Exception as error:  # whatever MLflow, the data base or the network raises
            log.warning(
                "%s is not registered (%s); later: bsp register %s --name %s", best.folder, error, best.folder, name
            )
        else:
            say(f"Best model by {best.headline}: {best.folder}, registered as {said}")

    def table_url(self) -> str:
        """The UI's table of the rows."""
        return self.tracker.mlflow.table_url(self.parent)

    def compare_url(self) -> str:
        """The UI's charts of the rows, scores first."""
        return self.tracker.mlflow.table_url(self.parent, charts=True)


def _note(experiment: Experiment, profile: Profile, table: str = "", failures: Mapping[Cell, str] | None = None) -> str:
    """The description of the table in MLflow; ``table`` is table.md, whose title and list of stages are left out."""
    body = table.partition("Stages that were in the storage already:")[0].partition("\n")[2].strip()
    title = f"{experiment.title} (profile {profile.name})"
    lines = [title, "", _how_to_read(profile), "", body or "The rows are being made.", ""]
    for (row, seed), reason in (failures or {}).items():
        lines.append(f"- **failed**: {row} seed {seed}: {markdown_text(reason)}")
    return "\n".join(lines)


def _how_to_read(profile: Profile) -> str:
    evidence = (
        "The videos are rendered by this program: the numbers show that the code works and are **no evidence** for or "
        "against the paper."
        if profile.pantomime is not None
        else "The paper's numbers are of its own data; see the data sets of the run for ours."
    )
    return (
        f"**How to read it.** `{names.OURS}` are our scores, `{names.PAPER}` the paper's for the same row, both in "
        f"percent; one run per row and seed, named and sorted as in the paper. `{names.OTHERS}` are further scores of "
        f"ours, `{names.TRAINING}` curves, `{names.USAGE}` what it cost. {evidence}"
    )


def naming_settings(profile: Profile) -> dict[str, Any]:
    """What of a profile tells runs apart in MLflow, and searches in the storage.

    Not its resources, nor the encoders and the classifier of pictures that it offers to rows.
    """
    no_settings: dict[str, Any] = {"resources": None, "encoders": {}, "still_train": None}
    settings = as_plain(replace(profile, **no_settings))
    del settings["encoders"], settings["still_train"]  # names of before stay
    return settings


def finished(
    record: RunRecord,
    recipes: RowRecipes,
    store: StageStore,
    columns: Collection[str],
    encoders: Sequence[EncoderRecipe] | None = None,
) -> RunRecord:
    """The record of a row whose stages are complete, with the curves of ``encoders`` (None: all). ``columns`` are the
    scores of the table. Its end is the time
    when its last head was made; if that lies before its start, the start is the end less the seconds of its stages."""
    scores, seconds = recipes.scores(store), recipes.seconds(store)
    manifests = [store.check(store.folder("heads", head), head) for head in recipes.heads.values()]
    ended_ms = max(int(1000 * datetime.fromisoformat(manifest["made"]).timestamp()) for manifest in manifests)
    if record.started_ms > ended_ms:
        record = replace(record, started_ms=ended_ms - int(1000 * sum(seconds.values())))
    stages: list[ShownStage] = []
    for place, encoder in enumerate(encoders or recipes.encoders):
        found = store.find("encoders", encoder)
        if found is not None:  # else removed or damaged since (the log says so); the scores stand
            prefix, folder = _pretrain_prefix(place), f"stream_{place + 1}" if place else ""
            stages.append(ShownStage(name=f"encoders/{found.name}", prefix=prefix, files=(WEIGHTS,), folder=folder))
    for head, recipe in recipes.heads.items():
        found = store.need("heads", recipe)
        files = tuple(sorted(p.name for p in found.glob("[!_]*.json") if p.name not in _NOT_SHOWN))
        prefix = f"{names.TRAINING}{head}/"
        stages.append(ShownStage(name=f"heads/{found.name}", prefix=prefix, axis="epoch", files=files, folder=head))
    record = replace(record, stages=tuple(stages)).with_state("FINISHED", ended_ms)
    taken = {f"seconds_{kind}": round(value, 1) for kind, value in seconds.items()}
    numbers = names.our_scores(scores or {}, columns) | names.pretexts(recipes.pretexts(store)) | names.usage(taken)
    return record.with_numbers(numbers)


def _pretrain_prefix(place: int) -> str:
    """Prefix of the curves of a row's first, second, ... encoder."""
    return f"{names.TRAINING}pretrain_{place + 1}/" if place else f"{names.TRAINING}pretrain/"
