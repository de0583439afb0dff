"""Features resized to another number of cells, against numpy's interpolation."""

import numpy as np

from bsp.features.resize import resize_features


def test_resize_uses_half_pixel_centres():
    assert resize_features(np.array([[0.0], [4.0]], np.float32), 4)[:, 0].tolist() == [0, 1, 3, 4]
    assert resize_features(np.arange(4, dtype=np.float32)[:, None], 2)[:, 0].tolist() == [0.5, 2.5]
    rng = np.random.default_rng(0)
    feat = rng.standard_normal((37, 3)).astype(np.float32)
    centres = (np.arange(12) + 0.5) * 37 / 12 - 0.5
    expected = np.stack([np.interp(centres, np.arange(37), feat[:, c]) for c in range(3)], 1)
    np.testing.assert_allclose(resize_features(feat, 12), expected, atol=1e-5)
    assert resize_features(feat, 37) is feat
