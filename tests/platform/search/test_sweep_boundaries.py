"""The search over boundary settings: proposals, what is kept of it, halving, tables and plots; and a real one."""

import json
import sys
import time
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from ray.tune.schedulers import ASHAScheduler

from bsp.encoders.build import build_encoder
from bsp.figures.sweep import SweepTrial, draw_parallel, draw_responses
from bsp_platform.plan.options import Options
from bsp_platform.plan.sources import DataPaths
from bsp_platform.search.proposals import Trial, rung_steps, sequence
from bsp_platform.search.space import all_settings, plan_trial, read_space
from bsp_platform.search.tables import proxy_quality, quality_note, spearman
from bsp_platform.storage.stages import StageStore
from bsp_platform.work.probe import ProbeSettings, load_probe_videos, score_encoder
from ray_processes import MARK, training_processes
from repository import EXPERIMENTS
from search_cases import BASE, open_study, settings_of, space, tiny_profile, train_plainly

# What comes next, and what stops


def test_rungs_are_checkpoints_at_about_each_fraction_of_the_training():
    assert rung_steps(800, 100, 2) == (100, 200, 400)
    assert rung_steps(400, 100, 2) == (100, 200)
    assert rung_steps(800, 100, 3) == (100, 300)
    assert rung_steps(93_750, 2_000, 4) == (2_000, 6_000, 24_000)
    assert rung_steps(8, 4, 2) == (4,)
    assert rung_steps(3, 100, 2) == ()


def halving(trials: list[Trial], stopped: dict[int, int]):
    from bsp_platform.search.driver import HalvingByFusion

    spec = SimpleNamespace(eta=2, space={"fusion": ("alone", "two-head")})
    study = SimpleNamespace(set_fact=lambda number, fact, step: stopped.update({number: step}))
    return HalvingByFusion(SimpleNamespace(spec=spec, trials=lambda: trials, study=study))


def test_a_trial_stops_below_the_median_of_those_of_its_fusion_method_at_a_rung():
    stopped: dict[int, int] = {}

    def told(scheduler, number: int, fusion: str, rung: int, score: float) -> str:
        config = {"number": number, "setting": {"fusion": fusion}}
        trial = SimpleNamespace(trial_id=f"{number} of {id(scheduler)}", config=config)
        scheduler.on_trial_add(None, trial)
        result = {"probe_ap": score, "probe_rung": rung, "probe_step": 100 * 2**rung}
        return scheduler.on_trial_result(None, trial, result)

    scheduler = halving([], stopped)
    assert scheduler.on_trial_result(None, None, {"loss": 1.0}) == "CONTINUE"
    assert told(scheduler, 1, "alone", 0, 10.0) == "CONTINUE"
    assert told(scheduler, 2, "alone", 0, 20.0) == "CONTINUE"
    assert told(scheduler, 3, "alone", 0, 14.0) == "STOP"  # below 15
    assert told(scheduler, 4, "two-head", 0, 1.0) == "CONTINUE"
    assert told(scheduler, 4, "two-head", 1, 1.0) == "CONTINUE"
    assert told(scheduler, 5, "two-head", 1, 0.5) == "STOP"
    assert stopped == {3: 100, 5: 200}
    # A search that is continued compares with the trials of before.
    alone, two_head = settings_of(fusion="alone,two-head")
    known = [
        Trial(number=number, setting=setting, status="stopped", probes={0: score})
        for number, setting, score in ((1, alone, 10.0), (2, alone, 20.0), (3, two_head, 90.0))
    ]
    assert [told(halving(known, stopped), 4, "alone", 0, score) for score in (14.0, 15.0)] == ["STOP", "CONTINUE"]


def test_a_random_search_repeats_and_covers_a_small_space_once():
    found = space(epsilon="0,1,2,4", kinds="dc+ss,sc+ss", stride="1,2")
    first = list(sequence("random", found, BASE, 3))
    assert first == list(sequence("random", found, BASE, 3))
    assert first != list(sequence("random", found, BASE, 4))
    assert set(first) == set(all_settings(found, BASE))
    assert len(first) == 4 * 2 + 2


@pytest.mark.parametrize("kind", ["grid", "random", "optuna"])
def test_a_search_is_continued_without_repeating_a_setting(kind, tmp_path):
    found = space(epsilon="0,1,2,4", kinds="dc+ss,sc+ss", tau="2,4")
    everything = list(sequence(kind, found, BASE, 0))
    assert len(everything) == 3 + 4 + 2  # epsilon 4 is too long for tau 2
    for total in (4, 30):
        study = open_study(tmp_path, found, kind)
        while trial := study.begin(total):
            if trial.number == 2:
                study.probed(2, 0, 3.5)
                study.set_fact(2, "stopped_at", 100)
                study.end(2, None)
            else:
                study.set_fact(trial.number, "last_probe", 4.5)
                study.end(trial.number, 50.0 - trial.setting.tau)
    trials = open_study(tmp_path, found, kind).trials()
    assert [trial.number for trial in trials] == list(range(1, 10))
    if kind == "optuna":
        assert {trial.setting for trial in trials} == set(everything)
    else:
        assert [trial.setting for trial in trials] == everything
    _, stopped, third, *_ = trials
    assert (stopped.status, stopped.probes, stopped.stopped_at, stopped.value) == ("stopped", {0: 3.5}, 100, None)
    assert (third.status, third.value, third.last_probe) == ("finished", 50.0 - third.setting.tau, 4.5)


def test_what_was_interrupted_failed_or_is_lost_is_tried_again_as_the_same_trial(tmp_path):
    found = space(epsilon="0,1,2,4", kinds="dc+ss")
    study = open_study(tmp_path, found)
    for number in (1, 2, 3):
        assert study.begin(4).number == number
        study.probed(number, 0, 10.0 * number)
    study.end(1, None, "no disk")
    study.end(2, 7.0)
    assert [(t.status, t.reason) for t in study.trials()] == [("failed", "no disk"), ("finished", ""), ("open", "")]
    del study  # its driver is killed
    study = open_study(tmp_path, found)
    study.reopen(lost=lambda trial: trial.number == 2)
    again = []
    while trial := study.begin(4):
        again.append((trial.number, trial.setting.epsilon, trial.probes))
        study.end(trial.number, 1.0)
    assert sorted(again) == [(1, 0, {0: 10.0}), (2, 1, {0: 20.0}), (3, 2, {0: 30.0}), (4, 4, {})]
    trials = open_study(tmp_path, found).trials()
    assert [(t.number, t.status, t.reason) for t in trials] == [(number, "finished", "") for number in (1, 2, 3, 4)]


def test_optuna_prefers_what_scored_well(tmp_path):
    """60 settings, one parameter decides: after 25 trials most proposals have its best value; at random 1/4 would."""
    found = space(epsilon="0,1,2,4", kinds="dc+ss", stride="1,2,3,4,5", min_segment="1,2,4")
    study = open_study(tmp_path, found, "optuna", seed=1)
    while trial := study.begin(25):
        study.end(trial.number, -abs(trial.setting.epsilon - 2.0))
    best = [trial.setting.epsilon == 2 for trial in study.trials()[10:]]
    assert sum(best) > len(best) / 2


@pytest.mark.parametrize("content", ['{"op_code": 0', "[1]", '{"op_code": 4, "study_id": 0}'])
def test_a_damaged_record_of_a_search_is_named(content, tmp_path):
    (tmp_path / "study.jsonl").write_text(content)
    with pytest.raises(ValueError, match=r"study\.jsonl is damaged"):
        open_study(tmp_path, space())


# Table and plots


@pytest.mark.long
def test_how_well_the_probe_ranks_is_told_of_finished_trials():
    assert spearman([(1.0, 1.0), (2.0, 2.0)]) is None
    assert spearman([(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)]) is None
    rows = [{"mAP_avg": {"mean": m}, "probes": {"0": p}, "last_probe": -p} for m, p in ((1, 1), (2, 5), (3, 9))]
    rows.append({"mAP_avg": None, "probes": {"0": 3.0}, "last_probe": None})  # stopped: has no mAP
    quality = proxy_quality(rows)
    assert quality == {
        "0": {"trials": 3, "spearman": pytest.approx(1)},
        "last": {"trials": 3, "spearman": pytest.approx(-1)},
    }
    assert quality_note(quality, stopped=1).startswith(
        "Spearman correlation of the probe with mAP_avg among finished trials: rung 1 +1.00 (3 trials), last -1.00 "
        "(3 trials). 1 trial"
    )


def test_the_plots_show_every_trial(tmp_path):
    axes = {"epsilon": ["0", "1", "-"], "kinds": ["dc+ss", "sc+ss"], "fusion": ["alone", "two-head"]}
    trials = [
        SweepTrial(
            values=dict(zip(axes, values, strict=True)),
            probes=(20.0 + k, 30.0 - k if k % 3 else None),
            score=40.0 + k if k % 3 else None,
        )
        for k, values in enumerate(product(*axes.values()))
    ]
    parallel = draw_parallel(trials, axes, tmp_path / "parallel.png", title="Search", caption="Which data.")
    lines = [line for line in parallel.axes[0].lines if len(line.get_xdata()) > 3]
    # 3 parameters and a probe for those that were stopped; 3 parameters, 2 probes and the mAP for the others.
    assert sorted(len(line.get_xdata()) for line in lines) == [4] * 4 + [6] * 8
    response = draw_responses(trials, axes, tmp_path / "response.png", title="Search", caption="Which data.")
    for column, values in enumerate(axes.values()):
        points = [len([x for line in response.axes[2 * column + row].lines if len(line.get_xdata()) == 1 for x in [0]])
                  for row in (0, 1)]  # fmt: skip
        assert points == [8, 12]
        ticks = [tick.get_text().replace("\n", "") for tick in response.axes[2 * column].get_xticklabels()]
        assert ticks == values
    for name in ("parallel.png", "response.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"
    for empty in (draw_parallel, draw_responses):
        empty([], {}, tmp_path / "empty.png", title="Search", caption="Nothing yet.")


def test_the_commands_options_become_a_search(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    import sweep_boundaries

    seen = []
    monkeypatch.setattr(sweep_boundaries, "run_search", lambda spec, options: seen.append((spec, options)) or 0)
    arguments = "--profile smoke --search grid --space epsilon=0,1 --space tau=2,4 --proxy none --clips 64 --trials 9"
    done = CliRunner().invoke(sweep_boundaries.search_command(), arguments.split())
    assert done.exit_code == 0, done.output
    spec, options = seen[0]
    assert (spec.search, spec.proxy, spec.clips, spec.trials, spec.eta) == ("grid", "none", 64, 9, 2)
    assert (spec.space["epsilon"], spec.space["tau"], spec.space["stride"]) == ((0, 1), (2, 4), (1,))
    assert options.profile.name == "smoke"
    assert CliRunner().invoke(sweep_boundaries.search_command(), []).exit_code == 0
    assert set(seen[1][0].space) == set(sweep_boundaries.SPACE)
    done = CliRunner().invoke(sweep_boundaries.search_command(), ["--space", "epsilon"])
    assert (done.exit_code, "--space epsilon: write NAME=VALUE" in done.output) == (1, True)
    monkeypatch.setitem(sys.modules, "optuna", None)
    done = CliRunner().invoke(sweep_boundaries.search_command(), ["--search", "grid"])
    assert (done.exit_code, len(seen)) == (1, 2)
    assert "pip install 'bsp-platform[search]'" in done.output


# A real search


def search_options(folder: Path) -> Options:
    return Options(
        profile=tiny_profile(), storage=folder / "storage", results=folder / "results",
        tracking_home=folder / "mlflow", data=DataPaths(class_scores=(("activitynet", folder / "cls.json"),)), cpus=2,
    )  # fmt: skip


def search_of(proxy: str, epsilons: str):
    from bsp_platform.search.state import SearchOptions

    return SearchOptions(
        name="small_search", space=read_space({"epsilon": epsilons, "kinds": "dc+ss"}, tiny_profile()), search="grid",
        trials=None, proxy=proxy, eta=2, search_seed=0, clips=None, probe=ProbeSettings(videos=4),
    )  # fmt: skip


@pytest.mark.ray
def test_a_failed_trial_is_reported_with_its_error_at_once(ray_session, tmp_path):
    from ray import tune

    from bsp_platform.sweep.failures import reason_of_trial

    reasons = []

    class Keep(tune.Callback):
        def on_trial_error(self, iteration, trials, trial, **info):
            reasons.append(reason_of_trial(trial))

    def dies(config: dict) -> None:
        raise ValueError("no features of video 7")

    tune.Tuner(
        tune.with_resources(dies, {"cpu": 0.1}),
        run_config=tune.RunConfig(storage_path=str(tmp_path), callbacks=[Keep()], verbose=0),
    ).fit()
    assert reasons == ["no features of video 7"]


class FirstGoesOn(ASHAScheduler):
    """In the place of Ray's: whichever trial reaches the rung second, or later, stops there."""

    seen = 0

    def on_trial_result(self, *_):
        self.seen += 1
        return "CONTINUE" if self.seen == 1 else "STOP"


@pytest.mark.ray
@pytest.mark.slow
def test_a_search_stops_by_the_probe_is_found_again_and_a_larger_one_goes_on(
    ray_session, tiny_data, tiny_catalog, tiny_untrimmed, tmp_path, monkeypatch
):
    import os

    from bsp_platform.search import driver, run

    (tmp_path / "storage").mkdir()
    (tmp_path / "storage" / "pantomime").symlink_to(tiny_data.parent)
    names = tiny_untrimmed.class_names
    results = {v.video_id: np.eye(len(names))[k % len(names)].tolist() for k, v in enumerate(tiny_untrimmed.videos)}
    (tmp_path / "cls.json").write_text(json.dumps({"class": list(names), "results": results}))
    monkeypatch.setattr(driver, "ASHAScheduler", FirstGoesOn)
    options, spec = search_options(tmp_path), search_of("asha", "0,1,2")
    assert run.run_search(spec, options) == 0

    folder = tmp_path / "results" / "small_search" / "tiny"
    table = json.loads((folder / "table.json").read_text())
    rows = table["trials"]
    assert [row["epsilon"] for row in rows] == ["0", "1", "2"]
    assert sorted(row["status"] for row in rows) == ["finished", "stopped", "stopped"]
    stopped = [row for row in rows if row["status"] == "stopped"]
    assert [(row["stopped_at"], row["steps"], row["mAP_avg"]) for row in stopped] == [(4, 8, None)] * 2
    assert all(list(row["probes"]) == ["0"] for row in rows)
    (finished,) = (row for row in rows if row["status"] == "finished")
    assert finished["last_probe"] is not None
    assert "stopped at step 4 of 8" in (folder / "table.md").read_text()
    assert len((folder / "table.csv").read_text().splitlines()) == 4
    store = StageStore(options.storage)
    deadline = time.time() + 30
    while training_processes(os.environ[MARK]) and time.time() < deadline:
        time.sleep(0.2)
    # A trial that stops takes its workers with it. (That it gives back what they had reserved shows below: two such
    # leftovers would leave no room for another trial.)
    assert training_processes(os.environ[MARK]) == []
    assert len(list((store.root / "encoders").glob("*/_train"))) >= 2  # checkpoints of those that were stopped

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("small_search").experiment_id])
    children = {run.data.params["epsilon"]: run for run in runs if "mlflow.parentRunId" in run.data.tags}
    (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    assert {e: run.data.tags["outcome"] for e, run in children.items()} == {r["epsilon"]: r["status"] for r in rows}
    child = children[finished["epsilon"]]
    assert child.data.metrics["ours/mAP_avg"] == round(finished["mAP_avg"]["mean"], 2)
    assert child.data.metrics["ours/probe_ap"] == pytest.approx(finished["probes"]["0"])
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert files == {"table.json", "table.csv", "table.md", "parallel.png", "response.png"}

    # The same command finds everything; Tune is not even started.
    with monkeypatch.context() as patch:
        patch.setattr(run, "_run_missing", None)
        assert run.run_search(spec, options) == 0
    again = json.loads((folder / "table.json").read_text())["trials"]
    assert again == rows
    assert len(client.search_runs([parent.info.experiment_id])) == 4

    # Without ASHA the search goes on from the checkpoint; the weights are those of a training that knows no probe.
    other = stopped[0]["epsilon"]
    assert run.run_search(search_of("none", other), options) == 0
    (row,) = json.loads((folder / "table.json").read_text())["trials"]
    assert (row["status"], row["probes"]) == ("finished", {})  # it was past the rung already
    profile = options.profile
    sources = run.load_sources(profile, {"activitynet"}, options.data, storage=store.root, progress=False)
    (setting,) = all_settings(search_of("none", other).space, profile.clips)
    plan = plan_trial(setting, 0, profile, sources, 1)
    encoder = store.find("encoders", plan.searched)
    assert [record["step"] for record in json.loads((encoder / "history.json").read_text())] == [2, 4, 6, 8]
    trained = torch.load(encoder / "encoder.pt", weights_only=True)["encoder"]
    torch.set_num_threads(1)
    plain = train_plainly(plan.searched, tiny_catalog)
    assert all(torch.equal(value, plain[name]) for name, value in trained.items())
    videos = load_probe_videos(tiny_untrimmed, 32, 8, ProbeSettings(videos=4))
    model = build_encoder(plan.searched.encoder, 0)
    model.load_state_dict(plain)
    assert row["last_probe"] == score_encoder(model, plan.searched, videos)
