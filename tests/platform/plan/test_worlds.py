"""Profiles on another version of the embedded data."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from bsp.datasets.pantomime.levers import VERSIONS, in_version
from bsp_platform.plan.profiles import in_world, mini, paper, smoke


def test_only_the_data_and_the_name_differ():
    assert in_world(mini(), 1) == mini()
    two = in_world(smoke(), 2)
    assert two.name == "smoke-world2"  # so that its tables do not replace those of version 1
    assert two.pantomime.levers is not None
    assert two.pantomime.untrimmed_train == smoke().pantomime.untrimmed_train
    same = ("encoder", "clips", "augment", "train", "two_head_train", "head", "hacs", "thumos", "tan2d", "lgi")
    assert [getattr(two, name) for name in same] == [getattr(smoke(), name) for name in same]
    for kind, field in (("untrimmed", "pantomime"), ("grounding", "grounding"), ("stories", "stories")):
        assert in_version(getattr(smoke(), field), kind, 2) == getattr(two, field)
        assert set(VERSIONS[2][kind]) <= set(asdict(getattr(two, field)))


def test_real_videos_have_no_versions():
    with pytest.raises(ValueError, match="--world 2 goes with smoke and mini"):
        in_world(paper(), 2)
