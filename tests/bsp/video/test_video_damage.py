"""Damaged and disguised videos: no other frames without an error, damage counted, no other file opened."""

from __future__ import annotations

import dataclasses
import shutil
import threading
from pathlib import Path

import av
import numpy as np
import pytest

from bsp.clips.augment import AugmentSettings
from bsp.clips.frame_cache import FrameCache
from bsp.clips.plan import PAPER_KINDS, ClipSettings, plan_clip
from bsp.datasets.kinetics import load_class_folders
from bsp.errors import VideoDecodeError, VideoError, VideoOpenError
from bsp.video.read import READERS, PyavReader, damage_line, iter_frames, probe, read_frames, too_damaged
from bsp_platform.work.streaming import ClipStream, make_clips
from make_videos import numbered_frames, read_numbers, spoil_slice, write_video

X264 = {"options": {"preset": "veryfast", "x264-params": "scenecut=0:keyint=12:bframes=3"}}
VP9 = {"codec": "libvpx-vp9", "options": {"g": "12", "cpu-used": "8", "deadline": "realtime", "b": "300k"}}
MPEG4 = {"codec": "mpeg4", "options": {"g": "12", "b": "500k"}}
FRAMES = 60


# ---- one flipped bit in what is not pictures: the index of mp4, cues of Matroska, times


def structure(path: Path) -> np.ndarray:
    """Places of the bytes of a file that belong to no packet of its video."""
    data = path.read_bytes()
    outside = np.ones(len(data), bool)
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            if packet.size:
                at = data.find(bytes(packet))
                outside[at : at + packet.size] = False
    return np.flatnonzero(outside)


def sequential(path: Path) -> list[tuple[int, bool, np.ndarray]]:
    """The oracle: every frame that plain decoding from the start gives, (time in ticks, flagged, RGB)."""
    frames = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        try:
            for packet in container.demux(stream):
                try:
                    for frame in packet.decode():
                        frames.append((frame.pts, frame.is_corrupt, frame.to_ndarray(format="rgb24")))
                except av.error.EOFError:
                    break
                except av.error.FFmpegError:  # go on after a packet that cannot be decoded
                    continue
        except (av.error.FFmpegError, IndexError):
            pass
    return frames


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("a.mp4", X264),
        ("parts.mp4", X264 | {"container": {"movflags": "frag_keyframe+empty_moov"}}),
        ("a.mkv", X264),
        ("a.webm", VP9),
        ("a.avi", MPEG4),
        ("b.mp4", MPEG4),
        ("a.ts", X264),
    ],
)
def test_a_flipped_bit_gives_the_frames_of_sequential_decoding_or_an_error(tmp_path, name, how):
    whole = write_video(tmp_path / name, numbered_frames(FRAMES), **how)
    data, places = whole.read_bytes(), structure(whole)
    damaged = tmp_path / f"damaged_{name}"
    compared = 0
    for seed in range(40):
        generator = np.random.Generator(np.random.Philox(seed))
        flipped = bytearray(data)
        flipped[generator.choice(places)] ^= 1 << int(generator.integers(8))
        damaged.write_bytes(flipped)
        try:
            info = probe(damaged)
        except VideoError:
            continue
        frames = sequential(damaged)
        with av.open(str(damaged)) as container:  # frame k is the k-th in display order of those that the file holds
            packets = [p for p in container.demux(video=0) if p.size and not p.is_discard]
        ticks = [packet.pts for packet in packets]
        if None not in ticks and len(set(ticks)) == len(ticks) == info.frames:
            by_time = {pts: (flag, pixels) for pts, flag, pixels in frames}
            shown = [by_time.get(pts) for pts in sorted(ticks)]
        else:
            shown = [(flag, pixels) for _, flag, pixels in frames]
        some = sorted({0, 1, info.frames // 2, *range(5, info.frames, 11), info.frames - 1} & set(range(info.frames)))
        for wanted in ([some[-1]], some):
            flags: set[int] = set()
            try:
                found = read_frames(damaged, np.array(wanted), reader=info.reader, damaged=flags)
            except VideoError:
                continue
            for index, pixels in zip(wanted, found, strict=True):
                assert index < len(shown), (seed, index)
                assert shown[index] is not None, (seed, index)
                flag, expected = shown[index]
                assert index in flags or flag or np.array_equal(pixels, expected), (seed, index)
                compared += 1
    assert compared > 150  # of at most 40 files x 9 frames


@pytest.mark.parametrize("bit", [1, 6])
def test_a_flipped_bit_in_the_cues_of_matroska_changes_no_frame(tmp_path, bit):
    """The second cue point loses its time (the ID of CueTime, B3): decord 0.6 then showed 59 other frames of 60."""
    path = write_video(tmp_path / "a.webm", numbered_frames(FRAMES), **VP9)
    data = bytearray(path.read_bytes())
    cues = data.rindex(b"\x1c\x53\xbb\x6b")
    second = data.index(b"\xbb", data.index(b"\xbb", cues + 4) + 1)
    assert data[second + 2] == 0xB3
    data[second + 2] ^= 1 << bit
    path.write_bytes(data)
    info = probe(path)
    assert info.frames == FRAMES
    for wanted in (np.arange(FRAMES), np.array([50]), np.array([0]), np.array([13, 25, 37])):
        assert read_numbers(read_frames(path, wanted, reader=info.reader)) == wanted.tolist()


# ---- damaged pictures


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_damaged_frames_are_told_by_number_however_they_are_read(tmp_path, name):
    how = X264 | {"options": X264["options"] | {"x264-params": "scenecut=0:keyint=12:bframes=0"}}
    path = write_video(tmp_path / name, numbered_frames(FRAMES), **(MPEG4 if name == "a.avi" else how))
    reader = probe(path).reader
    assert (reader == "decord") == (name == "a.avi")
    assert told(path, np.arange(FRAMES), reader) == set()
    spoil_slice(path, 17)
    reader = probe(path).reader
    assert reader != "decord"  # it does not report damage
    expected = {k for k, (_, flag, _) in enumerate(sequential(path)) if flag}
    assert 17 in expected
    assert told(path, np.arange(FRAMES), reader) == expected
    assert told(path, np.array([3, 17, 40]), reader) == {17} | (expected & {3, 40})
    assert told(path, np.array([40, 3]), reader) == expected & {3, 40}
    flags: set[int] = set()
    pieces = list(iter_frames(path, chunk_frames=7, reader=reader, damaged=flags))
    assert (sum(map(len, pieces)), flags) == (FRAMES, expected)


def told(path: Path, wanted: np.ndarray, reader: str) -> set[int]:
    damaged: set[int] = set()
    read_frames(path, wanted, reader=reader, damaged=damaged)
    return damaged


def test_a_healthy_open_group_is_not_called_damaged(tmp_path):
    """Frames before an open key frame cannot be decoded from there; they are not returned."""
    open_gop = {"options": {"preset": "veryfast", "x264-params": "scenecut=0:keyint=12:open-gop=1:bframes=3:b-adapt=0"}}
    path = write_video(tmp_path / "open.mp4", numbered_frames(FRAMES), **open_gop)
    for wanted in (np.arange(FRAMES), np.arange(10, 16), np.array([35])):
        assert told(path, wanted, probe(path).reader) == set()


def test_the_cap_on_damaged_frames_worked_by_hand():
    too_damaged("x.mp4", 10, 100)
    with pytest.raises(VideoDecodeError, match=r"x\.mp4: 11 of 100 frames are damaged, more than 10%"):
        too_damaged("x.mp4", 11, 100)
    assert damage_line({"a": 2, "b": 1, "c": 30}, 4000) == (
        "damaged pictures: 33 of 4,000 frames, in 3 videos (c 30, a 2, b 1)"
    )


def stream() -> ClipStream:
    return ClipStream(
        catalog=None,
        clips=ClipSettings(kinds=PAPER_KINDS),
        augment=AugmentSettings(size_px=32),
        seed=5,
        batch_size=16,
        length=96,
    )


@pytest.mark.long
def test_a_file_that_was_replaced_is_not_read_by_the_old_plan(tiny_catalog, tmp_path):
    shutil.copytree(tiny_catalog.root, tmp_path / "videos")
    changed = dataclasses.replace(tiny_catalog, root=str(tmp_path / "videos"))
    longest = int(tiny_catalog.sizes.argmax())
    victim = int(tiny_catalog.sizes.argmin())
    shutil.copy(changed.path(longest), changed.path(victim))  # a good video, but another one
    batch = make_clips(changed, stream(), range(32))
    hit = [victim in plan_clip(changed, stream().clips, 5, k).videos for k in range(32)]
    assert any(hit)
    assert [
        f"{tiny_catalog.sizes[longest]} bytes, but {tiny_catalog.sizes[victim]}" in e for e in batch["error"]
    ] == hit


@pytest.mark.parametrize("cache_mb", [0, 64])
def test_damaged_frames_are_counted_clip_by_clip(tmp_path, cache_mb):
    """Expectation: the flags of FFmpeg's frames, in order, by PyAV alone."""
    for place, name in enumerate(("one/a", "one/b", "two/c", "two/d")):
        path = tmp_path / f"{name}.mp4"
        path.parent.mkdir(exist_ok=True)
        write_video(path, numbered_frames(20, first=20 * place), **X264)
        if place % 2:
            spoil_slice(path, 7)
    catalog = load_class_folders(tmp_path, progress=False)
    flagged = [[flag for _, flag, _ in sequential(Path(catalog.path(k)))] for k in range(4)]
    clips = stream()
    batch = make_clips(catalog, clips, range(64), FrameCache(cache_mb * 2**20))
    expected = []
    for k in range(64):
        plan = plan_clip(catalog, clips.clips, clips.seed, k)
        pairs = zip(plan.videos, plan.frames, strict=True)
        expected.append(sum(flagged[video][frame] for video, frames in pairs for frame in frames))
    assert sum(expected) > 5
    assert batch["damaged"].tolist() == expected
    assert not any(batch["error"])


# ---- files that are no videos but would lead FFmpeg to other files


def disguises(folder: Path) -> dict[str, Path]:
    """Files named like videos that FFmpeg would take for lists of other files, or for what is no video file."""
    real = write_video(folder / "real.ts", numbered_frames(30), **X264)
    texts = {
        "list.mp4": f"ffconcat version 1.0\nfile '{real.name}'\n",
        "hls.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.2,\n{real.name}\n#EXT-X-ENDLIST\n",
        "hls.mkv": f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.2,\nfile://{real}\n#EXT-X-ENDLIST\n",
        "session.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
        "a=rtpmap:96 H264/90000\n",
        "dash.webm": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
        f"<AdaptationSet><Representation id='1' bandwidth='1'><BaseURL>{real.name}</BaseURL></Representation>"
        "</AdaptationSet></Period></MPD>",
        "words.mp4": "1\n00:00:00,000 --> 00:00:01,000\nnothing to see\n",
        "graph.avi": "testsrc=size=64x64:duration=1",
        "meta.mp4": ";FFMETADATA1\ntitle=x\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    for number in range(3):
        av.VideoFrame.from_ndarray(numbered_frames(1)[0], format="rgb24").to_image().save(folder / f"p{number}.png")
    shutil.copy(folder / "p0.png", folder / "picture%d.mp4")
    shutil.copy(folder / "p0.png", folder / "p%d.png")
    return {name: folder / name for name in [*texts, "picture%d.mp4", "p%d.png"]}


def test_lists_playlists_and_pictures_are_not_read_as_videos(tmp_path, capfd):
    files = disguises(tmp_path)
    with av.open(str(files["list.mp4"]), options={"safe": "0"}) as container:  # what the list would do
        assert next(container.decode(video=0)).width == 128
    for name, path in files.items():
        with pytest.raises(VideoOpenError, match="not a video") as caught:
            probe(path)
        assert str(path) in str(caught.value), name
        for reader in READERS:  # named by a probe from before the file was replaced
            with pytest.raises(VideoOpenError, match="not a video"):
                read_frames(path, [0], reader=reader)
            with pytest.raises(VideoOpenError, match="not a video"):
                next(iter_frames(path, chunk_frames=4, reader=reader))
    assert capfd.readouterr() == ("", "")


def test_a_file_named_like_an_address_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("concat:a.mp4", "http:x.mp4", "subfile,,start,0,end,0,,:a.mp4"):
        write_video(tmp_path / "plain.mp4", numbered_frames(6), **X264).rename(name)
        assert probe(name).frames == 6


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("a.mov", X264), ("a.m4v", X264), ("a.3gp", X264), ("a.flv", X264), ("a.mkv", X264), ("a.ts", X264),
        ("a.avi", MPEG4), ("a.mpg", {"codec": "mpeg2video"}), ("a.m2v", {"codec": "mpeg2video"}),
        ("a.wmv", {"codec": "wmv2"}), ("a.ogv", {"codec": "libvpx"}), ("a.webm", VP9),
    ],
)  # fmt: skip
def test_real_videos_of_every_extension_are_read(tmp_path, name, how):
    path = write_video(tmp_path / name, numbered_frames(20), **how)
    assert probe(path).frames == 20
    assert read_numbers(read_frames(path, [0, 19, 7])) == [0, 19, 7]


def test_a_packet_of_a_stream_that_the_file_does_not_announce_is_damage(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.ts", numbered_frames(6), **X264)
    reader = PyavReader(str(path), threading.Event())

    class Unannounced:
        def demux(self, stream):
            raise IndexError("list index out of range")

        decode = demux

    monkeypatch.setattr(reader, "_container", Unannounced())
    for use in (reader.scan, reader.first_frame):
        with pytest.raises(VideoDecodeError, match="list index out of range"):
            use(threading.Event())
