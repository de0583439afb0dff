"""The script that calibrates the embedded world: settings from the command line, probes, rows of the log."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from bsp.datasets.activitynet import load_activitynet_folder
from bsp.datasets.kinetics import load_kinetics_folder
from bsp.datasets.pantomime.levers import NO_LEVERS
from bsp.encoders.tsm import EncoderSettings
from bsp_platform.plan.profiles import mini, smoke
from calibrate_world import acting_precision, extract, log_row, profile_of, train_vanilla


def test_changes_reach_the_data_that_they_name():
    profile = profile_of(1, ["levers.restless=0.5", "untrimmed.instance_seconds=[1.5, 5]", "stories.noise=2"], 3200)
    for settings in (profile.pantomime, profile.grounding, profile.stories):
        assert settings.levers.restless == 0.5
        assert settings.levers.contrast == NO_LEVERS.contrast
    assert profile.pantomime.instance_seconds == (1.5, 5)
    assert (profile.pantomime.noise, profile.stories.noise, profile.grounding.noise) == (1, 2, 1)
    assert profile.train.clips == 3200
    assert profile.head == mini().head
    with pytest.raises(TypeError, match="loudness"):
        profile_of(1, ["levers.loudness=1"], None)


def _videos(subset: str, count: int) -> list[SimpleNamespace]:
    acts = [SimpleNamespace(start_s=4.0, end_s=8.0)]
    return [SimpleNamespace(video_id=f"{subset}{k}", subset=subset, instances=acts) for k in range(count)]


def test_the_probe_finds_what_features_tell_and_nothing_else():
    """Snippets of 1 s; those from 4 to 8 s act."""
    rng = np.random.default_rng(0)
    videos = [*_videos("training", 20), *_videos("validation", 20)]
    info = SimpleNamespace(stride_frames=12, fps=12.0)
    acts = (np.arange(16) >= 4) & (np.arange(16) < 8)
    found = {v.video_id: (rng.standard_normal((16, 3)), info) for v in videos}
    data = SimpleNamespace(videos=videos)
    assert acting_precision(found, data) == pytest.approx(25, abs=8)  # the share of snippets that act
    told = {key: (np.column_stack([feat, acts]), of) for key, (feat, of) in found.items()}
    assert acting_precision(told, data) > 99


def test_rows_of_the_log(tmp_path):
    found = {
        "scores": {
            "random gtad": {"mAP@0.50": 9.0, "mAP_avg": 4.04},
            "vanilla gtad": {"mAP_avg": 40.0, "AR_AUC": 60.06},
        },
        "probes": {"random": 50.0, "random three": 51.0, "vanilla": 70.0},
        "class_accuracy": {"activitynet": 0.75}, "seconds": {"render": 20, "vanilla": 60},
    }  # fmt: skip
    for _ in range(2):
        line = log_row(tmp_path / "log.md", "world 2", ["gtad"], found)
    assert line.endswith(
        "| world 2 | gtad 4.0; probe 50.0 | probe 51.0 | gtad 40.0 (AR_AUC 60.1); probe 70.0 | activitynet 0.75 "
        "| 20 + 60 |\n"
    )
    assert (tmp_path / "log.md").read_text() == line * 2


def test_an_encoder_is_trained_and_read_without_ray(tiny_data, tiny_pantomime):
    """The readout by three statistics begins with the mean; the training is that of the vanilla row."""
    profile = replace(smoke(), encoder=EncoderSettings(depth=18, width=8))
    profile = replace(profile, train=replace(profile.train, clips=32, batch_size=16))
    sources = SimpleNamespace(trimmed=load_kinetics_folder(tiny_data / "trimmed"))
    encoder, record = train_vanilla(profile, sources)
    assert record["step"] == 2
    videos = load_activitynet_folder(tiny_data / "untrimmed").videos[:2]
    means, threes = extract(encoder, videos, 32, three=True)
    for video in videos:
        mean_SD, three_SD = means[video.video_id][0], threes[video.video_id][0]
        width = mean_SD.shape[1]
        assert three_SD.shape == (len(mean_SD), 3 * width)
        assert np.array_equal(three_SD[:, :width], mean_SD)
        assert (three_SD[:, width:] >= 0).all()
        assert threes[video.video_id][1].feature_width == 3 * width
