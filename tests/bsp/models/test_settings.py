"""Settings in model.json: written, read back into known classes only, and everything else refused by name."""

import json
import math
from dataclasses import fields

import pytest

from bsp.encoders.build import ENCODERS
from bsp.encoders.tsm import EncoderSettings
from bsp.errors import FileError
from bsp.localization.grounding.lgi_network import LGISettings
from bsp.localization.grounding.tan2d import TAN2DSettings
from bsp.localization.gtad.network import GTADSettings
from bsp.localization.gtad.windows import WindowSettings
from bsp.models.settings import known_classes, read_settings, settings_json
from bsp.tasks.heads import HEADS

SOME = [
    EncoderSettings(depth=50, width=16, shift=False),
    GTADSettings(feature_width=8, learning_rate=1),  # an int where a float is declared
    WindowSettings(feature_width=8, clip_norm=math.inf),
    TAN2DSettings(feature_width=8, scales=(4, 2, 2), nms=0.3),
    TAN2DSettings(feature_width=8, nms=None),
    LGISettings(feature_width=8, output="sigmoid"),
]


@pytest.mark.parametrize("settings", SOME, ids=lambda s: type(s).__name__)
def test_through_json_and_back(settings):
    text = json.dumps(settings_json(settings), allow_nan=False)
    assert read_settings(json.loads(text), "here") == settings


def test_all_encoders_and_heads_are_known_by_different_names():
    kinds = {*ENCODERS, *(head.settings for head in HEADS.values())}
    assert set(known_classes().values()) == kinds


def test_a_field_that_an_older_file_lacks_gets_its_default():
    document = settings_json(TAN2DSettings(feature_width=8, hidden=16))
    del document["moments"]
    assert read_settings(document, "here") == TAN2DSettings(feature_width=8, hidden=16)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"class": "os.system"}, r"m\.json: class is 'os.system', known are .*GTADSettings"),
        ({"class": None}, r"class is None"),
        ({"cells_": 3}, r"GTADSettings has no field 'cells_'"),
        ({"cells": "100"}, r"GTADSettings\.cells cannot be '100', it is of the type int"),
        ({"cells": 100.0}, r"cells cannot be 100\.0"),
        ({"batch_size": 10**7}, r"batch_size cannot be 10000000, it is of the type int, at most 1,000,000"),
        ({"cells": True}, r"cells cannot be True"),
        ({"cells": None}, r"cells cannot be None"),
        ({"decay": "fast"}, r"decay cannot be 'fast', it is of the type float"),
        ({"cells": 2}, r"GTADSettings: cells must be at least 3, got 2"),
    ],
)
def test_what_is_refused(change, said):
    document = settings_json(GTADSettings(feature_width=8)) | change
    with pytest.raises(FileError, match=said):
        read_settings(document, "m.json")


def test_other_refusals():
    with pytest.raises(FileError, match="lacks the field 'feature_width'"):
        read_settings({"class": "GTADSettings"}, "m.json")
    with pytest.raises(FileError, match="class is None"):
        read_settings([1], "m.json")
    with pytest.raises(FileError, match=r"scales cannot be 'x'"):
        read_settings(settings_json(TAN2DSettings(feature_width=8)) | {"scales": [1, "x"]}, "m.json")
    with pytest.raises(FileError, match=r"output cannot be 'tanh'"):
        read_settings(settings_json(LGISettings(feature_width=8)) | {"output": "tanh"}, "m.json")
    with pytest.raises(FileError, match=r"class is 'GTADSettings', known are EncoderSettings"):
        read_settings(settings_json(GTADSettings(feature_width=8)), "m.json", (EncoderSettings,))


def test_hidden_fields_stay_out():
    """Every field of every known class is one that a file may give."""
    assert all(field.init for kind in known_classes().values() for field in fields(kind))
