"""Records of features: hashed, of the video they are asked for, with the right times of snippets.

The video of most tests shows 10 frames/s for 2 s, then 30 frames/s for 2 s: 80 frames, 10 snippets of 8. Frame 20 is
shown at 2 s, so snippet 2 (frames 16..23) lasts from 1.6 to 2.1333 s, and 3 to 9 begin at 2.1333, 2.4, 2.6667, 2.9333,
3.2, 3.4667 and 3.7333 s. At its average of 20 frames/s snippet 4 would begin at 1.6 s instead of 2.4 s.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import av
import h5py
import numpy as np
import pytest
import torch

from bsp.datasets.activitynet import Instance, UntrimmedVideo
from bsp.encoders.contract import Encoder
from bsp.encoders.tsm import EncoderSettings
from bsp.errors import VideoDecodeError
from bsp.features.interchange import export_features, uniform_record
from bsp.features.record import (
    FeatureInfo,
    covered_share,
    duration_share,
    even_rows,
    record_hash,
    sealed,
    seconds_at,
    snippet_share,
    snippets_at,
    video_end_s,
)
from bsp.features.store import (
    extract_features,
    is_complete,
    pack_h5,
    read_feature_info,
    read_features,
    read_features_h5,
    write_features,
)
from bsp.features.streams import concatenate_streams
from bsp.figures.difference import BOUNDARY, LEFT_OUT, PLAIN, boundaries_of, pair_kinds
from bsp.localization.actionness import segment_positions, video_seconds
from bsp.localization.boundaries import BoundaryHeadSettings, _labels, gap_times_s, train_boundary_head
from bsp.localization.gtad.labels import anchor_tiou
from bsp.localization.gtad.sgalign import anchor_grid
from bsp.metrics.actionness import segment_count, segment_labels
from make_videos import numbered_frames, write_video
from uneven_record import STARTS_S, UNEVEN

EVEN = replace(UNEVEN, fps=20.0, times_s=None, end_s=None)


class Count(Encoder):
    def forward(self, clip_BTCHW: torch.Tensor) -> torch.Tensor:
        return clip_BTCHW.mean(dim=(3, 4))[..., :2]


def ramp(info: FeatureInfo) -> np.ndarray:
    """Snippet k is (k, 1)."""
    return np.stack([np.arange(info.snippets), np.ones(info.snippets)], axis=1).astype(np.float32)


# -- what extraction writes --


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_snippets_begin_when_their_first_frame_is_shown(tmp_path, suffix):
    times_ms = [100 * k for k in range(20)] + [2000 + round(k * 1000 / 30) for k in range(60)]
    path = write_video(tmp_path / f"v.{suffix}", numbered_frames(80, width=64, height=48), times_ms=times_ms)
    feat_SD, info = extract_features(Count(EncoderSettings(width=8)), path, video_id="v", size_px=32)
    with av.open(str(path)) as container:
        own = np.array([float(frame.pts * frame.time_base) for frame in container.decode(video=0)])
    assert len(own) == 80
    np.testing.assert_allclose(info.times_s[:-1], own[::8] - own[0], atol=1e-6)
    np.testing.assert_allclose(info.times_s, STARTS_S, atol=2e-3)  # the file's times are whole milliseconds
    assert video_end_s(info) == pytest.approx(4.0, abs=2e-3)
    write_features(tmp_path, "v", feat_SD, info)
    assert read_features(tmp_path, "v")[1].times_s == info.times_s


def test_a_late_first_frame_shifts_all_snippets(tmp_path):
    late = [500 + 40 * k for k in range(20)]
    path = write_video(tmp_path / "v.mp4", numbered_frames(20, width=64, height=48), times_ms=late)
    _, info = extract_features(Count(EncoderSettings(width=8)), path, video_id="v", size_px=32)
    # snippets of frames 0..7 and 8..15; frames 16..19 have none, and are shown until 0.5 + 20 / 25 s
    assert info.times_s == pytest.approx([0.5, 0.82, 1.14])
    assert video_end_s(info) == pytest.approx(1.3)
    assert snippets_at(info, [0.66, 0.18]) == pytest.approx([0.5, -1.0])


def test_records_of_a_constant_rate_hold_no_times(tmp_path):
    path = write_video(tmp_path / "v.mp4", numbered_frames(20, width=64, height=48))
    _, info = extract_features(Count(EncoderSettings(width=8)), path, video_id="v", size_px=32)
    assert (info.times_s, info.end_s, info.reader) == (None, None, "mp4")


def test_a_video_shorter_than_a_snippet_ends_with_its_frames(tmp_path):
    path = write_video(tmp_path / "v.mp4", numbered_frames(3, width=64, height=48), times_ms=[0, 100, 700])
    _, info = extract_features(Count(EncoderSettings(width=8)), path, video_id="v", size_px=32)
    assert info.times_s == pytest.approx([0.0, 1.3])


def test_a_file_that_changes_meanwhile_is_refused(tmp_path, monkeypatch):
    path = write_video(
        tmp_path / "v.mp4", numbered_frames(10, width=64, height=48), times_ms=[k**2 * 40 for k in range(10)]
    )
    monkeypatch.setattr("bsp.video.times.frame_times", lambda _: np.arange(9.0))
    with pytest.raises(VideoDecodeError, match="10 frames, but the times of 9"):
        extract_features(Count(EncoderSettings(width=8)), path, video_id="v", size_px=32)


# -- seconds and snippets --


def test_seconds_and_snippets_by_hand():
    np.testing.assert_allclose(snippets_at(UNEVEN, [0.0, 0.4, 2.4, 2.6667, 4.0]), [0, 0.5, 4, 5, 10], atol=2e-4)
    np.testing.assert_allclose(seconds_at(UNEVEN, [0, 0.5, 4, 5, 10]), [0.0, 0.4, 2.4, 2.6667, 4.0], atol=1e-4)
    np.testing.assert_allclose(seconds_at(UNEVEN, [0, 3], centres=True), [0.4, (2 + 4 / 30 + 2.4) / 2])
    there = np.linspace(-1, 12, 50)
    np.testing.assert_allclose(snippets_at(UNEVEN, seconds_at(UNEVEN, there)), there, atol=1e-9)


def test_a_uniform_video_keeps_its_arithmetic_to_the_bit():
    rng = np.random.default_rng(0)
    times_s, places = 100 * rng.random(1000), 100 * rng.random(1000)
    for stride, offset, length, fps in ((8, 0, 8, 29.97), (5, 3, 16, 30000 / 1001), (1, 0, 1, 0.7)):
        info = replace(EVEN, fps=fps, stride_frames=stride, offset_frames=offset, snippet_frames=length)
        assert np.array_equal(snippets_at(info, times_s), (times_s * fps - offset) / stride)
        middle = offset + length / 2
        assert np.array_equal(snippets_at(info, times_s, centres=True), (times_s * fps - middle) / stride)
        assert np.array_equal(seconds_at(info, places), (places * stride + offset) / fps)
        centres = middle + stride * np.arange(10)
        assert np.array_equal(gap_times_s(info), (centres[1:] + centres[:-1]) / 2 / fps)
        assert snippet_share(info, places, 3.0) is places
        assert duration_share(info, places, 3.0) is places


def test_an_instance_lands_on_its_snippets_in_gtad_and_comes_back():
    # 2.4 to 3.2 s are snippets 4, 5, 6
    share = covered_share(UNEVEN, np.array([[2.4, 3.2]]), 4.0)
    np.testing.assert_allclose(share, [[0.4, 0.7]])
    tiou = anchor_tiou(share, 10, 10)
    duration, start = anchor_grid(10, 10)
    best = int(tiou.argmax())
    assert (int(start[best]), int(duration[best]) + 1) == (4, 3)
    np.testing.assert_allclose(duration_share(UNEVEN, share, 4.0) * 4.0, [[2.4, 3.2]])
    np.testing.assert_allclose(snippet_share(UNEVEN, np.array([2.4, 3.2]) / 4.0, 4.0), [0.4, 0.7])


def test_gaps_are_where_the_next_snippet_begins():
    np.testing.assert_allclose(gap_times_s(UNEVEN), STARTS_S[1:-1])


def test_every_boundary_between_uneven_snippets_has_a_gap():
    """One at 0.75 s is 0.05 s before the first gap, one at 1.1 s 0.3 s after it: half the way to the next is 0.4 s."""
    features = [np.random.default_rng(0).random((10, 4), np.float32)] * 2
    times_s = [gap_times_s(UNEVEN)] * 2
    assert _labels(times_s[0], [1.1], 0.15).tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert _labels(times_s[0], [2.5], 0.01).tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0]  # 2.4 s; the next is 2.6667 s
    assert _labels(times_s[0], [2.6], 0.01).tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0]
    train_boundary_head(features, times_s, [[1.1], [2.5]], BoundaryHeadSettings(epochs=1), seed=0)


def test_segments_of_actionness_read_the_snippets_at_their_time():
    assert video_seconds(UNEVEN) == 4.0
    position = segment_positions(UNEVEN, segment_count(4.0))
    # segment 13 has its centre at 2.7 s: snippet 4's middle is at 2.5333 s, snippet 5's at 2.8 s
    assert position[13] == pytest.approx(4 + (2.7 - 2.5333) / (2.8 - 2.5333), abs=0.01)
    inside = segment_labels([(2.4, 3.2)], 4.0)
    assert set(np.round(position[inside]).astype(int)) == {4, 5, 6}


def test_pairs_of_figure_4_look_at_the_time():
    video = UntrimmedVideo("v", None, 4.0, "validation", (Instance("a", 1.0, 2.5),))
    # 1.0 s is in snippet 1, 2.5 s in snippet 4
    kinds = pair_kinds(boundaries_of(video, UNEVEN), 10, 8)
    assert kinds.tolist() == [LEFT_OUT, BOUNDARY, PLAIN, LEFT_OUT, BOUNDARY, PLAIN, PLAIN, PLAIN, PLAIN]


def test_streams_of_different_times_do_not_go_together():
    with pytest.raises(ValueError, match="v: streams differ in times_s"):
        concatenate_streams([(ramp(UNEVEN), UNEVEN), (ramp(EVEN), replace(EVEN, fps=UNEVEN.fps))])
    assert concatenate_streams([(ramp(UNEVEN), UNEVEN)] * 2)[1].times_s == UNEVEN.times_s


# -- exports --


def test_an_export_puts_the_rows_at_even_times(tmp_path):
    feat_TD = even_rows(ramp(UNEVEN), UNEVEN, 4)  # middles at 0.5, 1.5, 2.5, 3.5 s
    # 0.5 s is 5/8 of snippet 0, 1.5 s 7/8 of snippet 1, 2.5 s 3/8 of snippet 4, 3.5 s 1/8 of snippet 8
    np.testing.assert_allclose(feat_TD[:, 0], [0 + 1 / 8, 1 + 3 / 8, 4 - 1 / 8, 8 - 3 / 8], atol=1e-4)
    np.testing.assert_allclose(feat_TD[:, 1], 1)
    write_features(tmp_path / "f", "v", ramp(UNEVEN), UNEVEN)
    write_features(tmp_path / "f", "w", ramp(EVEN), replace(EVEN, video_id="w"))
    done = export_features(tmp_path / "f", tmp_path / "out", layout="opentad")
    assert done.resampled == ("v",)
    rows = np.load(tmp_path / "out" / "v.npy")
    # 4 s at 8 frames of 1 / 19.916 s; a reader takes row r for the time from r * 8 / 19.916 s on
    assert len(rows) == 9
    wanted = np.interp((np.arange(9) + 0.5) * 8 / UNEVEN.fps, STARTS_S, np.arange(11)) - 0.5
    np.testing.assert_allclose(rows[:, 0], wanted.clip(0, 9), atol=1e-4)
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "w.npy"), ramp(EVEN))


# -- the hash of the record --


def damage(folder: Path, change) -> None:
    path = folder / "v.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.update(fps=29.0),
        lambda r: r.update(frames=81),
        lambda r: r["times_s"].__setitem__(3, 2.2),
        lambda r: r.pop("end_s"),
        lambda r: r.pop("record_sha256"),
        lambda r: r.update(damaged_frames=3),
        lambda r: r.update(record_sha256="0" * 64),
    ],
)
def test_a_changed_record_is_not_believed(tmp_path, change):
    write_features(tmp_path, "v", ramp(UNEVEN), UNEVEN)
    assert is_complete(tmp_path, "v")
    damage(tmp_path, change)
    assert not is_complete(tmp_path, "v")
    for read in (read_features, read_feature_info):
        with pytest.raises(ValueError, match=r"v\.json: record_sha256 .* extract the features again"):
            read(tmp_path, "v")
    with pytest.raises(ValueError, match=r"v\.json: record_sha256"):
        uniform_record(tmp_path)
    with pytest.raises(ValueError, match=r"v\.json: record_sha256"):
        pack_h5(tmp_path, ["v"], tmp_path / "all.h5")


def test_the_hash_is_one_that_any_program_can_make(tmp_path):
    write_features(tmp_path, "v", ramp(UNEVEN), UNEVEN)
    record = json.loads((tmp_path / "v.json").read_text())
    others = {key: value for key, value in record.items() if key != "record_sha256"}
    text = json.dumps(others, sort_keys=True)
    assert record["record_sha256"] == hashlib.sha256(text.encode()).hexdigest()


def test_the_record_of_another_video_is_refused(tmp_path):
    write_features(tmp_path, "v", ramp(EVEN), EVEN)
    for suffix in (".npy", ".json"):
        (tmp_path / f"w{suffix}").write_bytes((tmp_path / f"v{suffix}").read_bytes())
    assert not is_complete(tmp_path, "w")
    for read in (read_features, read_feature_info):
        with pytest.raises(ValueError, match=r"w\.json: is the record of 'v', not of 'w'"):
            read(tmp_path, "w")


def test_accents_may_be_spelt_either_way(tmp_path):
    """ "é" in one sign or in two, as file systems of macOS rewrite names."""
    write_features(tmp_path, "caf\u00e9", ramp(EVEN), replace(EVEN, video_id="caf\u00e9"))
    for suffix in (".npy", ".json"):
        (tmp_path / f"caf\u00e9{suffix}").rename(tmp_path / f"cafe\u0301{suffix}")
    assert read_features(tmp_path, "cafe\u0301")[1].video_id == "caf\u00e9"


def test_records_of_before_are_read(tmp_path):
    """As older versions wrote them: no reader, no times, no hash of the record."""
    write_features(tmp_path, "v", ramp(EVEN), EVEN)
    path = tmp_path / "v.json"
    record = json.loads(path.read_text())
    new = ("reader", "damaged_frames", "precision", "times_s", "end_s", "record_sha256")
    path.write_text(json.dumps({key: value for key, value in record.items() if key not in new}))
    feat_SD, info = read_features(tmp_path, "v")
    assert (info.reader, info.times_s, info.precision, info.record_sha256) == ("", None, "float32", "")
    assert is_complete(tmp_path, "v")
    packed = read_features_h5(pack_h5(tmp_path, ["v"], tmp_path / "all.h5"), "v")
    np.testing.assert_array_equal(packed[0], feat_SD)
    assert packed[1] == sealed(info)


@pytest.mark.parametrize(
    ("field", "value"),
    [("fps", "24"), ("fps", 0), ("frames", 80.0), ("snippets", 0), ("mean", [None]), ("video_id", 5)],
)
def test_values_of_a_wrong_kind_are_named(field, value):
    record = asdict(EVEN) | {field: value}
    record["record_sha256"] = record_hash(record)
    with pytest.raises(ValueError, match=f"{field} cannot be"):
        FeatureInfo.from_dict(record)


def test_times_that_do_not_rise_or_fit_are_refused():
    for times_s in ((0.0, 1.0), (*STARTS_S[:-1], 1.0)):
        with pytest.raises(ValueError, match="times_s must be 11 rising seconds"):
            replace(UNEVEN, times_s=times_s)
    with pytest.raises(ValueError, match="go together"):
        replace(UNEVEN, end_s=None)


def test_hdf5_holds_the_times_of_a_long_video(tmp_path):
    """Ten hours: more numbers than fit into an attribute of HDF5."""
    snippets = 20_000
    times_s = tuple(np.cumsum(np.random.default_rng(0).uniform(0.1, 2.0, snippets + 1)).round(6).tolist())
    info = replace(UNEVEN, frames=8 * snippets, snippets=snippets, times_s=times_s, end_s=times_s[-1])
    written = write_features(tmp_path, "v", ramp(info), info)
    path = pack_h5(tmp_path, ["v"], tmp_path / "all.h5")
    assert read_features_h5(path, "v")[1] == written
    with h5py.File(path, "r+") as file:
        assert sorted(file) == ["v"]
        times = file["v"].attrs["times_s.4096"]
        times[7] += 1e-6
        file["v"].attrs["times_s.4096"] = times
    with pytest.raises(ValueError, match=r"all\.h5:v: record_sha256"):
        read_features_h5(path, "v")
