"""A sweep in MLflow: a parent run, and for every row and seed a child run with curves, scores and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from bsp.localization.gtad.network import GTADSettings
from bsp.models.kept import HEAD
from bsp.tasks.head import HISTORY
from bsp_platform.plan.options import Options
from bsp_platform.plan.profiles import Profile
from bsp_platform.plan.recipes import EncoderRecipe
from bsp_platform.plan.rows import Cell, Experiment, Row, RowRecipes
from bsp_platform.plan.sources import Sources
from bsp_platform.storage.manifests import MANIFEST, as_plain, recipe_hash
from bsp_platform.storage.stages import StageStore
from bsp_platform.tracking.record import RunRecord, ShownStage, new_record, now_ms, opened
from bsp_platform.tracking.tracker import Tracker
from bsp_platform.work.pretraining import WEIGHTS


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
        self.parent = new_record(experiment.name, key, f"{experiment.name} {profile.name}", params)
        self.runs: dict[Cell, RunRecord] = {}

    def open(self, recipes: dict[Cell, RowRecipes]) -> None:
        """Show all runs before any trial starts; finished rows with their results from the storage."""
        self.recipes = recipes
        self.parent = self.tracker.begin(self.parent)
        for cell, r in recipes.items():
            done, record = r.finished(self.store), self._new_record(cell, r)
            if done:
                record = finished(opened(record, self.store, running=False), r, self.store)
            self.runs[cell] = self.tracker.show(record) if done else self.tracker.begin(record)

    def _new_record(self, cell: Cell, r: RowRecipes) -> RunRecord:
        rows = self.experiment.rows
        number, row = next((k, row) for k, row in enumerate(rows, 1) if row.name == cell[0])
        tags = {f"paper.{metric}": str(value) for metric, value in row.paper.items()}
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
        tags |= {"paper.data": self.experiment.paper_data, "encoder": encoders}
        return new_record(self.experiment.name, key, name, params, parent=self.parent.key, tags=tags)

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
            record = finished(record, r, self.store)
        elif record.status == "RUNNING":
            record = record.with_state("FAILED", now_ms(), failure)
        self.runs[cell] = self.tracker.show(record)

    def costs(self, costs: Mapping[str, Mapping[str, Any]]) -> None:
        """Show the cost of inference of each row's encoders as metrics of its runs."""
        for cell, record in self.runs.items():
            found = costs.get(cell[0], {})
            numbers = {f"cost/{name}": value for name, value in found.items() if isinstance(value, int | float)}
            self.runs[cell] = self.tracker.show(record.with_numbers(numbers))

    def close(
        self, rows: list[Row], scores: Mapping[Cell, Mapping[str, float]], failures: Mapping[Cell, str], results: Path
    ) -> None:
        """Means, tables and the state of the parent; then wait until all is sent, if MLflow answers."""
        means: dict[str, float] = {}
        for row in rows:
            of_row = [value for (name, _), value in scores.items() if name == row.name]
            if of_row:
                shared = [m for m in self.experiment.columns if m in of_row[0]]
                means |= {f"{m}/{row.name}": sum(s[m] for s in of_row) / len(of_row) for m in shared}
        parent = self.parent.with_numbers(means, time_ms=now_ms())
        self.tracker.end(parent, sorted(results.glob("table.*")), failed=bool(failures))

    def compare_url(self) -> str:
        """The UI's page that compares the rows."""
        return self.tracker.mlflow.compare_url(self.runs.values())


def naming_settings(profile: Profile) -> dict[str, Any]:
    """What of a profile tells runs apart in MLflow, and searches in the storage.

    Not its resources, nor the encoders that it offers to rows.
    """
    no_settings: dict[str, Any] = {"resources": None, "encoders": {}}
    settings = as_plain(replace(profile, **no_settings))
    del settings["encoders"]  # names of before stay
    return settings


def finished(
    record: RunRecord, recipes: RowRecipes, store: StageStore, encoders: Sequence[EncoderRecipe] | None = None
) -> RunRecord:
    """The record of a row whose stages are complete, with the curves of ``encoders`` (None: all). Its end is the time
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
        others = (HISTORY, MANIFEST, f"{HEAD}.json")  # the last one is part of the model folder
        files = tuple(sorted(p.name for p in found.glob("[!_]*.json") if p.name not in others))
        stages.append(ShownStage(name=f"heads/{found.name}", prefix=f"{head}/", axis="epoch", files=files, folder=head))
    record = replace(record, stages=tuple(stages)).with_state("FINISHED", ended_ms)
    return record.with_numbers((scores or {}) | {f"seconds/{kind}": value for kind, value in seconds.items()})


def _pretrain_prefix(place: int) -> str:
    """Prefix of the curves of a row's first, second, ... encoder."""
    return f"pretrain_{place + 1}/" if place else "pretrain/"
