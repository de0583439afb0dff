"""The search over boundary settings: from space to recipes, the probe, halving, tables and plots; and a real one."""

import dataclasses
import json
import sys
import time
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from bsp.boundary_probe import boundary_snippets, load_probe_video, probe_score, snippet_features, with_neighbours
from bsp.clips import BoundaryKind
from bsp.encoder import EncoderSettings, build_encoder
from bsp.features import extract_features
from bsp.figures_sweep import SweepTrial, draw_parallel, draw_responses
from bsp.pretext import pretext_objective
from bsp.pretrain import TrainSettings, make_optimiser, train_steps
from bsp_platform.options import Options
from bsp_platform.probe import ProbeSettings, load_probe_videos, score_encoder
from bsp_platform.profiles import mini, smoke
from bsp_platform.recipes import EncoderRecipe, FeatureRecipe, Stream
from bsp_platform.rows import Row, row_recipes
from bsp_platform.search import Halving, Ledger, Proposals, Trial, compared_with, rung_steps, sequence
from bsp_platform.search_space import PARAMETERS, Setting, all_settings, make_setting, plan_trial, read_space
from bsp_platform.search_tables import proxy_quality, quality_note, spearman
from bsp_platform.sources import DataPaths, Sources

sys.path.append(str(Path(__file__).parent))
from ray_processes import MARK, training_processes

BASE = mini().clips
WIDTH_8 = EncoderSettings(depth=18, width=8)


def space(**texts: str):
    return read_space(texts, mini())


def settings_of(**texts: str) -> list[Setting]:
    return list(all_settings(space(**texts), BASE))


def sources_of(catalog=None) -> Sources:
    class Names:
        class_names = ("walk", "wave")

    return Sources(
        trimmed=catalog or Names(), trimmed_print="t", data={}, videos_prints={"activitynet": "v"},
        labels_prints={"activitynet": "l"},
    )  # fmt: skip


# From the space to recipes


def test_a_space_is_read_from_texts_and_the_rest_is_as_in_the_profile():
    found = space(epsilon="0, 2", gammas="2+0.5,4", kinds="ss+dc,dc+sc+ds+ss", fusion="two-stream")
    assert found == {
        "fusion": ("two-stream",), "kinds": (("dc", "ss"), ("dc", "sc", "ds", "ss")), "epsilon": (0, 2),
        "gammas": ((0.5, 2.0), (4.0,)), "min_segment": (2,), "stride": (1,), "tau": (4,),
    }  # fmt: skip
    assert tuple(found) == PARAMETERS


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"epsilons": "1"}, "unknown parameter epsilons"),
        ({"epsilon": "x"}, "epsilon=x: "),
        ({"kinds": "dc"}, "kinds=dc: a mix is two or more"),
        ({"kinds": "dc+xx"}, r"kinds=dc\+xx: a mix is two or more"),
        ({"fusion": "three-head"}, "fusion=three-head: it is one of alone, two-stream, two-head, distillation"),
    ],
)
def test_a_wrong_space_is_refused_by_name(texts, message):
    with pytest.raises(ValueError, match=message):
        space(**texts)


def test_what_cannot_matter_makes_no_new_trial_and_what_cannot_be_is_left_out():
    # epsilon counts only with dc, gammas only with ds: 3 + 1 + 3 * 2 of 3 * 2 * 3 combinations.
    found = settings_of(epsilon="0,1,2", gammas="0.5+2,4", kinds="dc+ss,sc+ss,dc+ds+ss")
    assert len(found) == len(set(found)) == 3 + 1 + 6
    assert {s.values()["epsilon"] for s in found if "dc" not in s.kinds} == {"-"}
    # With tau 2 neither epsilon nor min_segment may be above 2.
    found = settings_of(tau="2,4", epsilon="1,3", min_segment="1,4", kinds="dc+ss")
    assert {(s.tau, s.epsilon, s.min_segment) for s in found} == {(2, 1, 1), *product((4,), (1, 3), (1, 4))}
    assert make_setting({**dict(zip(PARAMETERS, ("alone", ("dc", "ss"), 3, None, 1, 1, 2)))}, BASE) is None


@pytest.mark.parametrize("fusion", ["alone", "two-stream", "two-head", "distillation"])
def test_the_profiles_own_setting_gives_the_stages_of_tables_4_and_5(fusion):
    kinds = tuple(BoundaryKind)
    classify = Stream(method="classification", kinds=kinds)
    streams = {
        "alone": (classify,),
        "two-stream": (Stream(method="action"), classify),
        "two-head": (Stream(method="two-head", kinds=kinds),),
        "distillation": (Stream(method="distillation", kinds=kinds),),
    }[fusion]
    (setting,) = settings_of(fusion=fusion)
    plan = plan_trial(setting, 1, mini(), sources_of(), 1)
    expected = row_recipes(Row(name="r", label="r", streams=streams), 1, mini(), sources_of(), 1)
    assert plan.recipes == expected
    assert plan.searched == expected.encoders[-1]


def test_another_tau_trains_on_clips_of_that_length_and_leaves_vanilla_alone():
    (setting,) = settings_of(fusion="two-stream", tau="2", epsilon="0", min_segment="1", stride="3")
    (usual,) = settings_of(fusion="two-stream")
    plan, before = (plan_trial(s, 0, mini(), sources_of(), 1, clips=6_400) for s in (setting, usual))
    assert (plan.searched.encoder.frames, plan.searched.clips.half_len) == (4, 2)
    assert (plan.searched.clips.epsilon, plan.searched.clips.stride_frames) == (0, 3)
    assert plan.recipes.encoders[0] == before.recipes.encoders[0]
    assert plan.recipes.encoders[0].train == mini().train
    assert plan.recipes.class_scores() == before.recipes.class_scores()
    assert (plan.searched.train.steps, plan.searched.train.warmup_steps) == (200, 12)
    with pytest.raises(ValueError, match=r"--clips 99999.* more than the profile's 25600"):
        plan_trial(usual, 0, mini(), sources_of(), 1, clips=99_999)


def test_a_distilled_student_of_another_tau_has_an_action_teacher_of_that_tau():
    setting, usual = settings_of(fusion="distillation", tau="8,4")
    long = plan_trial(setting, 0, mini(), sources_of(), 1).searched
    assert [t.encoder.frames for t in (long, *long.teachers)] == [16, 16, 16]
    assert long.teachers[0].clips.kinds == ()
    searched = plan_trial(usual, 0, mini(), sources_of(), 1).searched
    assert searched.teachers[0] == plan_trial(usual, 0, mini(), sources_of(), 1, clips=3_200).searched.teachers[0]


def test_features_come_from_eight_frames_whatever_tau(tiny_untrimmed, tmp_path):
    from bsp_platform.extraction import ExtractionJob, Extractor
    from bsp_platform.pretraining import save_encoder

    video = tiny_untrimmed.videos[0]
    recipe = EncoderRecipe(encoder=dataclasses.replace(WIDTH_8, frames=4), seed=3)
    trained = build_encoder(recipe.encoder, 3)
    save_encoder(trained, recipe, tmp_path)
    features = FeatureRecipe(encoder=recipe, untrimmed="v", size_px=32)
    job = ExtractionJob(recipe=features, weights=tmp_path / "encoder.pt", folder=tmp_path, use_gpu=False)
    count, error = Extractor(job).extract(video.video_id, video.path)
    same_weights = build_encoder(WIDTH_8, 99)
    same_weights.load_state_dict(trained.state_dict())
    expected, info = extract_features(same_weights, video.path, video_id=video.video_id, size_px=32)
    found = np.load(tmp_path / f"{video.video_id}.npy")
    assert (count, error, info.snippet_frames) == (len(expected), "", 8)
    np.testing.assert_array_equal(found, expected)
    # The shift over 8 frames is not the one over 2 x 4: the length does matter.
    clip = torch.rand(1, 8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    halves = trained.eval()(clip.view(2, 4, 3, 32, 32)).view(1, 8, -1)
    assert not torch.allclose(same_weights.eval()(clip), halves)


# The probe


def test_boundaries_fall_into_snippets_of_eight_frames():
    # 10 fps: frame 8 opens snippet 1; 3.2 s is frame 32, snippet 4, which a video of 4 snippets lacks.
    assert boundary_snippets([0.0, 0.8, 2.39, 3.2], fps=10, snippets=4).tolist() == [True, True, True, False]


def test_the_probe_finds_what_is_linear_in_a_neighbour_and_nothing_in_noise():
    generator = np.random.default_rng(0)
    features, boundaries = [], []
    for _ in range(12):
        boundary = generator.random(40) < 0.15
        feature = generator.normal(size=(40, 6)).astype(np.float32)
        feature[1:, 0] += 8 * boundary[:-1]  # the trace of a boundary is in the snippet after it
        features.append(feature)
        boundaries.append(boundary)
    assert probe_score(features, boundaries) > 95
    chance = 100 * np.concatenate(boundaries[1::2]).mean()
    noise = [generator.normal(size=f.shape) for f in features]
    assert abs(probe_score(noise, boundaries) - chance) < 15
    # What is only in the videos that are fitted does not count.
    for k in range(1, 12, 2):
        features[k] = noise[k]
    assert probe_score(features, boundaries) < 50
    np.testing.assert_array_equal(with_neighbours(np.array([[1.0], [2], [3]])), [[1, 1, 2], [1, 2, 3], [2, 3, 3]])


def test_a_probe_without_boundaries_says_what_is_missing():
    with pytest.raises(ValueError, match="of 4 probe videos those held out have 0 snippets with a boundary among 4"):
        probe_score([np.zeros((2, 3))] * 4, [np.array([True, False]), np.zeros(2, bool)] * 2)


def test_the_probe_reads_training_videos_as_extraction_does(tiny_untrimmed):
    videos = load_probe_videos(tiny_untrimmed, 32, ProbeSettings(videos=4))
    subsets = {video.video_id: video.subset for video in tiny_untrimmed.videos}
    assert [subsets[video.video_id] for video in videos] == ["training"] * 4
    path = next(v.path for v in tiny_untrimmed.videos if v.video_id == videos[0].video_id)
    encoder = build_encoder(WIDTH_8, 1).eval()
    expected, _ = extract_features(encoder, path, video_id="v", size_px=32)
    np.testing.assert_array_equal(snippet_features(encoder, videos[0].frames_STHWC, "cpu"), expected)
    source = next(v for v in tiny_untrimmed.videos if v.video_id == videos[0].video_id)
    part = load_probe_video(source, 32, 5)
    assert part.boundary_S.any()
    whole = slice(part.first, part.first + 5)
    np.testing.assert_array_equal(part.frames_STHWC, videos[0].frames_STHWC[whole])
    np.testing.assert_array_equal(part.boundary_S, videos[0].boundary_S[whole])


def train_plainly(recipe: EncoderRecipe, catalog, probe=None) -> dict[str, torch.Tensor]:
    """The weights that the plain loop gives, without Ray; ``probe`` is called after every step."""
    from bsp_platform.pretraining import build_model
    from bsp_platform.streaming import ClipStream, make_clips

    torch.manual_seed(recipe.seed * 1000)
    model, settings = build_model(recipe), recipe.train
    stream = ClipStream(
        catalog=None, clips=recipe.clips, augment=recipe.augment, seed=recipe.seed,
        batch_size=settings.batch_size, length=settings.clips,
    )  # fmt: skip
    batches = (
        make_clips(catalog, stream, range(first, first + settings.batch_size))
        for first in range(0, settings.clips, settings.batch_size)
    )
    steps = train_steps(
        model, make_optimiser(model, settings), batches, loss=pretext_objective(recipe.pretext), settings=settings,
        device=torch.device("cpu"),
    )  # fmt: skip
    for done, _ in steps:
        if probe:
            probe(model.encoder, done)
    return model.encoder.state_dict()


def test_probing_leaves_training_bit_identical(tiny_catalog, tiny_untrimmed):
    profile = tiny_profile()
    (setting,) = all_settings(read_space({"kinds": "dc+ss", "tau": "2"}, profile), profile.clips)
    recipe = plan_trial(setting, 0, profile, sources_of(tiny_catalog), 1).searched
    recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, clips=24, checkpoint_every_steps=1))
    videos = load_probe_videos(tiny_untrimmed, 32, ProbeSettings(videos=4))
    scores = []

    def probe(encoder, _step):
        before = torch.get_rng_state()
        scores.append(score_encoder(encoder, recipe, videos))
        assert torch.equal(torch.get_rng_state(), before)
        assert all(module.training for module in encoder.modules())

    alone, probed = train_plainly(recipe, tiny_catalog), train_plainly(recipe, tiny_catalog, probe)
    assert len(set(scores)) == 3  # the encoder changes, and the probe sees it
    assert all(torch.equal(value, probed[name]) for name, value in alone.items())


# What comes next, and what stops


def test_rungs_are_checkpoints_at_about_each_fraction_of_the_training():
    assert rung_steps(800, 100, 2) == (100, 200, 400)
    assert rung_steps(400, 100, 2) == (100, 200)
    assert rung_steps(800, 100, 3) == (100, 300)
    assert rung_steps(93_750, 2_000, 4) == (2_000, 6_000, 24_000)
    assert rung_steps(8, 4, 2) == (4,)
    assert rung_steps(3, 100, 2) == ()


@pytest.mark.parametrize("eta", [2, 3, 4])
def test_halving_decides_as_rays_asha(eta):
    from ray.tune.schedulers.async_hyperband import _Bracket
    from ray.tune.schedulers.trial_scheduler import TrialScheduler

    class Named:
        def __init__(self, name):
            self.trial_id = name

    scores = np.random.default_rng(eta).random(60)
    theirs, ours = _Bracket(1, 1.5, eta, 0), Halving(eta=eta)
    found = [
        (theirs.on_result(Named(str(k)), 1, score) == TrialScheduler.STOP, ours.stops(score, list(scores[:k])))
        for k, score in enumerate(scores)
    ]
    assert len({stop for stop, _ in found}) == 2
    assert all(a == b for a, b in found)


def test_probes_are_compared_within_a_fusion_method_only():
    one, two = settings_of(fusion="alone", epsilon="0,1")
    (other,) = settings_of(fusion="two-head")
    trials = [Trial(number=k, setting=s, probes={0: 10.0 * k}) for k, s in enumerate((one, two, other), start=1)]
    assert compared_with(trials[1], 0, trials) == [10.0]
    assert compared_with(trials[1], 1, trials) == []
    assert compared_with(trials[2], 0, trials) == []


def test_a_random_search_repeats_and_covers_a_small_space_once():
    found = space(epsilon="0,1,2,4", kinds="dc+ss,sc+ss", stride="1,2")
    first = list(sequence("random", found, BASE, 3))
    assert first == list(sequence("random", found, BASE, 3))
    assert first != list(sequence("random", found, BASE, 4))
    assert set(first) == set(all_settings(found, BASE))
    assert len(first) == 4 * 2 + 2


@pytest.mark.parametrize("search", ["grid", "random", "optuna"])
def test_a_search_goes_on_from_its_ledger_without_repeating_a_setting(search, tmp_path):
    found = space(epsilon="0,1,2,4", kinds="dc+ss,sc+ss", tau="2,4")
    everything = set(all_settings(found, BASE))
    assert len(everything) == 3 + 4 + 2  # epsilon 4 is too long for tau 2
    for part in (4, 9):
        ledger = Ledger(tmp_path / "trials.json")
        proposals = Proposals(search, found, BASE, 0, ledger)
        while len(ledger.trials) < part and (setting := proposals.next()):
            trial = ledger.add(setting)
            trial.status, trial.value = "finished", 50.0 - setting.tau
            if trial.number == 2:
                trial.status, trial.value, trial.probes = "stopped", None, {0: 3.5}
            ledger.save()
            proposals.tell(trial)
    ledger = Ledger(tmp_path / "trials.json")
    assert [trial.number for trial in ledger.trials] == list(range(1, 10))
    assert {trial.setting for trial in ledger.trials} == everything
    assert ledger.trials[1].probes == {0: 3.5}
    assert Proposals(search, found, BASE, 0, ledger).next() is None


def test_optuna_prefers_what_scored_well():
    """60 settings, one parameter decides: after 25 trials most proposals have its best value; at random 1/4 would."""
    found = space(epsilon="0,1,2,4", kinds="dc+ss", stride="1,2,3,4,5", min_segment="1,2,4")

    class Memory(Ledger):
        def save(self):
            pass

    ledger = Memory(Path("nowhere.json"))
    proposals = Proposals("optuna", found, BASE, 1, ledger)
    for _ in range(25):
        trial = ledger.add(proposals.next())
        trial.status, trial.value = "finished", -abs(trial.setting.epsilon - 2.0)
        proposals.tell(trial)
    best = [trial.setting.epsilon == 2 for trial in ledger.trials[10:]]
    assert sum(best) > len(best) / 2


def test_a_damaged_ledger_is_named(tmp_path):
    (tmp_path / "trials.json").write_text('[{"number": 1')
    with pytest.raises(ValueError, match=r"trials\.json is damaged"):
        Ledger(tmp_path / "trials.json")


# Table and plots


def test_the_rank_correlation_is_scipys():
    from scipy.stats import spearmanr

    generator = np.random.default_rng(1)
    pairs = [(float(generator.integers(5)), float(generator.random())) for _ in range(15)]
    assert spearman(pairs) == pytest.approx(spearmanr(*zip(*pairs)).statistic, abs=1e-12)
    assert spearman(pairs[:2]) is None
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
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "experiments"))
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


# A real search


def tiny_profile():
    from bsp.datasets.pantomime import PantomimeSettings

    return dataclasses.replace(
        smoke(),
        name="tiny",
        pantomime=PantomimeSettings(
            trimmed_per_class=2, trimmed_val_per_class=0, untrimmed_train=4, untrimmed_val=4, untrimmed_seconds=12.0,
            actions=("wave", "squat", "walk", "kick"),
        ),
        train=TrainSettings(clips=64, batch_size=8, learning_rate=0.02, log_every_steps=2, checkpoint_every_steps=4),
    )  # fmt: skip


def search_options(folder: Path) -> Options:
    return Options(
        profile=tiny_profile(), rows=(), seeds=1, storage=folder / "storage", results=folder / "results",
        tracking_uri=None, tracking_home=folder / "mlflow",
        data=DataPaths(class_scores=(("activitynet", folder / "cls.json"),)),
        workers=1, cpus=2, gpus=None, fresh=False,
    )  # fmt: skip


def search_of(proxy: str, epsilons: str):
    from bsp_platform.search_state import SearchOptions

    return SearchOptions(
        name="small_search", space=read_space({"epsilon": epsilons, "kinds": "dc+ss"}, tiny_profile()), search="grid",
        trials=None, proxy=proxy, eta=2, search_seed=0, clips=None, probe=ProbeSettings(videos=4),
    )  # fmt: skip


@pytest.mark.ray
def test_a_failed_trial_is_reported_with_its_error_at_once(ray_session, tmp_path):
    from ray import tune

    from bsp_platform import search_run

    reasons = []

    class Keep(tune.Callback):
        def on_trial_error(self, iteration, trials, trial, **info):
            reasons.append(search_run._why(trial))

    def dies(config: dict) -> None:
        raise ValueError("no features of video 7")

    tune.Tuner(
        tune.with_resources(dies, {"cpu": 0.1}),
        run_config=tune.RunConfig(storage_path=str(tmp_path), callbacks=[Keep()], verbose=0),
    ).fit()
    assert reasons == ["no features of video 7"]


@pytest.mark.ray
def test_a_search_stops_by_the_probe_is_found_again_and_a_larger_one_goes_on(
    ray_session, tiny_data, tiny_catalog, tiny_untrimmed, tmp_path, monkeypatch
):
    import os

    from bsp_platform import search_run
    from bsp_platform.stages import StageStore

    (tmp_path / "storage").mkdir()
    (tmp_path / "storage" / "pantomime").symlink_to(tiny_data.parent)
    names = tiny_untrimmed.class_names
    results = {v.video_id: np.eye(len(names))[k % len(names)].tolist() for k, v in enumerate(tiny_untrimmed.videos)}
    (tmp_path / "cls.json").write_text(json.dumps({"class": list(names), "results": results}))
    # Whichever trial reaches the rung second stops there.
    monkeypatch.setattr(Halving, "stops", lambda self, score, earlier: bool(earlier))
    options, spec = search_options(tmp_path), search_of("asha", "0,1,2")
    assert search_run.run_search(spec, options) == 0

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
    assert child.data.metrics["mAP_avg"] == pytest.approx(finished["mAP_avg"]["mean"])
    assert child.data.metrics["probe_ap"] == pytest.approx(finished["probes"]["0"])
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert files == {"table.json", "table.csv", "table.md", "parallel.png", "response.png"}

    # The same command finds everything; Tune is not even started.
    with monkeypatch.context() as patch:
        patch.setattr(search_run, "_tune", None)
        assert search_run.run_search(spec, options) == 0
    again = json.loads((folder / "table.json").read_text())["trials"]
    assert again == rows
    assert len(client.search_runs([parent.info.experiment_id])) == 4

    # Without ASHA the search goes on from the checkpoint; the weights are those of a training that knows no probe.
    other = stopped[0]["epsilon"]
    assert search_run.run_search(search_of("none", other), options) == 0
    (row,) = json.loads((folder / "table.json").read_text())["trials"]
    assert (row["status"], row["probes"]) == ("finished", {})  # it was past the rung already
    profile = options.profile
    sources = search_run.load_sources(profile, {"gtad"}, options.data, storage=store.root, progress=False)
    (setting,) = all_settings(search_of("none", other).space, profile.clips)
    plan = plan_trial(setting, 0, profile, sources, 1)
    encoder = store.find("encoders", plan.searched)
    assert [record["step"] for record in json.loads((encoder / "history.json").read_text())] == [2, 4, 6, 8]
    trained = torch.load(encoder / "encoder.pt", weights_only=True)["encoder"]
    torch.set_num_threads(1)
    plain = train_plainly(plan.searched, tiny_catalog)
    assert all(torch.equal(value, plain[name]) for name, value in trained.items())
    videos = load_probe_videos(tiny_untrimmed, 32, ProbeSettings(videos=4))
    model = build_encoder(plan.searched.encoder, 0)
    model.load_state_dict(plain)
    assert row["last_probe"] == score_encoder(model, plan.searched, videos)
