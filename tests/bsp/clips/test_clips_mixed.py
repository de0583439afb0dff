"""Streams that mix plain action clips with synthetic ones, for training both tasks jointly (Section 3.4)."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from bsp.clips.plan import BoundaryKind, ClipSettings, plan_clip
from bsp.clips.synthesis import collate

MIXED = ClipSettings(plain_clips=3)


@pytest.mark.long
def test_every_block_has_each_kind_once_and_the_plain_clips(tiny_catalog):
    for block in range(20):
        plans = [plan_clip(tiny_catalog, MIXED, 0, 7 * block + k) for k in range(7)]
        assert Counter(plan.kind for plan in plans) == {**dict.fromkeys(BoundaryKind, 1), None: 3}
    orders = {tuple(plan_clip(tiny_catalog, MIXED, 0, 7 * b + k).kind for k in range(7)) for b in range(20)}
    assert len(orders) > 10


def test_labels_are_of_their_own_task(tiny_catalog):
    plans = [plan_clip(tiny_catalog, replace(MIXED, kinds=(BoundaryKind.SAME_SPEED,)), 1, k) for k in range(40)]
    plain = [plan for plan in plans if plan.kind is None]
    assert len(plain) == 30
    assert all(plan.label == tiny_catalog.labels[plan.videos[0]] for plan in plain)
    assert {plan.label for plan in plans if plan.kind is not None} == {0}


def test_a_batch_says_which_clips_are_plain(tiny_catalog):
    plans = [plan_clip(tiny_catalog, MIXED, 0, k) for k in range(14)]
    batch = collate(plans, [np.zeros((8, 4, 4, 3), np.uint8)] * 14)
    assert batch["plain"].dtype == bool
    assert batch["plain"].sum() == 6
    assert batch["plain"].tolist() == [plan.kind is None for plan in plans]


@pytest.mark.parametrize("fields", [{"plain_clips": -1}, {"plain_clips": 2, "kinds": ()}])
def test_settings_that_cannot_work_are_refused(fields):
    with pytest.raises(ValueError, match="plain_clips must be 0 or more, and 0 without kinds"):
        ClipSettings(**fields)
