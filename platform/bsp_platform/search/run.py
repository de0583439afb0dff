"""Run a search with Ray Tune: a searcher that asks for settings, a scheduler that stops by the probe.

Each trial is a row of a table: ``run_row`` makes its stages, so what Table 4 or another trial has made is found.
An encoder that is found complete trains nothing; there is nothing to save, so it is never stopped early.
A trial that was stopped leaves its checkpoint in the store; a search with ``--proxy none`` continues it.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self, TextIO

import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from bsp_platform.plain_text import say
from bsp_platform.plan.options import Options
from bsp_platform.plan.sources import Sources, load_sources
from bsp_platform.search.proposals import MOST_RUNGS
from bsp_platform.search.space import Setting
from bsp_platform.search.state import Search, SearchOptions, plan_of, rungs_of, searched_features
from bsp_platform.search.tables import print_search, search_content, write_search
from bsp_platform.search.tracking import SearchTracking
from bsp_platform.storage.stages import StageStore
from bsp_platform.sweep.failures import NO_ROOM, reason_of_trial, remembered
from bsp_platform.sweep.live import LiveView
from bsp_platform.sweep.ray_log import RayLog
from bsp_platform.sweep.row_runner import RowJob, run_row
from bsp_platform.work.bottleneck import WaitWatch
from bsp_platform.work.cluster.loopback import private_folder
from bsp_platform.work.cluster.planning import plan_lines, refuse_early, start_planned
from bsp_platform.work.cluster.start import TRIAL_RESOURCES, object_store
from bsp_platform.work.probe import (
    PROBE,
    RUNG,
    WORKERS,
    BoundaryProbe,
    load_probe_videos,
    release_workers,
    score_features,
)

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

LAST_PROBE = "last_probe_ap"


@dataclass(frozen=True, kw_only=True)
class TrialJob:
    """What a trial needs besides its setting."""

    rows: RowJob
    spec: SearchOptions
    options: Options
    sources: Sources  # without its data sets
    videos: Any  # ObjectRef of list[ProbeVideo]


def run_trial(config: dict[str, Any], job: TrialJob) -> None:
    """Tune's function: all seeds of one setting; the first one's encoder is probed while it trains."""
    setting, name = Setting.from_plain(config["setting"]), config["name"]
    plans = [plan_of(setting, seed, job.spec, job.options, job.sources) for seed in range(job.options.seeds)]
    searched = plans[0].searched
    probe = BoundaryProbe(videos=job.videos, recipe=searched, at_steps=rungs_of(plans[0], job.spec))
    for seed, plan in enumerate(plans):
        cell = (name, seed)
        run_row({"cell": cell}, replace(job.rows, recipes={cell: plan.recipes}, probes={searched: probe}))
    store = StageStore(job.rows.storage)
    folder = store.need("features", searched_features(plans[0]))
    tune.report({"stage": "probe", LAST_PROBE: score_features(folder, ray.get(job.videos))})


class _InDriver:
    """Tune pickles and copies what it is given, to restore a sweep; ours lives in the driver and continues from the
    storage."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def save(self, checkpoint_path: str) -> None:
        """Nothing is saved for Tune, or restored."""

    restore = save


class Asker(_InDriver, Searcher):
    """Tune's searcher: hands over the next setting."""

    def __init__(self, search: Search):
        super().__init__()
        self.search = search

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The configuration of the next trial."""
        trial = self.search.study.begin(self.search.total)
        if trial is None:
            return Searcher.FINISHED  # type: ignore[return-value]  # a word
        return {"number": trial.number, "name": trial.name, "setting": asdict(trial.setting)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """WatchSearch has told the search already."""


class HalvingByFusion(_InDriver, FIFOScheduler):
    """Ray's asynchronous successive halving (ASHA, Li et al., MLSys 2020) on the probe, from what is known on.

    Choice: one for each fusion method; the probe of a two-head or distilled encoder measures action features too.
    """

    def __init__(self, search: Search):
        super().__init__()
        self.search, eta = search, search.spec.eta
        # Of Ray's own rungs, at eta^k, ours use the first ones: rung k is told as time eta^k.
        self.halvings = {
            fusion: ASHAScheduler(
                time_attr="time", metric=PROBE, mode="max", max_t=eta**MOST_RUNGS, reduction_factor=eta,
                stop_last_trials=False,
            )
            for fusion in search.spec.space["fusion"]
        }  # fmt: skip
        for known in search.trials():
            trial = TuneTrial("known", stub=True, trial_id=known.name)
            self.halvings[known.setting.fusion].on_trial_add(None, trial)
            for rung, score in known.probes.items():
                self._decide(trial, known.setting.fusion, rung, score)

    def _decide(self, trial: TuneTrial, fusion: str, rung: int, score: float) -> str:
        result = {"time": self.search.spec.eta**rung, PROBE: score}
        return self.halvings[fusion].on_trial_result(None, trial, result)

    def on_trial_add(self, tune_controller: TuneController, trial: TuneTrial) -> None:
        """A trial begins."""
        self.halvings[trial.config["setting"]["fusion"]].on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Stop, if the result has a probe that is not good enough at its rung."""
        if PROBE not in result:
            return TrialScheduler.CONTINUE
        decision = self._decide(trial, trial.config["setting"]["fusion"], result[RUNG], result[PROBE])
        if decision == TrialScheduler.STOP:
            self.search.study.keep(trial.config["number"], "stopped_at", int(result["probe_step"]))
        return decision


class WatchSearch(_InDriver, tune.Callback):
    """Tune's news, in the driver: to the search, to the screen and to MLflow."""

    def __init__(self, search: Search, tracking: SearchTracking, view: LiveView, waits: WaitWatch):
        self.search, self.tracking, self.view, self.waits = search, tracking, view, waits
        self.workers: dict[int, str] = {}  # by trial: what its training workers have reserved

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """MLflow gets a run for it."""
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
            self.search.study.keep(ours.number, "last_probe", result[LAST_PROBE])
        self.view.update((ours.name, 0), result)
        self.tracking.record(ours, result)
        if "record" in result:
            warning = self.waits.record((ours.number, result["encoder"]), result["record"])
            if warning:
                self.view.warn((ours.name, 0), warning)

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """It is finished, or was stopped by the probe."""
        ours = self.search.close(trial.config["number"])
        if ours.status == "stopped":
            release_workers(self.workers.pop(ours.number, ""))
            self.view.update((ours.name, 0), {"stage": f"stopped by the probe at step {ours.stopped_at}"})
        self.view.update((ours.name, 0), {"stage": "finished"})
        self.tracking.close(ours)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """It has failed."""
        ours = self.search.close(trial.config["number"], reason_of_trial(trial))
        self.view.update((ours.name, 0), {"stage": "FAILED"})
        self.tracking.close(ours)


def run_search(spec: SearchOptions, options: Options) -> int:
    """Run what is missing of a search, write and print its table and plots. Exit status 1 if a trial failed."""
    began = time.time()
    if options.rows:
        raise ValueError(f"--rows {','.join(options.rows)}: a search has trials, not rows; use --space")
    refuse_early(options)
    store = StageStore(options.storage)
    with store.only_one(spec.name):
        sources = load_sources(options.profile, {"activitynet"}, options.data, storage=store.root)
        search = Search(spec, options, sources, store)
        if options.fresh:
            _put_aside(search)
            search = Search(spec, options, sources, store)
        total = max(search.total, len(search.trials()))
        to_run = search.to_run()
        say(f"{spec.name}: {spec.search} search, {total} trials, {total - len(to_run)} decided already")
        tracking = SearchTracking(search)
        tracking.open()
        troubles: list[str] = []  # besides failed trials; the table of what is finished is shown in spite of them
        if to_run:
            with remembered(troubles, "the trials", NO_ROOM):
                _run_missing(search, to_run, tracking, troubles)
        results = options.results / spec.name / options.profile.name
        content = search_content(search, duration_s=time.time() - began)
        with remembered(troubles, f"the table and plots in {results}"):
            write_search(results, content)
        with remembered(troubles, "MLflow's record of the search"):
            tracking.finish(results, content)
    print_search(content)
    say(f"Table and plots: {results}/table.{{json,csv,md}}, parallel.png, response.png")
    say(f"MLflow: {tracking.tracker.mlflow.ui_command()}\n  compare: {tracking.compare_url()}")
    failed = [trial for trial in search.trials() if trial.status == "failed"]
    for trial in failed:
        say(f"FAILED {trial.name} ({trial.setting}): {trial.reason}")
    for trouble in troubles:
        say(f"FAILED {trouble}")
    return 1 if failed or troubles else 0


def _put_aside(search: Search) -> None:
    """--fresh: all stages of the trials but the vanilla ones move to ``replaced/``, and the trials are forgotten."""
    moved = 0
    for trial in search.trials():
        for plan in search.plans(trial.setting):
            stages = [("encoders", plan.searched), ("features", searched_features(plan))]
            stages += [("heads", head) for head in plan.recipes.heads.values()]
            moved += sum(search.store.put_aside(kind, recipe) is not None for kind, recipe in stages)
    search.store.write_note(search.note, b"")
    say(f"--fresh: {moved} stages moved to {search.store.address}/replaced; delete that folder at will")


def _run_missing(search: Search, numbers: list[int], tracking: SearchTracking, troubles: list[str]) -> None:
    """Run the open trials and new ones; the search knows what became of them."""
    folder = search.options.results if search.store.bucket else search.store.root
    ray_log = RayLog.of_run(folder, search.spec.name)
    with ray_log, tracking.tracker.system_metrics(tracking.parent):
        _tune(search, numbers, tracking, ray_log.console, troubles)


def _tune(search: Search, numbers: list[int], tracking: SearchTracking, console: TextIO, troubles: list[str]) -> None:
    options, spec, sources = search.options, search.spec, search.sources
    plan = start_planned(options)
    for line in plan_lines(plan, options):
        say(line, file=console)
    resources, at_a_time = plan.resources, plan.rows
    say(f"decoding up to {spec.probe.videos} training videos for the probe", file=console)
    videos = load_probe_videos(
        sources.data["activitynet"],
        options.profile.augment.size_px,
        options.profile.encoder.for_snippets().clip_frames,
        spec.probe,
    )
    rows = RowJob(
        storage=search.store.address,
        resources=resources,
        catalog=ray.put(sources.trimmed),
        data={name: ray.put(data) for name, data in sources.data.items()},
        glove=None,
        class_scores={name: file.path for name, file in sources.class_scores.items()},
        weights={file.sha256: file.path for file in sources.vanilla_weights.values()},
        recipes={},
    )
    job = TrialJob(rows=rows, spec=spec, options=options, sources=replace(sources, data={}), videos=ray.put(videos))
    waits = WaitWatch(resources, lambda: object_store().spilled_mb)
    with LiveView([(f"trial {number:02d}", 0) for number in numbers], at_a_time, console) as view:
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(run_trial, job=job), TRIAL_RESOURCES),
            tune_config=tune.TuneConfig(
                search_alg=Asker(search),
                scheduler=HalvingByFusion(search) if spec.proxy == "asha" else None,
                num_samples=len(numbers),
                max_concurrent_trials=at_a_time,
            ),
            run_config=tune.RunConfig(
                name=time.strftime("%Y%m%d-%H%M%S"),
                storage_path=str(private_folder() / "tune"),  # it holds pickles, which a storage must not
                callbacks=[WatchSearch(search, tracking, view, waits)],
                verbose=0,
            ),
        )
        with remembered(troubles, "Ray Tune"):  # at the end it reads files that a full disk leaves by half
            tuner.fit()
