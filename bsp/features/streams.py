"""Features of one video from several encoders, side by side: the two streams of Figure 3(a) in the paper.

Letters: S snippets of a video, D feature width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bsp.features.record import FeatureInfo


def concatenate_streams(parts: Sequence[tuple[np.ndarray, FeatureInfo]]) -> tuple[np.ndarray, FeatureInfo]:
    """Features [S, sum of D] of one video from several encoders, and a record with the summed width.

    ValueError, naming video and values, if the parts differ in video, frames, snippets, stride, times or crop.
    """
    first = parts[0][1]
    names = ("video_id", "frames", "snippets", "snippet_frames", "stride_frames", "offset_frames", "size_px", "times_s")
    for _, info in parts[1:]:
        for name in names:
            if getattr(info, name) != getattr(first, name):
                raise ValueError(
                    f"{first.video_id}: streams differ in {name}: {getattr(first, name)!r:.60} and "
                    f"{getattr(info, name)!r:.60}; extract both from the same video with the same settings"
                )
    feat_SD = np.concatenate([feat for feat, _ in parts], axis=1)
    hashes = "+".join(info.encoder_hash for _, info in parts)
    joined = replace(first, feature_width=feat_SD.shape[1], encoder_hash=hashes)
    return feat_SD, replace(joined, sha256="", npy_bytes=0, record_sha256="")  # written nowhere yet
