"""Figures 2, 4 and 5: what is shown and measured, by hand and by naive formulas; no text leaves a figure."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bsp.clips.catalog import Catalog
from bsp.clips.plan import BoundaryKind, ClipSettings, plan_clip
from bsp.datasets.activitynet import Instance, UntrimmedVideo
from bsp.features.store import FeatureInfo
from bsp.figures.difference import (
    as_matrix,
    boundaries_of,
    choose_example,
    draw_differences,
    gather_pairs,
    neighbour_differences,
    pair_kinds,
    pair_picture,
    percentiles,
    separability,
)
from bsp.figures.qualitative import choose_cases, coverage, draw_cases, make_case, mean_best_tiou, top_segments
from bsp.figures.style import new_figure, save_figure, spread, spread_text, thumbnails
from bsp.figures.synthesis import draw_synthesis, first_of_each_kind, real_panel, speed_change, synthesis_panel
from bsp.video.read import read_frames


def texts_inside(figure: Figure) -> bool:
    """Whether every text, also those of axes, lies within the figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    page, renderer = figure.bbox, canvas.get_renderer()
    boxes = [t.get_window_extent(renderer) for t in figure.findobj(match=lambda o: hasattr(o, "get_text"))]
    return all(
        page.x0 <= b.x0 and b.x1 <= page.x1 and page.y0 <= b.y0 and b.y1 <= page.y1 for b in boxes if b.width > 1
    )


def own_texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


# -- shared --


def test_spread_by_hand():
    assert spread([0.5]) == {"mean": 0.5, "std": None, "seeds": [0.5]}
    facts = spread([0.8, 0.9])
    assert (facts["mean"], facts["std"]) == (pytest.approx(0.85), pytest.approx(0.05 * 2**0.5))
    assert spread_text([0.5]) == "0.500 (1 seed)"
    assert spread_text([0.8, 0.9]) == "0.850 ± 0.071 (2 seeds)"


@pytest.mark.long
def test_the_same_figure_gives_the_same_files(tmp_path):
    for folder in ("a", "b"):
        figure = new_figure(6, 1, title="A title", caption="words " * 60)
        assert texts_inside(figure)
        paths = save_figure(figure, tmp_path / folder)
        assert [p.name for p in paths] == ["figure.png", "figure.pdf"]
    for name in ("figure.png", "figure.pdf"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_thumbnails_shrink_large_frames_and_keep_small_ones():
    frames = np.zeros((2, 320, 480, 3), np.uint8)
    assert thumbnails(frames).shape == (2, 160, 240, 3)
    small = np.zeros((1, 64, 48, 3), np.uint8)
    assert thumbnails(small).shape == small.shape
    assert thumbnails(small, like=frames).shape == (1, 160, 240, 3)


# -- Figure 2 --


def catalog(frames: int = 100) -> Catalog:
    """Six videos of two classes; the files do not exist."""
    return Catalog(
        root="/nowhere", paths=np.array([b"%d.mp4" % k for k in range(6)]), class_names=("a", "b"),
        labels=np.array([0, 0, 0, 1, 1, 1], np.int32), first_frame=np.zeros(6, np.int64),
        frames=np.full(6, frames, np.int32), fps=np.full(6, 30, np.float32), readers=np.zeros(6, np.uint8),
    )  # fmt: skip


@pytest.mark.parametrize("seed", [0, 5])
def test_the_clips_shown_are_the_first_of_their_kinds(seed):
    settings = ClipSettings(kinds=(BoundaryKind.SAME_SPEED,))  # of whatever kinds the training has
    found = first_of_each_kind(catalog(), settings, seed)
    stream = [plan_clip(catalog(), ClipSettings(), seed, index) for index in range(4)]
    assert [plan.kind for plan in found] == list(BoundaryKind)
    assert found == sorted(stream, key=lambda plan: plan.kind)


@pytest.mark.parametrize("gamma", [0.25, 0.5, 2.0, 4.0])
@pytest.mark.parametrize(("frames", "stride"), [(100, 1), (100, 3), (12, 1)])  # 12: the video is stretched or squeezed
def test_the_speed_is_read_back_from_the_plan(gamma, frames, stride):
    for t in (2, 4, 6):
        made = ClipSettings(kinds=(BoundaryKind.DIFF_SPEED,), gammas=(gamma,), change_point=t, stride_frames=stride)
        plan = plan_clip(catalog(frames), made, 0, t)
        found = speed_change(catalog(frames), plan, ClipSettings(stride_frames=stride))
        assert found == (gamma, stride)
    with pytest.raises(ValueError, match="not planned with these"):
        speed_change(catalog(frames), plan, ClipSettings(gammas=(3.0,), stride_frames=stride))


@pytest.fixture(scope="module")
def panels(tiny_catalog, tiny_untrimmed):
    settings = ClipSettings(gammas=(0.25, 4.0))
    plans = first_of_each_kind(tiny_catalog, settings, 0)
    made = [synthesis_panel(tiny_catalog, plan, settings) for plan in plans]
    return plans, made, real_panel(tiny_untrimmed, settings, 0)


@pytest.mark.long
def test_a_blended_clip_stands_under_its_sources(panels):
    plan, panel = panels[0][0], panels[1][0]
    first, second, clip = panel.rows
    t = round(plan.change_point) + 1
    # Eq. (1) with epsilon 1: one frame, the t-th, is half and half; before it A, after it B.
    assert clip.marked == (t - 1,)
    assert clip.under[t - 1] == ".50A + .50B"
    assert panel.change == t - 0.5  # the middle of that frame
    assert f"t = {t} (ε = 1)" in panel.head
    np.testing.assert_array_equal(clip.frames[: t - 1], first.frames[: t - 1])
    np.testing.assert_array_equal(clip.frames[t:], second.frames[t - second.first :])
    half = (first.frames[t - 1].astype(int) + second.frames[t - 1 - second.first]) / 2
    assert np.abs(clip.frames[t - 1] - half).max() <= 0.5
    assert first.label.split("\n")[1] != second.label.split("\n")[1]


def test_a_joined_clip_has_no_blend_and_one_class(panels):
    plan, panel = panels[0][1], panels[1][1]
    first, second, clip = panel.rows
    t = round(plan.change_point) + 1
    assert (len(first.frames), len(second.frames), second.first, panel.change) == (t, 8 - t, t, t)
    assert clip.marked == ()
    assert clip.under == first.under + second.under
    assert first.label.split("\n")[1] == second.label.split("\n")[1]


def test_a_speed_change_stands_under_the_video_at_its_own_rate(panels, tiny_catalog):
    plan, panel = panels[0][2], panels[1][2]
    video, clip = panel.rows
    t = round(plan.change_point) + 1
    assert panel.change == t
    assert clip.under[:t] == video.under[:t]
    assert clip.under[t:] != video.under[t:]
    assert [int(text) for text in clip.under] == plan.frames[0].tolist()
    steps = np.diff([int(text) for text in video.under])
    assert (steps == 1).all()
    expected = read_frames(tiny_catalog.path(plan.videos[0]), np.array([int(text) for text in video.under]))
    np.testing.assert_array_equal(video.frames, expected)


def test_no_change_has_no_marker(panels):
    panel = panels[1][3]
    assert panel.change is None
    assert len(panel.rows) == 1


def test_the_real_boundary_is_in_the_middle(panels, tiny_untrimmed):
    panel = panels[2]
    video = next(v for v in tiny_untrimmed.videos if v.video_id == panel.facts["video"])
    assert panel.facts["start_s"] == video.instances[0].start_s
    times = [float(text.removesuffix(" s")) for text in panel.rows[0].under]
    assert panel.change == len(times) / 2
    assert times[4] == pytest.approx(panel.facts["start_s"], abs=0.05)


@pytest.mark.long
def test_figure_2_has_all_rows_and_keeps_its_texts_inside(panels):
    shown = [panels[2], *panels[1]]
    figure = draw_synthesis(shown, title="Figure 2", caption="How it was made. " * 20)
    assert len(figure.axes) == sum(len(panel.rows) for panel in shown)
    assert {panel.head for panel in shown} <= set(own_texts(figure))
    assert own_texts(figure).count("▼") == 4
    assert texts_inside(figure)


# -- Figure 4 --


def test_differences_of_unit_features_by_hand():
    found = neighbour_differences(np.array([[3, 4], [0, 2], [0, 0]], np.float32))
    np.testing.assert_allclose(found, [[0.6, 0.2], [0, 1]])


def test_pairs_of_snippets_by_hand():
    # Five snippets of 8 frames; 6 lies in snippet 0, 30 in snippet 3. Pair 2 has its boundary in the second one.
    assert pair_kinds([6, 30], 5, 8).tolist() == [1, 0, -1, 1]
    # 16 is between snippets 1 and 2: exactly what pair 1 differs by. 0 and 40 are the ends of the video.
    assert pair_kinds([16, 0, 40], 5, 8).tolist() == [-1, 1, 0, 0]
    # In both snippets of a pair: left out. Fractions of a frame after the edge belong to the next snippet.
    assert pair_kinds([3, 8.5], 3, 8).tolist() == [-1, 1]


def info(frames: int = 40, fps: float = 10.0) -> FeatureInfo:
    return FeatureInfo(
        video_id="v", frames=frames, fps=fps, snippet_frames=8, stride_frames=8, offset_frames=0, size_px=32,
        mean=(0, 0, 0), std=(1, 1, 1), feature_width=2, snippets=frames // 8, encoder_hash="x", code_version=1,
    )  # fmt: skip


def test_boundaries_are_starts_and_ends_in_frames():
    video = UntrimmedVideo("v", None, 4.0, "validation", (Instance("a", 0.6, 3.0), Instance("a", 3.2, 4.5)))
    assert boundaries_of(video, info()) == pytest.approx([6, 30, 32, 45])


def test_separability_counts_ordered_pairs():
    rng = np.random.default_rng(0)
    values, boundary = rng.integers(0, 8, 60) / 8, rng.random(60) < 0.3
    pairs = itertools.product(values[boundary], values[~boundary])
    naive = np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs])
    assert separability(values, boundary) == pytest.approx(naive)


def test_percentiles_by_hand():
    values, boundary = np.array([1.0, 2.0, 2.0, 4.0, 2.0, 9.0]), np.array([0, 0, 0, 0, 1, 1], bool)
    # Below 2 there is 1 of the 4 without a boundary, equal are 2: (1 + 2 / 2) / 4.
    np.testing.assert_allclose(percentiles(values, boundary)[4:], [50, 100])


def test_the_example_is_the_median_boundary_and_its_nearest_neighbour():
    pairs = gather_pairs([np.array([1, -1, 0, 1, 0, 0]), np.array([1, 1]), np.array([0, 0, 1])])
    # Positions: video 0 has boundaries at 0 and 2 (pairs 0 and 3), video 2 at 9; video 1 has nothing to compare with.
    assert pairs.video[pairs.boundary].tolist() == [0, 0, 1, 1, 2]
    assert pairs.left_out == 1
    vanilla = np.zeros(len(pairs.pair))
    bsp = vanilla.copy()
    bsp[np.flatnonzero(pairs.boundary)] = [-20, 5, -7, -7, 30]
    chosen, other = choose_example(bsp, vanilla, pairs)
    # Gains -20, 5, 30 remain: the middle one is video 0, pair 3; pairs 2 and 4 are as near, the earlier is taken.
    assert (pairs.video[chosen], pairs.pair[chosen]) == (0, 3)
    assert (pairs.video[other], pairs.pair[other]) == (0, 2)


def test_pairs_of_one_kind_only_are_refused():
    with pytest.raises(ValueError, match="0 pairs of snippets at a boundary and 2 without"):
        gather_pairs([np.array([0, 0])])
    apart = gather_pairs([np.array([1]), np.array([0])])
    with pytest.raises(ValueError, match="no video has both"):
        choose_example(np.zeros(2), np.zeros(2), apart)


def test_features_become_the_papers_matrices():
    assert [as_matrix(np.zeros(n)).shape for n in (2048, 1024, 128, 7)] == [
        (32, 64), (32, 32), (8, 16), (1, 7),
    ]  # fmt: skip
    assert as_matrix(np.arange(6)).tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.long
def test_figure_4_shows_both_encoders_and_keeps_its_texts_inside(tiny_untrimmed):
    video = next(v for v in tiny_untrimmed.videos if v.path)
    fps = 12.0
    start = video.instances[0].start_s * fps
    rng = np.random.default_rng(0)
    features = {name: rng.random((18, 24)).astype(np.float32) for name in ("BSP", "vanilla")}
    notes = dict.fromkeys(features, "mean 0.1234: above 100%\nof the pairs without a boundary")
    made = info(frames=144, fps=fps)
    pair = int(np.ceil(start / 8)) - 1
    shown = [pair_picture(video, p, features, made, notes) for p in (pair, 0 if pair > 1 else pair + 3)]
    assert shown[0].boundary == pytest.approx(start - 8 * pair)
    np.testing.assert_array_equal(shown[0].frames, read_frames(video.path, np.arange(8 * pair, 8 * pair + 16)))
    boundary = rng.random(100) < 0.2
    figure = draw_differences(
        shown, {name: rng.random(100) for name in features}, boundary, colours=dict.fromkeys(features, "black"),
        heads={name: f"{name}: AUC 0.5" for name in features}, title="Figure 4", caption="Explained. " * 40,
    )  # fmt: skip
    matrices = [
        axes.images[0].get_array() for axes in figure.axes if axes.images and axes.images[0].get_array().ndim == 2
    ]
    assert [m.shape for m in matrices] == [(4, 6)] * 4
    unit = features["BSP"] / np.linalg.norm(features["BSP"], axis=1, keepdims=True)
    np.testing.assert_allclose(matrices[0].ravel(), np.abs(unit[pair] - unit[pair + 1]), atol=1e-6)
    assert texts_inside(figure)


# -- Figure 5 --


def detection(start: float, end: float, score: float, label: str = "a") -> dict:
    return {"label": label, "score": score, "segment": [start, end]}


def test_top_segments_are_different_ones_best_first():
    found = [detection(0, 1, 0.2), detection(2, 3, 0.9), detection(2, 3, 0.8, "b"), detection(4, 5, 0.2)]
    segments, scores = top_segments(found, 2)
    assert (segments.tolist(), scores.tolist()) == ([[2, 3], [0, 1]], [0.9, 0.2])
    assert len(top_segments(found, 9)[0]) == 3
    assert top_segments([])[0].shape == (0, 2)


def test_coverage_by_hand():
    truth = np.array([[0.0, 4.0], [10.0, 12.0]])
    # [0, 4] is met by [0, 2] with 2 / 4 and by [1, 5] with 3 / 5; [10, 12] only by [11, 13], with 1 / 3.
    segments = np.array([[0.0, 2.0], [1.0, 5.0], [11.0, 13.0]])
    assert mean_best_tiou(truth, segments) == pytest.approx((3 / 5 + 1 / 3) / 2)
    videos = [
        UntrimmedVideo(
            name, None, 20.0, "validation", (Instance("a", 0, 4), Instance("a", 10, 12), Instance("a", 7, 7))
        )
        for name in ("seen", "not seen")
    ]
    results = {"seen": [detection(*segment, score=0.5) for segment in segments.tolist()]}
    found = coverage(videos, results)
    np.testing.assert_allclose(found, [(3 / 5 + 1 / 3) / 2, 0])


def test_cases_are_the_largest_gain_and_loss():
    assert choose_cases(np.array([0.1, -0.4, 0.3, 0.3, -0.4])) == (2, 1)


def test_figure_5_shows_truth_and_segments_and_keeps_its_texts_inside(tiny_untrimmed):
    video = next(v for v in tiny_untrimmed.videos if v.path)
    results = {
        "vanilla": {video.video_id: [detection(0, 2, 0.5), detection(3, 5, 0.25)]},
        "vanilla + BSP": {},
    }
    video = replace(video, instances=(*video.instances, Instance("a class with quite a long name", 0, 1)))
    cases = [make_case(video, results, head) for head in ("Success", "Failure")]
    figure = draw_cases(cases, colours=dict.fromkeys(results, "black"), title="Figure 5", caption="Explained. " * 40)
    lanes = figure.axes[1]
    drawn = sorted((patch.get_x(), patch.get_x() + patch.get_width()) for patch in lanes.patches)
    truth = [(i.start_s, i.end_s) for i in video.instances]
    np.testing.assert_allclose(drawn, sorted([*truth, (0, 2), (3, 5)]))
    assert lanes.get_xlim() == figure.axes[0].get_xlim() == (0, video.duration_s)
    assert any("tIoU 0.00" in text for text in own_texts(figure))
    assert texts_inside(figure)


def test_dollars_in_names_are_no_formulas(tmp_path):
    figure = new_figure(6, 1, title=r"make $\frac money$", caption=r"a video named $\frac.mp4 and $x$")
    paths = save_figure(figure, tmp_path)
    assert all(path.stat().st_size > 1000 for path in paths)
