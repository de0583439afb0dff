"""Results of several videos in a folder: their names, what is kept, and what is written."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bsp.errors import AnnotationError
from bsp.pages.findings import Curve, Findings, Found
from bsp.pages.look import selected, with_truth
from bsp.pages.results import keep_findings, kept_findings, key_of, named_videos, write_of_all, write_of_video
from bsp.video.read import probe
from bsp.video.write import write_mp4
from make_videos import numbered_frames


def touched(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [folder / name for name in names]


def test_names_are_those_of_the_files_and_longer_where_they_meet(tmp_path) -> None:
    touched(tmp_path, "wave/1.mp4", "bow/1.mp4", "bow/2.MKV", "bow/notes.txt", ".hidden/3.mp4", "x/A.mp4", "x/a.avi")
    touched(tmp_path, "y/b.mp4", "y/b.avi")
    found = named_videos([tmp_path, tmp_path / "bow/2.MKV"])
    assert {name: path.relative_to(tmp_path).as_posix() for name, path in found.items()} == {
        "bow_1": "bow/1.mp4", "wave_1": "wave/1.mp4", "2": "bow/2.MKV", **{
            f"{'_'.join(tmp_path.parts[-2:])}_{folder}_{stem}_{kind}": f"{folder}/{stem}.{kind}"
            for folder, stem, kind in (("x", "A", "mp4"), ("x", "a", "avi"), ("y", "b", "mp4"), ("y", "b", "avi"))
        },
    }  # fmt: skip


def test_a_folder_without_videos_is_named(tmp_path) -> None:
    with pytest.raises(AnnotationError, match="no video; looked for"):
        named_videos([tmp_path])


FOUND = Findings(
    video_id="v", video="v.mp4", duration_s=10.0,
    segments=[Found(label="a", start_s=k, end_s=k + 1, score=k / 10) for k in range(5)],
    boundaries=Curve(times_s=np.array([1.0, 2.0]), scores=np.array([0.2, 0.9]), curve_times_s=np.arange(3.0),
                     curve=np.arange(3.0)),
)  # fmt: skip


def test_findings_are_found_again_for_the_same_model_file_and_question_only(tmp_path) -> None:
    (video,) = touched(tmp_path, "v.mp4")
    key = key_of("model", video, what="detect")
    assert kept_findings(tmp_path, "v", key) is None
    keep_findings(tmp_path, "v", key, FOUND)
    again = kept_findings(tmp_path, "v", key)
    assert again is not None
    assert [s.score for s in again.segments] == [0.0, 0.1, 0.2, 0.3, 0.4]
    others = [key_of("other", video, what="detect"), key_of("model", video, what="ground")]
    os.utime(video, (1, 1))
    others.append(key_of("model", video, what="detect"))
    assert len({key, *others}) == 4
    assert [kept_findings(tmp_path, "v", other) for other in others] == [None] * 3
    (tmp_path / "records/v.json").write_text("{", "utf-8")
    assert kept_findings(tmp_path, "v", key) is None  # damaged: made again


def test_selection() -> None:
    assert [s.score for s in selected(FOUND, threshold=0.2, top=2).segments] == [0.4, 0.3]
    assert len(selected(FOUND, threshold=0.25, top=None).boundaries.times_s) == 2  # they have scores of their own
    only = selected(replace(FOUND, segments=[]), threshold=0.25, top=None).boundaries
    assert (only.times_s.tolist(), len(only.curve)) == ([2.0], 3)
    assert selected(replace(FOUND, segments=[]), threshold=None, top=1).boundaries.scores.tolist() == [0.9]


def test_truth_is_cut_to_the_video() -> None:
    given = [
        Found(label="a", start_s=-1, end_s=2),
        Found(label="b", start_s=9, end_s=30),
        Found(label="c", start_s=12, end_s=13),
    ]
    assert [(t.label, t.start_s, t.end_s) for t in with_truth(FOUND, given).truth] == [
        ("a", 0.0, 2.0),
        ("b", 9.0, 10.0),
    ]


@pytest.mark.parametrize("what", ["detect", "boundaries", "ground"])
def test_all_formats_of_a_name_that_is_hard_to_write(tmp_path, what) -> None:
    name = "a#b?c%20 ü"
    write_mp4(tmp_path / "v.mp4", numbered_frames(30), fps=10)
    formats = ("json", "csv", "vtt", "html")
    written = write_of_video(tmp_path / "out", name, FOUND, probe(tmp_path / "v.mp4"), what, formats)
    written |= write_of_all(tmp_path / "out", [FOUND], what, formats)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [f"{name}.vtt", f"{name}.html", "results.csv", "results.json"]
    )
    assert 'href="a%23b%3Fc%2520%20%C3%BC.vtt"' in written["html"].read_text("utf-8")
    assert ("Part 3" in written["vtt"].read_text("utf-8")) == (what == "boundaries")
    assert json.loads(written["json"].read_text("utf-8"))
    assert write_of_all(tmp_path / "none", [FOUND], what, ("html",)) == {}
