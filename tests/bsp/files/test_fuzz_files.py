"""300 mutated files of each kind: read, or refused by a typed error that names the file; never anything else.

`make fuzz` does the same with more of them (tests/support/fuzzing.py).
"""

import pytest

from fuzz_kinds import FILES
from fuzzing import fuzz


@pytest.mark.long
def test_mutated_files_are_read_or_refused():
    counts, failures = fuzz([kind.name for kind in FILES], seed=0, first=0, count=300)
    assert not failures, "\n".join(failures)
    for kind in FILES:
        assert counts[kind.name, "accepted"] + counts[kind.name, "refused"] == 300, kind.name
