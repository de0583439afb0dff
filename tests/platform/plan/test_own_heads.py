"""Settings that follow from somebody's data."""

from __future__ import annotations

import pytest

from bsp.datasets.own import load_own_actions
from bsp.features.record import FeatureInfo
from bsp_platform.plan.own_heads import choose_detector, for_few, head_settings, schedule
from bsp_platform.plan.profiles import PROFILES
from bsp_platform.plan.tasks import TASKS


def info(video_id, snippets, fps=12.0):
    return FeatureInfo(
        video_id=video_id, frames=8 * snippets, fps=fps, snippet_frames=8, stride_frames=8, offset_frames=0, size_px=0,
        mean=(), std=(), feature_width=16, snippets=snippets, encoder_hash="imported:x", code_version=0,
    )  # fmt: skip


def chosen(tmp_path, snippets, length_s, head=None):
    names = [f"video{k}" for k in range(10)]
    path = tmp_path / "labels.csv"
    lines = [f"{name},2,{2 + length_s},{'dig' if k % 2 else 'jump'}\n" for k, name in enumerate(names)]
    path.write_text("video,start_s,end_s,label\n" + "".join(lines))
    infos = {name: info(name, snippets) for name in names}
    data = load_own_actions(path, dict.fromkeys(names, snippets * 8 / 12))
    return choose_detector(data, infos, "training", 16, head)


@pytest.mark.parametrize(("videos", "steps"), [(1, 1), (8, 4), (100, 9), (5000, 313)])
def test_small_data_get_small_batches_and_more_epochs(videos, steps):
    batch, epochs = schedule(videos)
    assert -(-videos // batch) == steps
    assert 10 <= epochs <= 60
    assert steps * epochs >= min(400, 60 * steps)  # 400 steps, or as many as the epochs allow


@pytest.mark.parametrize("name", list(TASKS))
def test_every_head_has_settings_of_its_own(name):
    settings = TASKS[name].settings(PROFILES["mini"]())
    found = for_few(settings, 10)
    assert type(found.settings) is type(settings)
    changed = hasattr(settings, "batch_size") and hasattr(settings, "epochs")
    assert bool(found.reasons) == changed
    if changed:
        assert (found.settings.batch_size, found.settings.epochs >= settings.epochs) == (2, True)


def test_short_videos_are_taken_whole_and_long_ones_in_windows(tmp_path):
    short = chosen(tmp_path, snippets=24, length_s=7)
    assert (short.head, short.settings.cells, short.settings.top_classes) == ("gtad", 16, 2)
    long = chosen(tmp_path, snippets=2000, length_s=8)  # 12 snippets of 1333 s
    assert long.head == "gtad-windows"
    assert long.settings.cells % 8 == 0
    # The longest proposal holds the longest action, with a quarter of its length on top.
    assert long.settings.max_duration >= 12
    assert long.settings.too_long_cells == long.settings.max_duration + 1
    asked = chosen(tmp_path, snippets=24, length_s=7, head="gtad-windows")
    assert asked.head == "gtad-windows"


def test_settings_without_features_of_the_training_are_refused(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("video,start_s,end_s,label\na,1,2,dig\nb,1,2,dig\n")
    data = load_own_actions(path, {})
    with pytest.raises(ValueError, match="'training' has features"):
        choose_detector(data, {}, "training", 16)


def test_set_reaches_the_settings_and_near_misses_are_suggested(capsys):
    of_paper = PROFILES["paper"]().head
    _, settings, _ = head_settings(TASKS["gtad"], "paper", None, 3, (f"head.epochs={3 * of_paper.epochs}",), False)
    assert (settings.epochs, settings.decay_epoch) == (3 * of_paper.epochs, 3 * of_paper.decay_epoch)
    fixed = ("head.epochs=40", "head.decay_epoch=7")
    assert head_settings(TASKS["gtad"], "paper", None, 3, fixed, False)[1].decay_epoch == 7
    _, settings, _ = head_settings(TASKS["boundary-peaks"], "own", None, 3, ("head.smoothing_s=0.5",), False)
    assert settings.smoothing_s == 0.5
    assert "head.smoothing_s = 0.5  (changed" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"head\.epochs"):
        head_settings(TASKS["2dtan"], "own", None, 3, ("head.epoch=3",), False)
