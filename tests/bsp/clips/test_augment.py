"""Augmentation against the recipe written out, and against PIL and torch for pixels."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from bsp.clips.augment import AugmentSettings, augment_clip, centre_clip, draw_crop, jitter_colour


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def smooth(height, width, frames=4):
    """A clip of gentle gradients that differ between frames and are not symmetric."""
    y, x = np.mgrid[0:height, 0:width]
    clip = [np.stack([x * 2 + t, y * 2 + 5 * t, x + y], axis=-1) % 256 for t in range(frames)]
    return np.stack(clip).astype(np.uint8)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"size_px": 0}, "size_px.*0"),
        ({"scales": ()}, "scales"),
        ({"scales": (1.5,)}, "scales.*1.5"),
        ({"flip": 1.5}, "flip.*1.5"),
        ({"brightness": -0.1}, "brightness.*-0.1"),
        ({"contrast": 2}, "contrast.*2"),
        ({"saturation": 2}, "saturation.*2"),
    ],
)
def test_settings_refuse_what_cannot_work(wrong, named):
    with pytest.raises(ValueError, match=named):
        AugmentSettings(**wrong)


@pytest.mark.parametrize("size", [(64, 64), (64, 90), (90, 64), (1, 1), (300, 40), (223, 400), (226, 226)])
def test_any_size_becomes_the_wanted_square(size):
    for size_px in (64, 224):
        for seed in range(5):
            clip = augment_clip(noise((3, *size, 3)), AugmentSettings(size_px=size_px), seed)
            assert clip.shape == (3, size_px, size_px, 3)
            assert clip.dtype == np.uint8
            assert clip.flags.c_contiguous


def test_a_wrong_clip_is_refused():
    for wrong in (noise((4, 8, 8)), noise((8, 8, 3)), noise((2, 8, 8, 3)).astype(np.float32)):
        with pytest.raises(ValueError, match="uint8"):
            augment_clip(wrong, AugmentSettings(), 0)


def test_crop_sides_and_places_are_those_of_the_recipe():
    # 256 x 340: sides floor(256 * s) are 256, 224, 192, 168; 10 pairs; step = (image - crop) // 4
    side = {0: 256, 1: 224, 2: 192, 3: 168}
    offsets = [
        (0, 0),
        (4, 0),
        (0, 4),
        (4, 4),
        (2, 2),
        (0, 2),
        (4, 2),
        (2, 4),
        (2, 0),
        (1, 1),
        (3, 1),
        (1, 3),
        (3, 3),
    ]
    expected = set()
    for i, width in side.items():
        for j, height in side.items():
            if abs(i - j) <= 1:
                for x, y in offsets:
                    expected.add((x * ((340 - width) // 4), y * ((256 - height) // 4), width, height))
    generator = np.random.default_rng(0)
    drawn = Counter(draw_crop(340, 256, AugmentSettings(), generator) for _ in range(6000))
    assert set(drawn) == expected
    pairs = Counter((width, height) for _, _, width, height in drawn.elements())
    assert len(pairs) == 10
    assert all(500 < count < 700 for count in pairs.values())


def test_a_side_within_two_pixels_of_the_output_becomes_it():
    generator = np.random.default_rng(0)
    sides = {draw_crop(400, 258, AugmentSettings(), generator)[2] for _ in range(300)}
    assert sides == {258, 224, 193, 170}  # 258 * .875 = 225.75 -> 225 -> 224
    sides = {draw_crop(400, 223, AugmentSettings(scales=(1.0,)), generator)[2:] for _ in range(30)}
    assert sides == {(224, 223)}  # 224 wide as in the recipe, but no higher than the image


def test_crops_stay_inside_the_image():
    generator = np.random.default_rng(1)
    for width, height in ((1, 1), (2, 5), (63, 64), (222, 225), (224, 223), (1000, 7)):
        for size_px in (3, 64, 224):
            for _ in range(40):
                left, top, w, h = draw_crop(width, height, AugmentSettings(size_px=size_px), generator)
                assert left >= 0
                assert top >= 0
                assert 1 <= w <= width - left
                assert 1 <= h <= height - top


def test_all_frames_get_the_same_draw():
    config = AugmentSettings(size_px=32, brightness=0.4, contrast=0.4, saturation=0.4)
    frame = noise((48, 60, 3))
    for seed in range(20):
        clip = augment_clip(np.stack([frame] * 6), config, seed)
        assert (clip == clip[:1]).all()


def test_a_seed_fixes_the_draw_and_another_changes_it():
    config = AugmentSettings(size_px=32, brightness=0.4)
    clip = smooth(48, 60)
    draws = [augment_clip(clip, config, seed).tobytes() for seed in range(20)]
    assert draws == [augment_clip(clip, config, seed).tobytes() for seed in range(20)]
    assert len(set(draws)) == 20
    assert augment_clip(clip, config, 2**63 - 1).shape == (4, 32, 32, 3)


def test_the_input_is_left_alone():
    clip = noise((4, 48, 60, 3))
    before = clip.copy()
    clip.flags.writeable = False  # read-only, as from an object store
    for seed in range(5):
        augment_clip(clip, AugmentSettings(size_px=32, brightness=0.4), seed)
        centre_clip(clip, 40)
    assert (clip == before).all()


def test_flip_mirrors_left_and_right_in_its_share():
    clip = smooth(32, 32)
    plain = AugmentSettings(size_px=32, scales=(1.0,), flip=0)
    assert (augment_clip(clip, plain, 0) == clip).all()
    always = AugmentSettings(size_px=32, scales=(1.0,), flip=1)
    assert (augment_clip(clip, always, 0) == clip[:, :, ::-1]).all()
    half = AugmentSettings(size_px=32, scales=(1.0,), flip=0.5)
    flipped = sum((augment_clip(clip, half, seed) == clip[:, :, ::-1]).all() for seed in range(200))
    assert 70 < flipped < 130


def test_a_crop_is_a_piece_of_the_image_scaled():
    clip = smooth(64, 96, frames=2)
    config = AugmentSettings(size_px=32, flip=0)
    for seed in range(10):
        augmented = augment_clip(clip, config, seed)
        box = draw_crop(96, 64, config, np.random.Generator(np.random.Philox(key=seed)))
        left, top, width, height = box
        for frame, result in zip(clip, augmented):
            piece = Image.fromarray(frame).crop((left, top, left + width, top + height))
            expected = np.asarray(piece.resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
            assert np.abs(result - expected).max() <= 1


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.3])
def test_each_colour_change_is_that_of_pillow(factor):
    image = noise((20, 20, 3)) // 2 + 40  # 40..167: no clipping between steps
    picture = Image.fromarray(image)
    expected = {
        "brightness": ImageEnhance.Brightness(picture).enhance(factor),
        "contrast": ImageEnhance.Contrast(picture).enhance(factor),
        "saturation": ImageEnhance.Color(picture).enhance(factor),
    }
    for name, enhanced in expected.items():
        factors = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, name: factor}
        augmented = jitter_colour(image[None], **factors)[0].astype(int)
        # Pillow rounds the grey level (and its mean) to integers and truncates; hence 2.
        assert np.abs(augmented - np.asarray(enhanced).astype(int)).max() <= 2


def test_colour_changes_by_hand():
    clip = np.array([[[[100, 100, 100], [200, 200, 200]]]], np.uint8)  # greys of mean 150
    assert jitter_colour(clip, 1, 1, 1).tolist() == clip.tolist()
    assert jitter_colour(clip, 1, 0.5, 1)[0, 0, :, 0].tolist() == [125, 175]
    assert jitter_colour(clip, 1.5, 1, 1)[0, 0, :, 0].tolist() == [150, 255]  # 300 stops at 255
    assert jitter_colour(clip, 0, 1, 1).max() == 0
    assert jitter_colour(clip, 0.5, 2, 1)[0, 0, :, 0].tolist() == [25, 125]  # 150 +- 100, halved
    red = np.array([[[[255, 0, 0]]]], np.uint8)
    assert jitter_colour(red, 1, 1, 0)[0, 0, 0].tolist() == [76, 76, 76]  # .299 * 255 = 76.2
    assert jitter_colour(red, 1, 1, 0.5)[0, 0, 0].tolist() == [166, 38, 38]  # 165.6 and 38.1


def test_colour_factors_fill_their_range():
    clip = np.full((1, 4, 4, 3), 100, np.uint8)
    config = AugmentSettings(size_px=4, brightness=0.4)
    levels = [int(augment_clip(clip, config, seed)[0, 0, 0, 0]) for seed in range(300)]
    assert min(levels) >= 60
    assert min(levels) < 64
    assert max(levels) <= 140
    assert max(levels) > 136


def test_centre_clip_cuts_224_out_of_256():
    clip = smooth(256, 340)
    assert (centre_clip(clip, 224) == clip[:, 16:240, 58:282]).all()
    tall = smooth(340, 256)
    assert (centre_clip(tall, 224) == tall[:, 58:282, 16:240]).all()


def test_centre_clip_scales_the_shorter_side_first():
    clip = smooth(512, 600, frames=1)
    scaled = np.asarray(Image.fromarray(clip[0]).resize((300, 256), Image.Resampling.BILINEAR)).astype(int)
    augmented = centre_clip(clip, 224)[0]
    assert np.abs(augmented - scaled[16:240, 38:262]).max() <= 1


def test_centre_clip_keeps_the_border_of_small_videos():
    square = smooth(64, 64)
    assert (centre_clip(square, 64) == square).all()
    wide = smooth(64, 96)
    assert (centre_clip(wide, 64) == wide[:, :, 16:80]).all()
    assert centre_clip(smooth(30, 40), 64).shape == (4, 64, 64, 3)
