"""Heads on a video of variable frame rate: labels lie on the right snippets, and what is found on the right seconds.

The video shows 10 frames/s for 2 s, then 30 frames/s for 2 s: of its 10 snippets 4, 5 and 6 are from 2.4 to 3.2 s
(see test_feature_record.py). By frame number / average rate they would be from 1.6 to 2.8 s.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bsp.datasets.activitynet import Instance, LocalizationDataset, UntrimmedVideo
from bsp.datasets.charades_sta import GroundingDataset, GroundingVideo, Moment
from bsp.datasets.crosstask import CrossTaskDataset, CrossTaskVideo, Step, Task
from bsp.datasets.gebd import GEBDDataset, GEBDVideo
from bsp.encoders.tsm import EncoderSettings
from bsp.features.store import write_features
from bsp.localization.actionness import ActionnessSettings
from bsp.localization.boundaries import BoundaryHeadSettings, PeakSettings
from bsp.localization.grounding.tan2d import TAN2DSettings, build_tan2d
from bsp.localization.gtad.network import GTADSettings
from bsp.localization.gtad.windows import WindowSettings
from bsp.tasks import detection, grounding, windows
from bsp.tasks.heads import HEADS
from bsp_platform.plan.recipes import (
    ClassScoresFile,
    EncoderRecipe,
    FeatureRecipe,
    GroundingRecipe,
    HeadRecipe,
    TaskRecipe,
)
from bsp_platform.work.heads import train_and_score
from uneven_record import UNEVEN

pytestmark = pytest.mark.long  # videos, processes or whole trainings

STREAM = FeatureRecipe(encoder=EncoderRecipe(encoder=EncoderSettings(width=8)), untrimmed="t", size_px=32)
FOUND_S = [2.4, 3.2]
FEAT_SD = np.random.default_rng(0).normal(size=(10, 4), scale=0.1).astype(np.float32)
FEAT_SD[4:7, 2] += 5  # the action


@pytest.fixture
def features(tmp_path):
    for video_id in ("train", "test"):
        write_features(tmp_path / "features", video_id, FEAT_SD, replace(UNEVEN, video_id=video_id, feature_width=4))
    return tmp_path / "features"


def localization(training: str, test: str) -> LocalizationDataset:
    videos = tuple(
        UntrimmedVideo(video_id, None, 4.0, subset, (Instance("a", *FOUND_S),))
        for video_id, subset in (("train", training), ("test", test))
    )
    database = {
        v.video_id: {"subset": v.subset, "duration": 4.0, "annotations": [{"label": "a", "segment": FOUND_S}]}
        for v in videos
    }
    return LocalizationDataset(
        videos=videos, class_names=("a",), missing=(), ground_truth={"database": database, "taxonomy": []}, dropped=()
    )


def output(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    return folder


def run(head, folder, recipe, features, class_scores, data, subsets=("training", "validation")):
    return train_and_score(folder, HEADS[head], recipe, [features], class_scores, data, expect={}, subsets=subsets)


def test_gtad(features, tmp_path, monkeypatch):
    seen = {}

    def train(_features, segments, *_arguments, **_keywords):
        seen["segments"] = segments
        return torch.nn.Module()

    monkeypatch.setattr(detection, "train_gtad", train)
    monkeypatch.setattr(detection, "propose", lambda *_: [(np.array([[0.4, 0.7]]), np.array([0.9]))])
    scores = tmp_path / "scores.json"
    scores.write_text(json.dumps({"class": ["a"], "results": {"test": [1.0]}}))
    recipe = HeadRecipe(
        features=STREAM, class_scores=ClassScoresFile(sha256="s", annotations="a"), annotations="a",
        head=GTADSettings(feature_width=4, cells=10, max_duration=10, epochs=1),
    )  # fmt: skip
    folder = output(tmp_path, "gtad")
    facts = run("gtad", folder, recipe, features, scores, localization("training", "validation"))
    np.testing.assert_allclose(seen["segments"][0], [[0.4, 0.7]])
    (found,) = json.loads((folder / "detections.json").read_text())["results"]["test"]
    assert found["segment"] == pytest.approx(FOUND_S)
    assert facts["scores"]["mAP@0.95"] == 100
    assert facts["scores"]["AR@1"] == 100


def test_windows(features, tmp_path, monkeypatch):
    seen = {}

    def train(_features, segments, *_arguments, **_keywords):
        seen["segments"] = segments
        return torch.nn.Module()

    monkeypatch.setattr(windows, "train_windows", train)
    monkeypatch.setattr(windows, "propose_windows", lambda *_: [(np.array([[4.0, 7.0]]), np.array([0.9]))])
    scores = tmp_path / "scores.json"
    scores.write_text(json.dumps({"class": ["a"], "results": {"test": [1.0]}}))
    head = WindowSettings(feature_width=4, cells=10, stride_cells=5, max_duration=5, epochs=1)
    recipe = TaskRecipe(streams=(STREAM,), head=head, annotations="a")
    folder = output(tmp_path, "windows")
    data = localization("validation", "test")
    run("gtad-windows", folder, recipe, features, scores, data, ("validation", "test"))
    np.testing.assert_allclose(seen["segments"][0], [[4, 7]])
    (found,) = json.loads((folder / "detections.json").read_text())["results"]["test"]
    assert found["segment"] == pytest.approx(FOUND_S)


def test_grounding(features, tmp_path, monkeypatch):
    seen = {}

    def train(_features, queries, settings, *, table, **_keywords):
        seen["queries"] = queries
        return build_tan2d(settings, table, trainable_words=False, seed=0)

    monkeypatch.setattr(grounding, "train_tan2d", train)
    monkeypatch.setattr(grounding, "ground_tan2d", lambda *_, **__: [np.array([[0.4, 0.7, 1.0]])])
    head = TAN2DSettings(feature_width=4, frames=10, pool=1, scales=(10,), hidden=8, epochs=1)
    recipe = GroundingRecipe(streams=(STREAM,), head=head, glove=None, word_width=4, moments="m", held_out_every=0)
    data = GroundingDataset(
        videos=tuple(GroundingVideo(video_id=i, path=None, duration_s=4.0, subset=i) for i in ("train", "test")),
        moments={
            i: (Moment(video_id=i, sentence="a person waves.", start_s=2.4, end_s=3.2, line=0),)
            for i in ("train", "test")
        },
        missing=(),
        dropped=(),
    )
    folder = output(tmp_path, "grounding")
    facts = run("2dtan", folder, recipe, features, None, data, ("train", "test"))
    (query,) = seen["queries"]
    assert (query.start, query.end) == pytest.approx((0.4, 0.7))
    (prediction,) = json.loads((folder / "predictions.json").read_text())
    assert prediction["moments"][0][:2] == pytest.approx(FOUND_S)
    assert facts["scores"]["R1@0.7"] == 100


def test_boundaries(features, tmp_path):
    videos = tuple(
        GEBDVideo(
            video_id=video_id, path=None, subset=subset, duration_s=4.0, fps=20.0, frames=80,
            boundaries_s=((*FOUND_S,),), boundary_frames=((48.0, 64.0),), consistency=(1.0,), consistency_avg=1.0,
            path_video=None,
        )
        for video_id, subset in (("train", "training"), ("test", "validation"))
    )  # fmt: skip
    for name, head in (
        ("boundary-peaks", PeakSettings(measure="l2", smoothing_s=0)),
        ("boundary-head", BoundaryHeadSettings(context_s=0.3, near_s=0, learning_rate=0.1)),
    ):
        recipe = TaskRecipe(streams=(STREAM,), head=head, annotations="a")
        folder = output(tmp_path, type(head).__name__)
        data = GEBDDataset(videos=videos, missing=(), dropped=())
        facts = run(name, folder, recipe, features, None, data)
        assert json.loads((folder / "boundaries.json").read_text())["test"] == pytest.approx(FOUND_S, abs=1e-4)
        assert facts["scores"]["F1@0.05"] == 100
        assert facts["clips_of_other_length"] == []


def test_actionness(features, tmp_path):
    videos = tuple(
        CrossTaskVideo(video_id, None, subset, "1", (Step(1, *FOUND_S),), "http://example.org")
        for video_id, subset in (("train", "training"), ("test", "test"))
    )
    recipe = TaskRecipe(streams=(STREAM,), head=ActionnessSettings(epochs=50, learning_rate=0.1), annotations="a")
    folder = output(tmp_path, "actionness")
    data = CrossTaskDataset(videos, (Task("1", "Make Tea", "http://example.org", ("stir",)),), ())
    run("actionness", folder, recipe, features, None, data, ("training", "test"))
    assert json.loads((folder / "ground_truth.json").read_text())["videos"]["test"]["duration_s"] == 4.0
    scores = np.array(json.loads((folder / "predictions.json").read_text())["scores"]["test"])
    # 0.2 s each, from 0 on: segments 12 to 15 are from 2.4 to 3.2 s
    assert len(scores) == 20
    assert set(np.argsort(-scores)[:4]) == {12, 13, 14, 15}
