"""Single frames of plain MPEG-4 in AVI by decord: it seeks by the file's index, where PyAV has no times to seek by.

decord 0.6 is used for nothing else: on other files it returned wrong frames without an error (open groups, one flipped
bit in Matroska's cues), it does not report damaged frames, and it opens whatever FFmpeg opens. The probe has compared
its pixels with PyAV's, and PyAV reads whole files.
Legend: T frames, H height, W width.
"""

from __future__ import annotations

import os
import threading

import numpy as np

from bsp.errors import VideoDecodeError, VideoOpenError
from bsp.video.readers import PyavReader, open_error, out_of_range, plain_fault, rgb
from bsp.video.time_limit import check

DECORD_STEP = 32  # frames per native call; an abandoned read can stop between two calls


class DecordReader:
    """Frames by number; the same methods as PyavReader. ``damaged`` stays empty: the probe saw no damaged frame."""

    def __init__(self, path: str, stop: threading.Event):
        self.path = path
        self.damaged: set[int] = set()
        self._whole: PyavReader | None = None
        if fault := plain_fault(path):
            raise VideoOpenError(path, fault)
        with open(path, "rb") as file:
            start = file.read(12)
        if start[:4] != b"RIFF" or start[8:] != b"AVI ":  # replaced since the probe; decord opens any format
            raise open_error(path, ValueError("no AVI file any more; start the command again"))
        import decord  # imported late: few files need it

        decord.logging.set_level(decord.logging.QUIET)
        self._errors = (RuntimeError, decord.DECORDError, AssertionError, IndexError)
        try:
            self._video = decord.VideoReader(os.path.abspath(path), num_threads=1)
        except self._errors as error:
            raise open_error(path, error) from None
        check(stop)
        self.frames = len(self._video)

    def read(self, wanted: np.ndarray, stop: threading.Event) -> np.ndarray:
        """Frames ``wanted`` (ascending, each once, at least one): uint8 [T, H, W, 3]."""
        if wanted[-1] >= self.frames:
            raise out_of_range(self.path, int(wanted[-1]), self.frames)
        parts = []
        for at in range(0, len(wanted), DECORD_STEP):
            check(stop)
            part = wanted[at : at + DECORD_STEP]
            try:
                parts.append(self._video.get_batch(part).asnumpy())
            except self._errors as error:
                reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
                raise VideoDecodeError(
                    self.path, f"decord failed on frames {part[0]} to {part[-1]} ({reason[0]})"
                ) from None
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def chunk(self, count: int, stop: threading.Event) -> np.ndarray | None:
        """The next ``count`` frames or the rest of the file; None at its end. Read by PyAV, which flags damage."""
        if self._whole is None:
            self._whole = PyavReader(self.path, stop)
            self._whole.damaged = self.damaged
        return self._whole.chunk(count, stop)

    def close(self) -> None:
        """Close the file."""
        if self._whole is not None:
            self._whole.close()
        del self._video


def decord_reads(path: str, oracle: PyavReader, stop: threading.Event) -> bool:
    """Whether decord finds as many frames as ``oracle`` decodes from its position, none damaged, and the same first,
    middle and last frame."""
    try:
        reader = DecordReader(path, stop)
    except VideoOpenError:
        return False
    try:
        places = sorted({0, reader.frames // 2, max(0, reader.frames - 1)})
        count, expected = 0, []
        for frame in oracle.frames(stop):
            if frame.is_corrupt or frame.rotation:
                return False
            if count in places:
                expected.append(rgb(frame))
            count += 1
        if count != reader.frames or not count:
            return False
        found = reader.read(np.array(places), stop)
        return all(np.array_equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    except VideoDecodeError:
        return False
    finally:
        reader.close()
