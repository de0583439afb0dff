"""What a sweep writes to MLflow: a parent run, a child per row and seed, curves, scores, files."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from bsp_platform.heads import DETECTIONS, HISTORY, SCORES
from bsp_platform.options import Options
from bsp_platform.pretraining import WEIGHTS
from bsp_platform.profiles import Profile
from bsp_platform.rows import Cell, Experiment, Row, RowRecipes, stage_seconds
from bsp_platform.sources import Sources
from bsp_platform.stages import StageStore, as_plain, recipe_hash
from bsp_platform.tracking import Tracker, mlflow_name

log = logging.getLogger(__name__)


class SweepTracking:
    """The MLflow side of one sweep: a parent, a child per row and seed, curves, scores, files."""

    CURVE = ("loss", "accuracy", "change_point_error", "clips_per_s", "data_wait_share", "learning_rate")

    def __init__(self, experiment: Experiment, profile: Profile, sources: Sources, options: Options):
        self.experiment, self.profile = experiment, profile
        self.results = options.results / experiment.name / profile.name
        self.tracker = Tracker(options.tracking_uri, experiment.name, options.tracking_home)
        settings = as_plain(replace(profile, resources=None))
        data = {"trimmed": sources.trimmed_print, "untrimmed": sources.untrimmed_print}
        self.key = f"{profile.name}/{recipe_hash({'settings': settings, **data, 'workers': options.workers})}"
        self.settings = {"profile": profile.name, "about": profile.about, **data}
        self.parent = ""
        self.runs: dict[Cell, str] = {}

    def open(self, recipes: dict[Cell, RowRecipes], store: StageStore) -> None:
        """Find or create all runs, before anything starts: a server that goes away later stops nothing."""
        self.recipes, self.store, tracker = recipes, store, self.tracker
        self.parent = tracker.run(self.key, f"{self.experiment.name} {self.profile.name}")
        tracker.params(self.parent, self.settings)
        by_name = {row.name: (k, row) for k, row in enumerate(self.experiment.rows)}
        for cell, r in recipes.items():
            number, row = by_name[cell[0]]
            tags = {f"paper.{mlflow_name(metric)}": str(value) for metric, value in row.paper.items()}
            tags |= {"paper.data": self.experiment.paper_data, "encoder": recipe_hash(r.encoder)}
            name = f"{number + 1:02d} {row.label} seed {cell[1]}"
            self.runs[cell] = tracker.run(f"{self.key}/{recipe_hash(r.head)}", name, parent=self.parent, tags=tags)
            # Parameters are what the comparison page offers as axes; the profile's own are the same in all rows.
            head, train = r.head.head, self.profile.train
            params = {
                "row": row.label, "row_order": number + 1, "seed": cell[1], "task": row.task or "random",
                "kinds": "+".join(kind.name.lower() for kind in row.kinds) or "none", "profile": self.profile.name,
                "depth": r.encoder.encoder.depth, "width": r.encoder.encoder.width, "size_px": r.features.size_px,
                "clips": train.clips, "learning_rate": train.learning_rate,
                "head_cells": head.cells, "head_epochs": head.epochs,
            }  # fmt: skip
            tracker.params(self.runs[cell], params)

    def pretrain_record(self, cell: Cell, result: dict[str, Any]) -> None:
        """Log one training record; a row may also train the encoder of the shared class scores: not its own."""
        if result.get("encoder") != self.recipes[cell].encoder.name:
            return
        record = {name: result[name] for name in self.CURVE if name in result}
        self.tracker.history(self.runs[cell], "pretrain/", [{"step": result["step"], **record}])

    def close_cell(self, cell: Cell) -> None:
        """Log the scores, curves and files of a finished row and seed, once; without scores it has failed."""
        run_id, tracker, store, r = self.runs[cell], self.tracker, self.store, self.recipes[cell]
        folder = store.find("heads", r.head)
        if folder is None:
            tracker.finish(run_id, "FAILED")
            return
        if "mAP_avg" not in self._logged(run_id):
            encoder = store.folder("encoders", r.encoder)
            seen = tracker.logged_steps(run_id, "pretrain/loss")
            curve = json.loads((encoder / HISTORY).read_text())
            tracker.history(run_id, "pretrain/", [record for record in curve if record["step"] not in seen])
            tracker.history(run_id, "head/", json.loads((folder / HISTORY).read_text()), axis="epoch")
            seconds = {f"seconds/{kind}": value for kind, value in stage_seconds(store, r).items()}
            tracker.metrics(run_id, {**json.loads((folder / SCORES).read_text())["scores"], **seconds})
            for path in (folder / SCORES, folder / DETECTIONS, encoder / WEIGHTS):
                tracker.artifact(run_id, path)
        tracker.finish(run_id)

    def _logged(self, run_id: str) -> dict[str, float]:
        try:
            return self.tracker.client.get_run(run_id).data.metrics
        except Exception as error:  # server gone: log again rather than lose
            log.warning("MLflow did not answer: %s", error)
            return {}

    def close(self, rows: list[Row], scores: dict, failures: dict, results: Path) -> None:
        for row in rows:
            of_row = [value for (name, _), value in scores.items() if name == row.name]
            if of_row:
                means = {f"{m}/{row.name}": sum(s[m] for s in of_row) / len(of_row) for m in self.experiment.columns}
                self.tracker.metrics(self.parent, means)
        for path in sorted(results.glob("table.*")):
            self.tracker.artifact(self.parent, path)
        self.tracker.finish(self.parent, "FAILED" if failures else "FINISHED")
        self.tracker.close(results / "unsent.txt")

    def compare_url(self) -> str:
        return self.tracker.compare_url(list(self.runs.values()))
