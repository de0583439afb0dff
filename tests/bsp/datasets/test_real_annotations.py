"""Every head on annotations as published, with all their oddities, and made-up narrow features.

By default on small files of the published layouts that hold each oddity of the real ones. BSP_ANNOTATIONS=FOLDER runs
over the complete published files that lie there (an hour on one core); those that are absent are skipped.
"""

from __future__ import annotations

import gzip
import json
import os
import resource
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bsp.datasets.activitynet import load_activitynet, load_hacs
from bsp.datasets.charades_sta import load_charades_sta
from bsp.datasets.crosstask import load_crosstask
from bsp.datasets.gebd_records import read_records
from bsp.datasets.thumos14 import load_thumos14
from bsp.features.interchange import Timing, import_features
from bsp.files.text import read_json
from bsp.tasks.heads import HEADS
from bsp_platform.cli.main import main
from bsp_platform.plan.profiles import PROFILES
from bsp_platform.plan.recipes import TaskRecipe
from bsp_platform.work.heads import CLASS_SCORES, make_class_scores, train_and_score

REAL = os.environ.get("BSP_ANNOTATIONS")
pytestmark = [pytest.mark.slow] if REAL else []
WIDTH, STRIDE, FPS = 12, 16, 25.0
ACTIVITYNET, THUMOS = "activitynet_v1-3.json.gz", ("val_Annotation.csv", "test_Annotation.csv", "test_groundtruth.csv")


def real(*endings: str) -> list[Path]:
    """The real files with these endings; skips where one is absent."""
    found = [sorted(Path(REAL).glob(f"*{ending}")) for ending in endings]
    if not all(found):
        pytest.skip(f"{REAL} lacks one of {', '.join(endings)}")
    return [paths[0] for paths in found]


def make_features(folder: Path, seconds: dict[str, float]) -> Path:
    """Random features [S, 12] of these videos, at 25 frames per second and a row every 16 frames."""
    rng = np.random.default_rng(0)
    raw = folder / "raw"
    raw.mkdir()
    for video_id, duration_s in seconds.items():
        rows = max(2, int(duration_s * FPS) // STRIDE)
        np.save(raw / f"{video_id}.npy", rng.standard_normal((rows, WIDTH)).astype(np.float32))
    timing = Timing(fps=FPS, stride_frames=STRIDE, snippet_frames=STRIDE)
    import_features(raw, folder / "features", layout="opentad", timing=timing, durations=seconds)
    return folder / "features"


def train(folder: Path, features: Path, *arguments: object) -> tuple[dict, str]:
    """``bsp train`` in this process: (its scores, its output)."""
    out = folder / "head"
    options = ["--features", features, "--out", out, "--profile", "smoke"]
    began = time.monotonic()
    result = CliRunner().invoke(main, ["train", *map(str, [*arguments, *options])])
    assert result.exit_code == 0, (result.output, result.exception)
    took, peak = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\n{arguments[0]}: {took:.0f} s, {peak:.0f} MiB at most\n{result.output}")
    return json.loads((out / "scores.json").read_text("utf-8"))["scores"], result.output


def a_video(subset: str, *segments: tuple[float, float], label: str = "dig", duration: float = 40.0) -> dict:
    rows = [{"label": label, "segment": list(segment)} for segment in segments]
    return {"subset": subset, "duration": duration, "annotations": rows}


def small_activitynet() -> dict:
    """What ActivityNet-1.3 holds: empty, reversed and late instances, duplicates, videos of which nothing is left."""
    odd = {
        "plain": [(5, 15)], "beyond": [(30, 40.8)], "empty": [(0, 0), (5, 9)], "reversed": [(30, 20), (8, 12)],
        "after": [(41, 50)], "twice": [(5, 15), (5, 15)], "nothing_left": [(30, 20)], "whole": [(0, 40)], "none": [],
    }  # fmt: skip
    database = {
        f"{subset[0]}_{name}_{label}": a_video(subset, *segments, label=label)
        for subset in ("training", "validation")
        for name, segments in odd.items()
        for label in ("dig", "jump")
    }
    database["t_two_classes"] = a_video("training", (1, 9))
    database["t_two_classes"]["annotations"].append({"label": "jump", "segment": [20, 30.5]})
    return {"database": database | {"testing": a_video("testing")}}


@pytest.mark.long
def test_activitynet(tmp_path, caplog):
    path = tmp_path / "activitynet.json"
    if REAL:
        path = real(ACTIVITYNET)[0]
    else:
        path.write_text(json.dumps(small_activitynet()), "utf-8")
    videos = load_activitynet(path, None).videos
    features = make_features(tmp_path, {video.video_id: video.duration_s for video in videos})
    scores, _ = train(tmp_path, features, "gtad", "--annotations", path)
    assert 0 <= scores["mAP_avg"] <= 100
    messages = [line for line in caplog.messages if line.startswith("labels of")]
    if REAL:  # 9 and 3 are empty; one more lies in the last half second, which has no feature here
        assert "labels of 15410 training instances: 10 dropped" in messages[0]
        assert "187 cut at their video's end" in messages[0]
        assert "labels of 7654 validation instances" in messages[1]
        assert ": 3 dropped" in messages[1]
    else:
        assert "labels of 24 training instances: 8 dropped (t_empty_dig: 0 to 0 s is empty" in messages[0]
        assert "2 cut at their video's end (t_beyond_dig: 30 to 40.8 s of 40 s; t_beyond_jump" in messages[0]


@pytest.mark.long
def test_hacs(tmp_path, caplog):
    """ActivityNet's annotations as HACS writes them; its head is trained by the tables only, not by a command."""
    path, head = tmp_path / "hacs.json", tmp_path / "head"
    document = read_json(real(ACTIVITYNET)[0]) if REAL else small_activitynet()
    for record in document["database"].values():
        record["duration"] = str(record["duration"])
    path.write_text(json.dumps({"database": document["database"]}), "utf-8")
    data = load_hacs(path, None)
    if REAL:  # a tenth of it: the head is ActivityNet's
        data = replace(data, videos=data.videos[::10])
    else:
        assert len(data.dropped) == 12  # empty, reversed or nothing left, of both subsets; also not in the ground truth
    features = make_features(tmp_path, {video.video_id: video.duration_s for video in data.videos})
    head.mkdir()
    make_class_scores(head, features, data, {})
    recipe = TaskRecipe(streams=(), head=PROFILES["smoke"]().hacs, annotations="", seed=0)
    facts = train_and_score(head, HEADS["gtad"], recipe, [features], head / CLASS_SCORES, data, expect={})
    assert 0 <= facts["scores"]["mAP_avg"] <= 100
    if not REAL:
        assert facts["labels"]["cut"] == 2
        assert {line.split(":")[0] for line in facts["labels"]["dropped"]} == {"t_after_dig", "t_after_jump"}


def small_thumos(folder: Path) -> None:
    """Ambiguous rows, every CliffDiving a second time as Diving, and a test instance that ends after its video."""
    columns, pairs = "video,type,type_idx,start,end,startFrame,endFrame", (("CliffDiving", 22), ("Diving", 24))
    for split, count in (("validation", 4), ("test", 3)):
        rows = [columns]
        for number in range(1, count + 1):
            video = f"video_{split}_{number:07}"
            rows += [f"{video},{name},{index},{4 * number}.5,{4 * number + 6}.0,0,0" for name, index in pairs]
            rows.append(f"{video},Ambiguous,0,0.0,3.1,0,93")
        short = "val" if split == "validation" else split
        (folder / f"{short}_Annotation.csv").write_text("\n".join(rows), "utf-8")
    header = "video-name,t-init,t-end,f-init,f-end,video-duration,frame-rate,video-frames,label-idx"
    rows = [f"video_test_{n:07},0.0,1.4,0,42,{40 if n < 3 else 17.5},30.0,1200,0" for n in (1, 2, 3)]
    (folder / "test_groundtruth.csv").write_text("\n".join([header, *rows]), "utf-8")


def test_thumos(tmp_path):
    folder = tmp_path / "thumos"
    folder.mkdir()
    if REAL:
        for path in real(*(f"{name}.gz" for name in (*THUMOS, "thumos_gt.json"))):
            (folder / path.name).symlink_to(path)
    else:
        small_thumos(folder)
    # The files do not say how long the training videos are; here some end within their last instance.
    shares = np.random.default_rng(1).uniform(0.95, 1.3, 1000)
    seconds = {
        video.video_id: video.duration_s * (share if video.subset == "validation" else 1)
        for video, share in zip(load_thumos14(folder).videos, shares)
    }
    scores, _ = train(tmp_path, make_features(tmp_path, seconds), "thumos", "--thumos", folder)
    assert 0 <= scores["mAP_avg"] <= 100


CHARADES = {
    "train": [
        "AAAAA 0.0 6.2##a person is putting a book on a shelf.",
        "AAAAA 12.0 3.0##person runs backwards through the door.",
        "BBBBB 20.0 33.4##person opens the door.",
        "BBBBB 5.0 5.0##person opens the door.",
        *(f"V{k:04} {k}.0 {k + 9}.5##person number {k} closes the door." for k in range(12)),
    ],
    "test": [
        "CCCCC 24.3 30.4##a person is washing their hands in the sink.",
        "CCCCC 31.0 35.0##person begins after the video has ended.",
        "CCCCC 0.0 9.0##zyzzyva.",
    ],
}


def charades(tmp_path: Path) -> Path:
    folder = tmp_path / "charades"
    folder.mkdir()
    if REAL:
        for path in real("charades_sta_train.txt.gz", "charades_sta_test.txt.gz", "charades_durations.json.gz"):
            (folder / path.name).symlink_to(path)
        return folder
    for subset, lines in CHARADES.items():
        (folder / f"charades_sta_{subset}.txt").write_text("\n".join(lines) + "\n", "utf-8")
    seconds = {line.split()[0]: 30.5 for lines in CHARADES.values() for line in lines}
    (folder / "charades_durations.json").write_text(json.dumps(seconds), "utf-8")
    return folder


@pytest.mark.parametrize("head", ["2dtan", "lgi"])
def test_charades(tmp_path, head):
    folder = charades(tmp_path)
    data = load_charades_sta(folder)
    assert len(data.dropped) == (4 if REAL else 2)
    features = make_features(tmp_path, {video.video_id: video.duration_s for video in data.videos})
    scores, _ = train(tmp_path, features, "grounding", "--head", head, "--charades", folder)
    assert 0 <= scores["mIoU"] <= 100


def crosstask(tmp_path: Path) -> Path:
    folder = tmp_path / "crosstask_release"
    if REAL:
        with tarfile.open(real("crosstask_release.tar.gz")[0]) as archive:
            archive.extractall(tmp_path, filter="data")
        return folder
    (folder / "annotations").mkdir(parents=True)
    (folder / "tasks_primary.txt").write_text("1\nMake Tea\nhttps://w/1\n2\nboil water,pour\n", "utf-8")
    ids = [f"video{k:06}" for k in range(8)]
    (folder / "videos.csv").write_text("".join(f"1,{i},https://y/{i}\n" for i in ids), "utf-8")
    for k, video_id in enumerate(ids):  # overlapping, out of order; the last one ends after the video
        rows = f"2,{5 + k}.5,{9 + k}.25\n1,{4 + k}.0,{7 + k}.0\n1,30.0,44.0\n"
        (folder / "annotations" / f"1_{video_id}.csv").write_text(rows, "utf-8")
    return folder


def test_crosstask(tmp_path, caplog):
    folder = crosstask(tmp_path)
    # The release has no durations; here videos end before or after their last step does.
    shares = np.random.default_rng(2).uniform(0.6, 1.3, 5000)
    seconds = {
        video.video_id: share * max(step.end_s for step in video.steps)
        for video, share in zip(load_crosstask(folder).videos, shares)
    }
    scores, _ = train(tmp_path, make_features(tmp_path, seconds), "steps", "--crosstask", folder)
    assert 0 < scores["AP"] <= 100
    assert any("training steps" in line for line in caplog.messages)


def gebd_records() -> Iterator[tuple[str, dict]]:
    """Clips in the processed layout: real ones of TAPOS, or small ones with odd boundaries."""
    if REAL:
        document = json.loads(gzip.decompress(real("tapos_gebd_val.json.gz")[0].read_bytes()))
        yield from read_records(document, subset="validation", name="TAPOS")[0].items()
        return
    for k in range(12):
        annotators = [[2.0 + k % 5, 6.5], [2.5, 13.0], [], [-0.5, 5.0]]  # one after the clip, none, one before it
        yield f"clip{k:07}", {
            "num_frames": 250, "fps": 25.0, "video_duration": 10.0, "f1_consis": [0.4, 0.9, 0.1, 0.2],
            "f1_consis_avg": 0.4, "substages_timestamps": annotators,
            "substages_myframeidx": [[25 * s for s in row] for row in annotators],
        }  # fmt: skip


@pytest.mark.parametrize("way", ["peaks", "head"])
def test_boundaries(tmp_path, way, caplog):
    folder = tmp_path / "gebd"
    folder.mkdir()
    clips = dict(gebd_records())
    for k, subset in enumerate(("train", "val")):
        part = {clip: record for n, (clip, record) in enumerate(clips.items()) if n % 2 == k}
        (folder / f"k400_mr345_{subset}.json").write_text(json.dumps(part), "utf-8")
    assert set(read_json(folder / "k400_mr345_val.json")) < set(clips)
    features = make_features(tmp_path, {clip: record["video_duration"] for clip, record in clips.items()})
    scores, _ = train(tmp_path, features, "boundaries", "--gebd", folder, "--way", way)
    assert 0 <= scores["F1@0.05"] <= 100
    if not REAL:
        assert any("dropped (clip0000000: 13 s is outside its 10 s" in line for line in caplog.messages)
