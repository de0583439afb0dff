"""A search in MLflow: a parent run, a child per trial with its setting as parameters, plots, table.

The parameters of the children are the axes that MLflow's own parallel-coordinates page offers.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsp_platform.search.proposals import Trial
from bsp_platform.search.space import shown
from bsp_platform.sweep.tracking import finished
from bsp_platform.tracking import names
from bsp_platform.tracking.record import RunRecord, Status, new_record, now_ms
from bsp_platform.tracking.tracker import Tracker
from bsp_platform.work.probe import PROBE

if TYPE_CHECKING:
    from bsp_platform.search.state import Search


COLUMNS = ("mAP_avg", PROBE)


class SearchTracking:
    """The MLflow side of one search."""

    def __init__(self, search: Search):
        options = search.options
        self.search = search
        self.tracker = Tracker(options.tracking_uri, search.spec.name, options.tracking_home, search.store)
        self.runs: dict[int, RunRecord] = {}

    def open(self) -> None:
        """Show the parent, and the children of the known trials."""
        spec, profile = self.search.spec, self.search.options.profile
        params: dict[str, object] = {
            "profile": profile.name, "about": profile.about, "search": spec.search, "proxy": spec.proxy,
            "seeds": self.search.options.seeds, "search_seed": spec.search_seed, "clips": spec.clips or "profile",
        }  # fmt: skip
        params |= {f"space.{name}": ",".join(map(shown, values)) for name, values in spec.space.items()}
        key = f"{profile.name}/{self.search.key}"
        name = f"{spec.name} {profile.name} {spec.search}"
        columns = [
            *(f"params.{name}" for name in spec.space),
            *(f"metrics.{names.OURS}{name}" for name in COLUMNS),
            "tags.outcome",
        ]
        note = f"Search {name}\nThe trials, each with its setting as parameters; `{names.OURS}mAP_avg` in percent."
        record = new_record(spec.name, key, name, params, columns=columns, note=note)
        self.parent = self.tracker.begin(record)
        for trial in self.search.trials():
            self.start(trial)
            if trial.status != "open":
                self.close(trial)

    def start(self, trial: Trial) -> None:
        """Show the child of a trial; its setting becomes its parameters."""
        if trial.number in self.runs:
            return
        name, params = f"{trial.number:02d} {trial.setting}", {"trial": trial.number, **trial.setting.values()}
        key = f"{self.parent.key}/{name}"
        record = new_record(self.search.spec.name, key, name[:250], params, parent=self.parent.key)
        self.runs[trial.number] = self.tracker.begin(record, running=trial.status == "open")

    def record(self, trial: Trial, result: Mapping[str, Any]) -> None:
        """A training record or a probe score, at its step."""
        record = self.runs[trial.number]
        searched = {plan.searched.name for plan in self.search.plans(trial.setting)[:1]}
        if "record" in result and result["encoder"] in searched:
            self.tracker.live(record, f"{names.TRAINING}pretrain/", result["record"])
        if PROBE in result:
            record = record.with_numbers(
                {names.score_name(PROBE, COLUMNS): result[PROBE]}, int(result["probe_step"]), now_ms()
            )
            self.runs[trial.number] = self.tracker.show(record)

    def close(self, trial: Trial) -> None:
        """The scores, mean over seeds, and the files of a finished trial; the status of any."""
        record, store = self.runs[trial.number], self.search.store
        record = replace(record, tags=record.tags | {"outcome": trial.status})
        scores = self.search.scores(trial) if trial.status == "finished" else None
        if scores is not None:
            plan = self.search.plans(trial.setting)[0]
            means = {name: statistics.fmean(s[name] for s in scores) for name in scores[0]}
            if trial.last_probe is not None:
                means["last_probe_ap"] = trial.last_probe
            record = finished(record, plan.recipes, store, COLUMNS, [plan.searched])
            record = record.with_numbers(names.our_scores(means, COLUMNS))
        else:
            # A trial that was stopped early is no failure.
            status: Status = "FINISHED" if trial.status == "stopped" else "FAILED"
            record = record.with_state(status, record.ended_ms or now_ms(), trial.reason)
        self.runs[trial.number] = self.tracker.show(record)

    def finish(self, results: Path, content: Mapping[str, Any]) -> None:
        """Table, plots and the best score on the parent."""
        best = [row["mAP_avg"]["mean"] for row in content["trials"] if row["mAP_avg"]]
        numbers = {"trials": len(content["trials"]), "finished": len(best)}
        if best:
            numbers["best_mAP_avg"] = max(best)
        files = sorted([*results.glob("table.*"), *results.glob("*.png")])
        failed = any(row["status"] == "failed" for row in content["trials"])
        self.tracker.end(self.parent.with_numbers(numbers, len(content["trials"]), now_ms()), files, failed=failed)

    def table_url(self) -> str:
        """MLflow's table of the trials."""
        return self.tracker.mlflow.table_url(self.parent)

    def compare_url(self) -> str:
        """MLflow's page that compares the trials, with parallel coordinates."""
        return self.tracker.mlflow.compare_url(self.runs.values())
