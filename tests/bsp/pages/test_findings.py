"""What was found in a video, as a document and back, and what is shown first."""

import json

import numpy as np
import pytest

from bsp.errors import FileError
from bsp.pages.findings import Curve, Findings, Found, from_document, least_shown, shown_at_first, to_document


def found(*scores: float) -> Findings:
    segments = [Found(label="a", start_s=k, end_s=k + 1, score=score) for k, score in enumerate(scores)]
    return Findings(video_id="v", video="v.mp4", duration_s=100.0, segments=segments)


def test_a_document_holds_everything() -> None:
    curve = Curve(
        times_s=np.array([1.5]), scores=np.array([0.25]), curve_times_s=np.array([0.0, 1.5]), curve=np.array([0.0, 1.0])
    )
    one = Found(label="ü</script>", start_s=0.1, end_s=2.0, score=0.3)
    before = Findings(
        video_id="v", video="/x/v.mp4", duration_s=12.5, segments=[one], boundaries=curve, truth=[one], sentence="s",
        shown_from=0.2, made={"model": "m"}, notes=("n",),
    )  # fmt: skip
    text = json.dumps(to_document(before))
    after = from_document(json.loads(text))
    assert json.dumps(to_document(after)) == text
    assert list(after.segments) == [one]
    assert after.made == {"model": "m"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.pop("segments"),
        lambda d: d["segments"].append({"label": "x"}),
        lambda d: d.update(duration_s=float("nan")),
        lambda d: d.update(boundaries={"times_s": []}),
        lambda d: d.update(segments=3),
    ],
)
def test_other_documents_are_refused_by_name(damage) -> None:
    document = to_document(found(0.5))
    damage(document)
    with pytest.raises(FileError, match=r"^records/v\.json: not a record of findings"):
        from_document(document, "records/v.json")


def test_what_is_shown_at_first_is_half_as_good_as_the_best_or_what_was_asked_for() -> None:
    from dataclasses import replace

    video = found(0.1, 0.8, 0.39, 0.4, 0.41)
    assert [s.score for s in shown_at_first(video)] == [0.8, 0.41, 0.4]
    assert [s.score for s in shown_at_first(replace(video, shown_from=0.2))] == [0.8, 0.41, 0.4, 0.39]
    assert len(shown_at_first(found(*np.linspace(0.9, 1, 40)))) == 12
    assert least_shown(found()) == 0.0
