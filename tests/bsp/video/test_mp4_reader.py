"""The mp4 reader beside its PyAV fallback, and its index beside FFmpeg's."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import av
import numpy as np
import pytest

from bsp.errors import VideoOpenError
from bsp.video import mp4_reader
from bsp.video.mp4_index import NotIndexed, read_mp4_index
from bsp.video.mp4_reader import Mp4Reader
from bsp.video.read import VideoDecodeError, iter_frames, probe, read_frames
from make_videos import numbered_frames, read_numbers, write_audio, write_rotated, write_video, x264

FRAMES = 60
KINDS = {
    "pyramid.mp4": x264("keyint=250:bframes=5:b-pyramid=normal:b-adapt=0"),
    "short_groups.mp4": x264("keyint=8:bframes=0"),
    "all_key.mp4": x264("keyint=1"),
    "front.mov": x264("keyint=20:bframes=2") | {"container": {"movflags": "faststart"}},
}


def read_index(path: Path):
    file = os.open(path, os.O_RDONLY)
    try:
        return read_mp4_index(file)
    finally:
        os.close(file)


@pytest.mark.parametrize("name", KINDS)
def test_index_says_what_ffmpegs_demuxer_says(tmp_path, name):
    path = write_video(tmp_path / name, numbered_frames(FRAMES), **KINDS[name])
    index = read_index(path)
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        setup = container.streams.video[0].codec_context.extradata
    data = path.read_bytes()
    assert index.decoder_setup == setup
    assert [data[at : at + size] for at, size in zip(index.offsets, index.sizes)] == [bytes(p) for p in packets]
    assert index.keys.tolist() == [place for place, p in enumerate(packets) if p.is_keyframe]
    shown = sorted(p.pts for p in packets)
    assert index.display.tolist() == [shown.index(p.pts) for p in packets]
    assert index.reordered == (name in ("pyramid.mp4", "front.mov"))


@pytest.mark.parametrize("name", KINDS)
def test_pixels_equal_pyavs(tmp_path, name):
    path = write_video(tmp_path / name, numbered_frames(FRAMES), **KINDS[name])
    assert probe(path).reader == "mp4"
    plain = read_frames(path, np.arange(FRAMES), reader="pyav")
    generator = np.random.Generator(np.random.Philox(11))
    for count in (1, 2, 8, 8, 8, 30):
        indices = generator.integers(0, FRAMES, count)
        assert np.array_equal(read_frames(path, indices, reader="mp4"), plain[indices])
    assert np.array_equal(read_frames(path, np.arange(FRAMES), reader="mp4"), plain)
    assert np.array_equal(np.concatenate(list(iter_frames(path, chunk_frames=7, reader="mp4"))), plain)


def decoded_packets(path: Path, indices: list[int], monkeypatch) -> int:
    packets = []
    monkeypatch.setattr(mp4_reader.av, "Packet", lambda data: packets.append(data) or av.packet.Packet(data))
    with monkeypatch.context() as only_here:
        only_here.setattr(mp4_reader, "PyavReader", lambda *_: pytest.fail("used the PyAV fallback"))
        assert read_numbers(read_frames(path, indices, reader="mp4")) == indices
    return len(packets)


def test_only_needed_packets_are_decoded(tmp_path, monkeypatch):
    groups = write_video(tmp_path / "groups.mp4", numbered_frames(FRAMES), **x264("keyint=8:bframes=0"))
    assert decoded_packets(groups, [20], monkeypatch) == 5  # 16 .. 20
    assert decoded_packets(groups, [6, 7, 8, 9], monkeypatch) == 10  # 0 .. 9
    assert decoded_packets(groups, [1, 50], monkeypatch) == 2 + 3  # 0 .. 1 and 48 .. 50
    fixed = "keyint=250:bframes=3:b-adapt=0:b-pyramid=none:scenecut=0"  # I bbb P bbb P: a quarter is needed
    pictures = write_video(tmp_path / "b.mp4", numbered_frames(FRAMES), **x264(fixed))
    assert decoded_packets(pictures, [40], monkeypatch) == 11  # 0, 4, .. 40
    assert decoded_packets(pictures, [38], monkeypatch) == 12  # the same and the picture itself


def test_damage_is_handed_to_the_pyav_fallback(tmp_path):
    path = write_video(tmp_path / "in.mp4", numbered_frames(FRAMES), **x264("keyint=8:bframes=0"))
    index = read_index(path)
    data = bytearray(path.read_bytes())
    at = int(index.offsets[17])
    data[at : at + int(index.sizes[17])] = b"\xff" * int(index.sizes[17])
    path.write_bytes(data)
    assert read_numbers(read_frames(path, [3, 25], reader="mp4")) == [3, 25]  # other groups
    for indices in ([18], [17]):
        outcomes = []
        for reader in ("mp4", "pyav"):
            try:
                outcomes.append(read_frames(path, indices, reader=reader).tobytes())
            except VideoDecodeError as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1]


def test_what_it_does_not_understand_is_left_to_others(tmp_path):
    frames = numbered_frames(12)
    fragments = {"container": {"movflags": "frag_keyframe+empty_moov"}}
    others = {
        "an mp4 file in fragments": write_video(tmp_path / "f.mp4", frames, **x264("keyint=6"), **fragments),
        "not of H.264": write_video(tmp_path / "m.mp4", frames, codec="mpeg4"),
        "no mp4 index": write_video(tmp_path / "a.mkv", frames, **x264("keyint=6")),
        "0 video tracks": write_audio(tmp_path / "audio.mp4"),
    }
    for words, path in others.items():
        with pytest.raises(NotIndexed, match=words):
            read_index(path)
        if path.name != "audio.mp4":
            assert probe(path).reader != "mp4"
            with pytest.raises(VideoOpenError, match=rf"{words}.*reader 'pyav'"):
                Mp4Reader(str(path), threading.Event())
    turned = write_rotated(tmp_path / "turned.mp4", frames, 2)
    assert probe(turned).reader != "mp4"


def test_damaged_indices_are_refused_not_believed(tmp_path):
    path = write_video(tmp_path / "in.mp4", numbered_frames(20), **x264("keyint=8:bframes=2"))
    whole = path.read_bytes()
    start = whole.index(b"moov") - 4
    good = read_index(path)
    changed = 0
    for seed in range(150):
        data = bytearray(whole)
        generator = np.random.Generator(np.random.Philox(seed))
        for at in generator.integers(start, len(data), 3):
            data[at] = generator.integers(256)
        path.write_bytes(data)
        try:
            index = read_index(path)  # only NotIndexed may be raised, in bounded memory
        except NotIndexed:
            changed += 1
            continue
        assert len(index.sizes) == len(index.offsets) == len(index.display) == len(good.sizes)
    assert changed > 10
