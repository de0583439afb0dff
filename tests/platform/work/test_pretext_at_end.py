"""Held-out scores of a pretext at the end of its training, and how the tables show them."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bsp.clips.plan import BoundaryKind
from bsp.datasets.kinetics import load_kinetics_folder
from bsp.datasets.pantomime.render import PantomimeSettings, render
from bsp.encoders.build import build_encoder
from bsp.encoders.tsm import EncoderSettings
from bsp.pretraining.held_out import Level
from bsp.pretraining.pretexts import make_pretext
from bsp_platform.plan.profiles import mini, smoke
from bsp_platform.plan.recipes import Stream
from bsp_platform.plan.rows import PretextScore, Row, RowRecipes
from bsp_platform.report.tables import SweepResult, table_body, table_content
from bsp_platform.tracking.names import pretexts
from bsp_platform.work.pretraining import build_model
from bsp_platform.work.probe import held_out_batches, held_out_score, load_validation, pretext_scores
from bsp_platform.work.streaming import ClipStream, make_clips
from paper_tables import TABLES, recipes

KINDS = (BoundaryKind.DIFF_CLASS, BoundaryKind.SAME_SPEED)


@pytest.fixture(scope="module")
def trimmed(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("world")
    settings = PantomimeSettings(trimmed_per_class=2, trimmed_val_per_class=1, untrimmed_train=0, untrimmed_val=0)
    return render(settings, out, progress=False) / "trimmed"


def clip_stream(kinds=KINDS, length=128) -> ClipStream:
    profile, pretext = smoke(), make_pretext("classification", kinds, 0)
    recipe = profile.encoder_recipe(
        Stream(method="classification", kinds=kinds), trimmed="t", num_actions=0, workers=1, seed=3
    )
    assert recipe.clips is not None
    return ClipStream(
        catalog=None, clips=recipe.clips, augment=profile.augment, seed=3, batch_size=16, length=length,
        plan=pretext.plan, synthesise=pretext.synthesise,
    )  # fmt: skip


def test_scores_are_accuracy_and_chance_of_these_clips(trimmed):
    catalog = load_validation(trimmed, load_kinetics_folder(trimmed, progress=False).class_names)
    stream, pretext = clip_stream(), make_pretext("classification", KINDS, 0)
    model = pretext.model(build_encoder(EncoderSettings(depth=18, width=8), seed=0), 0)
    batches = [make_clips(catalog, stream, range(first, first + 8)) for first in (0, 8)]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = pretext_scores(model, pretext.objective(), iter(batches), torch.device("cpu"))

    mean, std = (np.array(of, np.float32).reshape(1, 1, 3, 1, 1) for of in (model.encoder.mean, model.encoder.std))
    right = []
    for batch in batches:
        pixels = batch["clip"].transpose(0, 1, 4, 2, 3).astype(np.float32) / 255
        with torch.no_grad():
            output = model.eval()(torch.from_numpy((pixels - mean) / std)).numpy()
        right += list(output.argmax(1) == batch["label"])
    assert found["held_out_accuracy"] == pytest.approx(np.mean(right))
    assert found["held_out_accuracy_chance"] == 0.5  # every block has each kind once
    assert found["held_out_accuracy_margin"] == pytest.approx(3 * np.sqrt(0.25 / 16))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def recipe_of(kinds=KINDS, profile=None):
    stream = Stream(method="classification", kinds=kinds)
    return (profile or smoke()).encoder_recipe(stream, trimmed="t", num_actions=0, workers=1, seed=3)


def test_scored_at_the_last_step_alone_and_only_if_all_kinds_can_be_made(trimmed, monkeypatch):
    monkeypatch.setattr("ray.get", lambda reference: reference)
    catalog, cpu = (
        load_validation(trimmed, load_kinetics_folder(trimmed, progress=False).class_names),
        torch.device("cpu"),
    )
    recipe = recipe_of()
    model, loss = build_model(recipe), recipe.training.pretext.objective()
    score = held_out_score(catalog, recipe)
    assert score(None, None, recipe.training.train.steps - 1, cpu) == {}
    assert score(model, loss, recipe.training.train.steps, cpu)["held_out_accuracy_chance"] == 0.5
    assert sum(len(batch["label"]) for batch in held_out_batches(recipe, catalog)) == 48
    assert recipe_of(profile=mini()).training.train.clips // 25 // 48 * 48 >= 960
    same_class = recipe_of((BoundaryKind.SAME_CLASS, KINDS[1]))
    assert held_out_score(catalog, same_class)(model, loss, same_class.training.train.steps, cpu) == {}


def test_a_row_shows_the_scores_of_its_encoder_and_says_which_are_at_chance(tmp_path):
    of = {name: recipes("table4", name) for name in ("reg-dc", "cls-S", "random")}
    last = {
        "reg-dc": {"held_out_change_point_error": 1.9, "held_out_change_point_error_chance": 2.0,
                   "held_out_change_point_error_margin": 0.2, "held_out_loss": 3.0},
        "cls-S": {"held_out_accuracy": 0.75, "held_out_accuracy_chance": 0.25, "held_out_accuracy_margin": 0.06},
    }  # fmt: skip
    folders = {}
    for name, r in of.items():
        folders[r.encoders[0]] = tmp_path / name
        (tmp_path / name).mkdir()
        (tmp_path / name / "history.json").write_text(json.dumps([{}, last[name]] if name in last else []))
    store = SimpleNamespace(find=lambda kind, recipe: folders.get(recipe))
    found = {(name, 0): r.pretexts(store) for name, r in of.items()}
    assert found["cls-S", 0] == [PretextScore(0, "accuracy", 0.75, Level(0.25, 0.06))]
    assert found["random", 0] == []
    assert pretexts(found["reg-dc", 0]) == {"scores/pretext_change_point_error": 1.9}
    assert RowRecipes(encoders=(), heads={}).pretexts(store) == []

    rows: list[Row] = [row for row in TABLES["table4"].rows if row.name in of]
    result = SweepResult(
        experiment=TABLES["table4"], profile=smoke(), rows=rows, seeds=1, scores={}, failures={}, pretexts=found,
        duration_s=0.0,
    )  # fmt: skip
    content = table_content(result)
    by_name = {row["name"]: row["pretext"] for row in content["rows"]}
    assert by_name["reg-dc"][0]["at_chance"] is True
    assert by_name["cls-S"][0]["at_chance"] is False
    assert by_name["cls-S"][0]["seeds"] == {"0": 0.75}
    body = table_body(content)
    assert body[0][-1] == "pretext on held-out videos"
    assert [line[-1] for line in body[1:]] == [
        "", "change point error 1.90 (chance 2.00) AT CHANCE", "accuracy 0.75 (chance 0.25)",
    ]  # fmt: skip
