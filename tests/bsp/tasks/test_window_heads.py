"""The THUMOS14 head as platform work: seconds from the features' record, official files, same result every time."""

import json
from dataclasses import replace

import numpy as np
import pytest

from bsp.datasets.activitynet import Instance, LocalizationDataset, UntrimmedVideo
from bsp.datasets.label_times import LabelTimes
from bsp.encoders.tsm import EncoderSettings
from bsp.errors import AnnotationError
from bsp.features.record import seconds_at
from bsp.features.store import FeatureInfo, write_features
from bsp.localization.gtad.windows import WindowSettings
from bsp.metrics.detection import THUMOS_TIOUS, evaluate_detection
from bsp.tasks.head import Split
from bsp.tasks.heads import HEADS
from bsp.tasks.windows import cell_segments
from bsp_platform.plan.recipes import EncoderRecipe, FeatureRecipe, TaskRecipe
from bsp_platform.work.heads import train_and_score

NAMES = ("kick", "wave")
FPS, STRIDE = 12.5, 8  # a snippet is 0.64 s


def info_of(video_id: str, snippets: int, width: int = 8) -> FeatureInfo:
    return FeatureInfo(
        video_id=video_id, frames=snippets * STRIDE + 3, fps=FPS, snippet_frames=8, stride_frames=STRIDE,
        offset_frames=0, size_px=32, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), feature_width=width,
        snippets=snippets, encoder_hash="h", code_version=1,
    )  # fmt: skip


@pytest.fixture
def thumos(tmp_path):
    """A data set of six videos with planted instances, its feature folder and its class scores."""
    rng = np.random.default_rng(0)
    folder, videos, database = tmp_path / "features", [], {}
    for number in range(6):
        subset = "validation" if number < 4 else "test"
        video_id, label = f"video_{subset}_{number:07}", NAMES[number % 2]
        snippets = int(rng.integers(14, 40))
        feat = 0.1 * rng.standard_normal((snippets, 8)).astype(np.float32)
        instances = []
        for start in range(2, snippets - 5, 9):
            feat[start : start + 4] += 2
            instances.append(Instance(label, start * 0.64, (start + 4) * 0.64))
        write_features(folder, video_id, feat, info_of(video_id, snippets))
        # the loader only knows the last annotated second of the training videos
        videos.append(UntrimmedVideo(video_id, None, instances[-1].end_s, subset, tuple(instances)))
        if subset == "test":
            rows = [{"label": label, "segment": [str(i.start_s), str(i.end_s)]} for i in instances]
            database[video_id] = {"subset": "test", "annotations": rows}
    scores = {v.video_id: [0.9, 0.1] if v.instances[0].label == "kick" else [0.2, 0.8] for v in videos}
    (tmp_path / "class_scores.json").write_text(json.dumps({"class": list(NAMES), "results": scores}))
    data = LocalizationDataset(
        videos=tuple(videos), class_names=NAMES, missing=(), ground_truth={"database": database}, dropped=("a line",)
    )
    return data, folder, tmp_path / "class_scores.json"


def recipe_of(**changes):
    streams = (FeatureRecipe(encoder=EncoderRecipe(encoder=EncoderSettings(width=8)), untrimmed="t", size_px=32),)
    head = WindowSettings(
        feature_width=8, cells=16, stride_cells=8, max_duration=8, inner_samples=2, context_samples=1, epochs=2,
        learning_rate=1e-3, max_proposals=20,
    )  # fmt: skip
    return replace(TaskRecipe(streams=streams, head=head, annotations="a"), **changes)


def run(out, recipe, data, folder, class_scores):
    how = {"expect": {"size_px": 32}, "subsets": ("validation", "test")}
    return train_and_score(out, HEADS["gtad-windows"], recipe, [folder], class_scores, data, **how)


def test_segments_are_in_snippets_and_cut_at_the_features_end():
    instances = (Instance("wave", 0.64, 3.2), Instance("Ambiguous", 5.0, 9.0), Instance("kick", 6.5, 7.0))
    video = UntrimmedVideo("v", None, 7.0, "validation", instances)
    # 10 snippets of 0.64 s end at 6.4 s: the second instance is cut there, the third lies after it
    subset = Split([video], [np.zeros((10, 8), np.float32)], [info_of("v", 10)], [])
    times = LabelTimes()
    (segments,) = cell_segments(subset, times)
    np.testing.assert_allclose(segments, [[1, 5], [7.8125, 10]])
    assert times.dropped == ["v: 6.5 to 7 s lies outside its video's features"]
    assert (times.instances, times.cut) == (3, ["v: 5 to 9 s of 6.64 s"])


def test_cells_to_seconds():
    info = replace(info_of("v", 10), fps=25.0, offset_frames=4)
    assert seconds_at(info, np.array([[0.0, 10.0]])).tolist() == [[0.16, 3.36]]


@pytest.mark.long
def test_trains_detects_and_writes_official_files(thumos, tmp_path):
    data, folder, _ = thumos
    out = tmp_path / "head"
    out.mkdir()
    facts = run(out, recipe_of(), *thumos)

    detections = json.loads((out / "detections.json").read_text())
    assert list(detections["results"]) == ["video_test_0000004", "video_test_0000005"]
    for video in data.videos[4:]:
        rows = detections["results"][video.video_id]
        snippets = np.load(folder / f"{video.video_id}.npy").shape[0]
        pairs = list(zip(rows[::2], rows[1::2], strict=True))  # each proposal with both classes, the best first
        assert len(pairs) == 20
        best, other = ("kick", "wave") if video.instances[0].label == "kick" else ("wave", "kick")
        ratio = 9 if best == "kick" else 4
        for one, two in pairs:
            assert (one["label"], two["label"]) == (best, other)
            assert one["segment"] == two["segment"]
            assert one["score"] == pytest.approx(ratio * two["score"])
            cells = np.array(one["segment"]) / 0.64
            np.testing.assert_allclose(cells, np.round(cells), atol=1e-9)  # whole snippets
            assert 0 <= cells[0] < cells[1] <= snippets + 1e-9

    again = evaluate_detection(data.ground_truth, detections, subset="test", tious=THUMOS_TIOUS)
    assert list(facts["scores"]) == ["mAP@0.30", "mAP@0.40", "mAP@0.50", "mAP@0.60", "mAP@0.70", "mAP_avg"]
    assert facts["scores"]["mAP_avg"] == pytest.approx(100 * again["average_mAP"])
    assert facts["scores"]["mAP@0.30"] == pytest.approx(100 * again["mAP"]["0.30"])
    assert json.loads((out / "scores.json").read_text())["scores"] == facts["scores"]
    assert [record["epoch"] for record in json.loads((out / "history.json").read_text())] == [0, 1]
    assert facts["dropped"] == ["a line"]
    assert facts["training_windows"] >= 4
    assert facts["train_seconds"] > 0
    assert facts["score_seconds"] > 0

    second, other = tmp_path / "second", tmp_path / "other"
    for path in (second, other):
        path.mkdir()
    assert run(second, recipe_of(), *thumos)["scores"] == facts["scores"]
    assert json.loads((second / "detections.json").read_text()) == detections
    run(other, recipe_of(seed=1), *thumos)
    assert json.loads((other / "detections.json").read_text()) != detections


def test_a_test_video_without_class_scores_is_named_before_training(thumos, tmp_path):
    data, folder, class_scores = thumos
    content = json.loads(class_scores.read_text())
    del content["results"]["video_test_0000005"]
    class_scores.write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match=r"no scores of 1 videos, for example.*video_test_0000005"):
        run(tmp_path, recipe_of(), data, folder, class_scores)
    assert not (tmp_path / "history.json").exists()


def test_a_ground_truth_that_spells_the_classes_otherwise_is_noticed(thumos, tmp_path):
    data, folder, class_scores = thumos
    assert run(tmp_path, recipe_of(), *thumos)["remarks"] == []
    spelt = {
        "database": json.loads(
            json.dumps(data.ground_truth["database"]).replace("kick", "kick_").replace("wave", "wave_")
        )
    }
    facts = run(tmp_path, recipe_of(), replace(data, ground_truth=spelt), folder, class_scores)
    assert facts["scores"]["mAP_avg"] == 0
    assert facts["remarks"] == ["'kick' is probably 'kick_' (underscores and blanks differ)."]
