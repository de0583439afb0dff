"""The first losses of every pretext are those that were written down (golden_losses.py says how to write new ones)."""

import json
import math

import pytest

from golden_losses import DC, GOLDEN, STREAMS, measure, recipe_of
from paper_tables import TABLES

# Relative, or absolute below 1. The same machine gives the same bits; other processors and versions of PyTorch add in
# another order, which five steps enlarge: 6e-6 at most with kernels for SSE, 2e-7 with AVX2, in place of AVX-512.
TOLERANCE = 1e-4


@pytest.mark.parametrize("name", STREAMS)
def test_first_losses_are_those_written_down(name):
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    assert golden.pop("encoder") == str(STREAMS[name])
    measured = measure(name)
    assert measured.keys() == golden.keys()
    for key, values in golden.items():
        assert measured[key] == pytest.approx(values, rel=TOLERANCE, abs=TOLERANCE), key


def test_every_encoder_of_tables_4_and_5_has_a_file():
    """But for those that differ from another one in their seed."""
    wanted = {
        (stream.method, stream.kinds) for t in ("table4", "table5") for row in TABLES[t].rows for stream in row.streams
    } - {("image", ())}  # start weights as they are
    assert wanted <= {(stream.method, stream.kinds) for stream in STREAMS.values()}
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(STREAMS)


def test_the_files_know_the_loss_of_a_network_that_knows_nothing():
    """Heads begin near zero: cross-entropy of K classes is ln K, and regression half the mean square of the target."""
    golden = {name: json.loads((GOLDEN / f"{name}.json").read_text()) for name in STREAMS}
    rivals = (("arrow-of-time", 2), ("speediness", 2), ("pace", 4))
    for name, classes in (("action", 4), ("cls-dc", 2), ("cls-sc", 2), ("cls-ds", 2), ("cls-S", 4), *rivals):
        assert golden[name]["loss"][0] == pytest.approx(math.log(classes), abs=0.01), name
    assert golden["two-head"]["loss"][0] == pytest.approx(2 * math.log(4), abs=0.02)
    # Smooth L1 of 0 to exp(-(t - mu)^2 / 8), over 8 frames and the 5 change points 1 to 5, each as likely.
    each = [sum(math.exp(-((t - mu) ** 2) / 8) ** 2 / 2 for t in range(8)) / 8 for mu in range(1, 6)]
    assert golden["reg-dc"]["loss"][0] == pytest.approx(sum(each) / 5, rel=0.1)
    assert recipe_of(STREAMS["reg-dc"]).clips.kinds == (DC,)
