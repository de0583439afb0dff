"""Heads: what features cover, class scores shared by all rows, files in the official formats."""

import json
from dataclasses import replace

import numpy as np
import pytest

from bsp.datasets.class_scores import read_class_scores
from bsp.datasets.label_times import LabelTimes
from bsp.errors import AnnotationError
from bsp.features.store import FeatureInfo, write_features
from bsp.localization.gtad.network import GTADSettings
from bsp.metrics.detection import evaluate_detection
from bsp.tasks.detection import covered_segments, read_untrimmed
from bsp.tasks.head import Split
from bsp.tasks.heads import HEADS
from bsp_platform.plan.recipes import ClassScoresRecipe, EncoderRecipe, FeatureRecipe, HeadRecipe
from bsp_platform.work import heads


def info_of(video_id: str, frames: int, snippets: int, width: int) -> FeatureInfo:
    return FeatureInfo(
        video_id=video_id, frames=frames, fps=12.0, snippet_frames=8, stride_frames=8, offset_frames=0, size_px=32,
        mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), feature_width=width, snippets=snippets, encoder_hash="h",
        code_version=1,
    )  # fmt: skip


@pytest.fixture
def features(tiny_untrimmed, tmp_path):
    """Features that say in their first numbers which class is going on."""
    folder = tmp_path / "features"
    folder.mkdir()
    number = {name: k for k, name in enumerate(tiny_untrimmed.class_names)}
    rng = np.random.default_rng(0)
    for video in tiny_untrimmed.videos:
        feat = rng.normal(size=(18, 8)).astype(np.float32) * 0.1
        centres_s = (np.arange(18) + 0.5) * 8 / 12
        for instance in video.instances:
            inside = (centres_s > instance.start_s) & (centres_s < instance.end_s)
            feat[inside, number[instance.label]] += 3
        write_features(folder, video.video_id, feat, info_of(video.video_id, 144, 18, 8))
    return folder


@pytest.mark.long
def test_segments_are_fractions_of_what_the_features_cover(tiny_untrimmed):
    video = tiny_untrimmed.videos[0]
    # 150 frames hold 18 whole snippets = 144 frames: the features end at 96% of the video.
    subset = Split([video], [np.zeros((18, 8), np.float32)], [info_of(video.video_id, 150, 18, 8)], [])
    expected = [(i.start_s / (0.96 * video.duration_s), i.end_s / (0.96 * video.duration_s)) for i in video.instances]
    np.testing.assert_allclose(covered_segments(subset, LabelTimes())[0], np.clip(expected, 0, 1))


def test_features_of_another_size_are_refused(features, tiny_untrimmed):
    with pytest.raises(ValueError, match=r"size_px.*32.*64"):
        read_untrimmed(heads.listed([features], {"size_px": 64}), tiny_untrimmed, "training")
    with pytest.raises(AnnotationError, match="no video of subset 'testing'"):
        read_untrimmed(heads.listed([features]), tiny_untrimmed, "testing")


@pytest.mark.long
def test_class_scores_then_a_head_then_official_files(features, tiny_untrimmed, tmp_path):
    scores_folder, head_folder = tmp_path / "scores", tmp_path / "head"
    scores_folder.mkdir()
    head_folder.mkdir()
    facts = heads.make_class_scores(scores_folder, features, tiny_untrimmed, {"size_px": 32})
    assert 0 <= facts["accuracy"] <= 1
    videos = {v.video_id for v in tiny_untrimmed.videos if v.subset == "validation"}
    scores = read_class_scores(scores_folder / "class_scores.json", tiny_untrimmed.class_names, videos)
    assert all(row.sum() == pytest.approx(1) for row in scores.values())

    feature_recipe = FeatureRecipe(encoder=EncoderRecipe(encoder=heads_encoder()), untrimmed="t", size_px=32)
    recipe = HeadRecipe(
        features=feature_recipe,
        class_scores=ClassScoresRecipe(features=feature_recipe, annotations="a"),
        head=GTADSettings(feature_width=8, cells=18, max_duration=18, epochs=2),
        annotations="a",
    )

    def run(folder, recipe):
        given = ([features], scores_folder / "class_scores.json", tiny_untrimmed)
        return heads.train_and_score(folder, HEADS["gtad"], recipe, *given, expect={"size_px": 32})

    facts = run(head_folder, recipe)
    detections = json.loads((head_folder / "detections.json").read_text())
    assert set(detections["results"]) == videos
    again = evaluate_detection(tiny_untrimmed.ground_truth, detections, subset="validation")
    assert facts["scores"]["mAP_avg"] == pytest.approx(100 * again["average_mAP"])
    assert facts["scores"]["mAP@0.50"] == pytest.approx(100 * again["mAP"]["0.50"])
    assert [record["epoch"] for record in json.loads((head_folder / "history.json").read_text())] == [0, 1]
    progress = json.loads((head_folder / heads.PROGRESS).read_text())
    assert (progress["at"], progress["total"]) == (2, 2)

    second = tmp_path / "second"
    second.mkdir()
    assert run(second, recipe)["scores"] == facts["scores"]
    other = tmp_path / "other"
    other.mkdir()
    run(other, replace(recipe, seed=1))
    assert json.loads((other / "detections.json").read_text()) != detections


def heads_encoder():
    from bsp.encoders.tsm import EncoderSettings

    return EncoderSettings(width=8)
