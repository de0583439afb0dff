"""300 mutated videos of each kind: read, or refused by a typed error that names the file; never anything else."""

import pytest

from fuzz_kinds import VIDEOS
from fuzzing import fuzz


@pytest.mark.long
def test_mutated_videos_are_read_or_refused():
    counts, failures = fuzz([kind.name for kind in VIDEOS], seed=0, first=0, count=300)
    assert not failures, "\n".join(failures)
    for kind in VIDEOS:
        assert counts[kind.name, "accepted"] + counts[kind.name, "refused"] == 300, kind.name
        assert counts[kind.name, "accepted"] > 30, kind.name  # the mutations leave something to read
