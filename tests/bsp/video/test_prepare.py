"""Prepared videos show the same frames at the same times, against frames that name themselves and plain demuxing."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from bsp.errors import VideoDecodeError, VideoError, VideoOpenError, VideoTimeout
from bsp.video.prepare import PrepareSettings, prepare_video, prepared_size, verify_prepared
from bsp.video.read import probe, read_frames
from make_videos import numbered_frames, read_numbers, write_cut, write_rotated, write_video, x264

pytestmark = pytest.mark.long  # videos, processes or whole trainings

FRAMES = 40
SETTINGS = PrepareSettings(short_side_px=48, keyframe_interval=6)
VARYING_MS = (80 + np.cumsum(np.random.Generator(np.random.Philox(3)).integers(5, 100, FRAMES))).tolist()
SOURCES = {
    "b_frames.mp4": x264("keyint=250:bframes=3"),
    "variable.mkv": x264("keyint=12") | {"times_ms": VARYING_MS},  # the first frame is not at 0
    "variable.mp4": x264("keyint=12:bframes=2") | {"times_ms": VARYING_MS},
    "open.mp4": x264("keyint=12:open-gop=1:bframes=3:b-adapt=0"),
    "mpeg4_b.avi": {"codec": "mpeg4", "options": {"bf": "2", "g": "24", "b": "2M"}},
    "stream.ts": x264("keyint=12:bframes=2"),
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "deadline": "realtime", "b": "1M"}},
}


def packet_times(path: Path) -> list[Fraction]:
    """Times of the packets in display order, in seconds, by FFmpeg's demuxer alone."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [p for p in container.demux(stream) if p.size and not p.is_discard]
        return sorted(p.pts * p.time_base for p in packets)


@pytest.mark.parametrize("name", SOURCES)
def test_frames_times_and_rate_are_kept(tmp_path, name):
    source = write_video(tmp_path / name, numbered_frames(FRAMES), **SOURCES[name])
    before = probe(source)
    made = prepare_video(source, tmp_path / "out" / "prepared.mp4", SETTINGS)
    assert (made.frames, made.width, made.height) == (FRAMES, 64, 48)
    assert made.target_bytes == (tmp_path / "out" / "prepared.mp4").stat().st_size
    after = probe(made.path)
    assert (after.frames, after.width, after.height, after.codec, after.reader) == (FRAMES, 64, 48, "h264", "mp4")
    assert after.fps == pytest.approx(before.fps, rel=1e-6)
    for reader in ("mp4", "pyav"):
        assert read_numbers(read_frames(made.path, np.arange(FRAMES), reader=reader)) == list(range(FRAMES))
    times = packet_times(Path(made.path))
    if not name.endswith(".avi"):  # whose packets have no times: 25 frames a second
        start = packet_times(source)[0] if name.endswith(".ts") else 0  # whose clock starts anywhere
        assert times == [time - start for time in packet_times(source)]
    else:
        assert [time - times[0] for time in times] == [Fraction(place, 25) for place in range(FRAMES)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["prepared.mp4"]


def write_ticks(path: Path, time_base: Fraction, ticks: list[int], codec: str = "libx264") -> Path:
    # mp4 rounds the time before the first frame to milliseconds unless it is told another scale.
    exactly = {"movie_timescale": str(time_base.denominator)} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=exactly) as output:
        stream = output.add_stream(codec, rate=Fraction(1, 1) / max(time_base, Fraction(1, 25)))
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        stream.codec_context.time_base = time_base
        for place, pixels in zip(ticks, numbered_frames(len(ticks)), strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = place, time_base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("time_base", [Fraction(1001, 30000), Fraction(1, 90000), Fraction(1, 7)])
def test_odd_time_bases_are_kept(tmp_path, time_base):
    ticks = [round(place / 25 / time_base) if time_base < Fraction(1, 100) else place for place in range(FRAMES)]
    source = write_ticks(tmp_path / "odd.mp4", time_base, ticks)
    prepare_video(source, tmp_path / "prepared.mp4", SETTINGS)
    assert packet_times(tmp_path / "prepared.mp4") == [place * time_base for place in ticks]
    assert probe(tmp_path / "prepared.mp4").fps == pytest.approx(probe(source).fps, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "time_base", "first"),
    [
        ("camera.ts", Fraction(1, 90000), 6006),  # 66.7 ms
        ("late.mp4", Fraction(1, 90000), 6001),
        ("hours.ts", Fraction(1, 90000), 90000 * 90000 + 1),  # 25 h: a recording of a broadcast
        ("fine.mp4", Fraction(1, 600000), 700001),
        ("odd.mp4", Fraction(1, 90001), 9999),
        ("late.mkv", Fraction(1, 1000), 67),
        ("late.flv", Fraction(1, 1000), 67),
    ],
)
def test_a_first_frame_between_two_milliseconds_stays_there(tmp_path, name, time_base, first):
    codec = "flv" if name.endswith("flv") else "libx264"
    step = round(Fraction(1, 30) / time_base)
    source = write_ticks(tmp_path / name, time_base, [first + step * place for place in range(10)], codec)
    times = packet_times(source)
    assert name == "hours.ts" or times[0] == pytest.approx(float(first * time_base), abs=1e-6)
    if not name.endswith(("mp4", "mkv")):  # whose clock starts anywhere: at the first picture, as there is no sound
        times = [time - times[0] for time in times]
    prepare_video(source, tmp_path / "prepared.mp4", SETTINGS)
    assert packet_times(tmp_path / "prepared.mp4") == times


def test_frames_that_an_edit_list_hides_stay_hidden(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", numbered_frames(60), **x264("keyint=50:bframes=3"))
    source = write_cut(whole, tmp_path / "cut.mp4", first_frame=20)
    made = prepare_video(source, tmp_path / "prepared.mp4", SETTINGS)
    assert read_numbers(read_frames(made.path, np.arange(made.frames))) == list(range(20, 60))


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_rotated_videos_are_stored_upright(tmp_path, quarter_turns):
    source = write_rotated(tmp_path / "turned.mp4", numbered_frames(FRAMES), quarter_turns)
    made = prepare_video(source, tmp_path / "prepared.mp4", SETTINGS)
    assert (made.width, made.height) == (64, 48)
    with av.open(made.path) as container:
        assert next(container.decode(video=0)).rotation == 0
    assert read_numbers(read_frames(made.path, [39, 0, 7], reader="mp4")) == [39, 0, 7]


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((340, 256), 128, (170, 128)),
        ((256, 340), 128, (128, 170)),
        ((320, 240), 128, (170, 128)),  # 170.67: the nearest even number
        ((1920, 1080), 128, (228, 128)),  # 227.56
        ((128, 96), 128, (128, 96)),  # never enlarged
        ((101, 67), 128, (100, 66)),  # odd sizes lose a pixel
        ((101, 67), 67, (100, 66)),
        ((2000, 16), 16, (2000, 16)),
    ],
)
def test_sizes_worked_by_hand(size, short_side, expected):
    assert prepared_size(*size, short_side) == expected


def test_odd_sizes_become_even(tmp_path):
    frames = np.pad(numbered_frames(8), ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge")  # 129x97
    source = write_video(tmp_path / "odd.webm", frames, **SOURCES["vp9.webm"])
    made = prepare_video(source, tmp_path / "prepared.mp4", PrepareSettings(short_side_px=200))
    assert (made.width, made.height) == (128, 96)
    assert read_numbers(read_frames(made.path, np.arange(8))) == list(range(8))


def test_pictures_are_scaled_as_pillow_does(tmp_path):
    frames = np.stack([np.asarray(Image.fromarray(f).resize((256, 192), 2)) for f in numbered_frames(6)])
    source = write_video(tmp_path / "in.mp4", frames, options={"crf": "1"})
    made = prepare_video(source, tmp_path / "out.mp4", PrepareSettings(short_side_px=96, keyframe_interval=1, crf=1))
    shown = read_frames(source, np.arange(6))
    expected = [np.asarray(Image.fromarray(f).resize((128, 96), Image.Resampling.BICUBIC)) for f in shown]
    grey = np.array([0.299, 0.587, 0.114])  # colour is stored at half the size
    found, expected = read_frames(made.path, np.arange(6)) @ grey, np.stack(expected) @ grey
    assert np.abs(found - expected).mean() < 2
    assert np.abs(np.roll(found, 1, axis=2) - expected).mean() > 6  # what a shift by one pixel gives


@pytest.mark.parametrize("interval", [1, 6])
def test_key_frames_are_where_they_should_be_and_nothing_is_reordered(tmp_path, interval):
    source = write_video(tmp_path / "in.mp4", numbered_frames(FRAMES), **x264("keyint=250:bframes=3"))
    for name in ("first.mp4", "second.mp4"):
        prepare_video(source, tmp_path / name, PrepareSettings(short_side_px=48, keyframe_interval=interval))
    with av.open(str(tmp_path / "first.mp4")) as container:
        assert not container.streams.audio
        packets = [p for p in container.demux(video=0) if p.size]
    assert [p.is_keyframe for p in packets] == [place % interval == 0 for place in range(FRAMES)]
    assert [p.pts for p in packets] == sorted(p.pts for p in packets)
    assert (tmp_path / "first.mp4").read_bytes() == (tmp_path / "second.mp4").read_bytes()


def test_a_prepared_video_can_be_prepared_again(tmp_path):
    source = write_video(tmp_path / "in.mkv", numbered_frames(FRAMES), **SOURCES["variable.mkv"])
    once = prepare_video(source, tmp_path / "once.mp4", SETTINGS)
    twice = prepare_video(once.path, tmp_path / "twice.mp4", SETTINGS)
    assert packet_times(Path(twice.path)) == packet_times(source)
    assert (twice.frames, twice.width, twice.height) == (once.frames, once.width, once.height)


def test_broken_sources_leave_nothing_and_are_named(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", numbered_frames(FRAMES), **x264("keyint=12"))
    data = whole.read_bytes()
    (tmp_path / "cut_off.mp4").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.mp4").write_text("not a video" * 100)
    for name, word in (("cut_off.mp4", "truncated"), ("text.mp4", "not a video"), ("missing.mp4", "no such file")):
        with pytest.raises(VideoOpenError, match=word) as caught:
            prepare_video(tmp_path / name, tmp_path / "out" / name, SETTINGS)
        assert caught.value.path == str(tmp_path / name)
    assert not (tmp_path / "out").exists()
    with pytest.raises(VideoTimeout, match="whole"):
        prepare_video(whole, tmp_path / "out" / "whole.mp4", SETTINGS, time_limit_s=1e-9)
    assert list((tmp_path / "out").iterdir()) == []


def test_frames_that_cannot_be_decoded_are_not_made_up(tmp_path):
    source = write_video(tmp_path / "in.mkv", numbered_frames(FRAMES), **x264("keyint=250:bframes=0:slices=1"))
    data = bytearray(source.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 4000] = bytes(4000)
    source.write_bytes(data)
    try:
        made = prepare_video(source, tmp_path / "out.mp4", SETTINGS)
    except VideoError as error:
        assert str(source) in str(error)  # noqa: PT017  (either outcome is right)
        assert not (tmp_path / "out.mp4").exists()
    else:
        assert probe(made.path).frames == len(packet_times(source))


def test_verification_finds_lost_frames_and_moved_times(tmp_path):
    frames = numbered_frames(10)
    source = write_video(tmp_path / "source.mp4", frames, **x264("keyint=5"))
    verify_prepared(source, write_video(tmp_path / "same.mkv", frames, **x264("keyint=2")))
    fewer = write_video(tmp_path / "fewer.mp4", frames[:9])
    with pytest.raises(VideoDecodeError, match=r"fewer\.mp4: 9 frames, but 10 in .*source\.mp4"):
        verify_prepared(source, fewer)
    times = [40 * place for place in range(10)]
    times[7] += 1
    moved = write_video(tmp_path / "moved.mp4", frames, times_ms=times)
    with pytest.raises(VideoDecodeError, match=r"moved\.mp4: frame 7 is at 0\.281000 s, but at 0\.280000 s"):
        verify_prepared(source, moved)


def test_misuse_is_refused(tmp_path):
    source = write_video(tmp_path / "in.mp4", numbered_frames(4))
    with pytest.raises(ValueError, match="same file"):
        prepare_video(source, source, SETTINGS)
    with pytest.raises(ValueError, match=r"out\.avi"):
        prepare_video(source, tmp_path / "out.avi", SETTINGS)
    for wrong in ({"short_side_px": 8}, {"keyframe_interval": 0}, {"crf": 60}):
        with pytest.raises(ValueError, match=str(*wrong.values())):
            PrepareSettings(**wrong)
