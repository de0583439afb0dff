"""The page as a person uses it, in a headless Chromium from file://."""

import os
import shutil

import numpy as np
import pytest

from bsp.pages.findings import Curve, Findings, Found
from bsp.pages.page_html import write_page
from bsp.video.read import probe
from bsp.video.write import write_mp4
from make_videos import numbered_frames

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (CHROMIUM names one)"),
]
EVIL = "</script><img src=x onerror=\"document.title='run'\">"


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    write_mp4(folder / "v.mp4", numbered_frames(200), fps=10)
    info = probe(folder / "v.mp4")
    segments = [
        Found(label=EVIL, start_s=12.0, end_s=15.0, score=0.9),
        Found(label="wave", start_s=3.0, end_s=6.5, score=0.8),
        Found(label="wave", start_s=4.0, end_s=9.0, score=0.5),
        Found(label="bow", start_s=7.0, end_s=8.0, score=0.1),
    ]
    curve = Curve(
        times_s=np.array([3.0, 12.0]), scores=np.array([0.3, 0.7]), curve_times_s=np.arange(20.0), curve=np.arange(20.0)
    )
    findings = Findings(
        video_id="v", video=str(folder / "v.mp4"), duration_s=20.0, segments=segments, boundaries=curve,
        truth=[Found(label="wave", start_s=3.0, end_s=6.0)], sentence=EVIL,
    )  # fmt: skip
    write_page(folder / "page.html", findings, info)
    (folder / "broken.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(500))
    from dataclasses import replace

    from bsp.pages import page_html as module
    from bsp.pages.film import player, thumbnails

    broken = player(replace(info, path=str(folder / "broken.mp4")), folder / "x.html")
    (folder / "broken.html").write_text(
        module.page_html(findings, film=thumbnails(info, 10), player=broken), encoding="utf-8"
    )
    linked = player(info, folder / "linked.html", max_embedded_bytes=0)
    (folder / "linked.html").write_text(module.page_html(findings, film=[], player=linked), encoding="utf-8")
    return folder


@pytest.fixture
def page(browser, folder, request):
    context = browser.new_context(**getattr(request, "param", {}))
    page = context.new_page()
    page.faults = []
    page.on("console", lambda message: page.faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto((folder / "page.html").as_uri())
    page.wait_for_function("!document.querySelector('video') || document.querySelector('video').readyState > 0")
    yield page
    context.close()


def time_of(page) -> float:
    return page.evaluate("document.querySelector('video').currentTime")


def test_choosing_a_segment_seeks_the_video(page) -> None:
    page.click("#segments tbody tr >> nth=0")
    assert time_of(page) == 12.0
    page.click("#found .seg:has-text('wave') >> nth=0")
    assert time_of(page) == 3.0
    assert page.inner_text("#segments tr.chosen").split() == ["wave", "0:03.0", "–", "0:06.5", "3.5", "s", "0.800"]
    assert page.inner_text("#clock") == "0:03.0 / 0:20.0"
    assert page.faults == []


def test_the_slider_and_the_classes_filter_table_and_time_line(page) -> None:
    rows, bars = page.locator("#segments tbody tr:visible"), page.locator("#found .seg")
    assert (rows.count(), bars.count()) == (3, 3)  # at first: from half of the best score on
    page.focus("#least")
    page.keyboard.press("Home")
    assert (rows.count(), bars.count()) == (4, 4)
    assert page.inner_text("#shown") == "0.100 · 4 of 4"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#shown") == "0.800 · 2 of 4"
    page.click(".chip:has-text('wave')")
    assert (rows.count(), bars.count()) == (1, 1)
    page.click(".chip >> nth=0")
    assert page.is_visible("text=No segment left")


def test_names_are_text(page) -> None:
    page.wait_for_timeout(200)
    assert "run" not in (page.title(), page.evaluate("document.title"))
    assert page.locator("img[src=x]").count() == 0
    assert EVIL in page.inner_text("#segments tbody tr >> nth=0")
    assert EVIL in page.inner_text(".sentence")
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"document.title=`run`\">')")
    page.wait_for_timeout(200)
    assert page.evaluate("document.title") != "run"  # the policy holds, too


def test_nothing_is_asked_for_outside_of_the_page(page) -> None:
    page.click("#segments tbody tr >> nth=1")
    assert [url for url in page.asked if not url.startswith(("data:", "blob:"))] == [page.url]


def test_keys_alone_reach_everything(page) -> None:
    page.keyboard.press("n")
    assert time_of(page) == 3.0
    page.keyboard.press("n")
    assert time_of(page) == 4.0
    page.keyboard.press("p")
    page.keyboard.press("p")
    assert time_of(page) == 12.0  # round
    page.focus("#segments tbody button[tabindex='0']")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    assert time_of(page) == 3.0
    assert page.evaluate("document.activeElement.closest('tr').rowIndex") == 2
    assert page.locator("#segments tbody button[tabindex='0']").count() == 1
    page.focus("#scroll")
    page.keyboard.press("ArrowRight")
    assert time_of(page) == 4.0
    page.keyboard.press(" ")
    page.wait_for_function("!document.querySelector('video').paused")
    page.focus("#tab-segments")
    page.keyboard.press("ArrowRight")
    assert page.is_visible("#marks")
    assert not page.is_visible("#segments")
    page.click("#marks tbody tr >> nth=1")
    assert page.inner_text("#marks tr.chosen").split() == ["0:12.0", "0.700"]


def test_the_time_line_seeks_and_zooms(page) -> None:
    box = page.locator("#strip").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 4, box["y"] + 5)
    assert time_of(page) == pytest.approx(5.0, abs=0.1)
    page.focus("#zoom")
    page.keyboard.press("End")
    assert page.evaluate("document.getElementById('track').clientWidth") == pytest.approx(5 * box["width"], rel=0.01)
    assert page.locator("#strip img").count() > 20
    width = page.locator("#found .seg >> nth=0").bounding_box()["width"]
    assert width == pytest.approx(5 * box["width"] * 3 / 20, rel=0.02)  # 3 of 20 seconds


def test_rows_sort_by_time(page) -> None:
    page.click("[data-sort=time]")
    assert page.locator("#segments tbody tr:visible td:nth-child(2)").all_inner_texts() == [
        "0:03.0 – 0:06.5", "0:04.0 – 0:09.0", "0:12.0 – 0:15.0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "page",
    [{"viewport": {"width": 360, "height": 740}, "color_scheme": s} for s in ("light", "dark")],
    indirect=True,
    ids=["light", "dark"],
)
def test_a_phone_shows_it_without_scrolling_sideways(page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.is_visible("#segments tbody tr >> nth=0")
    ink, ground = (
        sum(map(int, page.evaluate(f"getComputedStyle(document.body).{name}")[4:-1].split(",")))
        for name in ("color", "backgroundColor")
    )
    assert abs(ink - ground) > 450  # of 765: readable either way


def test_a_video_that_the_browser_cannot_play_is_said_and_pictures_stand_for_it(page, folder) -> None:
    page.goto((folder / "broken.html").as_uri())
    page.wait_for_selector("#refused:visible")
    assert "cannot play the video" in page.inner_text("#refused")
    page.click("#segments tbody tr >> nth=1")
    assert page.is_visible("#still")
    assert page.get_attribute("#still", "src").startswith("data:image/jpeg")
    assert page.inner_text("#clock") == "0:03.0 / 0:20.0"


def test_a_linked_video_plays_from_beside_the_page(page, folder) -> None:
    page.goto((folder / "linked.html").as_uri())
    page.wait_for_function("document.querySelector('video').readyState > 0")
    page.click("#segments tbody tr >> nth=0")
    page.wait_for_function(
        "document.querySelector('video').currentTime === 12 && !document.querySelector('video').seeking"
    )
    assert page.faults == []
