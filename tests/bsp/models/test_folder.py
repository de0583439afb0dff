"""Model folders with encoders: features of a video exactly as extraction makes them; damage of every kind is named."""

import json
import shutil

import numpy as np
import pytest
import torch

import bsp
from bsp.encoders.build import ENCODERS, build_encoder
from bsp.errors import FileError
from bsp.features.store import extract_features
from bsp.features.streams import concatenate_streams
from bsp.localization.gtad.network import build_gtad
from bsp.localization.video_classifier import fit_video_classifier
from bsp.models import streams as streams_module
from bsp.models.folder import MODEL, load_encoder, load_model, write_model
from bsp.models.kept import as_float16
from bsp.models.model import Model
from bsp.models.streams import stream_of
from bsp.tasks.head import Kept
from make_videos import numbered_frames, write_video
from small_models import GTAD, NAMES, SIZE, small_encoder, small_stream


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("videos") / "a video.mp4"
    write_video(path, numbered_frames(150, width=64, height=48))  # 18 snippets: more than a batch of 16
    return path


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "encoder"
    model = Model(kind="encoder", streams=(small_stream(name="tiny"),), provenance={"licence": "Apache-2.0"})
    write_model(folder, model)
    return folder


@pytest.fixture
def copied(encoder_folder, tmp_path):
    return shutil.copytree(encoder_folder, tmp_path / "copied")


def rewrite(folder, change):
    """Change model.json as a program could, so that its own hash fits."""
    from bsp.models.folder import _own_hash

    document = json.loads((folder / MODEL).read_text("utf-8"))
    del document["sha256"]
    change(document)
    (folder / MODEL).write_text(json.dumps({**document, "sha256": _own_hash(document)}), "utf-8")


def test_half_of_the_bytes_for_weights_that_float16_has(tmp_path, video):
    exact = small_stream()
    with pytest.raises(ValueError, match="float16 does not; round them"):
        write_model(tmp_path / "exact", Model(kind="encoder", streams=(exact,)), float16=True)
    assert not (tmp_path / "exact").exists()
    encoder = small_encoder()
    encoder.load_state_dict(as_float16(encoder.state_dict()))
    model = Model(kind="encoder", streams=(stream_of(encoder, size_px=SIZE),))
    write_model(tmp_path / "half", model, float16=True)
    write_model(tmp_path / "whole", model)
    half, whole = ((tmp_path / of / "encoder0.safetensors").stat().st_size for of in ("half", "whole"))
    assert half < 0.55 * whole
    loaded = bsp.load_model(tmp_path / "half")
    assert {p.dtype for p in loaded.streams[0].encoder.parameters()} == {torch.float32}
    assert np.array_equal(loaded.features(video)[0], bsp.load_model(tmp_path / "whole").features(video)[0])


def test_features_are_those_of_extraction(encoder_folder, video):
    wanted, record = extract_features(small_encoder(), video, video_id="a video", size_px=SIZE)
    model = bsp.load_model(encoder_folder)
    seen = []
    feat_SD, info = model.features(video, progress=lambda done, total: seen.append((done, total)))
    assert np.array_equal(feat_SD, wanted)
    assert info == record
    assert seen == [(16, 18), (18, 18)]
    assert model.kind == "encoder"
    assert model.provenance == {"licence": "Apache-2.0"}
    assert model.describe()["stream 1"].startswith("tiny (tsm_r18w8, 32 px, a snippet every 8 frames, width 64")
    curve = model.boundaries(video)
    assert len(curve.curve) == 17
    with pytest.raises(ValueError, match="kind 'encoder'; it has features, boundaries, not detect"):
        model.detect(video)


def test_the_encoder_is_a_plain_module(encoder_folder):
    encoder, wanted = bsp.load_encoder(encoder_folder), small_encoder()
    assert isinstance(encoder, torch.nn.Module)
    assert not encoder.training
    clip = torch.rand((2, 8, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(encoder(clip), wanted(clip))
    with pytest.raises(ValueError, match="has 1 streams, none is number 1"):
        load_encoder(encoder_folder, stream=1)


@pytest.mark.parametrize("kind", ENCODERS, ids=lambda kind: kind.__name__)
def test_every_encoder_through_a_folder(kind, tmp_path):
    encoder = build_encoder(kind().for_snippets(), 0).eval()
    write_model(tmp_path / "m", Model(kind="encoder", streams=(stream_of(encoder, size_px=64),)))
    clip = torch.rand((1, encoder.clip_frames, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(load_encoder(tmp_path / "m")(clip), encoder(clip))


def test_streams_of_one_grid_decode_the_video_once(video, tmp_path, monkeypatch):
    passes = []

    class Counted(streams_module.VideoSnippets):
        def __iter__(self):
            passes.append(self.size_px)
            return super().__iter__()

    monkeypatch.setattr(streams_module, "VideoSnippets", Counted)
    smaller = stream_of(small_encoder(1), size_px=16)
    model = Model(kind="encoder", streams=(small_stream(0), small_stream(1), smaller), head_streams=2)
    write_model(tmp_path / "m", model)
    feat_SD, info = load_model(tmp_path / "m").features(video)
    assert passes == [SIZE]
    parts = [extract_features(small_encoder(seed), video, video_id="a video", size_px=SIZE) for seed in (0, 1)]
    wanted, record = concatenate_streams(parts)
    assert np.array_equal(feat_SD, wanted)
    assert info == record
    passes.clear()
    found = streams_module.extract_streams(model.streams, video)
    assert passes == [SIZE, 16]
    assert np.array_equal(found[2][0], extract_features(small_encoder(1), video, video_id="v", size_px=16)[0])


def test_classes_from_another_encoder_than_the_heads(video, tmp_path):
    """As in the tables: class scores come from the vanilla encoder, proposals from the row's."""
    from dataclasses import replace

    settings = replace(GTAD, feature_width=64)
    kept = Kept(settings=settings, tensors=build_gtad(settings, 0).state_dict(), class_names=NAMES)
    own, vanilla = small_stream(0, "own"), small_stream(1, "vanilla")
    feats = [np.random.default_rng(k).standard_normal((5, 64)).astype(np.float32) for k in range(6)]
    classifier = fit_video_classifier(feats, np.array([0, 1] * 3), 2)
    model = Model(kind="gtad", streams=(own, vanilla), kept=kept, classifier=classifier, classifier_stream=1)
    write_model(tmp_path / "m", model)
    found = load_model(tmp_path / "m").detect(video)
    (own_part, vanilla_part) = (extract_features(s.encoder, video, video_id="v", size_px=SIZE) for s in model.streams)
    wanted = model.detect_features(*own_part, for_classes=vanilla_part)
    assert [(s.label, s.start_s, s.end_s) for s in found] == [(s.label, s.start_s, s.end_s) for s in wanted]
    np.testing.assert_allclose([s.score for s in found], [s.score for s in wanted], rtol=1e-6)
    best = found[0].label
    assert best == NAMES[classifier.scores([vanilla_part[0]])[0].argmax()]
    with pytest.raises(ValueError, match=r"features of another encoder \(vanilla"):
        model.detect_features(*own_part)
    with pytest.raises(ValueError, match="encoder_hash of the features"):
        model.detect_features(*own_part, for_classes=own_part)


def test_a_folder_is_not_overwritten(copied):
    with pytest.raises(FileExistsError, match="copied: is there already"):
        write_model(copied, load_model(copied))


def test_a_write_that_fails_leaves_nothing(tmp_path):
    model = Model(kind="encoder", streams=(small_stream(),), provenance={"rate": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        write_model(tmp_path / "m", model)
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_byte_a_short_and_a_lost_file_are_named(copied):
    path = copied / "encoder0.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    for load in (load_model, load_encoder):
        with pytest.raises(FileError, match=r"encoder0\.safetensors: is .*changed or damaged: copy the folder again"):
            load(copied)
    path.write_bytes(content[:-1])
    with pytest.raises(FileError, match=r"encoder0\.safetensors: is \{'bytes'"):
        load_model(copied)
    path.unlink()
    with pytest.raises(FileError, match=r"encoder0\.safetensors: missing"):
        load_model(copied)


def test_a_changed_model_json_is_named(copied):
    path = copied / MODEL
    text = path.read_text("utf-8")
    path.write_text(text.replace('"size_px": 32', '"size_px": 31'), "utf-8")
    with pytest.raises(FileError, match=r"model\.json: sha256 is .*: it was changed"):
        load_model(copied)
    path.write_text(text[:-9], "utf-8")
    with pytest.raises(FileError, match=r"model\.json: malformed JSON"):
        load_model(copied)
    path.unlink()
    with pytest.raises(FileError, match=r"copied: not a model folder, it has no model\.json"):
        load_model(copied)


CHANGES = [
    (lambda d: d.update(format=2), r"format is 2, this program reads 1"),
    (lambda d: d.update(kind="tsm"), r"kind is 'tsm', known are encoder, gtad"),
    (lambda d: d.update(kind="gtad"), r"parts do not fit together \(a model of the kind 'gtad' needs a head"),
    (lambda d: d.pop("streams"), r"streams cannot be None"),
    (lambda d: d.update(streams=[]), r"parts do not fit together \(1 streams of the head, 0 in all"),
    (lambda d: d.update(head={}), r"needs the file 'head\.safetensors', which it does not list"),
    (lambda d: d["streams"][0].update(file="../encoder0.safetensors"), r"contains a separator of folders"),
    (lambda d: d["files"].update({"../x": {}}), r"contains a separator of folders"),
    (lambda d: d["streams"][0].update(size_px="32"), r"streams\[0\]: fields missing or of a wrong type"),
    (lambda d: d["streams"][0].update(code_version=0), r"made by version 0 of the extraction, this program has 1"),
    (lambda d: d["streams"][0].update(precision="int8"), r"precision is 'int8'"),
    (lambda d: d["streams"][0].update(mean=[0.0, 0.0, 0.0]), r"mean is \(0\.0, 0\.0, 0\.0\), of the encoder \(0\.4"),
    (lambda d: d["streams"][0]["settings"].update(depth=34), r"encoder0\.safetensors: not the weights of tsm_r34w8"),
    (lambda d: d["streams"][0]["settings"].update(shift_div=4), r"encoder_hash is .*gives other features than it did"),
    (
        lambda d: d["streams"][0]["settings"].update({"class": "GTADSettings"}),
        r"class is 'GTADSettings', known are Enc",
    ),
]


@pytest.mark.parametrize(("change", "said"), CHANGES, ids=[said[:30] for _, said in CHANGES])
def test_a_model_json_of_others_is_refused_by_field(copied, change, said):
    rewrite(copied, change)
    with pytest.raises(FileError, match=said):
        load_model(copied)
