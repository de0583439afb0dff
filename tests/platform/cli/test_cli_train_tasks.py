"""``bsp train steps | boundaries | thumos``: on features with planted signs, scores that the evaluations confirm."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner

from bsp.datasets.pantomime.stories import plan_all
from bsp.datasets.pantomime.stories_files import annotation_files
from bsp.datasets.pantomime.stories_plan import StorySettings
from bsp.encoders.tsm import SNIPPET_FRAMES
from bsp.features.store import FeatureInfo, write_features
from bsp.metrics.detection import THUMOS_TIOUS, evaluate_detection
from bsp_platform.cli.main import main

SETTINGS = StorySettings(games_train=4, games_test=3, tasks=4, clips_train=8, clips_val=6)


def run(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    """(annotation folder, feature folder): features say how far the nearest act has come, and which action it is."""
    root = tmp_path_factory.mktemp("stories")
    plans = plan_all(SETTINGS)
    for name, text in annotation_files(SETTINGS, plans).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    actions = sorted({act.action for plan in plans for act in plan.acts if act.action})
    rng = np.random.default_rng(0)
    for plan in plans:
        snippets = plan.frames // SNIPPET_FRAMES
        feat_SD = 0.1 * rng.normal(size=(snippets, 12)).astype(np.float32)
        centre_S = (np.arange(snippets) + 0.5) * SNIPPET_FRAMES
        for act in plan.acts:
            if act.action:
                feat_SD[(centre_S >= act.first) & (centre_S < act.end), actions.index(act.action)] += 3
        info = FeatureInfo(
            video_id=plan.video_id, frames=plan.frames, fps=float(SETTINGS.fps), snippet_frames=SNIPPET_FRAMES,
            stride_frames=SNIPPET_FRAMES, offset_frames=0, size_px=0, mean=(), std=(), feature_width=12,
            snippets=snippets, encoder_hash="planted", code_version=0,
        )  # fmt: skip
        write_features(root / "features" / plan.split.split("_")[0], plan.video_id, feat_SD, info)
    return root


def printed(output: str, name: str) -> float:
    return float(re.search(rf"{re.escape(name)} .*?([\d.]+) %", output).group(1))


def test_steps(stories, tmp_path):
    features, out = stories / "features" / "tasks", tmp_path / "out"
    options = ("--features", features, "--crosstask", stories / "tasks", "--profile", "smoke", "--out", out)
    done = run("train", "steps", *options)
    assert done.exit_code == 0, done.output
    again = run("evaluate", "actionness", "--ground-truth", out / "ground_truth.json", "--predictions",
                out / "predictions.json", "--output-json", tmp_path / "again.json")  # fmt: skip
    assert again.exit_code == 0, again.output
    ap = 100 * json.loads((tmp_path / "again.json").read_text())["AP"]
    assert printed(done.output, "AP") == pytest.approx(ap, abs=0.006)
    assert ap > 90  # the signs say which snippets are steps
    assert json.loads((out / "settings.json").read_text())["seed"] == 0


@pytest.mark.parametrize("way", ["peaks", "head"])
def test_boundaries(stories, tmp_path, way):
    features, out = stories / "features" / "clips", tmp_path / "out"
    options = ("--features", features, "--gebd", stories / "clips", "--profile", "smoke", "--out", out)
    done = run("train", "boundaries", "--way", way, *options)
    assert done.exit_code == 0, done.output
    truth = stories / "clips" / "k400_mr345_val_min_change_duration0.3.json"
    again = run("evaluate", "boundaries", "--ground-truth", truth, "--predictions", out / "boundaries.json",
                "--output-json", tmp_path / "again.json")  # fmt: skip
    assert again.exit_code == 0, again.output
    f1 = 100 * json.loads((tmp_path / "again.json").read_text())["F1"]["0.05"]
    assert printed(done.output, "F1@0.05") == pytest.approx(f1, abs=0.006)
    assert f1 > 0


@pytest.mark.long
def test_thumos(stories, tmp_path):
    features, out = stories / "features" / "games", tmp_path / "out"
    folder = stories / "games" / "thumos14"
    done = run("train", "thumos", "--features", features, "--thumos", folder, "--profile", "smoke", "--out", out)
    assert done.exit_code == 0, done.output
    truth = json.loads((folder / "thumos_gt.json").read_text())
    found = json.loads((out / "detections.json").read_text())
    again = 100 * evaluate_detection(truth, found, subset="test", tious=THUMOS_TIOUS)["average_mAP"]
    assert printed(done.output, "mAP_avg") == pytest.approx(again, abs=0.006)
    # A classification result that is not of these videos is refused, and nothing is left behind.
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"class": ["a"], "results": {}}))
    options = ("--features", features, "--thumos", folder, "--out", tmp_path / "second", "--class-scores", other)
    refused = run("train", "thumos", *options)
    assert refused.exit_code == 1
    assert "other.json" in refused.output
    assert not (tmp_path / "second").exists()


def test_ids_that_do_not_agree_are_refused(stories, tmp_path):
    options = (
        "--features",
        stories / "features" / "games",
        "--crosstask",
        stories / "tasks",
        "--out",
        tmp_path / "out",
    )
    done = run("train", "steps", *options)
    assert done.exit_code == 1
    assert "has features in" in done.output
