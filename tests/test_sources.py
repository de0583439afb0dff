"""Where data come from: missing options and videos are named, GloVe is cut to the words that occur."""

from dataclasses import replace

import numpy as np
import pytest

from bsp.datasets.pantomime import PantomimeSettings
from bsp.datasets.pantomime_grounding import GroundingWorldSettings
from bsp_platform.profiles import paper, smoke
from bsp_platform.sources import DataPaths, load_sources


@pytest.fixture(scope="module")
def tiny():
    return replace(
        smoke(),
        pantomime=PantomimeSettings(
            trimmed_per_class=2, trimmed_val_per_class=0, untrimmed_train=2, untrimmed_val=2, untrimmed_seconds=12.0,
            actions=("wave", "squat"),
        ),
        grounding=GroundingWorldSettings(train=2, test=1, size_px=32),
    )  # fmt: skip


def test_only_what_the_heads_need_is_loaded(tiny, tmp_path):
    detection = load_sources(tiny, {"gtad"}, DataPaths(), storage=tmp_path, progress=False)
    assert set(detection.data) == {"activitynet"}
    assert detection.notes == []
    grounding = load_sources(tiny, {"lgi"}, DataPaths(), storage=tmp_path, progress=False)
    assert set(grounding.data) == {"charades"}
    assert len(grounding.data["charades"].videos) == 3
    assert not grounding.data["charades"].missing
    assert "learnt from scratch" in grounding.notes[0]
    assert grounding.trimmed_print == detection.trimmed_print


def test_glove_is_cut_to_the_words_that_occur_and_named(tiny, tmp_path):
    path = tmp_path / "tiny.txt"
    path.write_text("the 1 2 3\nzebra 4 5 6\nwizard 7 8 9\n")
    sources = load_sources(tiny, {"2dtan"}, DataPaths(glove=path), storage=tmp_path / "s", progress=False)
    sentences = [m.sentence for moments in sources.data["charades"].moments.values() for m in moments]
    expected = [word for word in ("the", "wizard") if any(word in sentence.split() for sentence in sentences)]
    assert list(sources.glove.words) == expected
    assert "zebra" not in expected
    assert np.array_equal(sources.glove.vectors[expected.index("the")], [1, 2, 3])
    assert sources.notes == ["word embeddings tiny.txt, 3-d, frozen"]
    assert list((tmp_path / "s" / "glove").iterdir())


def test_missing_options_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"needs --kinetics DIR and --charades DIR$"):
        load_sources(paper(), {"2dtan"}, DataPaths(), storage=tmp_path)
    with pytest.raises(ValueError, match="--charades go with --profile paper"):
        load_sources(smoke(), {"lgi"}, DataPaths(charades=tmp_path), storage=tmp_path)


def test_charades_without_its_videos_is_refused(tiny, tmp_path):
    from bsp_platform.sources import _load_charades

    (tmp_path / "charades_durations.json").write_text('{"AAAAA": 10.0, "BBBBB": 10.0}')
    (tmp_path / "charades_sta_train.txt").write_text("AAAAA 1.0 2.0##a person sits.\n")
    (tmp_path / "charades_sta_test.txt").write_text("BBBBB 1.0 2.0##a person sits.\n")
    with pytest.raises(ValueError, match=r"2 of 2 videos have no file, for example AAAAA\.mp4; put the videos into"):
        _load_charades(tmp_path)
