"""A finished row leaves a model folder: features and detections of a video as its stages have them."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

import bsp
from bsp.features.store import read_features
from bsp.tasks.detection import segments_of
from bsp_platform.plan.rows import RowRecipes
from bsp_platform.sweep.example_page import write_example
from bsp_platform.sweep.models import BestModel, best_model, licence
from row_without_ray import SmallRow, row  # noqa: F401 (a fixture)

pytestmark = pytest.mark.long


def test_a_row_through_its_model_folder(row, tmp_path):  # noqa: F811
    storage, out = tmp_path / "storage", tmp_path / "models"
    assert row.write_models(storage, out).folders == {}  # nothing is finished
    row.run(storage)
    done = row.write_models(storage, out)
    assert (done.made, done.notes) == (1, ())
    path = done.folders["random", 0, "gtad"]
    assert path == out / "random-seed0"
    model = bsp.load_model(path)
    assert model.provenance["data"] == {"name": "activitynet", "videos": "f", "annotations": "f"}
    assert model.provenance["licence"].startswith("Apache-2.0")
    assert model.streams[0].provenance["recipe"]["recipe"] == "EncoderRecipe"
    head = stage(storage, "heads")
    assert model.provenance["stages"]["head recipe"] == head.name
    features = stage(storage, "features")
    results = json.loads((head / "detections.json").read_text("utf-8"))["results"]
    assert results
    videos = {video.video_id: video for video in row.data["activitynet"].videos}
    for video_id, rows in results.items():
        wanted, record = read_features(features, video_id)
        feat_SD, info = model.features(videos[video_id].path)
        assert np.array_equal(feat_SD, wanted)
        assert replace(record, sha256="", npy_bytes=0, record_sha256="") == replace(info, video_id=video_id)
        found = model.detect_features(feat_SD, info, duration_s=videos[video_id].duration_s)
        assert [s.label for s in found] == [s.label for s in segments_of(rows)]
        numbers = [[(s.start_s, s.end_s, s.score) for s in some] for some in (found, segments_of(rows))]
        np.testing.assert_allclose(*numbers, rtol=1e-5, atol=1e-9)
        assert len(model.detect(videos[video_id].path)) == len(found)

    # the page of a video: of the validation subset, its actions beside what is found; made once for a model
    assert best_model(["mAP@0.50", "mAP_avg"], {("S", 0): {"mAP_avg": 9.0}, ("random", 0): {"mAP_avg": 1.0}},
                      done.folders) == BestModel(("random", 0), "gtad", path, "mAP_avg")  # fmt: skip
    page = write_example(path, row.data["activitynet"], "validation", tmp_path)
    shown = max((v for v in videos.values() if v.subset == "validation"), key=lambda video: len(video.instances))
    text = page.read_text("utf-8")
    assert shown.video_id in text
    assert all(instance.label in text for instance in shown.instances)
    made = page.stat().st_mtime_ns
    write_example(path, row.data["activitynet"], "validation", tmp_path)
    assert page.stat().st_mtime_ns == made
    broken = replace(shown, path=str(tmp_path / "absent.mp4"))
    lost = replace(row.data["activitynet"], videos=(broken,))
    assert write_example(path, lost, "validation", tmp_path / "other") is None

    # the same again is left alone; what is damaged or of other weights is replaced
    before = (path / "model.json").stat()
    assert row.write_models(storage, out).made == 0
    assert (path / "model.json").stat() == before
    (path / "head.safetensors").write_bytes(b"short")
    assert row.write_models(storage, out).made == 1
    bsp.load_model(path)
    text = (path / "model.json").read_text("utf-8")
    (path / "model.json").write_text(text.replace(head.name, "0" * 16), "utf-8")
    assert row.write_models(storage, out).made == 1

    # equal files are one on disk
    copied = shutil.copytree(path, out / "other")
    shutil.rmtree(path)
    row.write_models(storage, out)
    assert (path / "encoder0.safetensors").samefile(copied / "encoder0.safetensors")
    bsp.load_model(path)

    # a folder of the user's is not touched
    shutil.rmtree(path)
    path.mkdir()
    (path / "mine.txt").touch()
    done = row.write_models(storage, out)
    assert done.folders == {}
    assert "holds other things" in done.notes[0]


def test_classes_from_the_features_of_another_encoder(row, tmp_path):  # noqa: F811
    """As in the tables, where the vanilla encoder of seed 0 gives all rows their classes."""
    (head,) = row.recipes.heads.values()
    other = replace(head.streams[0], encoder=replace(head.streams[0].encoder, seed=1))
    head = replace(head, class_scores=replace(head.class_scores, features=other))
    row.recipes = RowRecipes(encoders=row.recipes.encoders, heads={"gtad": head})
    row.run(tmp_path / "storage")
    model = bsp.load_model(row.write_models(tmp_path / "storage", tmp_path / "models").folders["random", 0, "gtad"])
    assert (len(model.streams), model.head_streams, model.classifier_stream) == (2, 1, 1)
    results = json.loads((stage(tmp_path / "storage", "heads") / "detections.json").read_text("utf-8"))["results"]
    videos = {video.video_id: video for video in row.data["activitynet"].videos}
    video_id, rows = next(iter(results.items()))
    found, wanted = model.detect(videos[video_id].path), segments_of(rows)
    assert [s.label for s in found] == [s.label for s in wanted]
    numbers = [[(s.start_s, s.end_s, s.score) for s in some] for some in (found, wanted)]
    np.testing.assert_allclose(*numbers, rtol=1e-3)  # the annotations round the duration


def test_stages_of_an_earlier_version(row, tmp_path):  # noqa: F811
    """Their heads kept no weights: results stay valid, and a line says how a model comes to be."""
    storage, out = tmp_path / "storage", tmp_path / "models"
    scores = row.run(storage)
    forget(storage, "class_scores", "classifier.safetensors")
    done = row.write_models(storage, out)
    assert done.notes == ("random-seed0: detections without a class, as there is no classifier in the storage",)
    assert bsp.load_model(done.folders["random", 0, "gtad"]).class_agnostic
    forget(storage, "heads", "head.safetensors")
    assert row.run(storage) == scores
    assert row.made == []
    done = row.write_models(storage, out)
    assert (done.folders, done.made) == ({}, 0)
    assert done.notes == (
        "no model of random seed 0, gtad: an earlier version trained it and kept no weights of its head; --fresh makes "
        "its stages anew, and the model with them",
    )


def stage(storage, kind):
    (manifest,) = (storage / kind).glob("*/manifest.json")
    return manifest.parent


def forget(storage, kind, name):
    """As if the stage had been made without this file."""
    from bsp_platform.storage import manifests

    folder = stage(storage, kind)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    del manifest["check"], manifest["files"][name]
    path.write_text(json.dumps({**manifest, "check": manifests._sha256_of(manifest)}), "utf-8")
    (folder / name).unlink()


def test_licences(row):  # noqa: F811
    (head,) = row.recipes.heads.values()
    assert licence(head, "activitynet", rendered=True).startswith("Apache-2.0")
    assert licence(head, "activitynet", rendered=False).endswith("whose terms hold")
    stream = head.streams[0]
    given = replace(stream, encoder=replace(stream.encoder, weights="a" * 64))
    assert "the weights aaaaaaaaaaaa," in licence(replace(head, features=given), "activitynet", rendered=False)
