"""Event boundaries as work of the platform: from feature files to predictions that the evaluator reads."""

import json
from dataclasses import replace

import numpy as np
import pytest

from bsp.datasets.gebd import GEBDDataset, GEBDVideo
from bsp.encoders.tsm import EncoderSettings
from bsp.errors import AnnotationError, TooManyBroken
from bsp.features.store import FeatureInfo, write_features
from bsp.localization.boundaries import BoundaryHeadSettings, PeakSettings
from bsp.metrics.boundaries import evaluate_boundaries
from bsp.tasks.heads import HEADS
from bsp_platform.plan.recipes import EncoderRecipe, FeatureRecipe, TaskRecipe
from bsp_platform.work.heads import train_and_score

SNIPPETS, FPS = 15, 12.0
DURATION_S = 8 * SNIPPETS / FPS
STREAM = FeatureRecipe(encoder=EncoderRecipe(encoder=EncoderSettings(width=8)), untrimmed="t", size_px=32)
PEAKS = TaskRecipe(streams=(STREAM,), head=PeakSettings(), annotations="a")
HEAD = replace(PEAKS, head=BoundaryHeadSettings(epochs=20, learning_rate=3e-2))


def store(folder, video_id, feat_SD, *, snippets=SNIPPETS):
    info = FeatureInfo(
        video_id=video_id, frames=8 * snippets, fps=FPS, snippet_frames=8, stride_frames=8, offset_frames=0,
        size_px=32, mean=(0.5,) * 3, std=(0.2,) * 3, feature_width=feat_SD.shape[1], snippets=len(feat_SD),
        encoder_hash="h", code_version=1,
    )  # fmt: skip
    write_features(folder, video_id, feat_SD.astype(np.float32), info)


@pytest.fixture
def world(tmp_path):
    """Features that jump at the boundaries; a careful annotator, and a careless one who is less consistent."""
    rng = np.random.default_rng(0)
    videos = []
    for number in range(45):
        gaps = np.sort(rng.choice([2, 5, 8, 11], 2, replace=False))
        feat_SD = rng.normal(size=16) + 0.1 * rng.normal(size=(SNIPPETS, 16))
        for gap in gaps:
            feat_SD[gap + 1 :] += rng.normal(size=16)
        times = tuple(((gaps + 1) * 8 / FPS).tolist())
        raters = ((1.5 * DURATION_S / SNIPPETS,), times)
        videos.append(
            GEBDVideo(
                video_id=f"clip{number}", path=None, subset="training" if number < 30 else "validation",
                duration_s=DURATION_S, fps=FPS, frames=8 * SNIPPETS, boundaries_s=raters,
                boundary_frames=tuple(tuple(float(int(t * FPS)) for t in row) for row in raters),
                consistency=(0.4, 0.8), consistency_avg=0.6, path_video=None,
            )
        )  # fmt: skip
        store(tmp_path / "features", f"clip{number}", feat_SD)
    return tmp_path / "features", GEBDDataset(videos=tuple(videos), missing=(), dropped=())


def run(tmp_path, recipe, folders, data, name="head", size_px=32):
    folder = tmp_path / name
    folder.mkdir()
    head = HEADS["boundary-peaks" if recipe.head == PEAKS.head else "boundary-head"]
    return folder, train_and_score(folder, head, recipe, folders, None, data, expect={"size_px": size_px})


def content(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


@pytest.mark.parametrize("recipe", [PEAKS, HEAD], ids=["peaks", "head"])
def test_boundaries_are_found_and_their_file_gives_the_same_scores(world, tmp_path, recipe):
    features, data = world
    folder, facts = run(tmp_path, recipe, [features], data)
    found = content(folder, "boundaries")
    assert list(found) == sorted(v.video_id for v in data.videos if v.subset == "validation")
    again = evaluate_boundaries(data.ground_truth("validation"), found)
    assert facts["scores"] == pytest.approx(
        {
            "F1@0.05": 100 * again["F1"]["0.05"],
            "precision@0.05": 100 * again["precision"]["0.05"],
            "recall@0.05": 100 * again["recall"]["0.05"],
            "F1_mean": 100 * again["mean_F1"],
        }
    )
    assert facts["scores"]["F1@0.05"] > 80  # two of four places, at random: 50
    assert content(folder, "scores")["scores"] == facts["scores"]
    assert {"epoch", "loss"} <= content(folder, "history")[0].keys()
    assert facts["clips"] == {"training": 30, "validation": 15}
    assert facts["clips_without_features"] == facts["clips_of_other_length"] == []
    assert facts["train_seconds"] > 0
    assert facts["score_seconds"] > 0
    again_folder, _ = run(tmp_path, recipe, [features], data, "again")
    assert (again_folder / "boundaries.json").read_bytes() == (folder / "boundaries.json").read_bytes()


def test_streams_are_concatenated_and_a_clip_that_lacks_one_is_missed(world, tmp_path):
    features, data = world
    for video in data.videos[:-1]:
        store(tmp_path / "other", video.video_id, np.ones((SNIPPETS, 2)))
    folder, facts = run(tmp_path, replace(HEAD, streams=(STREAM, STREAM)), [features, tmp_path / "other"], data)
    assert facts["clips_without_features"] == [data.videos[-1].video_id]
    assert data.videos[-1].video_id not in content(folder, "boundaries")
    assert content(folder, "scores")["boundaries"]["videos"]["missing"] == 1


def test_a_video_of_another_length_is_left_out_and_many_are_refused(world, tmp_path):
    features, data = world
    store(features, "clip3", np.ones((SNIPPETS, 16)), snippets=2 * SNIPPETS)  # sidecar: a video of twice the length
    _, facts = run(tmp_path, PEAKS, [features], data)
    assert facts["clips_of_other_length"] == ["clip3: 20.00 s instead of 10.00 s"]
    assert facts["clips"]["training"] == 29
    for number in range(5):
        store(features, f"clip{number}", np.ones((SNIPPETS, 16)), snippets=2 * SNIPPETS)
    with pytest.raises(TooManyBroken, match=r"5 videos are not as long as annotated.*clip0: 20\.00 s"):
        run(tmp_path, PEAKS, [features], data, "many")


def test_without_features_of_a_subset_it_says_so(world, tmp_path):
    features, data = world
    for video in data.videos:
        if video.subset == "validation":
            for path in features.glob(f"{video.video_id}.*"):
                path.unlink()
    with pytest.raises(AnnotationError, match="'validation' has features"):
        run(tmp_path, PEAKS, [features], data)


def test_features_of_another_kind_are_refused(world, tmp_path):
    features, data = world
    with pytest.raises(ValueError, match="size_px is 32 but 48 is expected"):
        run(tmp_path, PEAKS, [features], data, size_px=48)
