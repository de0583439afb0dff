"""From pixels to the encoder's input, against the formula."""

import pytest
import torch

from bsp.clips.normalisation import normalise


def test_normalise_is_the_imagenet_formula():
    clip = torch.randint(0, 256, (2, 3, 5, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    out = normalise(clip)
    assert out.shape == (2, 3, 3, 5, 7)
    assert out.dtype == torch.float32
    for channel, (mean, std) in enumerate(zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))):
        expected = (clip[..., channel].double() / 255 - mean) / std
        torch.testing.assert_close(out[:, :, channel].double(), expected, rtol=0, atol=2e-6)
    half = normalise(clip, torch.bfloat16)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half, out.to(torch.bfloat16), rtol=0, atol=0)
    for wrong in (clip.float(), clip[0]):
        with pytest.raises(ValueError, match="uint8"):
            normalise(wrong)
