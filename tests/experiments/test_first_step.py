"""The benchmark of the first minutes reads the console: parts between its lines, and what every training waits for."""

import pytest

from first_step import parts_of, trainings_of

LINES = [
    (3.0, "Table 4: 2 runs, 0 already finished"),
    (4.0, "starting Ray ..."),
    (9.0, "plan: --device auto: CPU"),
    (9.5, "running 2 rows and seeds, 2 at a time"),
    (15.0, "[     6 s] a seed 0: pretrain one"),
    (15.5, "[     6 s] b seed 0: pretrain two"),
    (17.0, "[     8 s] a seed 0: pretrain one: starting the training process ..."),
    (25.0, "[    16 s] a seed 0: pretrain one: first clips ..."),
    (30.0, "[    21 s] a seed 0: pretrain one: step 5/8 (62%), loss 0.6"),
    (33.5, "[    24 s] b seed 0: pretrain two: step 5/8 (62%), loss 0.6"),
    (40.0, "[    31 s] a seed 0: pretrain one: step 8/8 (100%), loss 0.6"),
]


def test_parts_are_the_times_between_the_lines_of_the_console():
    assert list(parts_of(LINES).values()) == pytest.approx([3.0, 1.0, 5.0, 0.5, 5.5, 2.0, 8.0, 5.0])
    assert list(parts_of(LINES[:3]).values()) == pytest.approx([3.0, 1.0, 5.0])


def test_each_training_waits_from_its_own_line_to_its_first_record():
    assert trainings_of(LINES) == pytest.approx([15.0, 18.0])
