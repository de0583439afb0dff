"""What a sweep writes to MLflow: a parent run, a child per row and seed, curves, scores, files."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bsp.tasks.head import HISTORY
from bsp_platform.plan.options import Options
from bsp_platform.plan.profiles import Profile
from bsp_platform.plan.rows import Cell, Experiment, Row, RowRecipes
from bsp_platform.plan.sources import Sources
from bsp_platform.storage.stages import MANIFEST, StageStore, as_plain, recipe_hash
from bsp_platform.tracking.tracker import Tracker, mlflow_name
from bsp_platform.work.bottleneck import SHARES
from bsp_platform.work.pretraining import WEIGHTS


class SweepTracking:
    """The MLflow side of one sweep: a parent, a child per row and seed, curves, scores, files."""

    def __init__(self, experiment: Experiment, profile: Profile, sources: Sources, options: Options):
        self.experiment, self.profile = experiment, profile
        self.results = options.results / experiment.name / profile.name
        self.tracker = Tracker(options.tracking_uri, experiment.name, options.tracking_home)
        settings = as_plain(replace(profile, resources=None, encoders={}))
        data = {"trimmed": sources.trimmed_print}
        for name in sources.data:
            data |= {name: sources.videos_prints[name], f"{name} labels": sources.labels_prints[name]}
        if sources.notes:
            data["notes"] = "; ".join(sources.notes)
        self.key = f"{profile.name}/{recipe_hash({'settings': settings, **data, 'workers': options.workers})}"
        self.settings = {"profile": profile.name, "about": profile.about, **data}
        self.parent = ""
        self.runs: dict[Cell, str] = {}
        self._closed: set[Cell] = set()

    def open(self, recipes: dict[Cell, RowRecipes], store: StageStore) -> None:
        """Find or create all runs, before anything starts."""
        self.recipes, self.store, tracker = recipes, store, self.tracker
        self.parent = tracker.run(self.key, f"{self.experiment.name} {self.profile.name}")
        tracker.params(self.parent, self.settings)
        by_name = {row.name: (k, row) for k, row in enumerate(self.experiment.rows)}
        for cell, r in recipes.items():
            number, row = by_name[cell[0]]
            tags = {f"paper.{mlflow_name(metric)}": str(value) for metric, value in row.paper.items()}
            encoders = "+".join(recipe_hash(encoder) for encoder in r.encoders)
            tags |= {"paper.data": self.experiment.paper_data, "encoder": encoders}
            name = f"{number + 1:02d} {row.label} seed {cell[1]}"
            self.runs[cell] = tracker.run(f"{self.key}/{_heads_hash(r)}", name, parent=self.parent, tags=tags)
            # Parameters are what the comparison page offers as axes; the profile's own are the same in all rows.
            encoder, train = r.encoders[0].encoder, self.profile.train
            kinds = dict.fromkeys(kind.name.lower() for stream in row.streams for kind in stream.kinds)
            params = {
                "row": row.label, "row_order": number + 1, "seed": cell[1],
                "task": " + ".join(stream.method for stream in row.streams), "kinds": "+".join(kinds) or "none",
                "streams": len(row.streams), "heads": "+".join(row.heads), "blind": row.blind or "no",
                "profile": self.profile.name, "backbone": encoder.name, **asdict(encoder),
                "size_px": self.profile.augment.size_px, "clips": train.clips, "learning_rate": train.learning_rate,
            }  # fmt: skip
            for head, recipe in r.heads.items():
                if hasattr(recipe.head, "epochs"):
                    params[f"{head}_epochs"] = recipe.head.epochs
                if head == "gtad":
                    params["head_cells"] = recipe.head.cells
            tracker.params(self.runs[cell], params)

    def pretrain_record(self, cell: Cell, result: dict[str, Any]) -> None:
        """Log one training record; a row may also train the encoder of the shared class scores: not its own."""
        own = {encoder.name: place for place, encoder in enumerate(self.recipes[cell].encoders)}
        if result.get("encoder") not in own:
            return
        names = self._curve_names(result)
        record = {name: result[name] for name in names}
        prefix = _pretrain_prefix(own[result["encoder"]])
        self.tracker.history(self.runs[cell], prefix, [{"step": result["step"], **record}])

    def warn(self, cell: Cell, encoder: str, text: str) -> None:
        """A warning about the training of an encoder, as a tag of the row's run."""
        self.tracker.tags(self.runs[cell], {f"warning.{encoder}": text})

    def _curve_names(self, result: dict[str, Any]) -> list[str]:
        """Of what Tune hands over, the numbers of the training record; Tune adds many of its own."""
        known = ("loss", "clips_per_s", "data_wait_share", "learning_rate", *result.get("statistics", ()), *SHARES)
        return [name for name in known if isinstance(result.get(name), float)]

    def close_cell(self, cell: Cell) -> None:
        """Log the scores, curves and files of a finished row and seed, once; without scores it has failed."""
        run_id, tracker, store, r = self.runs[cell], self.tracker, self.store, self.recipes[cell]
        scores = r.scores(store)
        if scores is None:
            tracker.finish(run_id, "FAILED")
            return
        if cell in self._closed:
            return
        self._closed.add(cell)
        if not {mlflow_name(name) for name in scores} <= tracker.recorded(run_id):
            for place, encoder in enumerate(r.encoders):
                folder = store.find("encoders", encoder)
                if folder is None:
                    continue  # removed or damaged since (the log says so); the scores stand
                tracker.history(run_id, _pretrain_prefix(place), json.loads((folder / HISTORY).read_text("utf-8")))
                tracker.artifact(run_id, folder / WEIGHTS, f"stream_{place + 1}" if place else None, final=True)
            for head, recipe in r.heads.items():
                folder = store.find("heads", recipe)
                tracker.history(run_id, f"{head}/", json.loads((folder / HISTORY).read_text("utf-8")), axis="epoch")
                for path in sorted(p for p in folder.glob("[!_]*.json") if p.name not in (HISTORY, MANIFEST)):
                    tracker.artifact(run_id, path, head, final=True)
            seconds = {f"seconds/{kind}": value for kind, value in r.seconds(store).items()}
            tracker.metrics(run_id, {**scores, **seconds})  # last: what shows that all of it is recorded
        tracker.finish(run_id)

    def costs(self, costs: dict[str, dict[str, Any]]) -> None:
        """What a row's encoders cost at inference, as metrics of its runs."""
        for (row, _), run_id in self.runs.items():
            if row in costs:
                numbers = {f"cost/{name}": v for name, v in costs[row].items() if isinstance(v, int | float)}
                self.tracker.metrics(run_id, numbers)

    def close(self, rows: list[Row], scores: dict, failures: dict, results: Path) -> None:
        """Means, tables and the state of the parent; then wait until all is sent, if the server answers."""
        for row in rows:
            of_row = [value for (name, _), value in scores.items() if name == row.name]
            if of_row:
                shared = [m for m in self.experiment.columns if m in of_row[0]]
                means = {f"{m}/{row.name}": sum(s[m] for s in of_row) / len(of_row) for m in shared}
                self.tracker.metrics(self.parent, means)
        for path in sorted(results.glob("table.*")):
            self.tracker.artifact(self.parent, path)
        self.tracker.finish(self.parent, "FAILED" if failures else "FINISHED")
        self.tracker.close()

    def compare_url(self) -> str:
        return self.tracker.compare_url(list(self.runs.values()))


def _heads_hash(recipes: RowRecipes) -> str:
    """Names the MLflow run of a row and seed."""
    heads = list(recipes.heads.values())
    return recipe_hash(heads[0] if len(heads) == 1 else heads)


def _pretrain_prefix(place: int) -> str:
    """Of the curves of a row's first, second, ... encoder."""
    return f"pretrain_{place + 1}/" if place else "pretrain/"
