"""Run a search: the trials that are not decided with Ray Tune, then table, plots and MLflow's runs.

Each trial is a row of a table: ``run_row`` makes its stages and uses those of Table 4 or other trials. A trial whose
encoder is in the store is never stopped early. The checkpoint of a stopped trial stays in the store; a search with
``--proxy none`` continues it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import ray
from ray import tune

from bsp_platform.plain_text import duration, say
from bsp_platform.plan.options import Options
from bsp_platform.plan.sources import Sources, load_sources
from bsp_platform.search.driver import LAST_PROBE, HalvingByFusion, SettingSearcher, WatchSearch
from bsp_platform.search.space import Setting, all_settings
from bsp_platform.search.state import Search, SearchOptions, rungs_of, trial_plans
from bsp_platform.search.tables import print_search, search_content, write_search
from bsp_platform.search.tracking import SearchTracking
from bsp_platform.storage.stages import StageStore
from bsp_platform.sweep.dry_run import Times, open_to_read, sources_to_read, unrendered
from bsp_platform.sweep.failures import NO_ROOM, collect_errors
from bsp_platform.sweep.live import LiveView
from bsp_platform.sweep.ray_log import RayLog
from bsp_platform.sweep.row_runner import RowJob, run_row
from bsp_platform.sweep.tuning import run_trials, start_job
from bsp_platform.work.bottleneck import WaitWatch
from bsp_platform.work.cluster.planning import refuse_early
from bsp_platform.work.cluster.start import object_store
from bsp_platform.work.probe import BoundaryProbe, load_probe_videos, score_features


@dataclass(frozen=True, kw_only=True)
class TrialJob:
    """Inputs of a trial besides its setting."""

    rows: RowJob
    spec: SearchOptions
    options: Options
    sources: Sources  # without its data sets
    videos: ray.ObjectRef  # of list[ProbeVideo]


def run_trial(config: dict[str, Any], job: TrialJob) -> None:
    """Tune's function: all seeds of one setting; the first one's encoder is probed while it trains."""
    setting, name = Setting.from_plain(config["setting"]), config["name"]
    plans = trial_plans(setting, job.spec, job.options, job.sources)
    searched = plans[0].searched
    probe = BoundaryProbe(videos=job.videos, recipe=searched, at_steps=rungs_of(plans[0], job.spec))
    for seed, plan in enumerate(plans):
        cell = (name, seed)
        run_row({"cell": cell}, replace(job.rows, recipes={cell: plan.recipes}, probes={searched: probe}))
    store = StageStore(job.rows.storage)
    folder = store.need("features", plans[0].searched_features)
    tune.report({"stage": "probe", LAST_PROBE: score_features(folder, ray.get(job.videos))})


def run_search(spec: SearchOptions, options: Options) -> int:
    """Run the missing trials of a search, write and print its table and plots. Exit status 1 if a trial failed."""
    began = time.time()
    if options.rows:
        raise ValueError(f"--rows {','.join(options.rows)}: a search has trials, not rows; use --space")
    if options.data.start != "random":
        raise ValueError("--start: a search is from random weights; leave the option out")
    if options.dry_run:
        return _dry_run(spec, options)
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
        troubles: list[str] = []  # errors besides failed trials; the table is shown nevertheless
        if to_run:
            ray_log = RayLog.of_run(options.results if store.bucket else store.root, spec.name)
            load = tracking.tracker.system_metrics(tracking.parent)
            with collect_errors(troubles, "the trials", NO_ROOM), load, ray_log:
                _run_missing(search, to_run, tracking, ray_log.console, troubles)
        results = options.results / spec.name / options.profile.name
        content = search_content(search, duration_s=time.time() - began)
        with collect_errors(troubles, f"the table and plots in {results}"):
            write_search(results, content)
        with collect_errors(troubles, "MLflow's record of the search"):
            tracking.finish(results, content)
    print_search(content)
    say(f"Table and plots: {results}/table.{{json,csv,md}}, parallel.png, response.png")
    say(f"MLflow: {tracking.tracker.mlflow.ui_command()}")
    say(f"  the trials: {tracking.table_url()}\n  compare: {tracking.compare_url()}")
    failed = [trial for trial in search.trials() if trial.status == "failed"]
    for trial in failed:
        say(f"FAILED {trial.name} ({trial.setting}): {trial.reason}")
    for trouble in troubles:
        say(f"FAILED {trouble}")
    return 1 if failed or troubles else 0


def _dry_run(spec: SearchOptions, options: Options) -> int:
    """Say what the search would do, from a storage that is only read."""
    say(f"{spec.name}: --dry-run, nothing is started, rendered or written")
    store = open_to_read(options.storage)
    missing = unrendered(options, {"activitynet"}, store.root if store else Path(options.storage))
    if store is None or missing:
        what = f"not rendered yet: {', '.join(missing)}" if missing else f"{options.storage} is not there"
        say(f"{what}; all {spec.trials or 'trials of the grid, or 12'} trials would run")
        return 0
    search = Search(spec, options, sources_to_read(options, {"activitynet"}, store), store)
    to_run, total = search.to_run(), max(search.total, len(search.trials()))
    say(f"{spec.search} search, {total} trials, {total - len(to_run)} decided already")
    first = next(iter(all_settings(spec.space, options.profile.clips)))
    seconds = Times(store).of("encoders", search.plans(first)[0].searched)
    about = f"about {duration(seconds)} of training each" if seconds else "no earlier encoder to tell the time"
    say(f"to run: {len(to_run)} trials, {about}" if to_run else "nothing to run")
    return 0


def _put_aside(search: Search) -> None:
    """--fresh: all stages of the trials but the vanilla ones move to ``replaced/``, and the trials are forgotten."""
    moved = 0
    for trial in search.trials():
        for plan in search.plans(trial.setting):
            stages = [("encoders", plan.searched), ("features", plan.searched_features)]
            stages += [("heads", head) for head in plan.recipes.heads.values()]
            moved += sum(search.store.put_aside(kind, recipe) is not None for kind, recipe in stages)
    search.store.write_note(search.note, b"")
    say(f"--fresh: {moved} stages moved to {search.store.address}/replaced; delete that folder at will")


def _run_missing(
    search: Search, numbers: list[int], tracking: SearchTracking, console: TextIO, troubles: list[str]
) -> None:
    """Run the open trials and new ones; the search records how they end."""
    options, spec, sources, profile = search.options, search.spec, search.sources, search.options.profile
    rows, at_a_time = start_job(options, search.store, sources, {}, console)
    say(f"decoding up to {spec.probe.videos} training videos for the probe", file=console)
    frames = profile.encoder.for_snippets().clip_frames
    data = sources.untrimmed("activitynet")
    videos = load_probe_videos(data, profile.size_of(profile.encoder), frames, spec.probe)
    job = TrialJob(rows=rows, spec=spec, options=options, sources=replace(sources, data={}), videos=ray.put(videos))
    waits = WaitWatch(rows.resources, lambda: object_store().spilled_mb)
    with LiveView([(f"trial {number:02d}", 0) for number in numbers], at_a_time, console) as view:
        config = tune.TuneConfig(
            search_alg=SettingSearcher(search),
            scheduler=HalvingByFusion(search) if spec.proxy == "asha" else None,
            num_samples=len(numbers),
            max_concurrent_trials=at_a_time,
        )
        run_trials(run_trial, job, config, WatchSearch(search, tracking, view, waits), troubles)
