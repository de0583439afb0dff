"""What a search writes to MLflow: a parent run, a child per trial with its setting as parameters, plots, table.

The parameters of the children are the axes that MLflow's own parallel-coordinates page offers.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsp.tasks.head import HISTORY, SCORES
from bsp_platform.search.proposals import Trial
from bsp_platform.search.space import shown
from bsp_platform.tracking.tracker import Tracker
from bsp_platform.work.probe import PROBE

if TYPE_CHECKING:
    from bsp_platform.search.state import Search

_CURVES = ("loss", "clips_per_s", "data_wait_share")


class SearchTracking:
    """The MLflow side of one search."""

    def __init__(self, search: Search, total: int):
        options = search.options
        self.search, self.total = search, total
        self.tracker = Tracker(options.tracking_uri, search.spec.name, options.tracking_home)
        self.runs: dict[int, str] = {}

    def open(self) -> None:
        """Find or create the parent, and the children of the trials that are known."""
        spec, profile = self.search.spec, self.search.options.profile
        self.parent = self.tracker.run(f"{profile.name}/{self.search.key}", f"{spec.name} {profile.name} {spec.search}")
        params = {"profile": profile.name, "about": profile.about, "search": spec.search, "proxy": spec.proxy}
        params |= {
            "seeds": self.search.options.seeds,
            "search_seed": spec.search_seed,
            "clips": spec.clips or "profile",
        }
        params |= {f"space.{name}": ",".join(map(shown, values)) for name, values in spec.space.items()}
        self.tracker.params(self.parent, params)
        for trial in self.search.ledger.trials:
            self.start(trial)
            if trial.status != "open":
                self.close(trial, self.search.scores(trial) if trial.status == "finished" else None)

    def start(self, trial: Trial) -> None:
        """Find or create the child of a trial; its setting becomes its parameters."""
        if trial.number in self.runs:
            return
        profile = self.search.options.profile.name
        name = f"{trial.number:02d} {trial.setting}"
        key = f"{profile}/{self.search.key}/{name}"
        run_id = self.runs[trial.number] = self.tracker.run(key, name[:250], parent=self.parent)
        self.tracker.params(run_id, {"trial": trial.number, **trial.setting.values()})

    def record(self, trial: Trial, result: dict[str, Any]) -> None:
        """A training record or a probe score, at its step."""
        if "step" not in result:
            return
        curve = {
            name: result[name]
            for name in (*_CURVES, *result.get("statistics", ()))
            if isinstance(result.get(name), float)
        }
        searched = {plan.searched.name for plan in self.search.plans(trial.setting)[:1]}
        if result.get("encoder") in searched and curve:
            self.tracker.history(self.runs[trial.number], "pretrain/", [{"step": result["step"], **curve}])
        if PROBE in result:
            self.tracker.metrics(self.runs[trial.number], {PROBE: result[PROBE]}, step=int(result["probe_step"]))

    def close(self, trial: Trial, scores: list[dict[str, float]] | None) -> None:
        """The scores, mean over seeds, and the files of a finished trial; the status of any."""
        run_id, store = self.runs[trial.number], self.search.store
        self.tracker.tags(run_id, {"outcome": trial.status})
        if trial.status == "failed" or scores is None:
            # A trial that ASHA stopped has done what it should: it is no failure.
            self.tracker.finish(run_id, "FINISHED" if trial.status == "stopped" else "FAILED")
            return
        plan = self.search.plans(trial.setting)[0]
        history = json.loads((store.need("encoders", plan.searched) / HISTORY).read_text("utf-8"))
        self.tracker.history(run_id, "pretrain/", history)
        for recipe in plan.recipes.heads.values():
            self.tracker.artifact(run_id, store.need("heads", recipe) / SCORES, final=True)
        means = {name: statistics.fmean(s[name] for s in scores) for name in scores[0]}
        if trial.last_probe is not None:
            means["last_probe_ap"] = trial.last_probe
        self.tracker.metrics(run_id, means)
        self.tracker.finish(run_id)

    def finish(self, results: Path, content: dict[str, Any]) -> None:
        """Table, plots and the best score on the parent."""
        best = [row["mAP_avg"]["mean"] for row in content["trials"] if row["mAP_avg"]]
        numbers = {"trials": len(content["trials"]), "finished": len(best)}
        if best:
            numbers["best_mAP_avg"] = max(best)
        self.tracker.metrics(self.parent, numbers, step=len(content["trials"]))
        for path in sorted([*results.glob("table.*"), *results.glob("*.png")]):
            self.tracker.artifact(self.parent, path)
        failed = any(row["status"] == "failed" for row in content["trials"])
        self.tracker.finish(self.parent, "FAILED" if failed else "FINISHED")
        self.tracker.close()

    def compare_url(self) -> str:
        """MLflow's page that compares the trials, with parallel coordinates."""
        return self.tracker.compare_url(list(self.runs.values()))
