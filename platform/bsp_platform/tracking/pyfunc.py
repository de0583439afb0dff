"""A model folder as MLflow's "pyfunc": a table of videos in, a table of segments or boundaries out.

``mlflow.pyfunc.load_model("models:/NAME@ALIAS").predict(...)`` comes here. It needs this project installed, not Ray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]
    from mlflow.models import ModelSignature

    from bsp.models.model import Model

_SENTENCE, _MOMENTS, _SEGMENTS = "a person waves", ("2dtan", "lgi"), ("gtad", "gtad-windows", "actionness")


def signature(kind: str) -> ModelSignature:
    """Columns of input and output of models of this kind."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    inputs = ["video", *(["sentence"] if kind in _MOMENTS else [])]
    numbers = ("start_s", "end_s", "score") if kind in (*_SEGMENTS, *_MOMENTS) else ("time_s", "score")
    outputs = ["video", *(["label"] if kind in _SEGMENTS else [])]
    return ModelSignature(
        Schema([ColSpec("string", name) for name in inputs]),
        Schema([*(ColSpec("string", name) for name in outputs), *(ColSpec("double", name) for name in numbers)]),
    )


def example(kind: str) -> pd.DataFrame:
    """An input: paths of videos, and a sentence where the model needs one."""
    import pandas as pd

    return pd.DataFrame({"video": ["video.mp4"]} | ({"sentence": [_SENTENCE]} if kind in _MOMENTS else {}))


class VideoModel:
    """What MLflow calls; ``model`` is a :class:`bsp.models.model.Model`."""

    def __init__(self, model: Model):
        self.model = model

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """A row per segment or boundary, videos in the order given; empty if nothing is found."""
        import pandas as pd

        kind = self.model.kind
        columns = list(signature(kind).outputs.input_names())
        rows: list[tuple[Any, ...]] = []
        for request in model_input.to_dict("records"):
            video = str(request["video"])
            if kind in _MOMENTS:
                moments = self.model.ground(video, str(request["sentence"]))
                rows += [(video, s.start_s, s.end_s, s.score) for s in moments]
            elif kind in _SEGMENTS:
                rows += [(video, s.label, s.start_s, s.end_s, s.score) for s in self.model.detect(video)]
            else:
                curve = self.model.boundaries(video)
                rows += [(video, float(time), float(s)) for time, s in zip(curve.times_s, curve.scores, strict=True)]
        return pd.DataFrame(rows, columns=columns)


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> VideoModel:
    """MLflow's way in, by name; ``path`` is the model folder."""
    from bsp.models.folder import load_model

    return VideoModel(load_model(path))
