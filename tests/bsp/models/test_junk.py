"""Any value in model.json replaced by junk, its hash made to fit: refused by a FileError, or loaded."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest

from bsp.errors import FileError
from bsp.localization.actionness import ActionnessSettings
from bsp.localization.boundaries import BoundaryHeadSettings, PeakSettings
from bsp.localization.grounding.tan2d import TAN2DSettings
from bsp.localization.gtad.network import build_gtad
from bsp.localization.video_classifier import fit_video_classifier
from bsp.models.folder import MODEL, _own_hash, load_encoder, load_model, write_model
from bsp.models.model import Model
from bsp.models.streams import imported_stream
from bsp.tasks.head import HeadInputs, Kept, Sentences, run_head
from bsp.tasks.heads import HEADS
from small_models import GTAD, NAMES, clips, sentences, small_stream, steps

JUNK = (None, -1, 10**30, 0.5, True, "", "x" * 300, "../x", "\u0000", [], [None], {}, {"class": "EncoderSettings"})


def paths(value, at=()):
    """All places in a JSON document."""
    yield at
    if isinstance(value, dict):
        for key in value:
            yield from paths(value[key], (*at, key))
    elif isinstance(value, list):
        for place in range(min(3, len(value))):
            yield from paths(value[place], (*at, place))


def put(document, at, junk):
    for key in at[:-1]:
        document = document[key]
    document[at[-1]] = junk


def detector(folder):
    settings = replace(GTAD, feature_width=64)
    kept = Kept(
        settings=settings, tensors=build_gtad(settings, 0).state_dict(), class_names=NAMES,
        facts={"lengths": {"seconds": [1.0, 2.0, 3.0]}},
    )  # fmt: skip
    feats = [np.random.default_rng(k).standard_normal((5, 64)).astype(np.float32) for k in range(6)]
    classifier = fit_video_classifier(feats, np.array([0, 1] * 3), 2)
    write_model(folder, Model(kind="gtad", streams=(small_stream(),), kept=kept, classifier=classifier))


def others(kind):
    def write(folder):
        tan2d = TAN2DSettings(
            feature_width=8, frames=12, pool=1, scales=(12,), hidden=16, kernel=3, layers=2, lstm_layers=1, epochs=2
        )
        (data, features), settings, subsets = {
            "2dtan": (sentences(), tan2d, ("train", "test")),
            "actionness": (steps(), ActionnessSettings(epochs=1), ("training", "test")),
            "boundary-peaks": (clips(), PeakSettings(), ("training", "validation")),
            "boundary-head": (clips(), BoundaryHeadSettings(epochs=1), ("training", "validation")),
        }[kind]
        how = Sentences(width=8, held_out_every=0)
        inputs = HeadInputs(features=features, data=data, settings=settings, subsets=subsets, sentences=how)
        kept = run_head(HEADS[kind], inputs).kept
        stream = imported_stream(features.read(data.videos[0].video_id)[1])
        write_model(folder, Model(kind=kind, streams=(stream,), kept=kept))

    return write


@pytest.mark.long
@pytest.mark.parametrize(
    "write",
    [detector, *map(others, ("2dtan", "actionness", "boundary-peaks", "boundary-head"))],
    ids=["gtad", "2dtan", "actionness", "boundary-peaks", "boundary-head"],
)
def test_junk_everywhere(write, tmp_path):
    write(tmp_path / "m")
    path = tmp_path / "m" / MODEL
    document = json.loads(path.read_text("utf-8"))
    del document["sha256"]
    rng = np.random.default_rng(3)
    loaded, told, asked = 0, [], []
    for at in list(paths(document))[1:]:
        for junk in rng.choice(len(JUNK), 2, replace=False):
            changed = copy.deepcopy(document)
            put(changed, at, JUNK[junk])
            path.write_text(json.dumps({**changed, "sha256": _own_hash(changed)}), "utf-8")
            for load in (load_model, load_encoder):
                try:
                    load(tmp_path / "m")
                    loaded += 1
                except FileError as error:
                    told.append(str(error))
                except ValueError as error:  # of load_encoder: a stream that is not there, or was imported
                    asked.append((load, str(error)))
    assert all(str(tmp_path / "m") in text for text in told)
    assert {load for load, _ in asked} <= {load_encoder}
    assert all("stream" in text for _, text in asked)
    assert len(told) > loaded / 4
