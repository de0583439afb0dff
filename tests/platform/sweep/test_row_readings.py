"""Rows whose features are made with other batch-norm statistics, readout or frames: stages, models, tables."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bsp.clips.augment import AugmentSettings
from bsp.clips.plan import ClipSettings
from bsp.features.statistics import random_snippets, reestimated
from bsp.features.store import read_features
from bsp.models.folder import load_model
from bsp.models.streams import extract_streams
from bsp.survey.listing import ListedVideo
from bsp_platform.plan.profiles import mini
from bsp_platform.plan.recipes import FeatureRecipe, Stream
from bsp_platform.plan.rows import row_recipes
from bsp_platform.storage.manifests import recipe_hash
from bsp_platform.storage.stages import StageStore
from bsp_platform.work.extractor import plain_batches
from bsp_platform.work.own_videos import extract_videos
from bsp_platform.work.pretraining import WEIGHTS, load_encoder
from bsp_platform.work.streaming import ClipStream
from paper_tables import SOURCES, load
from row_without_ray import row  # noqa: F401 (a fixture)


def test_a_row_with_statistics_of_the_target_and_its_model(row, tmp_path):  # noqa: F811
    (task, head), *_ = row.recipes.heads.items()
    features = replace(
        head.features, statistics="target", statistics_videos="f", readout="three", snippet_sampling="64x8"
    )
    settings = replace(head.head, feature_width=3 * head.head.feature_width)
    row.recipes = replace(row.recipes, heads={task: replace(head, features=features, head=settings)})
    row.run(tmp_path / "s")
    store = StageStore(tmp_path / "s")
    folder, encoder = store.need("features", features), store.need("encoders", features.encoder)
    data = row.data["activitynet"]
    training = [v.path for v in data.videos if v.subset == "training" and v.path is not None]
    assert 0 < len(training) < len(data.videos)
    size = {"size_px": features.size_px, "snippet_frames": 8, "seed": 0, "sampling": "64x8"}
    wanted = reestimated(load_encoder(encoder / WEIGHTS, features.encoder), random_snippets(training, **size))
    found = load_encoder(folder / WEIGHTS, features.encoder).state_dict()
    assert all(torch.equal(value, found[name]) for name, value in wanted.state_dict().items())

    models = row.write_models(tmp_path / "s", tmp_path / "models")
    (path,) = models.folders.values()
    model = load_model(path)
    video = data.videos[0]
    (made, info), *_ = extract_streams(model.streams[:1], video.path, video_id=video.video_id)
    kept, record = read_features(folder, video.video_id)
    assert info.encoder_hash == record.encoder_hash
    np.testing.assert_array_equal(made, kept)
    assert model.streams[0].provenance["statistics"] == "target"

    listed = [ListedVideo(video_id=video.video_id, path=str(video.path))]
    extract_videos(tmp_path / "own", model.streams[0], listed, resources=None, max_broken=0.0)  # bsp extract
    np.testing.assert_array_equal(read_features(tmp_path / "own", video.video_id)[0], kept)
    assert extract_videos(tmp_path / "own", model.streams[0], listed, resources=None, max_broken=0.0).kept == 1


def test_plain_batches_are_clips_without_a_boundary(tiny_catalog):
    stream = ClipStream(
        catalog=None, clips=ClipSettings(kinds=()), augment=AugmentSettings(size_px=32), seed=0, batch_size=1, length=0
    )  # fmt: skip
    batches = plain_batches(tiny_catalog, stream)
    assert sum(map(len, batches)) == 960
    assert batches[0].shape[1:] == (8, 32, 32, 3)


def test_encoders_and_classes_are_those_of_table_4_and_only_what_is_named_changes():
    table4 = {one.name: one for one in load("ablation_table4", "TABLE_4").rows}
    for script, name in (
        ("ablation_statistics", "STATISTICS"), ("ablation_readout", "READOUT"), ("ablation_snippets", "SNIPPETS"),
    ):  # fmt: skip
        table = load(script, name)
        seen = set()
        for one in table.rows:
            base = next(other for other in table4 if one.name == other or one.name.startswith(f"{other}-"))
            ours, theirs = (row_recipes(r, 0, mini(), SOURCES, 1) for r in (one, table4[base]))
            assert ours.encoders == theirs.encoders
            assert ours.class_scores() == theirs.class_scores()
            assert (ours.heads == theirs.heads) == (one.name == base)
            seen.add(recipe_hash(ours.heads["gtad"]))
        assert len(seen) == len(table.rows)


def test_unknown_names_are_refused():
    features = row_recipes(load("ablation_table4", "TABLE_4").rows[0], 0, mini(), SOURCES, 1).heads["gtad"].features
    with pytest.raises(ValueError, match="statistics"):
        replace(features, statistics="other")
    with pytest.raises(ValueError, match="readout"):
        _ = replace(features, readout="other").reading
    assert isinstance(features, FeatureRecipe)
    text = str(Stream(method="action", statistics="target", readout="three", snippet_sampling="64x8"))
    assert text == "action statistics=target three 64x8"
