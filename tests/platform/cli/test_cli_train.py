"""``bsp train``: a head on features in a folder, scores printed, everything that decided them kept beside them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from bsp.datasets.activitynet import load_activitynet
from bsp.features.store import FeatureInfo, write_features
from bsp.metrics.detection import evaluate_detection
from bsp_platform.cli.main import main

pytestmark = pytest.mark.long  # videos, processes or whole trainings

WIDTH, SNIPPETS, DURATION_S = 16, 24, 16.0
CLASSES = ("dig", "jump")


def run(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


def write(folder, video_id, feat_SD, stride=8, precision="float32"):
    info = FeatureInfo(
        video_id=video_id, frames=stride * SNIPPETS, fps=12.0, snippet_frames=8, stride_frames=stride, offset_frames=0,
        size_px=0, mean=(), std=(), feature_width=feat_SD.shape[1], snippets=SNIPPETS, encoder_hash="imported:x",
        code_version=0, precision=precision,
    )  # fmt: skip
    write_features(folder, video_id, feat_SD, info)


@pytest.fixture
def videos(tmp_path):
    """(features, annotations): eight training and six validation videos, the last of them without features."""
    rng = np.random.default_rng(0)
    database = {}
    for k in range(14):
        label, first = k % 2, 4 + k % 5
        feat_SD = 0.1 * rng.normal(size=(SNIPPETS, WIDTH)).astype(np.float32)
        feat_SD[first : first + 10, label] += 3
        if k < 13:
            write(tmp_path / "features", f"video{k}", feat_SD)
        second = DURATION_S / SNIPPETS
        instance = {"label": CLASSES[label], "segment": [first * second, (first + 10) * second]}
        subset = "training" if k < 8 else "validation"
        database[f"video{k}"] = {"subset": subset, "duration": DURATION_S, "annotations": [instance]}
    path = tmp_path / "activitynet.json"
    path.write_text(json.dumps({"database": database}))
    return tmp_path / "features", path


def gtad(features, annotations, out, *more):
    options = ("--features", features, "--annotations", annotations, "--out", out, "--profile", "smoke")
    return run("train", "gtad", *options, *more)


def test_more_videos_without_features_than_allowed_are_refused(videos, tmp_path):
    features, annotations = videos
    for path in features.glob("video12.*"):
        path.unlink()
    result = gtad(features, annotations, tmp_path / "out")
    assert result.exit_code == 1
    assert "2 of 14 annotated videos have no features, such as video12." in result.output
    assert "That is 14.3 %, more than --max-missing 10" in result.output
    assert not (tmp_path / "out").exists()
    assert gtad(features, annotations, tmp_path / "out", "--max-missing", "15").exit_code == 0


def test_gtad_prints_what_the_written_detections_score(videos, tmp_path):
    features, annotations = videos
    out = tmp_path / "out"
    result = gtad(features, annotations, out)
    assert result.exit_code == 0, result.output
    assert "13 videos, width 16, stride 8 frames" in result.output
    assert "1 of 14 annotated videos have no features, such as video13" in result.output
    detections = json.loads((out / "detections.json").read_text())
    assert set(detections["results"]) == {f"video{k}" for k in range(8, 13)}
    truth = load_activitynet(annotations, None).ground_truth
    again = 100 * evaluate_detection(truth, detections, subset="validation")["average_mAP"]
    assert f"{again:.2f} %" in next(line for line in result.output.splitlines() if "mAP_avg" in line)
    assert json.loads((out / "scores.json").read_text())["scores"]["mAP_avg"] == pytest.approx(again)
    assert len(json.loads((out / "history.json").read_text())) == 2
    settings = json.loads((out / "settings.json").read_text())
    assert (settings["features"], settings["seed"]) == ([str(features)], 0)
    assert settings["head"]["cells"] == 24
    assert sorted(path.name for path in tmp_path.iterdir()) == ["activitynet.json", "features", "out"]


def test_two_streams_and_published_class_scores(videos, tmp_path):
    features, annotations = videos
    for k in range(13):
        write(tmp_path / "second", f"video{k}", np.ones((SNIPPETS, 4), np.float32))
    scores = tmp_path / "cuhk.json"
    results = {f"video{k}": [1.0, 0.0] for k in range(8, 14)}
    scores.write_text(json.dumps({"class": ["jump", "dig"], "results": results}))
    out = tmp_path / "out"
    result = gtad(features, annotations, out, "--features", tmp_path / "second", "--class-scores", scores)
    assert result.exit_code == 0, result.output
    best = {
        max(d, key=lambda x: x["score"])["label"]
        for d in json.loads((out / "detections.json").read_text())["results"].values()
    }
    assert best == {"jump"}
    assert json.loads((out / "settings.json").read_text())["class_scores"] == str(scores)


def test_what_cannot_work_is_refused_before_the_training(videos, tmp_path):
    features, annotations = videos
    out = tmp_path / "out"
    write(tmp_path / "sixteen", "video0", np.ones((SNIPPETS, 4), np.float32), stride=16)
    result = gtad(features, annotations, out, "--features", tmp_path / "sixteen")
    assert (result.exit_code, "strides of 8 and 16 frames" in result.output) == (1, True)
    write(tmp_path / "others", "VIDEO0", np.ones((SNIPPETS, 4), np.float32))
    result = gtad(tmp_path / "others", annotations, out)
    assert (result.exit_code, "none of the 14 annotated videos" in result.output) == (1, True)
    assert "'VIDEO0' is probably 'video0'" in result.output
    (tmp_path / "empty").mkdir()
    result = gtad(tmp_path / "empty", annotations, out)
    assert (result.exit_code, "holds no features" in result.output) == (1, True)
    result = gtad(features, annotations, features)
    assert (result.exit_code, "is there already" in result.output) == (1, True)
    write(features, "video13", np.ones((SNIPPETS, WIDTH + 4), np.float32))
    result = gtad(features, annotations, out)
    assert (result.exit_code, "feature_width is 20, but 16" in result.output) == (1, True)
    assert not out.exists()
    assert not list(tmp_path.glob(".*"))


def test_two_precisions_within_a_folder_are_refused_and_between_streams_said(videos, tmp_path):
    features, annotations = videos
    for k in range(13):
        write(tmp_path / "second", f"video{k}", np.ones((SNIPPETS, 4), np.float32), precision="bfloat16")
    result = gtad(features, annotations, tmp_path / "out", "--features", tmp_path / "second")
    assert result.exit_code == 0, result.output
    assert "13 videos, width 4, stride 8 frames, bfloat16" in result.output
    write(features, "video3", np.ones((SNIPPETS, WIDTH), np.float32), precision="bfloat16")
    result = gtad(features, annotations, tmp_path / "mixed")
    assert (result.exit_code, "video3.json: precision is 'bfloat16', but 'float32' for" in result.output) == (1, True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda v: v.update(annotations=[]), "activitynet.json: no instance in the subset 'training'"),
        (lambda v: v["annotations"][0].update(segment=[2000, 8000]), "8 of 8 training instances leave nothing to"),
    ],
)
def test_annotations_without_anything_to_learn_from(change, reason, videos, tmp_path):
    features, annotations = videos
    document = json.loads(annotations.read_text())
    for video in document["database"].values():
        change(video)
    annotations.write_text(json.dumps(document))
    result = gtad(features, annotations, tmp_path / "out")
    assert (result.exit_code, reason in result.output) == (1, True), result.output
    assert not (tmp_path / "out").exists()


def test_durations_in_milliseconds_are_told(videos, tmp_path, caplog):
    features, annotations = videos
    document = json.loads(annotations.read_text())
    for video in document["database"].values():
        video["duration"] *= 1000
        video["annotations"][0]["segment"] = [1000 * time_s for time_s in video["annotations"][0]["segment"]]
    annotations.write_text(json.dumps(document))
    assert gtad(features, annotations, tmp_path / "out").exit_code == 0
    (line,) = [message for message in caplog.messages if "durations" in message]
    assert line.startswith("the annotated durations of 13 of 13 videos are not")
    assert line.endswith("such as video0: 16000 s, but 16 s by its features; are they in milliseconds?")


@pytest.fixture
def charades(tmp_path):
    """(features, folder of Charades-STA's files): what a person does in each half of a video."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "charades"
    folder.mkdir()
    verbs = ("runs", "sits", "eats", "waves")
    for subset, numbers in (("train", range(12)), ("test", range(12, 17))):
        lines, table = [], ["id,length"]
        for number in numbers:
            feat_SD = 0.1 * rng.normal(size=(SNIPPETS, WIDTH)).astype(np.float32)
            for half, verb in enumerate(rng.permutation(4)[:2]):
                feat_SD[12 * half : 12 * half + 12, verb] += 2
                lines.append(f"V{number} {half * 8.0} {half * 8.0 + 8.0}##a person {verbs[verb]}.")
            table.append(f"V{number},{DURATION_S}")
            if number < 16:
                write(tmp_path / "features", f"V{number}", feat_SD)
        (folder / f"charades_sta_{subset}.txt").write_text("\n".join(lines) + "\n")
        (folder / f"Charades_v1_{subset}.csv").write_text("\n".join(table) + "\n")
    return tmp_path / "features", folder


@pytest.mark.parametrize("head", ["2dtan", "lgi"])
def test_grounding_scores_agree_with_the_evaluation_command(head, charades, tmp_path):
    features, folder = charades
    out = tmp_path / "out"
    options = ("--head", head, "--features", features, "--charades", folder, "--out", out, "--profile", "smoke")
    result = run("train", "grounding", *options)
    assert result.exit_code == 0, result.output
    assert "1 of 17 annotated videos have no features, such as V16" in result.output
    report = tmp_path / "report.json"
    again = run(
        "evaluate", "grounding", "--ground-truth", folder / "charades_sta_test.txt", "--durations",
        folder / "Charades_v1_test.csv", "--predictions", out / "predictions.json", "--protocol", head,
        "--output-json", report,
    )  # fmt: skip
    assert again.exit_code == 0, again.output
    scores = json.loads((out / "scores.json").read_text())["scores"]
    assert scores["R1@0.5"] == pytest.approx(json.loads(report.read_text())["percent"]["R1@0.5"])
    assert f"{scores['R1@0.5']:.2f} %" in result.output
    assert json.loads((out / "settings.json").read_text())["annotations"] == str(folder)


def test_grounding_needs_its_files(tmp_path, charades):
    features, folder = charades
    (folder / "Charades_v1_test.csv").unlink()
    options = ("--features", features, "--charades", folder, "--out", tmp_path / "out", "--profile", "smoke")
    result = run("train", "grounding", "--head", "lgi", *options)
    assert (result.exit_code, "Charades_v1_test.csv" in result.output) == (1, True)
    assert run("train", "grounding", "--head", "mine", *options).exit_code == 2
