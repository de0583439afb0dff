"""Streams side by side: what they must share, and the joined record."""

import numpy as np
import pytest

from bsp.features.record import FeatureInfo
from bsp.features.streams import concatenate_streams


def record(**fields) -> FeatureInfo:
    values = {
        "video_id": "v", "frames": 24, "fps": 12.0, "snippet_frames": 8, "stride_frames": 8, "offset_frames": 0,
        "size_px": 32, "mean": (0.5,) * 3, "std": (0.2,) * 3, "feature_width": 2, "snippets": 3,
        "encoder_hash": "a", "code_version": 1, "sha256": "x", "npy_bytes": 9,
    }  # fmt: skip
    return FeatureInfo(**values | fields)


def test_concatenated_features_keep_their_story():
    one, two = np.arange(6, dtype=np.float32).reshape(3, 2), np.full((3, 1), 7, np.float32)
    feat, info = concatenate_streams([(one, record()), (two, record(feature_width=1, encoder_hash="b"))])
    np.testing.assert_array_equal(feat, [[0, 1, 7], [2, 3, 7], [4, 5, 7]])
    assert (info.feature_width, info.encoder_hash, info.snippets, info.sha256) == (3, "a+b", 3, "")


@pytest.mark.parametrize("field", ["video_id", "frames", "stride_frames", "size_px", "snippets"])
def test_streams_that_do_not_belong_together_are_refused(field):
    feat = np.zeros((3, 2), np.float32)
    other = record(**{field: "w" if field == "video_id" else 4})
    with pytest.raises(ValueError, match=f"v: streams differ in {field}"):
        concatenate_streams([(feat, record()), (feat, other)])
