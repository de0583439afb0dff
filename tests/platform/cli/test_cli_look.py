"""``bsp detect``, ``bsp boundaries``, ``bsp ground``: files, exit codes, continuing; with a small random encoder."""

import csv
import json

import pytest
from click.testing import CliRunner

from bsp.encoders.build import build_encoder
from bsp.encoders.tsm import EncoderSettings
from bsp.models.folder import write_model
from bsp.models.model import Model
from bsp.models.streams import stream_of
from bsp.pages import look
from bsp.video.write import write_mp4
from bsp_platform.cli.main import main
from make_videos import numbered_frames


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "encoder"
    encoder = build_encoder(EncoderSettings(depth=18, width=8).for_snippets(), 0)
    write_model(folder, Model(kind="encoder", streams=(stream_of(encoder, size_px=32, name="random"),)))
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name, frames in (("one", 120), ("two", 80)):
        write_mp4(folder / f"{name}.mp4", numbered_frames(frames), fps=10)
    return folder


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_boundaries_of_a_folder_as_files_and_as_a_document(model, videos, tmp_path):
    done = run("boundaries", videos, "--model", model, "--out", tmp_path, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert [video["video_id"] for video in document["videos"]] == ["one", "two"]
    times = document["videos"][0]["boundaries"]["times_s"]
    assert json.loads((tmp_path / "results.json").read_text())["one"] == times
    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["time_s"]) for row in rows if row["video"] == "one"] == pytest.approx(times, abs=1e-3)
    assert all(0 < time < 12 for time in times)
    assert {path.name for path in tmp_path.iterdir()} == {
        "one.html", "one.vtt", "two.html", "two.vtt", "results.json", "results.csv", "records",
    }  # fmt: skip


def test_the_same_command_again_computes_nothing(model, videos, tmp_path, monkeypatch):
    first = run("boundaries", videos / "one.mp4", "--model", model, "--out", tmp_path, "--json")
    monkeypatch.setattr(look, "look", lambda *a, **k: pytest.fail("computed again"))
    again = run("boundaries", videos / "one.mp4", "--model", model, "--out", tmp_path, "--json")
    assert (first.exit_code, again.stdout) == (0, first.stdout)
    fewer = run("boundaries", videos / "one.mp4", "--model", model, "--out", tmp_path, "--top", "1", "--format", "csv")
    assert fewer.exit_code == 0, fewer.output
    assert "found before" in fewer.output
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 2


def test_a_folder_keeps_what_was_found_before(model, videos, tmp_path):
    assert run("boundaries", videos / "two.mp4", "--model", model, "--out", tmp_path).exit_code == 0
    alone = json.loads((tmp_path / "results.json").read_text())
    assert run("boundaries", videos / "one.mp4", "--model", model, "--out", tmp_path).exit_code == 0
    both = json.loads((tmp_path / "results.json").read_text())
    assert sorted(both) == ["one", "two"]
    assert both["two"] == alone["two"]
    other = run("ground", videos / "one.mp4", "a person waves", "--model", model, "--out", tmp_path)
    assert other.exit_code == 1
    assert "holds what bsp boundaries found" in other.output
    assert json.loads((tmp_path / "results.json").read_text()) == both


def test_a_broken_video_is_named_and_left_out(model, videos, tmp_path):
    (tmp_path / "broken.mp4").write_text("no video")
    done = run("boundaries", tmp_path / "broken.mp4", videos / "one.mp4", "--model", model, "--out", tmp_path, "--json")
    assert done.exit_code == 3
    document = json.loads(done.stdout)
    assert [left["video"] for left in document["left_out"]] == [str(tmp_path / "broken.mp4")]
    assert "broken.mp4: not a video" in done.stderr
    assert len(document["videos"]) == 1
    alone = run("boundaries", tmp_path / "broken.mp4", "--model", model, "--out", tmp_path)
    assert alone.exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["detect", "one.mp4", "--model", "MODEL"], 1, "is of the kind 'encoder' and detects nothing"),
        (["ground", "one.mp4", "a person waves", "--model", "MODEL"], 1, "use a model with a trained head"),
        (["ground", "one.mp4", " ", "--model", "MODEL"], 2, "the sentence is empty"),
        (["boundaries", "one.mp4", "--model", "nowhere"], 1, "nowhere: not a model folder"),
        (["detect", "one.mp4"], 2, "Missing option '--model'"),
        (["detect", "none.mp4", "--model", "MODEL"], 2, "does not exist"),
        (["boundaries", "one.mp4", "--format", "html,pdf"], 2, "pdf: choose among json,csv,vtt,html"),
        (["boundaries", "one.mp4", "--model", "MODEL", "--features", "."], 1, "no features of one"),
    ],
)
def test_what_is_refused(arguments, code, message, model, videos, tmp_path, monkeypatch):
    monkeypatch.chdir(videos)
    arguments = [str(model) if argument == "MODEL" else argument for argument in arguments]
    done = run(*arguments, "--out", tmp_path)
    assert (done.exit_code, message in " ".join(done.output.split())) == (code, True), done.output


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_annotations_are_shown_beside(model, videos, tmp_path, kind):
    note = {"segment": [1.0, 2.0], "label": "moving noise"}
    record = {"subset": "validation", "duration": 12.0, "annotations": [note]}
    truth = tmp_path / f"truth.{kind}"
    rows = "video,start_s,end_s,label\none,1.0,2.0,moving noise\n"
    truth.write_text(rows if kind == "csv" else json.dumps({"database": {"one": record}}))
    asked = ("boundaries", videos / "one.mp4", "--model", model, "--out", tmp_path, "--annotations", truth)
    done = run(*asked)
    assert done.exit_code == 0, done.output
    page = (tmp_path / "one.html").read_text("utf-8")
    assert "Ground truth" in page
    assert "moving noise" in page
    truth.write_text(truth.read_text().replace("2.0", "0.5"))  # ends before it starts
    refused = run(*asked)
    assert (refused.exit_code, "moving" in refused.output or "0.5" in refused.output) == (1, True), refused.output


def test_a_model_of_the_registry(model, videos, tmp_path, monkeypatch):
    from bsp_platform.tracking import registry

    asked = []

    def model_folder(name, tracking_uri=None):
        asked.append((name, tracking_uri))
        if name != "models:/mine@best":
            raise ValueError(f"{name}: not in the registry")
        return model

    monkeypatch.setattr(registry, "model_folder", model_folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///of the environment")
    done = run("boundaries", videos / "two.mp4", "--model", "models:/mine@best", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    other = run(
        "boundaries", videos / "two.mp4", "--model", "models:/x@y", "--out", tmp_path, "--tracking-uri", "file:z"
    )
    assert (other.exit_code, "models:/x@y: not in the registry" in other.output) == (1, True)
    assert asked == [("models:/mine@best", "sqlite:///of the environment"), ("models:/x@y", "file:z")]
