"""Encodes snippets of many videos in batches of one size, to keep a GPU busy.

Batches mix snippets of all videos, and the last batch is padded with zeros: every forward pass has the same shape. An
encoder in evaluation mode treats batch entries independently, so a feature does not depend on the rest of its batch.
Pixels are copied once, into pinned memory; the next batch is filled and sent while the device computes.

Letters: N, B snippets, T frames of a snippet, H W image, D feature width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator

import numpy as np
import torch

from bsp.encoders.contract import Encoder
from bsp.features.reading import PAPER, Reading
from bsp.features.store import Precision, encode_snippets

# Choice: a ResNet-50 at 224 px takes 4 GB of a GPU with it, and half as many already fill the device. Fixed, because
# the shape of a forward pass chooses its kernels, and so the last bits.
BATCH_SNIPPETS = 64
_IN_FLIGHT = 2  # batches that the device may have queued while the next one is put together


class SnippetEncoder:
    """``add`` snippets, ``flush`` at the end; both return finished features as (key, number, float32 [D])."""

    def __init__(
        self,
        encoder: Encoder,
        device: torch.device,
        precision: Precision,
        batch_snippets: int = BATCH_SNIPPETS,
        reading: Reading = PAPER,
    ):
        self.encoder, self.device, self.precision = encoder.eval(), device, precision
        self.size, self.reading = batch_snippets, reading
        self.on_gpu = device.type == "cuda"
        self.copying = torch.cuda.Stream(device) if self.on_gpu else None
        self.names: list[tuple[Hashable, int]] = []  # of the snippets in the batch that is being filled
        self.pixels: torch.Tensor | None = None  # uint8 [B, T, H, W, 3]
        # (names, features on their way to the host, event)
        self.queued: deque[tuple[list[tuple[Hashable, int]], torch.Tensor, torch.cuda.Event | None]] = deque()

    def add(self, key: Hashable, first: int, snippet_NTHWC: np.ndarray) -> list[tuple[Hashable, int, np.ndarray]]:
        """Add snippets number ``first``, ``first`` + 1, ... of video ``key``."""
        at = 0
        while at < len(snippet_NTHWC):
            if self.pixels is None:
                shape = (self.size, *snippet_NTHWC.shape[1:])
                # PyTorch reuses pinned memory only after its copy to the device is done.
                self.pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=self.on_gpu)
            place = len(self.names)
            taken = min(self.size - place, len(snippet_NTHWC) - at)
            self.pixels.numpy()[place : place + taken] = snippet_NTHWC[at : at + taken]
            self.names += [(key, first + at + k) for k in range(taken)]
            at += taken
            if len(self.names) == self.size:
                self._launch(self.pixels)
        return list(self._finished(_IN_FLIGHT))

    def flush(self) -> list[tuple[Hashable, int, np.ndarray]]:
        """Compute the incomplete batch and return all remaining features."""
        if self.pixels is not None:
            self.pixels[len(self.names) :] = 0
            self._launch(self.pixels)
        return list(self._finished(0))

    def _launch(self, pixels: torch.Tensor) -> None:
        done = None
        if self.copying is not None:
            with torch.cuda.stream(self.copying):
                pixels = pixels.to(self.device, non_blocking=True)
            computing = torch.cuda.current_stream(self.device)
            computing.wait_stream(self.copying)
            pixels.record_stream(computing)
        feat_BD = encode_snippets(self.encoder, pixels, self.precision, self.reading)
        if self.on_gpu:
            feat_BD = torch.empty(feat_BD.shape, pin_memory=True).copy_(feat_BD, non_blocking=True)
            done = torch.cuda.Event()
            done.record()
        self.queued.append((self.names, feat_BD, done))
        self.names, self.pixels = [], None

    def _finished(self, left: int) -> Iterator[tuple[Hashable, int, np.ndarray]]:
        while len(self.queued) > left:
            names, feat_BD, done = self.queued.popleft()
            if done:
                done.synchronize()
            rows = feat_BD.numpy()
            yield from ((key, number, rows[k]) for k, (key, number) in enumerate(names))
