"""The page of one video with what the best row's model finds in it: what a score looks like."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from bsp.datasets.activitynet import LocalizationDataset, UntrimmedVideo
from bsp.datasets.data_sets import Annotated
from bsp.errors import FileError, VideoError
from bsp.models.folder import load_model
from bsp.pages.look import Question, look, model_hash, with_truth
from bsp.pages.page_html import write_page
from bsp.video.read import probe

log = logging.getLogger(__name__)

PAGE = "example.html"
_LONGEST_S = 300.0  # Choice: of the video; the page is made on the CPU of the machine that prints the table


def write_example(folder: Path, data: Annotated, subset: str, results: Path) -> Path | None:
    """``results/example.html``: a video of the subset, what the model in ``folder`` finds, and the truth beside it.

    None, with the reason in the log, if it cannot be made; nothing is made again for the same model.
    """
    video = _shown(data, subset) if isinstance(data, LocalizationDataset) else None
    if video is None:
        return None
    page = results / PAGE
    mark = f"SHA-256 {model_hash(folder)}"
    if page.is_file() and mark in page.read_text("utf-8"):
        return page
    try:
        model = load_model(folder)
        info = probe(video.file)
        found = look(model, info, Question(what="detect"), video_id=video.video_id)
        found = replace(found, made={**found.made, "model folder": f"{folder.name}, {mark}"})
        write_page(page, with_truth(found, video.instances), info)
    except (FileError, VideoError, ValueError, OSError) as error:
        log.warning("no example page of %s: %s", folder, error)
        return None
    return page


def _shown(data: LocalizationDataset, subset: str) -> UntrimmedVideo | None:
    """The video with most actions, the first of equals, of those that are short enough."""
    able = [
        video
        for video in data.videos
        if video.subset == subset and video.path is not None and video.duration_s <= _LONGEST_S
    ]
    return max(able, key=lambda video: len(video.instances), default=None)
