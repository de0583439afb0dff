"""The model that comes with the package: small, whole, honest about what it is."""

from pathlib import Path

import pytest

import bsp
from bsp.models.folder import load_model

FOLDER = Path(bsp.__file__).parent / "models" / "shipped"


def test_it_is_small_and_says_what_it_is():
    files = list(FOLDER.iterdir())
    assert sum(path.stat().st_size for path in files) < 2_000_000
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    model = load_model(FOLDER)
    facts = model.provenance
    assert facts["licence"] == "Apache-2.0"
    assert "stick figures" in facts["note"]
    assert "average mAP" in facts["scores"]
    assert facts["made by"].startswith("experiments/tools/make_shipped_model.py --seed")
    assert len(model.class_names) == 10


def test_it_belongs_to_the_package():
    import tomllib

    project = tomllib.loads((FOLDER.parents[2] / "pyproject.toml").read_text("utf-8"))
    assert "models/shipped/*" in project["tool"]["setuptools"]["package-data"]["bsp"]


@pytest.mark.long
def test_it_finds_actions_in_a_world_that_it_has_not_seen(tmp_path):
    """An independent count: the best segment of most videos overlaps an action, chosen at random it would not."""
    from bsp.datasets.activitynet import load_activitynet
    from bsp.datasets.pantomime.render import PantomimeSettings, render

    settings = PantomimeSettings(
        seed=77, trimmed_per_class=0, trimmed_val_per_class=0, untrimmed_train=0, untrimmed_val=8, max_instances=1
    )
    world = render(settings, tmp_path, workers=1, progress=False) / "untrimmed"
    data = load_activitynet(world / "activitynet.json", world / "videos", subsets=("validation",))
    model, hits = load_model(FOLDER), 0
    for video in data.videos:
        best, (truth,) = model.detect(video.file)[0], video.instances
        shared = min(best.end_s, truth.end_s) - max(best.start_s, truth.start_s)
        hits += shared > 0.5 * (max(best.end_s, truth.end_s) - min(best.start_s, truth.start_s))
    assert hits >= 3  # an action fills 2.5 to 9 of 24 s; segments drawn at random reach tIoU 0.5 one time in ten
