"""The record of features whose snippets are not evenly spaced in time."""

from bsp.features.record import FeatureInfo

STARTS_S = [0.0, 0.8, 1.6, 2 + 4 / 30, 2.4, 2 + 20 / 30, 2 + 28 / 30, 3.2, 2 + 44 / 30, 2 + 52 / 30, 4.0]
UNEVEN = FeatureInfo(
    video_id="v", frames=80, fps=79 / (4 - 1 / 30), snippet_frames=8, stride_frames=8, offset_frames=0, size_px=32,
    mean=(0.5,) * 3, std=(0.2,) * 3, feature_width=2, snippets=10, encoder_hash="ab", code_version=1, reader="mp4",
    times_s=tuple(STARTS_S), end_s=4.0,
)  # fmt: skip
