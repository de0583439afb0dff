"""The page as text: complete without a network, no text from outside is markup."""

import hashlib
import json
import re
from base64 import b64encode
from html.parser import HTMLParser

import numpy as np
import pytest

from bsp.pages.film import Player, Thumbnail
from bsp.pages.findings import Curve, Findings, Found
from bsp.pages.page_html import page_html

EVIL = """</script><img src=x onerror="alert(1)">{{ 7 * 7 }}'\x00\ud800"""
DOT = Thumbnail(time_s=0.5, source="data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw==")


class Tags(HTMLParser):
    """Collects the tags of a page with their attributes, and the contents of script and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.parts: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data) -> None:
        if self.tags and self.tags[-1][0] in self.parts and data.strip():
            self.parts[self.tags[-1][0]].append(data)


def evil_page() -> str:
    one = Found(label=EVIL, start_s=1.0, end_s=2.0, score=0.5)
    findings = Findings(
        video_id=EVIL, video=f"/x/{EVIL.replace('/', '')}", duration_s=10.0, segments=[one], truth=[one], sentence=EVIL,
        made={EVIL: EVIL}, notes=(EVIL,),
    )  # fmt: skip
    player = Player(
        source="a.mp4", link="a.mp4", embedded=False, type="video/mp4", codec=EVIL, played=True, remedy=EVIL
    )
    return page_html(findings, film=[DOT], player=player, downloads=[(EVIL, "a.csv")])


def test_no_text_from_outside_is_markup() -> None:
    page = evil_page()
    page.encode()  # no lone surrogates
    tags = Tags(page)
    assert [attrs for tag, attrs in tags.tags if tag == "img"] == [{"id": "still", "alt": "", "hidden": None}]
    assert not [name for _, attrs in tags.tags for name in attrs if name.startswith("on") or name == "style"]
    assert len(tags.parts["script"]) == 2
    assert json.loads(tags.parts["script"][0])["classes"] == [
        EVIL.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
    ]
    assert "{{ 7 * 7 }}" in page
    assert "\x00" not in page


def test_the_policy_names_exactly_the_page_s_own_parts() -> None:
    tags = Tags(evil_page())
    (policy,) = (a["content"] for t, a in tags.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for name, part in (("style", tags.parts["style"][0]), ("script", tags.parts["script"][1])):
        assert f"{name}-src 'sha256-{b64encode(hashlib.sha256(part.encode()).digest()).decode()}'" in policy


def test_nothing_is_loaded_from_elsewhere() -> None:
    page = evil_page()
    assert not re.findall(r"(?:https?:)?//[a-z]", page.replace("// ", ""))
    assert {a.get("src") for _, a in Tags(page).tags if a.get("src")} == {"a.mp4"}


def curve_page(times: np.ndarray, values: np.ndarray, **more) -> str:
    curve = Curve(times_s=np.array([5.0]), scores=np.array([0.02]), curve_times_s=times, curve=values)
    return page_html(Findings(video_id="v", video="v.mp4", duration_s=100.0, boundaries=curve, **more))


def test_the_highest_point_of_a_long_curve_is_kept() -> None:
    values = np.zeros(27_000)
    values[13_500] = 1.0
    page = curve_page(np.linspace(0, 100, 27_000, endpoint=False), values)
    (path,) = re.findall(r'class="line" d="([^"]+)"', page)
    points = [tuple(map(float, point.split())) for point in re.split("[ML]", path)[1:]]
    assert len(points) < 2_100
    assert [x for x, y in points if y == 6.0] == [500.0]  # 90 above the foot at 96, in the middle of 1000
    assert {y for _, y in points} == {96.0, 6.0}


def test_a_flat_and_an_empty_curve() -> None:
    assert "NaN" not in curve_page(np.arange(3.0), np.ones(3))
    assert 'class="line"' not in curve_page(np.empty(0), np.empty(0))


@pytest.mark.parametrize(
    ("findings", "line"),
    [
        ({}, "nothing found · 1:40.0 long"),
        ({"segments": [Found(label="a", start_s=0, end_s=1)]}, "1 candidate segment · 1:40.0 long"),
        (
            {"segments": [Found(label=c, start_s=0, end_s=1) for c in "aab"]},
            "3 candidate segments of 2 classes · 1:40.0 long",
        ),
        ({"segments": [Found(label="", start_s=0, end_s=1)], "sentence": "s"}, "1 candidate moment · 1:40.0 long"),
    ],
)
def test_what_was_found_in_a_line(findings, line) -> None:
    page = page_html(Findings(video_id="v", video="v.mp4", duration_s=100.0, **findings))
    assert f'<p class="facts">{line}</p>' in page


def test_scores_keep_three_digits_of_the_highest() -> None:
    segments = [Found(label="a", start_s=0, end_s=1, score=score) for score in (0.00123, 0.0045, 0.0009)]
    page = page_html(Findings(video_id="v", video="v.mp4", duration_s=100.0, segments=segments))
    assert re.findall(r"</meter> ([\d.]+)<", page) == ["0.00450", "0.00123", "0.00090"]
