"""Pictures of a video, and how a browser plays it."""

import base64
import io
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from bsp.errors import VideoError
from bsp.pages import film
from bsp.pages.film import player, thumbnails
from bsp.video.read import probe
from bsp.video.write import write_mp4
from make_videos import numbered_frames, read_numbers


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "a b&c.mp4"
    write_mp4(path, numbered_frames(100, width=320, height=192), fps=10)
    return probe(path)


def pixels(source: str) -> np.ndarray:
    head, body = source.split(",", 1)
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(body))) as picture:
        return np.array(picture)


def test_thumbnails_are_the_frames_of_their_times(video, monkeypatch) -> None:
    monkeypatch.setattr(film, "_PIXELS_AT_ONCE", 3 * 320 * 192)  # three at once: several reads
    found = thumbnails(video, 10, height_px=96)
    assert [t.time_s for t in found] == pytest.approx([0.5 + k for k in range(10)])
    pictures = np.stack([pixels(t.source) for t in found])
    assert pictures.shape == (10, 96, 160, 3)
    assert read_numbers(pictures) == [5 + 10 * k for k in range(10)]
    assert sum(len(t.source) for t in thumbnails(video)) < 400_000


def test_a_short_video_has_a_picture_of_every_frame_and_is_not_enlarged(tmp_path) -> None:
    write_mp4(tmp_path / "s.mp4", numbered_frames(3, width=160, height=64), fps=10)
    found = thumbnails(probe(tmp_path / "s.mp4"), 10)
    assert len(found) == 3
    assert pixels(found[0].source).shape == (64, 128, 3)  # twice as wide as high, at most


def test_a_video_that_is_gone_is_named(video) -> None:
    with pytest.raises(VideoError, match=r"gone\.mp4"):
        thumbnails(replace(video, path="gone.mp4"))


def test_small_videos_are_inside_the_page_and_large_ones_beside_it(video, tmp_path) -> None:
    small = player(video, tmp_path / "page.html")
    head, body = small.source.split(",", 1)
    with open(video.path, "rb") as file:
        assert (head, base64.b64decode(body)) == ("data:video/mp4;base64", file.read())
    large = player(video, tmp_path / "page.html", max_embedded_bytes=100)
    assert not large.embedded
    assert large.source == small.link
    assert large.source.startswith("../")
    assert large.source.endswith("/a%20b%26c.mp4")


def test_what_browsers_do_not_play_is_not_put_into_the_page(video, tmp_path) -> None:
    copy = tmp_path / "javascript:alert(1).avi"
    shutil.copy(video.path, copy)
    avi = player(replace(video, path=str(copy)), tmp_path / "page.html")
    assert (avi.type, avi.played, avi.embedded) == ("", False, False)
    assert avi.link == "javascript%3Aalert%281%29.avi"  # no scheme
    assert avi.remedy.startswith("ffmpeg -i 'javascript:alert(1).avi' ")
    assert not player(replace(video, codec="hevc"), tmp_path / "page.html").embedded
