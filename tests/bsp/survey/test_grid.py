"""The suggested grid, by worked examples."""

import pytest

from bsp.survey.grid import suggest_grid


def test_short_instances_get_four_cells():
    # 100 s at 25 frames a second: 312 snippets of 0.32 s. Instances of 4 s: a cell of 1 s, so 100 cells.
    grid = suggest_grid([100.0, 60.0], [25.0, 25.0], [(0, 4.0)] * 10)
    assert (grid.cells, grid.cell_s, grid.window_s) == (100, 1.0, 100.0)
    assert not grid.on_windows
    assert grid.max_duration == 5  # 4 s over cells of 1 s, and one more as ends fall between cells
    assert grid.shorter_than_cell == 0


def test_no_finer_than_the_snippets():
    # 10 s at 12.5: 15 snippets of 0.64 s, though 0.2 s instances would need 100 cells; 16 is the least.
    grid = suggest_grid([10.0], [12.5], [(0, 0.2)] * 9 + [(0, 5.0)])
    assert grid.cells == 16
    assert grid.shorter_than_cell == pytest.approx(0.9)
    assert any("15 snippets" in reason for reason in grid.reasons)
    assert any("90% of the instances are shorter than a snippet" in reason for reason in grid.reasons)


def test_long_videos_of_short_instances_are_cut_into_windows():
    # an hour, instances of 3 s: 4800 cells; with 128 cells of 0.75 s a window is 96 s.
    grid = suggest_grid([3600.0], [25.0], [(0, 3.0)] * 4)
    assert (grid.cells, grid.window_s, grid.cell_s) == (128, 96.0, 0.75)
    assert grid.on_windows
    assert any("96 s" in reason for reason in grid.reasons)


def test_no_windows_where_an_action_fills_the_video():
    # 400 cells of 1 s would be needed, but no window shorter than the video holds the action of 300 s and some context.
    grid = suggest_grid([400.0], [25.0], [(0, 4.0)] * 4 + [(0, 300.0)])
    assert (grid.cells, grid.window_s, grid.on_windows) == (128, 400.0, False)
    assert grid.max_duration == 97  # 300 s over cells of 3.125 s are 96, and one more


def test_without_annotations_the_papers_cells():
    assert suggest_grid([200.0], [25.0], []).cells == 100
    with pytest.raises(ValueError, match="0 durations"):
        suggest_grid([], [], [])
