"""``bsp check``, ``bsp extract``, ``bsp compare-features``: outputs, exit codes, and continuing."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

import bsp
from bsp.features.store import extract_features, read_features
from bsp.models.folder import load_model, write_model
from bsp.models.model import Model
from bsp.survey.listing import list_videos
from bsp_platform.cli.main import main
from bsp_platform.plan.resources import Resources
from bsp_platform.work.own_videos import extract_videos
from make_videos import numbered_frames, write_rotated, write_video
from small_models import SIZE, small_stream


def run(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Three videos, one turned, and a broken one."""
    folder = tmp_path_factory.mktemp("source")
    frames = numbered_frames(40)
    write_video(folder / "a.mp4", frames)
    write_rotated(folder / "phone ñ.mp4", frames, 1)
    (folder / "sub").mkdir()
    write_video(folder / "sub" / "a.mkv", frames[:20])
    (folder / "zero.mp4").touch()
    return folder


@pytest.fixture
def videos(source, tmp_path):
    return shutil.copytree(source, tmp_path / "videos")


@pytest.fixture
def model(tmp_path):
    write_model(tmp_path / "encoder", Model(kind="encoder", streams=(small_stream(0, "vanilla"),)))
    return tmp_path / "encoder"


def test_check_reports_and_suggests(videos, tmp_path):
    (tmp_path / "labels.csv").write_text("video,start_s,end_s,label\nphone ñ,0.1,0.9,jump\na__,0,1,run\n", "utf-8")
    report = tmp_path / "check.csv"
    done = run("check", videos, "--report", report)
    assert done.exit_code == 3, done.output
    assert "zero.mp4: empty file (0 bytes); download it again" in done.output
    assert "To train: bsp train gtad --features FEATURES --annotations labels.csv --out MODEL\n" in done.output
    with report.open(encoding="utf-8") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {"a", "sub__a", "phone ñ", "zero"}
    assert (rows["phone ñ"]["rotation"].lstrip("-"), rows["zero"]["readable"]) == ("90", "no")
    done = run("check", videos, "--report", report, "--annotations", tmp_path / "labels.csv", "--json")
    assert done.exit_code == 1  # a__ is no video
    found = json.loads(done.stdout)
    assert [one["place"] for one in found["annotations"] if one["grave"]] == ["line 3"]
    assert sum(one["usable"] for one in found["videos"]) == 3
    assert found["grid"]["reasons"][0].startswith("videos last 1.6 to 1.6 s")  # of the annotated one; all: from 0.8 s
    (tmp_path / "times.csv").write_text("video,time_s\nphone ñ,0.4\na,x\na,-1\n", "utf-8")
    done = run("check", videos, "--report", report, "--annotations", tmp_path / "times.csv", "--json")
    found = json.loads(done.stdout)
    grave = [(one["place"], one["field"], one["value"]) for one in found["annotations"] if one["grave"]]
    assert grave == [("line 3", "time_s", "x"), ("line 4", "time_s", "-1")]
    assert found["grid"] is None
    assert found["command"].startswith("bsp train boundaries --way head --features FEATURES --annotations ")
    only = run("check", videos / "zero.mp4", "--report", tmp_path / "zero.csv")
    assert only.exit_code == 1
    assert "0 can be used" in only.output


def test_extract_makes_the_features_of_the_model_and_continues(videos, model, tmp_path):
    out = tmp_path / "features"
    done = run("extract", videos, "--model", model, "--out", out, "--max-broken", 0.5, "--format", "opentad", "--json")
    assert done.exit_code == 3, done.output
    found = json.loads(done.stdout)
    assert found["features"][0] | {"folder": ""} == {
        "folder": "", "videos": 3, "kept": 0, "snippets": 5 + 5 + 2, "width": 64
    }  # fmt: skip
    assert [one["path"] for one in found["left_out"]] == [str(videos / "zero.mp4")]
    loaded = bsp.load_model(out / "model")
    for path, video_id in found["ids"].items():
        if "zero" not in path:
            feat_SD, info = read_features(out, video_id)
            expected, record = extract_features(bsp.load_encoder(model), path, video_id=video_id, size_px=SIZE)
            np.testing.assert_array_equal(feat_SD, expected)
            np.testing.assert_array_equal(feat_SD, loaded.features(path)[0])
            assert (info.encoder_hash, info.reader) == (record.encoder_hash, record.reader)
    assert len(list((tmp_path / "features-opentad").glob("*.npy"))) == 3

    made = {path.name: path.stat().st_mtime_ns for path in out.glob("*.npy")}
    write_video(videos / "sub" / "a.mkv", numbered_frames(32))  # another video of this name
    (videos / "zero.mp4").unlink()
    done = run("extract", videos, "--model", model, "--out", out)
    assert "3 videos (2 were there), 14 snippets" in done.output, done.output
    assert done.exit_code == 0
    changed = [name for name, when in made.items() if (out / name).stat().st_mtime_ns != when]
    assert changed == [f"{found['ids'][str(videos / 'sub' / 'a.mkv')]}.npy"]


def test_extract_refuses_too_many_broken_videos_and_other_features(videos, model, tmp_path):
    done = run("extract", videos, "--model", model, "--out", tmp_path / "f", "--max-broken", 0)
    assert done.exit_code == 1
    assert "--max-broken 0%" in done.output
    assert "zero.mp4: empty file" in done.output
    write_model(tmp_path / "other", Model(kind="encoder", streams=(small_stream(5),)))
    done = run("extract", videos / "a.mp4", "--model", tmp_path / "other", "--out", tmp_path / "f")
    assert done.exit_code == 1
    assert "made otherwise (encoder_hash" in done.output
    assert "--out" in done.output
    assert run("extract", videos, "--model", tmp_path / "nothing", "--out", tmp_path / "g").exit_code == 2


def test_two_encoders_get_two_folders_and_compare_tells_them_apart(videos, tmp_path):
    streams = (small_stream(0, "vanilla"), small_stream(1, "bsp"))
    write_model(tmp_path / "two", Model(kind="encoder", streams=streams, head_streams=2))
    one, out = videos / "a.mp4", tmp_path / "f"
    done = run("extract", one, "--model", tmp_path / "two", "--out", out)
    assert f"--features {out / '1'} --features {out / '2'}" in done.output, done.output
    both = load_model(tmp_path / "two").features(one)[0]
    np.testing.assert_array_equal(both, np.hstack([read_features(out / str(k), "a")[0] for k in (1, 2)]))
    assert run("extract", one, "--model", tmp_path / "two", "--out", tmp_path / "g", "--stream", 2).exit_code == 0
    same = run("compare-features", out / "2", tmp_path / "g", "--json")
    assert same.exit_code == 0
    assert json.loads(same.stdout)["equal"] is True
    other = run("compare-features", out / "1", out / "2")
    assert other.exit_code == 3
    assert "record: encoder_hash is" in other.output
    assert "different" in other.output
    assert run("compare-features", out, out).exit_code == 1  # holds no features itself
    assert run("extract", one, "--model", tmp_path / "two", "--out", tmp_path / "h", "--stream", 3).exit_code == 1


@pytest.mark.ray
def test_ray_gives_the_features_of_this_process_bit_by_bit(ray_session, videos, model, tmp_path):
    listed, stream = list_videos([videos]).videos, load_model(model).streams[0]
    here = extract_videos(tmp_path / "here", stream, listed, resources=None, max_broken=0.5)
    there = extract_videos(tmp_path / "there", stream, listed, resources=Resources(), max_broken=0.5)
    assert (here.videos, here.broken) == (there.videos, there.broken) == (3, here.broken)
    for path in sorted((tmp_path / "here").glob("*.npy")):
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes()
    assert not list((tmp_path / "there").glob(".weights*"))
