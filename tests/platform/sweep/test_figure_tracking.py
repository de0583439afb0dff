"""Figure scripts: which rows they need, what they write, one MLflow run each; the scripts on made-up features."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ablation_table4
import ablation_table5
import figure2_synthesis
import figure4_feature_difference
import figure5_qualitative
from bsp.features.store import FeatureInfo, write_features
from bsp.figures.style import new_figure
from bsp.video.read import probe
from bsp_platform.plan.options import Options
from bsp_platform.plan.profiles import smoke
from bsp_platform.plan.rows import row_recipes
from bsp_platform.plan.sources import load_sources
from bsp_platform.storage.files import write_json
from bsp_platform.storage.stages import StageStore
from bsp_platform.sweep.figures import finished_rows, publish

pytestmark = pytest.mark.server  # MLflow's store


@pytest.fixture(scope="module")
def tracking_home(tmp_path_factory):
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture
def options(tmp_path, tracking_home, tiny_pantomime, tiny_data):
    """Of the smoke profile on the tiny data, which lie in the storage already."""
    storage = tmp_path / "storage"
    shutil.copytree(tiny_data, storage / "pantomime" / tiny_data.name)
    return Options(
        profile=replace(smoke(), pantomime=tiny_pantomime), seeds=2, storage=storage,
        results=tmp_path / "results", tracking_home=tracking_home,
    )  # fmt: skip


def mlflow_client(options: Options):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{options.tracking_home.resolve() / 'mlflow.db'}")


def mlflow_runs(options: Options, name: str) -> list:
    client = mlflow_client(options)
    return client.search_runs([client.get_experiment_by_name(name).experiment_id])


def published(options: Options, name: str) -> dict:
    folder = options.results / name / options.profile.name
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "figure.pdf").read_bytes().startswith(b"%PDF")
    return json.loads((folder / "figure.json").read_text())


# -- publishing --


def test_a_figure_made_twice_is_one_run_and_another_one_a_second(options):
    def make(value: float, seed: int = 0) -> None:
        publish(
            new_figure(4, 1, title="t", caption="c"), options, name="fig", content={"title": "t", "caption": "c"},
            key={"seed": seed}, params={"seed": seed}, metrics={"AUC/x@1": value},
        )  # fmt: skip

    make(0.5)
    make(0.5)
    (run,) = mlflow_runs(options, "fig")
    client = mlflow_client(options)
    assert [m.value for m in client.get_metric_history(run.info.run_id, "AUC/x_1")] == [0.5]
    assert {f.path for f in client.list_artifacts(run.info.run_id)} == {"figure.png", "figure.pdf", "figure.json"}
    assert run.info.status == "FINISHED"
    tags = client.get_experiment_by_name("fig").tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert tags["mlflow.note.content"] == run.data.tags["mlflow.note.content"]
    assert tags["mlflow.note.content"].startswith("t\n\nc\n")
    content = published(options, "fig")
    assert (content["title"], content["profile"]) == ("t", "smoke")
    make(0.6)
    assert len(mlflow_runs(options, "fig")) == 2
    make(0.6, seed=1)
    assert len(mlflow_runs(options, "fig")) == 3


# -- the rows that a figure needs --


def rows_of(script) -> list:
    table = ablation_table4.TABLE_4 if script is figure4_feature_difference else ablation_table5.TABLE_5
    rows = [row for row in table.rows if row.name in script.ROWS.values()]
    assert len(rows) == len(script.ROWS)
    return [replace(row, heads=("gtad",)) for row in rows]


def test_rows_of_a_figure_cannot_be_chosen(options):
    with pytest.raises(ValueError, match="leave the option out"):
        finished_rows("fig", rows_of(figure4_feature_difference), replace(options, rows=("vanilla",)), need="features")


@pytest.mark.parametrize(("status", "fresh"), [(0, False), (1, False), (0, True)])
def test_missing_rows_are_made_as_an_experiment_of_their_own(options, monkeypatch, status, fresh):
    asked = []
    monkeypatch.setattr("bsp_platform.sweep.run.run", lambda experiment, options: asked.append(experiment) or status)
    rows = rows_of(figure4_feature_difference)
    if status:
        with pytest.raises(RuntimeError, match="not all its rows could be made"):
            finished_rows("fig", rows, options, need="features")
    else:
        _, _, recipes = finished_rows("fig", rows, replace(options, fresh=fresh), need="features")
        assert set(recipes) == {(row.name, seed) for row in rows for seed in (0, 1)}
    (experiment,) = asked
    assert experiment.name == "fig_rows"  # so that no table of another experiment is overwritten
    assert experiment.rows == tuple(rows)


# -- the scripts, on stages that hold made-up numbers --


def fill(store: StageStore, options: Options, rows: list, features, detections) -> None:
    """Complete stages for all rows and seeds: ``features(name, video, snippets)``, ``detections(name, video)``."""
    sources = load_sources(options.profile, {"activitynet"}, options.data, storage=store.root)
    videos = [v for v in sources.data["activitynet"].videos if v.path]
    for row in rows:
        for seed in range(options.seeds):
            for kind, recipe in row_recipes(row, seed, options.profile, sources, 1).stages():

                def build(folder: Path, kind=kind, recipe=recipe, name=row.name) -> dict:
                    if kind == "features":
                        for video in videos:
                            frames = probe(video.path).frames
                            feat_SD = features(name, video, frames // 8)
                            info = FeatureInfo(
                                video_id=video.video_id, frames=frames, fps=12.0, snippet_frames=8, stride_frames=8,
                                offset_frames=0, size_px=recipe.size_px, mean=(0, 0, 0), std=(1, 1, 1),
                                feature_width=feat_SD.shape[1], snippets=len(feat_SD), encoder_hash="x", code_version=1,
                            )  # fmt: skip
                            write_features(folder, video.video_id, feat_SD, info)
                    if kind == "heads":
                        write_json(
                            folder / "detections.json",
                            {"results": {v.video_id: detections(name, v) for v in videos if v.subset == "validation"}},
                        )
                    return {}

                store.ensure(kind, recipe, build)


def steps(name: str, video, snippets: int) -> np.ndarray:
    """BSP: a new direction at every start and end; vanilla: the same differences everywhere."""
    feat_SD = np.zeros((snippets, 16), np.float32)
    times = sorted(t for i in video.instances for t in (i.start_s, i.end_s))
    # A boundary in snippet k changes the features from k + 1 on.
    changes = np.array([int(np.ceil(t * 12 / 8)) for t in times])
    for k in range(snippets):
        feat_SD[k, (changes <= k).sum() % 16 if name == "cls-S" else k % 16] = 2
    return feat_SD


def test_figure_4_measures_what_was_planted(options, monkeypatch):
    monkeypatch.setattr("bsp_platform.sweep.run.run", lambda *_: pytest.fail("all stages are there"))
    store = StageStore(options.storage)
    fill(store, options, rows_of(figure4_feature_difference), steps, lambda *_: [])
    assert figure4_feature_difference.main(options) == 0
    content = published(options, figure4_feature_difference.NAME)
    assert content["AUC"]["BSP"] == {"mean": 1.0, "std": 0.0, "seeds": [1.0, 1.0]}
    assert content["AUC"]["vanilla"]["mean"] == 0.5
    # All differences of vanilla are equal (percentile 50), BSP's boundaries are above all others (100).
    assert content["shown_gain"] == 50
    assert content["boundary"] > 0
    (run,) = mlflow_runs(options, figure4_feature_difference.NAME)
    assert run.data.metrics == {"AUC/BSP": 1.0, "AUC/vanilla": 0.5}


def test_figure_5_finds_the_planted_gain_and_loss(options, tiny_untrimmed):
    validation = [v for v in tiny_untrimmed.videos if v.subset == "validation" and v.path]
    gains, loses = validation[1].video_id, validation[2].video_id

    def detections(name: str, video) -> list:
        hit = video.video_id != (gains if name == "vanilla" else loses)
        segments = [(i.start_s, i.end_s) for i in video.instances] if hit else [(0.0, 0.01)]
        return [{"label": "a", "score": 0.5, "segment": list(s)} for s in segments]

    fill(StageStore(options.storage), options, rows_of(figure5_qualitative), steps, detections)
    assert figure5_qualitative.main(options) == 0
    content = published(options, figure5_qualitative.NAME)
    assert [shown["video"] for shown in content["shown"]] == [gains, loses]
    assert content["shown"][0] == {"video": gains, "vanilla": 0.0, "vanilla + BSP": 1.0}
    assert (content["videos"], content["better"], content["worse"]) == (len(validation), 1, 1)
    share = 1 - 1 / len(validation)
    assert content["mean_best_tIoU"]["vanilla"] == {"mean": share, "std": 0.0, "seeds": [share, share]}


def test_figure_2_shows_a_clip_of_every_kind(options):
    assert figure2_synthesis.main(options) == 0
    content = published(options, figure2_synthesis.NAME)
    assert [clip["kind"] for clip in content["clips"]] == [
        "real", "DIFF_CLASS", "SAME_CLASS", "DIFF_SPEED", "SAME_SPEED",
    ]  # fmt: skip
    by_kind = {clip["kind"]: clip for clip in content["clips"]}
    assert len(set(by_kind["DIFF_CLASS"]["classes"])) == 2
    assert len(set(by_kind["SAME_CLASS"]["classes"])) == 1
    assert by_kind["DIFF_SPEED"]["gamma"] in options.profile.clips.gammas
