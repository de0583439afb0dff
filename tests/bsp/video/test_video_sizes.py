"""Frames brought to a size: against Pillow, a ramp worked by hand, and what must not happen to the input."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from bsp.video.read import fit_frames, resize_frames
from make_videos import numbered_frames


@pytest.mark.parametrize("size", [(48, 64), (61, 37), (150, 200), (96, 60)])
def test_resizing_equals_pillow(size):
    """Pillow's bilinear filter is antialiased in the same way; both round to 8 bits in between."""
    frames = numbered_frames(2, width=120, height=96)
    expected = np.stack(
        [np.asarray(Image.fromarray(f).resize((size[1], size[0]), Image.Resampling.BILINEAR)) for f in frames]
    )
    resized = resize_frames(frames, *size)
    assert resized.dtype == np.uint8
    assert resized.shape == (2, *size, 3)
    assert np.abs(resized.astype(int) - expected).max() <= 2


def test_resizing_takes_read_only_frames_and_keeps_them(recwarn):
    frames = numbered_frames(2)
    frames.flags.writeable = False
    copy = frames.copy()
    resize_frames(frames, 30, 40)
    assert not recwarn.list
    assert np.array_equal(frames, copy)
    assert resize_frames(frames, 96, 128) is frames  # nothing to do


def test_fitting_cuts_the_centre():
    columns = np.arange(200, dtype=np.uint8)
    wide = np.broadcast_to(columns[None, None, :, None], (1, 50, 200, 3)).copy()
    assert np.array_equal(fit_frames(wide, 50, 50), wide[:, :, 75:125])  # no scaling: a plain crop
    halved = fit_frames(wide, 25, 25).astype(float)  # columns 75 .. 124 at half size
    middle = 75 + 2 * np.arange(25) + 0.5  # a linear ramp stays linear under a symmetric filter
    assert np.abs(halved - middle[None, None, :, None]).max() <= 1.0
    tall = wide.transpose(0, 2, 1, 3)
    assert np.array_equal(fit_frames(tall, 50, 50), tall[:, 75:125])


@pytest.mark.parametrize("size", [(7, 200), (200, 7), (33, 45), (1, 1)])
def test_fitting_gives_exactly_the_size(size):
    assert fit_frames(numbered_frames(2, width=101, height=67), *size).shape == (2, *size, 3)


def test_sizes_below_one_pixel_are_refused():
    with pytest.raises(ValueError, match="0x5"):
        resize_frames(numbered_frames(1), 5, 0)
