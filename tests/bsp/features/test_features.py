"""Snippet grid, extraction, and the feature store."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import make_videos
from bsp.clips.augment import centre_clip
from bsp.clips.normalisation import normalise
from bsp.encoders.build import build_encoder
from bsp.encoders.contract import Encoder
from bsp.encoders.tsm import EncoderSettings
from bsp.errors import VideoDecodeError, VideoOpenError
from bsp.features.store import (
    FeatureInfo,
    encoder_hash,
    extract_features,
    is_complete,
    iter_frames,
    pack_h5,
    read_features,
    read_features_h5,
    snippet_count,
    write_features,
)
from bsp.video.write import write_mp4

TINY = EncoderSettings(width=8)


class Colour(Encoder):
    """Per-frame features = mean colour of the frame in [0, 255], which a test can compute by hand."""

    def forward(self, clip_BTCHW: torch.Tensor) -> torch.Tensor:
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        return (clip_BTCHW.mean(dim=(3, 4)) * std + mean) * 255


def grey_video(path: Path, levels: list[int], size: int = 32) -> Path:
    """Frame t is plain grey of brightness levels[t]."""
    frames = np.broadcast_to(np.array(levels, np.uint8)[:, None, None, None], (len(levels), size, size, 3))
    write_mp4(path, np.ascontiguousarray(frames), fps=10, crf=1)
    return path


def noise_video(path: Path, frames: int, size: int = 32) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (frames, 4, 4, 3), np.uint8)
    write_mp4(path, noise.repeat(size // 4, 1).repeat(size // 4, 2), fps=10)
    return path


def made(video_id: str = "a", snippets: int = 5, width: int = 4) -> tuple[np.ndarray, FeatureInfo]:
    feat_SD = np.random.default_rng(len(video_id)).random((snippets, width), np.float32)
    info = FeatureInfo(
        video_id=video_id,
        frames=8 * snippets,
        fps=29.97,
        snippet_frames=8,
        stride_frames=8,
        offset_frames=0,
        size_px=64,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        feature_width=width,
        snippets=snippets,
        encoder_hash="ab" * 32,
        code_version=1,
    )
    return feat_SD, info


# --- the grid ---


@pytest.mark.parametrize(("frames", "snippets"), [(1, 1), (7, 1), (8, 1), (15, 1), (16, 2), (803, 100)])
def test_snippet_count(frames, snippets):
    assert snippet_count(frames, 8) == snippets


def test_no_frames_no_snippets():
    with pytest.raises(ValueError, match="not 0"):
        snippet_count(0, 8)


# --- extraction ---


def test_each_feature_is_the_mean_of_its_eight_frames(tmp_path):
    levels = [20 + 9 * t for t in range(21)]  # two snippets, and five frames that belong to none
    path = grey_video(tmp_path / "v.mp4", levels)
    feat_SD, info = extract_features(Colour(TINY), path, video_id="v", size_px=32)
    expected = [np.mean(levels[:8]), np.mean(levels[8:16])]
    assert feat_SD.dtype == np.float32
    np.testing.assert_allclose(feat_SD, np.array(expected)[:, None].repeat(3, 1), atol=2.5)
    assert (info.frames, info.snippets, info.feature_width, info.stride_frames) == (21, 2, 3, 8)
    assert (info.video_id, info.size_px, info.fps, info.offset_frames) == ("v", 32, 10.0, 0)


def test_short_video_repeats_its_last_frame(tmp_path):
    levels = [40, 80, 200]
    path = grey_video(tmp_path / "v.mp4", levels)
    feat_SD, info = extract_features(Colour(TINY), path, video_id="v", size_px=32)
    assert feat_SD.shape == (1, 3)
    np.testing.assert_allclose(feat_SD, (40 + 80 + 6 * 200) / 8, atol=2.5)
    assert (info.frames, info.snippets) == (3, 1)


def test_a_still_video_has_equal_features(tmp_path):
    path = grey_video(tmp_path / "v.mp4", [128] * 40)
    encoder = build_encoder(TINY, 0)
    feat_SD, _ = extract_features(encoder, path, video_id="v", size_px=32, batch_snippets=5)
    assert feat_SD.shape == (5, 64)
    np.testing.assert_allclose(feat_SD, feat_SD[:1].repeat(5, 0), atol=1e-4)
    assert feat_SD.any()


@pytest.mark.parametrize("batch_snippets", [1, 2, 16])
def test_extraction_equals_one_forward_pass(batch_snippets, tmp_path):
    """Against decoding everything and one forward pass over all snippets."""
    from bsp.video.read import read_frames

    path = noise_video(tmp_path / "v.mp4", 45, size=64)
    encoder = build_encoder(TINY, 1)
    encoder.train()  # extraction must switch to evaluation, or batch norm would mix the snippets
    sizes: list[int] = []
    encoder.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    feat_SD, info = extract_features(encoder, path, video_id="v", size_px=32, batch_snippets=batch_snippets)
    assert sizes == {1: [1] * 5, 2: [2, 2, 1], 16: [5]}[batch_snippets]
    frames_THWC = centre_clip(read_frames(path, np.arange(40)), 32)
    with torch.no_grad():
        clip = normalise(torch.from_numpy(frames_THWC).view(5, 8, 32, 32, 3))
        expected = encoder(clip).mean(1).numpy()
    np.testing.assert_allclose(feat_SD, expected, atol=1e-4, rtol=1e-4)
    assert not np.allclose(feat_SD[0], feat_SD[1], atol=1e-3)
    assert info.encoder_hash == encoder_hash(encoder)


def test_extraction_is_repeatable_and_leaves_training_possible(tmp_path):
    path = noise_video(tmp_path / "v.mp4", 24)
    encoder = build_encoder(TINY, 2)
    first, _ = extract_features(encoder, path, video_id="v", size_px=32)
    second, _ = extract_features(encoder, path, video_id="v", size_px=32)
    np.testing.assert_array_equal(first, second)
    clip = normalise(torch.zeros(1, 8, 32, 32, 3, dtype=torch.uint8))
    encoder.train()(clip).sum().backward()
    assert encoder.conv1.weight.grad is not None


def test_memory_is_bounded_by_the_batch(tmp_path, monkeypatch):
    """Frames are taken from the decoder snippet by snippet, at most one batch ahead."""
    ahead, most = 0, 0
    plain = iter_frames

    def counted(*args, **kwargs):
        nonlocal ahead, most
        for chunk in plain(*args, **kwargs):
            ahead += len(chunk)
            most = max(most, ahead)
            yield chunk

    class Consumer(Colour):
        def forward(self, clip_BTCHW):
            nonlocal ahead
            ahead = 0
            return super().forward(clip_BTCHW)

    monkeypatch.setattr("bsp.features.store.iter_frames", counted)
    path = grey_video(tmp_path / "v.mp4", [100] * 100)
    feat_SD, _ = extract_features(Consumer(TINY), path, video_id="v", size_px=32, batch_snippets=3)
    assert len(feat_SD) == 12
    assert most == 24


def test_broken_videos_are_named(tmp_path, monkeypatch):
    with pytest.raises(VideoOpenError, match=r"absent\.mp4"):
        extract_features(Colour(TINY), tmp_path / "absent.mp4", video_id="v", size_px=32)
    path = grey_video(tmp_path / "v.mp4", [100] * 16)
    plain = iter_frames
    monkeypatch.setattr("bsp.features.store.iter_frames", lambda *a, **k: list(plain(*a, **k))[:1])
    with pytest.raises(VideoDecodeError, match="8 frames were decoded of 16"):
        extract_features(Colour(TINY), path, video_id="v", size_px=32)


# --- the hash of the weights ---


def test_damaged_frames_are_in_the_record_and_too_many_break_the_video(tmp_path):
    path = make_videos.write_video(tmp_path / "v.mp4", make_videos.numbered_frames(30), options={"bf": "0", "g": "10"})
    assert extract_features(Colour(TINY), path, video_id="v", size_px=32)[1].damaged_frames == 0
    make_videos.spoil_slice(path, 12)
    make_videos.spoil_slice(path, 27)  # after the last whole snippet
    assert extract_features(Colour(TINY), path, video_id="v", size_px=32)[1].damaged_frames == 1
    for frame in (3, 17):
        make_videos.spoil_slice(path, frame)
    with pytest.raises(VideoDecodeError, match=r"v\.mp4: 4 of 30 frames are damaged, more than 10%"):
        extract_features(Colour(TINY), path, video_id="v", size_px=32)


def test_encoder_hash():
    encoder = build_encoder(TINY, 0)
    value = encoder_hash(encoder)
    assert len(value) == 64
    assert encoder_hash(build_encoder(TINY, 0)) == value
    assert encoder_hash(encoder.to(memory_format=torch.contiguous_format)) == value
    encoder.bn1.num_batches_tracked += 1
    assert encoder_hash(encoder) == value
    assert encoder_hash(build_encoder(TINY, 1)) != value
    assert encoder_hash(build_encoder(replace(TINY, shift=False), 0)) != value
    encoder.bn1.running_mean[0] += 1e-3
    assert encoder_hash(encoder) != value


# --- the store ---


def test_round_trip(tmp_path):
    feat_SD, info = made()
    assert not is_complete(tmp_path, "a")
    written = write_features(tmp_path, "a", feat_SD, info)
    assert is_complete(tmp_path, "a")
    read_SD, read_info = read_features(tmp_path, "a", {"stride_frames": 8, "feature_width": 4})
    np.testing.assert_array_equal(read_SD, feat_SD)
    assert read_info == written
    hashes = {name: getattr(read_info, name) for name in ("sha256", "npy_bytes", "record_sha256")}
    assert read_info == replace(info, **hashes)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.npy"]


def test_files_are_plain(tmp_path):
    """Any program can read them: NumPy's format, JSON, and the sha256 of the numbers' bytes."""
    feat_SD, info = made()
    write_features(tmp_path, "a", feat_SD, info)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), feat_SD)
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["sha256"] == hashlib.sha256(feat_SD.tobytes()).hexdigest()
    assert record["npy_bytes"] == (tmp_path / "a.npy").stat().st_size
    assert record["mean"] == [0.485, 0.456, 0.406]


@pytest.mark.parametrize(
    ("expect", "message"),
    [
        ({"stride_frames": 16}, "stride_frames is 8 but 16 is expected; extract again with that stride"),
        ({"feature_width": 512}, "feature_width is 4 but 512 is expected.*change the head's"),
        ({"encoder_hash": "cd"}, "encoder_hash is 'abab.*' but 'cd' is expected.*other weights"),
        ({"size_px": 224}, "size_px is 64 but 224 is expected; extract again"),
        ({"mean": [0.5, 0.5, 0.5]}, "mean is .*0.485"),
    ],
)
@pytest.mark.parametrize("store", ["npy", "h5"])
def test_mismatch_is_refused(expect, message, store, tmp_path):
    write_features(tmp_path, "a", *made())
    pack_h5(tmp_path, ["a"], tmp_path / "f.h5")
    read, place = (read_features, tmp_path) if store == "npy" else (read_features_h5, tmp_path / "f.h5")
    with pytest.raises(ValueError, match=message):
        read(place, "a", expect)


def test_matching_expectations_pass(tmp_path):
    write_features(tmp_path, "a", *made())
    read_features(tmp_path, "a", {"mean": [0.485, 0.456, 0.406], "encoder_hash": "ab" * 32})
    with pytest.raises(ValueError, match="stride_px"):
        read_features(tmp_path, "a", {"stride_px": 8})


def test_truncated_npy_is_refused(tmp_path):
    write_features(tmp_path, "a", *made())
    npy = tmp_path / "a.npy"
    npy.write_bytes(npy.read_bytes()[:-4])
    assert not is_complete(tmp_path, "a")
    with pytest.raises(ValueError, match=r"a\.npy: 204 bytes instead of 208; delete it and extract again"):
        read_features(tmp_path, "a")


def test_changed_npy_is_refused(tmp_path):
    write_features(tmp_path, "a", *made())
    data = bytearray((tmp_path / "a.npy").read_bytes())
    data[-1] ^= 1
    (tmp_path / "a.npy").write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"a\.npy: sha256"):
        read_features(tmp_path, "a")


@pytest.mark.parametrize("text", ["", '{"video_id": "a"}', "[]", '{"video'])
def test_damaged_sidecar_is_refused(text, tmp_path):
    write_features(tmp_path, "a", *made())
    (tmp_path / "a.json").write_text(text)
    assert not is_complete(tmp_path, "a")
    with pytest.raises(ValueError, match=r"a\.json: "):
        read_features(tmp_path, "a")


@pytest.mark.parametrize("gone", ["a.npy", "a.json"])
def test_half_a_pair_is_incomplete(gone, tmp_path):
    write_features(tmp_path, "a", *made())
    (tmp_path / gone).unlink()
    assert not is_complete(tmp_path, "a")
    with pytest.raises(FileNotFoundError, match="extract them first"):
        read_features(tmp_path, "a")


@pytest.mark.parametrize("fails", [1, 2])
def test_interrupted_write_is_incomplete(fails, tmp_path, monkeypatch):
    """A write that stops at the first or the second file, over older features of the same video."""
    write_features(tmp_path, "a", *made())
    calls = 0

    def stop(_):
        nonlocal calls
        calls += 1
        if calls == fails:
            raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(OSError, match="disk full"):
        write_features(tmp_path, "a", *made(snippets=7)[:1], made(snippets=7)[1])
    assert not is_complete(tmp_path, "a")
    assert not list(tmp_path.glob("*.partial")) + list(tmp_path.glob(".*partial"))


def test_write_refuses_what_cannot_be_right(tmp_path):
    feat_SD, info = made()
    with pytest.raises(ValueError, match=r"features \[4, 4\] do not belong.*\[5, 4\]"):
        write_features(tmp_path, "a", feat_SD[:4], info)
    with pytest.raises(ValueError, match="record of a,"):
        write_features(tmp_path, "b", feat_SD, info)
    broken = feat_SD.copy()
    broken[1, 2] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        write_features(tmp_path, "a", broken, info)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("video_id", ["", "../a", "a/b", ".hidden", "a\0"])
def test_ids_that_leave_the_folder_are_refused(video_id, tmp_path):
    with pytest.raises(ValueError, match="file name"):
        is_complete(tmp_path, video_id)


def test_h5_holds_the_same(tmp_path):
    videos = {video_id: made(video_id, snippets) for video_id, snippets in (("v_-x.1", 3), ("v_b", 6))}
    for video_id, (feat_SD, info) in videos.items():
        write_features(tmp_path, video_id, feat_SD, info)
    path = pack_h5(tmp_path, list(videos), tmp_path / "all.h5")
    with h5py.File(path) as file:  # as the published heads read it
        assert sorted(file) == sorted(videos)
        np.testing.assert_array_equal(file["v_b"][:], videos["v_b"][0])
        assert file["v_b"].attrs["stride_frames"] == 8
        assert file["v_b"].attrs["encoder_hash"] == "ab" * 32
    for video_id in videos:
        from_npy, from_h5 = read_features(tmp_path, video_id), read_features_h5(path, video_id)
        np.testing.assert_array_equal(from_npy[0], from_h5[0])
        assert from_npy[1] == from_h5[1]
    with pytest.raises(KeyError, match="v_c"):
        read_features_h5(path, "v_c")


def test_damaged_h5_is_refused(tmp_path):
    write_features(tmp_path, "a", *made())
    path = pack_h5(tmp_path, ["a"], tmp_path / "f.h5")
    with h5py.File(path, "r+") as file:
        file["a"][0, 0] += 1
    with pytest.raises(ValueError, match=r"f\.h5:a: sha256"):
        read_features_h5(path, "a")
    with h5py.File(path, "r+") as file:
        del file["a"].attrs["fps"]
    with pytest.raises(ValueError, match=r"f\.h5:a: .*fps"):
        read_features_h5(path, "a")


@pytest.mark.parametrize(("field", "value"), [("encoder_hash", "cd" * 32), ("precision", "bfloat16"), ("size_px", 9)])
def test_pack_refuses_a_mixture(field, value, tmp_path):
    write_features(tmp_path, "a", *made("a"))
    feat_SD, info = made("bb")
    write_features(tmp_path, "bb", feat_SD, replace(info, **{field: value}))
    with pytest.raises(ValueError, match=rf"bb\.npy: {field}"):
        pack_h5(tmp_path, ["a", "bb"], tmp_path / "f.h5")
    with pytest.raises(ValueError, match="given twice"):
        pack_h5(tmp_path, ["a", "a"], tmp_path / "f.h5")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.npy", "bb.json", "bb.npy"]
