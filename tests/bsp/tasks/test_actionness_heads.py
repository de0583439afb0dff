"""Step localisation as work of the platform: from feature files to predictions that the evaluator reads."""

import json

import numpy as np
import pytest

from bsp.datasets.crosstask import CrossTaskDataset, CrossTaskVideo, Step, Task
from bsp.encoders.tsm import EncoderSettings
from bsp.errors import AnnotationError
from bsp.features.store import FeatureInfo, write_features
from bsp.localization.actionness import ActionnessSettings
from bsp.metrics.actionness import evaluate_actionness
from bsp.tasks.heads import HEADS
from bsp_platform.plan.recipes import EncoderRecipe, FeatureRecipe, TaskRecipe
from bsp_platform.work.heads import train_and_score

SNIPPETS, FPS = 30, 12.0
FRAMES = 8 * SNIPPETS + 5  # 20.41 s: 102 segments of 0.2 s
STREAM = FeatureRecipe(encoder=EncoderRecipe(encoder=EncoderSettings(width=8)), untrimmed="t", size_px=32)
RECIPE = TaskRecipe(streams=(STREAM,), head=ActionnessSettings(batch_segments=32), annotations="a")


def info_of(video_id, width):
    return FeatureInfo(
        video_id=video_id, frames=FRAMES, fps=FPS, snippet_frames=8, stride_frames=8, offset_frames=0, size_px=32,
        mean=(0.5,) * 3, std=(0.2,) * 3, feature_width=width, snippets=SNIPPETS, encoder_hash="h", code_version=1,
    )  # fmt: skip


@pytest.fixture
def world(tmp_path):
    """Features whose channel 1 is high while a step goes on; the last test video is without features."""
    rng = np.random.default_rng(0)
    folder, videos = tmp_path / "features", []
    for number in range(20):
        video_id, task = f"video{number}", f"task{number % 2}"
        first, last = sorted(rng.choice(SNIPPETS, 2, replace=False))
        steps = (Step(1, first * 8 / FPS, (last + 1) * 8 / FPS),)
        feat = rng.normal(size=(SNIPPETS, 4)).astype(np.float32)
        feat[first : last + 1, 1] += 4
        if number != 19:
            write_features(folder, video_id, feat, info_of(video_id, 4))
        videos.append(CrossTaskVideo(video_id, None, "training" if number < 14 else "test", task, steps, "http://tube"))
    tasks = tuple(Task(f"task{n}", "Make Tea", "http://example.org", ("stir",)) for n in range(2))
    return folder, CrossTaskDataset(tuple(videos), tasks, ())


def run(tmp_path, folders, data, name="head", expect=None):
    folder = tmp_path / name
    folder.mkdir()
    how = {"expect": expect or {"size_px": 32}, "subsets": ("training", "test")}
    return folder, train_and_score(folder, HEADS["actionness"], RECIPE, folders, None, data, **how)


@pytest.mark.long
def test_steps_are_learnt_and_the_written_files_give_the_same_scores(world, tmp_path):
    features, data = world
    folder, facts = run(tmp_path, [features], data)
    truth = json.loads((folder / "ground_truth.json").read_text())
    predictions = json.loads((folder / "predictions.json").read_text())
    report = evaluate_actionness(truth, predictions)
    assert facts["scores"] == {name: pytest.approx(100 * report[name]) for name in ("AP", "AP_video", "AP_task")}
    assert facts["scores"]["AP"] > 90 > 100 * report["positive_rate"]  # chance
    assert json.loads((folder / "scores.json").read_text())["scores"] == facts["scores"]
    assert list(truth["videos"]) == [f"video{n}" for n in range(14, 19)]
    assert truth["videos"]["video14"]["duration_s"] == round(FRAMES / FPS, 15)
    assert {len(scores) for scores in predictions["scores"].values()} == {102}
    assert facts["videos"] == {"training": 14, "test": 5}
    assert facts["videos_without_features"] == ["video19"]
    assert {"train_seconds", "score_seconds"} <= facts.keys()
    history = json.loads((folder / "history.json").read_text())
    assert [entry["epoch"] for entry in history] == list(range(RECIPE.head.epochs))
    again, _ = run(tmp_path, [features], data, name="again")
    assert (again / "predictions.json").read_bytes() == (folder / "predictions.json").read_bytes()


def test_streams_are_concatenated(world, tmp_path):
    features, data = world
    noise, rng = tmp_path / "noise", np.random.default_rng(1)
    for video in data.videos:
        feat = rng.normal(size=(SNIPPETS, 3)).astype(np.float32)
        write_features(noise, video.video_id, feat, info_of(video.video_id, 3))
    _, blind = run(tmp_path, [noise], data, name="noise alone")
    _, both = run(tmp_path, [noise, features], data, name="both")
    assert both["scores"]["AP"] > 90 > blind["scores"]["AP"]


def test_features_that_are_not_there_or_of_another_kind_are_refused(world, tmp_path):
    features, data = world
    with pytest.raises(AnnotationError, match=r"no video of subset 'training' has features in .*empty"):
        run(tmp_path, [tmp_path / "empty"], data)
    with pytest.raises(ValueError, match="size_px is 32 but 64 is expected"):
        run(tmp_path, [features], data, name="other", expect={"size_px": 64})
