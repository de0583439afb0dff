"""When frames are shown: against PyAV's own time stamps, for variable rates, late first frames, several containers."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from bsp.clips.catalog import Listed, build_catalog
from bsp.clips.plan import ClipSettings
from bsp.datasets.activitynet import Instance, LocalizationDataset, UntrimmedVideo
from bsp.errors import VideoOpenError
from bsp.features.probe import boundary_snippets
from bsp.figures.qualitative import make_case
from bsp.figures.synthesis import real_panel
from bsp.video.prepare import PrepareSettings, prepare_video
from bsp.video.read import probe, read_frames
from bsp.video.times import frame_seconds, frame_times, frames_at, positions_at, rate_of, times_at, video_times
from make_videos import numbered_frames, read_numbers, write_cut, write_video

FRAMES = numbered_frames(80, width=64, height=48)
TWO_RATES_MS = [100 * k for k in range(20)] + [2000 + round(k * 1000 / 30) for k in range(60)]  # 10/s, then 30/s
LATE_MS = [500 + 40 * k for k in range(24)]
CONTAINERS = {
    "mp4": {}, "mkv": {}, "mov": {}, "ts": {}, "webm": {"codec": "libvpx"}, "avi": {"codec": "mpeg4"},
}  # fmt: skip


def shown_s(path: Path) -> np.ndarray:
    """The decoded frames' own time stamps, as PyAV gives them."""
    with av.open(str(path)) as container:
        return np.array([float(frame.pts * frame.time_base) for frame in container.decode(video=0)])


def with_sound(path: Path, times_ms: list[int], sound_from_ms: int) -> Path:
    """H.264 in MPEG-TS with a second of silence that begins at ``sound_from_ms``."""
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt, video.options = 64, 48, "yuv420p", {"bf": "0"}
        sound = output.add_stream("mp2", rate=48_000)
        video.codec_context.time_base = Fraction(1, 1000)
        for number in range(40):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16", layout="mono")
            silence.sample_rate, silence.pts = 48_000, 48 * sound_from_ms + 1152 * number
            output.mux(sound.encode(silence))
        for pixels, time_ms in zip(FRAMES, times_ms):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            output.mux(video.encode(frame))
        output.mux(sound.encode(None))
        output.mux(video.encode(None))
    return path


# -- variable frame rate --


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_frames_of_a_variable_rate_are_where_they_are_shown(tmp_path, suffix):
    path = write_video(tmp_path / f"v.{suffix}", FRAMES, times_ms=TWO_RATES_MS, **CONTAINERS[suffix])
    times_T, info = frame_times(path), probe(path)
    assert len(times_T) == info.frames == 80
    assert times_T[20] == pytest.approx(2.0, abs=1e-6)
    np.testing.assert_allclose(times_T, np.array(TWO_RATES_MS) / 1000, atol=1e-4)
    own = shown_s(path)
    np.testing.assert_allclose(times_T, own - (own[0] if suffix == "ts" else 0), atol=1e-6)
    assert not info.uniform
    assert info.fps == pytest.approx(79 / 3.967, rel=1e-3)  # the average: 79 steps until the last frame


def test_a_second_finds_its_frame_and_back(tmp_path):
    path = write_video(tmp_path / "v.mp4", FRAMES, times_ms=TWO_RATES_MS)
    info = probe(path)
    # 1 s is frame 10; 2 s frame 20; 3 s, a second of 30 frames later, frame 50; 4 s the end of the last frame
    np.testing.assert_allclose(frames_at(info, [1.0, 1.95, 2.0, 3.0, 4.0]), [10, 19.5, 20, 50, 80], atol=0.04)
    np.testing.assert_allclose(frame_seconds(info, [10, 19.5, 20, 50, 80]), [1.0, 1.95, 2.0, 3.0, 4.0], atol=1e-3)
    assert frames_at(info, -1.0) < 0
    assert frames_at(info, 5.0) > 80


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_listed_range_of_a_long_video_is_cut_by_time(tmp_path, suffix):
    write_video(tmp_path / f"long.{suffix}", FRAMES, times_ms=TWO_RATES_MS, **CONTAINERS[suffix])
    listing = [
        Listed(f"long.{suffix}", 0, 1.0, 3.0),
        Listed(f"long.{suffix}", 0, 3.0, 4.0),
        Listed(f"long.{suffix}", 0),
    ]
    catalog = build_catalog(tmp_path, listing, ["a"], workers=0, progress=False)
    # frames 10..49 are shown from 1 s to 3 s (10 of them before 2 s), frames 50..79 from 3 s on
    assert catalog.first_frame.tolist() == [10, 50, 0]
    assert catalog.frames.tolist() == [40, 30, 80]
    first = read_frames(catalog.path(0), catalog.first_frame[:1])
    assert read_numbers(first) == [10]
    assert shown_s(tmp_path / f"long.{suffix}")[10] == pytest.approx(1.0)


def test_a_range_that_the_video_does_not_reach_is_named(tmp_path):
    write_video(tmp_path / "long.mp4", FRAMES, times_ms=TWO_RATES_MS)
    listing = [Listed("long.mp4", 0), Listed("long.mp4", 0, 4.5, 6.0)]
    catalog = build_catalog(tmp_path, listing, ["a"], workers=0, progress=False, max_skipped_share=0.5)
    ((_, reason),) = catalog.skipped
    assert "lasts 4.00 s, but its 4.5-6 s are listed" in reason


# -- constant rate --


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_frames_of_a_constant_rate_need_no_times(tmp_path, suffix):
    path = write_video(tmp_path / f"v.{suffix}", FRAMES[:30], fps=25, **CONTAINERS[suffix])
    info = probe(path)
    assert (info.fps, info.uniform) == (25.0, True)
    np.testing.assert_allclose(frame_times(path), np.arange(30) / 25, atol=1e-6)
    assert frames_at(info, 0.4) == 0.4 * 25.0  # today's arithmetic, to the bit


def test_hidden_frames_of_a_cut_do_not_count(tmp_path):
    source = write_video(tmp_path / "v.mp4", FRAMES[:60], options={"bf": "0", "g": "25"})
    cut = write_cut(source, tmp_path / "cut.mp4", first_frame=30)
    assert probe(cut).uniform
    assert frame_times(cut)[0] == 0.0
    assert read_numbers(read_frames(cut, np.array([0]))) == [30]


def test_the_rate_is_the_containers_where_it_fits():
    even = np.arange(300) / 29.97
    assert rate_of(even, 29.97) == (29.97, True)
    # 30 would be wrong by 0.3 frames at the end of 10 s: still the nearest frame; by 3 at the end of 100 s
    assert rate_of(even, 30.0) == (30.0, True)
    fps, uniform = rate_of(np.arange(3000) / 29.97, 30.0)
    assert fps == pytest.approx(29.97)
    assert uniform
    assert rate_of(even + 0.5, 29.97) == (29.97, False)  # late
    fps, uniform = rate_of(np.array([0.0, 0.1, 0.2, 0.9]), 10.0)
    assert fps == pytest.approx(3 / 0.9)
    assert not uniform


# -- first frames that are late --


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "webm"])
def test_a_late_first_frame_is_late(tmp_path, suffix):
    path = write_video(tmp_path / f"v.{suffix}", FRAMES[:24], times_ms=LATE_MS, **CONTAINERS[suffix])
    info = probe(path)
    np.testing.assert_allclose(frame_times(path), 0.5 + np.arange(24) / 25, atol=1e-6)
    assert not info.uniform
    assert info.fps == pytest.approx(25.0)
    assert frames_at(info, 0.54) == pytest.approx(1.0)
    assert frames_at(info, 0.3) == pytest.approx(-5.0)


def test_the_clock_of_a_transport_stream_starts_anywhere(tmp_path):
    path = write_video(tmp_path / "v.ts", FRAMES[:24], times_ms=[ms + 1400 for ms in LATE_MS], options={"bf": "0"})
    assert shown_s(path)[0] > 1.0
    np.testing.assert_allclose(frame_times(path), np.arange(24) / 25, atol=1e-6)
    assert probe(path).uniform


def test_pictures_after_the_sound_of_a_transport_stream_are_late(tmp_path):
    path = with_sound(tmp_path / "v.ts", LATE_MS, 0)
    with av.open(str(path)) as container:
        start_s = container.start_time / 1e6
    own = shown_s(path)
    assert own[0] - start_s == pytest.approx(0.5, abs=0.03)  # a player starts with the sound
    np.testing.assert_allclose(frame_times(path), own - start_s, atol=2e-6)
    assert not probe(path).uniform


def test_a_prepared_copy_has_the_same_times(tmp_path):
    for name, path in {
        "late": write_video(tmp_path / "late.mkv", FRAMES[:24], times_ms=LATE_MS),
        "stream": write_video(tmp_path / "stream.ts", FRAMES[:24]),
        "uneven": write_video(tmp_path / "uneven.mkv", FRAMES, times_ms=TWO_RATES_MS),
        "dropped": write_video(tmp_path / "dropped.avi", FRAMES, times_ms=TWO_RATES_MS, options={"bf": "2"}),
    }.items():
        copy = tmp_path / f"{name}.mp4"
        prepare_video(path, copy, PrepareSettings(short_side_px=32))
        np.testing.assert_allclose(frame_times(copy), frame_times(path), atol=2e-6)


# -- the arithmetic --


def test_positions_and_times_by_hand():
    knots = np.array([1.0, 2.0, 4.0])
    assert positions_at([1.0, 1.5, 3.0, 4.0], knots, 10.0).tolist() == [0, 0.5, 1.5, 2]
    assert positions_at([0.5, 4.2], knots, 10.0).tolist() == [-5.0, pytest.approx(4.0)]
    assert times_at([0, 0.5, 1.5, 2], knots, 10.0).tolist() == [1.0, 1.5, 3.0, 4.0]
    there = np.linspace(-3, 6, 40)
    np.testing.assert_allclose(times_at(positions_at(there, knots, 10.0), knots, 10.0), there)


# -- pictures and the probe of a search --


def test_pictures_are_taken_by_time(tmp_path, monkeypatch):
    path = write_video(tmp_path / "v.mp4", FRAMES, times_ms=TWO_RATES_MS)
    video = UntrimmedVideo("v", str(path), 4.0, "validation", (Instance("a", 2.4, 2.9),))
    read: list[int] = []

    def noted(path, frames, **keywords):
        read.extend(np.asarray(frames).tolist())
        return read_frames(path, frames, **keywords)

    monkeypatch.setattr("bsp.figures.qualitative.read_frames", noted)
    make_case(video, {}, "head")
    middles_s = (np.arange(14) + 0.5) * 4 / 14  # of 14 equal parts of 4 s
    assert read == [int(s * 10) if s < 2 else 20 + int((s - 2) * 30) for s in middles_s]

    read.clear()
    monkeypatch.setattr("bsp.figures.synthesis.read_frames", noted)
    data = LocalizationDataset((video,), ("a",), (), {}, ())
    panel = real_panel(data, ClipSettings(half_len=2, stride_frames=3), seed=0)
    assert read == [26, 29, 32, 35]  # 2.4 s is frame 20 + 0.4 * 30 = 32
    assert panel.rows[0].under == ("2.20 s", "2.30 s", "2.40 s", "2.50 s")


def test_the_probe_of_a_search_finds_boundaries_by_time(tmp_path):
    path = write_video(tmp_path / "v.mp4", FRAMES, times_ms=TWO_RATES_MS)
    # 1.0 s is frame 10, snippet 1; 2.4 s frame 32, the first of snippet 4; 2.9 s frame 47, snippet 5
    held_S = boundary_snippets([1.0, 2.41, 2.9], probe(path), 10, 8)
    assert np.flatnonzero(held_S).tolist() == [1, 4, 5]
    late = write_video(tmp_path / "late.mp4", FRAMES[:24], times_ms=LATE_MS)
    assert np.flatnonzero(boundary_snippets([0.2, 0.9], probe(late), 3, 8)).tolist() == [1]  # 0.2 s is before the start


# -- packets without times, clocks that jump --


def test_h264_with_dropped_frames_in_avi_has_one_answer(tmp_path):
    """B pictures, and frames 20 to 60 and every third later one left out: AVI keeps times of packets alone."""
    kept = [n for n in range(150) if n < 20 or (n > 60 and n % 3)]
    options = {"bf": "2", "g": "24"}
    path = write_video(tmp_path / "v.avi", FRAMES[: len(kept)], times_ms=[40 * n for n in kept], options=options)
    info = probe(path)
    assert not info.uniform
    np.testing.assert_array_equal(video_times(info), frame_times(path))
    np.testing.assert_allclose(frame_times(path)[:-2], np.array(kept[:-2]) / 25, atol=1e-3)
    np.testing.assert_allclose(frame_times(path)[-2:], np.array(kept[-2:]) / 25, atol=0.09)  # no times in the file
    for codec in ("libx264", "mpeg4", "mpeg2video"):
        even = write_video(tmp_path / f"{codec}.avi", FRAMES[:30], codec=codec, options=options)
        assert (probe(even).frames, probe(even).fps, probe(even).uniform) == (30, 25.0, True)
        assert frame_times(even)[0] == 0


def test_a_clock_that_jumps_is_refused(tmp_path):
    one, later = (
        write_video(tmp_path / f"{start}.ts", FRAMES[:24], times_ms=[start * 1000 + 40 * k for k in range(24)])
        for start in (0, 500)
    )
    joined = tmp_path / "joined.ts"
    for parts, seconds in (((one, later), "499"), ((later, one), r"\d{5}")):  # the second as if its 33 bits wrapped
        joined.write_bytes(b"".join(part.read_bytes() for part in parts))
        for read in (probe, frame_times):
            with pytest.raises(VideoOpenError, match=rf"its clock jumps by {seconds} s at frame 24; remux it"):
                read(joined)
    joined.write_bytes(one.read_bytes() * 2)  # a falling clock is not used: 25 frames a second
    np.testing.assert_allclose(frame_times(joined), np.arange(48) / 25)
    # A gap of 11 s of 35 s stays.
    lost_signal = [300 * k for k in range(40)] + [300 * k + 11_000 for k in range(40, 80)]
    lost = write_video(tmp_path / "lost.ts", FRAMES, times_ms=lost_signal, options={"bf": "0"})
    np.testing.assert_allclose(frame_times(lost), np.array(lost_signal) / 1000, atol=1e-3)
    slides = write_video(tmp_path / "slides.ts", FRAMES[:5], times_ms=[12_000 * k for k in range(5)])
    np.testing.assert_allclose(frame_times(slides), 12 * np.arange(5), atol=1e-3)
