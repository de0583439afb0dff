"""What is left of a training whose trial has ended before it: its placement group, which the driver removes."""

from types import SimpleNamespace

import pytest

from bsp_platform.sweep import tuning
from bsp_platform.work.probe import WORKERS


@pytest.mark.parametrize("end", ["on_trial_complete", "on_trial_error"])
def test_the_place_of_the_last_training_is_freed_when_its_trial_ends(monkeypatch, end):
    freed: list[str] = []
    monkeypatch.setattr(tuning, "release_workers", freed.append)
    watch = tuning.FreePlaces()
    one, other = SimpleNamespace(trial_id="one"), SimpleNamespace(trial_id="other")
    for trial, result in (
        (one, {WORKERS: "aa"}),
        (other, {WORKERS: "bb"}),
        (one, {"stage": "features"}),
        (one, {WORKERS: "cc"}),
    ):
        watch.on_trial_result(1, [one, other], trial, result)
    getattr(watch, end)(1, [one, other], one)
    assert freed == ["cc"]
