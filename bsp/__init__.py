"""Boundary-sensitive pre-training for temporal localisation (BSP): the method, without Ray or MLflow.

    model = bsp.load_model("models/mine")
    segments = model.detect("video.mp4")
    feat_SD, info = model.features("video.mp4")

Names are imported when they are used, so that ``import bsp`` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bsp.models.folder import load_encoder, load_model, write_model
    from bsp.models.model import Model
    from bsp.tasks.found import BoundaryCurve, Segment

_HOMES = {
    "BoundaryCurve": "bsp.tasks.found",
    "Model": "bsp.models.model",
    "Segment": "bsp.tasks.found",
    "load_encoder": "bsp.models.folder",
    "load_model": "bsp.models.folder",
    "write_model": "bsp.models.folder",
}
__all__ = ["BoundaryCurve", "Model", "Segment", "load_encoder", "load_model", "write_model"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bsp' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
