"""``bsp demo``: a page, from nothing, with the model that comes with bsp."""

import webbrowser

import pytest
from click.testing import CliRunner

from bsp.datasets.pantomime import render
from bsp_platform.cli.main import main


@pytest.mark.long
def test_demo_leaves_a_page_and_opens_it_if_asked(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or False)
    settings = render.PantomimeSettings
    monkeypatch.setattr(  # smaller pictures: the same plan, drawn in seconds
        render, "PantomimeSettings", lambda **of: settings(**(of | {"size_px": 64}))
    )
    done = CliRunner().invoke(main, ["demo", "--out", str(tmp_path), "--no-open"])
    assert done.exit_code == 0, done.output
    (page,) = tmp_path.glob("*.html")
    text = page.read_text("utf-8")
    assert "Ground truth" in text
    assert "trained on rendered stick figures only" in text
    assert "trained on rendered stick figures only" in " ".join(done.output.split())
    assert "bsp boundaries video.mp4" in done.output
    assert page.as_uri() in done.output
    assert not opened
    again = CliRunner().invoke(main, ["demo", "--out", str(tmp_path)])
    assert again.exit_code == 0, again.output
    assert "found before" in again.output
    assert opened == [page.as_uri()]
    assert "no browser could be started" in again.output
