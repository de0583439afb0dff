"""Ray Tune's interfaces to a search, in the driver: its searcher, its scheduler and its callback."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Self

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from bsp_platform.search.proposals import MOST_RUNGS
from bsp_platform.search.state import Search
from bsp_platform.search.tracking import SearchTracking
from bsp_platform.sweep.failures import reason_of_trial
from bsp_platform.sweep.live import LiveView
from bsp_platform.work.bottleneck import WaitWatch
from bsp_platform.work.probe import PROBE, RUNG, WORKERS, release_workers

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

LAST_PROBE = "last_probe_ap"  # of the finished encoder


class _InDriver:
    """Has no state for Tune, which pickles its parts to restore a run: a search continues from the storage."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def save(self, checkpoint_path: str) -> None:
        """Nothing is saved for Tune, or restored."""

    restore = save


class SettingSearcher(_InDriver, Searcher):
    """Tune's searcher: gives each trial its setting."""

    def __init__(self, search: Search):
        super().__init__()
        self.search = search

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The configuration of the next trial."""
        trial = self.search.study.begin(self.search.total)
        if trial is None:
            return Searcher.FINISHED  # type: ignore[return-value]  # text
        return {"number": trial.number, "name": trial.name, "setting": asdict(trial.setting)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: WatchSearch ends the trial."""


class HalvingByFusion(_InDriver, FIFOScheduler):
    """Ray's asynchronous successive halving (ASHA, Li et al., MLSys 2020) on the probe; begins with the known trials.

    Choice: one halving for each fusion method, as the probe of a two-head or distilled encoder sees action features.
    """

    def __init__(self, search: Search):
        super().__init__()
        self.search, eta = search, search.spec.eta
        # Ray's rungs are at times eta^k: our rung k is reported as time eta^k.
        self.halvings = {
            fusion: ASHAScheduler(
                time_attr="time", metric=PROBE, mode="max", max_t=eta**MOST_RUNGS, reduction_factor=eta,
                stop_last_trials=False,
            )
            for fusion in search.spec.space["fusion"]
        }  # fmt: skip
        for known in search.trials():
            trial = TuneTrial("known", stub=True, trial_id=known.name)
            self.halvings[known.setting.fusion].on_trial_add(None, trial)  # type: ignore[arg-type]  # unused
            for rung, score in known.probes.items():
                self._decide(trial, known.setting.fusion, rung, score)

    def _decide(self, trial: TuneTrial, fusion: str, rung: int, score: float) -> str:
        result = {"time": self.search.spec.eta**rung, PROBE: score}
        return self.halvings[fusion].on_trial_result(None, trial, result)  # type: ignore[arg-type]

    def on_trial_add(self, tune_controller: TuneController, trial: TuneTrial) -> None:
        """A trial begins."""
        self.halvings[trial.config["setting"]["fusion"]].on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Stop the trial if the result has a probe score that its rung rejects."""
        if PROBE not in result:
            return TrialScheduler.CONTINUE
        decision = self._decide(trial, trial.config["setting"]["fusion"], result[RUNG], result[PROBE])
        if decision == TrialScheduler.STOP:
            self.search.study.set_fact(trial.config["number"], "stopped_at", int(result["probe_step"]))
        return decision


class WatchSearch(_InDriver, tune.Callback):
    """Callback of Tune: passes results of trials on to the search, the live view and MLflow."""

    def __init__(self, search: Search, tracking: SearchTracking, view: LiveView, waits: WaitWatch):
        self.search, self.tracking, self.view, self.waits = search, tracking, view, waits
        self.workers: dict[int, str] = {}  # by trial: what its training workers have reserved

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Start the trial's run in MLflow."""
        self.tracking.start(self.search.trial(trial.config["number"]))

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        """Progress, or a probe score."""
        ours = self.search.trial(trial.config["number"])
        if PROBE in result:
            self.search.study.probed(ours.number, result[RUNG], result[PROBE])
            self.workers[ours.number] = result[WORKERS]
        if LAST_PROBE in result:
            self.search.study.set_fact(ours.number, "last_probe", result[LAST_PROBE])
        self.view.update((ours.name, 0), result)
        self.tracking.record(ours, result)
        if "record" in result:
            warning = self.waits.record((ours.number, result["encoder"]), result["record"])
            if warning:
                self.view.warn((ours.name, 0), warning)

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """The trial is finished, or was stopped by the probe."""
        ours = self.search.close(trial.config["number"])
        if ours.status == "stopped":
            release_workers(self.workers.pop(ours.number, ""))
            self.view.update((ours.name, 0), {"stage": f"stopped by the probe at step {ours.stopped_at}"})
        self.view.update((ours.name, 0), {"stage": "finished"})
        self.tracking.close(ours)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """The trial has failed."""
        ours = self.search.close(trial.config["number"], reason_of_trial(trial))
        self.view.update((ours.name, 0), {"stage": "FAILED"})
        self.tracking.close(ours)
