"""The program that tries pretexts: what a training needs is made once before it; clips are those of the stream."""

from types import SimpleNamespace

import numpy as np
import pytest

from bsp.clips.plan import BoundaryKind
from bsp_platform.plan.profiles import smoke
from bsp_platform.plan.recipes import Stream
from bsp_platform.work.streaming import ClipStream, make_clips
from paper_tables import load

pytestmark = pytest.mark.long  # three short trainings
SPEED = Stream(method="classification", kinds=(BoundaryKind.DIFF_SPEED, BoundaryKind.SAME_SPEED))


@pytest.fixture
def recipe(tiny_catalog):
    names = tiny_catalog.class_names
    return smoke().encoder_recipe(SPEED, trimmed="t", num_actions=len(names), workers=1, seed=0, start="image")


def test_the_classifier_of_pictures_is_trained_once(tiny_catalog, recipe, tmp_path, capsys):
    trained = load("try_pretext", "trained")
    data = SimpleNamespace(training=tiny_catalog, validation=tiny_catalog, clips=16)
    weights, curve = trained(recipe, data, tmp_path, 2)
    assert weights.is_file()
    assert [point["clips"] for point in curve] == [64, 128]
    said = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert said == [recipe.still.name] * 2 + [recipe.name] * 2
    assert len(list((tmp_path / "encoders").iterdir())) == 3
    assert trained(recipe, data, tmp_path, 2) == (weights, curve)
    assert not capsys.readouterr().out


def test_clips_are_those_of_the_stream(tiny_catalog, recipe):
    pretext, clips, augment, train = recipe.still.training
    stream = ClipStream(
        catalog=None, clips=clips, augment=augment, seed=0, batch_size=train.batch_size, length=train.clips,
        plan=pretext.plan, synthesise=pretext.synthesise,
    )  # fmt: skip
    found = list(load("try_pretext", "batches")(recipe.still, tiny_catalog))
    assert len(found) == train.steps == 8
    np.testing.assert_array_equal(np.concatenate([batch["index"] for batch in found]), np.arange(128))
    expected = make_clips(tiny_catalog, stream, range(112, 128))
    np.testing.assert_array_equal(found[-1]["clip"], expected["clip"])
