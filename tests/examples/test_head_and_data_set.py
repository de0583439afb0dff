"""The toys of the contributing guide: a head and a data set from outside the package, each through to a score."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from bsp.datasets.data_sets import DATA_SETS
from bsp.errors import AnnotationError
from bsp.features.record import FeatureInfo
from bsp.localization.gtad.network import GTADSettings
from bsp.tasks.head import Features, HeadInputs, run_head
from bsp.tasks.heads import HEADS
from bsp_platform.plan.sources import DataPaths
from bsp_platform.plan.tasks import TASKS, Task
from row_without_ray import SmallRow
from toy_data_set import SHORT, load_short
from toy_head import NEAREST_MEAN, NearestMeanSettings


@pytest.fixture
def short(tiny_untrimmed, tmp_path):
    """A folder as the toy data set wants it."""
    folder = tmp_path / "short"
    folder.mkdir()
    with open(folder / "annotations.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "start_s", "end_s", "label"])
        for video in tiny_untrimmed.videos:
            shutil.copy(video.path, folder / f"{video.video_id}.mp4")
            writer.writerows([video.video_id, i.start_s, i.end_s, i.label] for i in video.instances)
    return folder


def planted(data):
    """Features of 18 snippets of 8 frames at 12 frames/s whose first number is 5 in actions, by hand, else 0."""
    centre_s, found = (np.arange(18) + 0.5) * 8 / 12, {}
    for video in data.videos:
        feat_SD = np.random.default_rng(0).normal(size=(18, 4)).astype(np.float32)
        feat_SD[:, 0] = 0
        for instance in video.instances:
            feat_SD[(centre_s >= instance.start_s) & (centre_s < instance.end_s), 0] = 5
        info = FeatureInfo(
            video_id=video.video_id, frames=144, fps=12.0, snippet_frames=8, stride_frames=8, offset_frames=0,
            size_px=32, mean=(), std=(), feature_width=4, snippets=18, encoder_hash="planted", code_version=1,
        )  # fmt: skip
        found[video.video_id] = feat_SD, info
    return Features(found.get)


@pytest.mark.long
def test_the_head_alone(tiny_untrimmed):
    inputs = HeadInputs(features=planted(tiny_untrimmed), data=tiny_untrimmed, settings=NearestMeanSettings())
    documents, facts, _ = run_head(NEAREST_MEAN, inputs)
    assert facts["scores"] == {"accuracy": 100}
    assert set(documents) == {"snippets.json", "scores.json", "history.json"}
    documents, facts, _ = run_head(NEAREST_MEAN, replace(inputs, settings=NearestMeanSettings(weight=0)))
    planted_S = [
        inputs.features.read(v.video_id)[0][:, 0] > 0 for v in tiny_untrimmed.videos if v.subset == "validation"
    ]
    assert np.concatenate(list(documents["snippets.json"].values())).all()
    assert facts["scores"]["accuracy"] == pytest.approx(100 * np.concatenate(planted_S).mean())
    with pytest.raises(TypeError, match="2D-TAN takes a GroundingDataset, not LocalizationDataset"):
        run_head(HEADS["2dtan"], inputs)


@pytest.mark.long
def test_the_data_set_alone_and_with_a_head_of_the_package(short, tiny_untrimmed):
    data = load_short(short)
    by_id = {video.video_id: video for video in tiny_untrimmed.videos}
    assert [video.video_id for video in data.videos] == sorted(by_id)
    assert [video.subset for video in data.videos] == ["training", "validation"] * (len(by_id) // 2)
    for video in data.videos:
        assert video.instances == by_id[video.video_id].instances
        assert video.duration_s == pytest.approx(by_id[video.video_id].duration_s)
    labels = SHORT.labels(data)
    assert labels[0]["instances"][0]["label"] == data.videos[0].instances[0].label
    assert "path" not in labels[0]

    def equal_scores(class_names, video_ids):
        return {video_id: np.full(len(class_names), 1 / len(class_names)) for video_id in video_ids}

    settings = GTADSettings(feature_width=4, cells=18, max_duration=18, epochs=1)
    inputs = HeadInputs(features=planted(data), data=data, settings=settings, class_scores=equal_scores)
    assert 0 <= run_head(HEADS["gtad"], inputs)[1]["scores"]["mAP_avg"] <= 100
    with pytest.raises(ValueError, match="needs class scores of 4 videos"):
        run_head(HEADS["gtad"], HeadInputs(features=inputs.features, data=data, settings=settings))
    with pytest.raises(AnnotationError, match=r"absent.annotations\.csv: no such file"):
        load_short(short / "absent")
    path = short / "annotations.csv"
    path.write_text(path.read_text("utf-8").replace(".", " s ", 1), "utf-8")
    with pytest.raises(AnnotationError, match=r"annotations\.csv: line 2: .*write seconds as numbers"):
        load_short(short)
    path.write_text("video,start_s,label\n", "utf-8")
    with pytest.raises(AnnotationError, match=r"line 1: no column end_s"):
        load_short(short)


def test_both_as_a_row_of_a_table(short, tiny_data, tiny_pantomime, tmp_path, monkeypatch):
    """The three lines that make them known, and then the stages of every row: encoder, features, head."""
    monkeypatch.setitem(DATA_SETS, "short", SHORT)
    monkeypatch.setitem(HEADS, "nearest-mean", NEAREST_MEAN)
    task = Task(head=HEADS["nearest-mean"], data=SHORT, settings=lambda profile: NearestMeanSettings())
    monkeypatch.setitem(TASKS, "short-actions", task)
    paths = DataPaths(folders={"short": short})
    row = SmallRow(tiny_data, tiny_pantomime, tmp_path, monkeypatch, task="short-actions", paths=paths)
    scores = row.run(tmp_path / "storage")
    assert row.made == ["encoders", "features", "heads"]
    assert 0 <= scores["accuracy"] <= 100
    (written,) = (tmp_path / "storage" / "heads").glob("*/snippets.json")
    assert list(json.loads(written.read_text())) == [v.video_id for v in row.data["short"].videos][1::2]
    assert row.run(tmp_path / "storage") == scores
    assert row.made == []
