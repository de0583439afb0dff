"""Pixels of Pantomime: textured backgrounds, anti-aliased figures, a moving camera, light and sensor noise.

A shot is drawn in chunks of frames: the background is cut out of a larger periodic texture, the figure's
limbs are distance-to-segment fields on the chunk's bounding box, all in float32 on a 0-255 scale.
Letters: T frames, H W image (H = W), J joints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bsp.datasets.pantomime.figures.waves import smooth_noise
from bsp.datasets.pantomime.levers import NO_LEVERS, Levers
from bsp.datasets.pantomime.moves import JOINTS, idle_pose, joints

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_WARMTH = np.array([14.0, 0.0, -36.7], np.float32)  # a standard deviation of warmth in grey levels; about no luma
_CHUNK_FRAMES = 8  # frames drawn together; the fields of a chunk at 64 px fit a core's second-level cache
# Painter's order: (colour, shade, limbs as pairs of joints). The left side is the far one.
_LAYERS = (
    ("shirt", 0.72, (("shoulder_l", "elbow_l"), ("elbow_l", "hand_l"))),
    ("trousers", 0.72, (("hip_l", "knee_l"), ("knee_l", "ankle_l"), ("ankle_l", "toe_l"))),
    ("trousers", 1.0, (("hip_r", "knee_r"), ("knee_r", "ankle_r"), ("ankle_r", "toe_r"))),
    ("shirt", 0.9, (("pelvis", "neck"), ("shoulder_l", "shoulder_r"), ("hip_l", "hip_r"))),
    ("skin", 1.0, (("neck", "head"), ("head", "head"))),
    ("shirt", 1.0, (("shoulder_r", "elbow_r"), ("elbow_r", "hand_r"))),
)
LIGHT_FIGURE_LUMA, DARK_GROUND_LUMA = (165.0, 235.0), (18.0, 105.0)
DARK_FIGURE_LUMA, LIGHT_GROUND_LUMA = (12.0, 62.0), (125.0, 225.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """A place and a person; constant during a shot, and may be used by several shots."""

    texture_HW3: np.ndarray  # float32 [3 * size, 3 * size, 3], 0-255; periodic with 2 * size
    height: float  # figure's height, share of the frame
    thickness: float  # limb radius, body heights
    body: dict[str, float]  # proportions for moves.joints
    colours: np.ndarray  # float32 [layers, 3], 0-255
    mirrored: bool
    ground: float  # where the feet stand, share of the frame from the top
    centre: float  # pelvis, share of the frame from the left
    hat: float = 0.0  # size of a brimmed, pointed hat in the shirt's colour; 0 = bare head, 1 = brim of 5.2 heads


@dataclass(frozen=True, kw_only=True)
class Person:
    """Appearance of a person, independent of the place."""

    clothes: tuple[float, float, float]  # RGB, 0-255; lighter in dark places and darker in light ones
    height: tuple[float, float]  # lowest and highest, share of the frame
    thickness: tuple[float, float]  # lowest and highest limb radius, body heights
    hat: float  # as in Look


def _with_luma(colour: np.ndarray, luma: np.ndarray | float) -> np.ndarray:
    """``colour`` (0-255, [..., 3]) moved along grey to the given luma; twice, because of clipping."""
    for _ in range(2):
        colour = np.clip(colour + (luma - colour @ _LUMA)[..., None], 0, 255)
    return colour.astype(np.float32)


def _texture(rng: np.random.Generator, size: int, luma_range: tuple[float, float]) -> np.ndarray:
    """A periodic picture: noise of all octaves between random colours, gratings, floor, shapes."""
    period = 2 * size
    frequency = np.hypot(np.fft.fftfreq(period)[:, None], np.fft.rfftfreq(period)[None]) * period
    frequency[0, 0] = np.inf
    layers = []
    for slope in (rng.uniform(1.6, 2.6), rng.uniform(0.9, 1.8)):
        spectrum = rng.standard_normal((2, *frequency.shape), dtype=np.float32)
        layer = np.fft.irfft2((spectrum[0] + 1j * spectrum[1]) * frequency**-slope, s=(period, period))
        layers.append((layer / layer.std()).astype(np.float32))
    row, column = np.mgrid[0:period, 0:period].astype(np.float32)
    mix = rng.uniform(0.6, 1.6) * layers[0] + rng.uniform(0.0, 0.6) * layers[1]
    if rng.random() < 0.35:  # a grating: wallpaper, fence, bricks
        waves = rng.integers(-14, 15, 2)
        mix += rng.uniform(0.4, 1.5) * np.sin((2 * np.pi / period) * (waves[0] * row + waves[1] * column))
    palette = rng.uniform(0, 255, (4, 3)).astype(np.float32)
    vivid = rng.uniform(0.2, 1.0)  # from nearly grey to garish
    palette = vivid * palette + (1 - vivid) * palette.mean(axis=1, keepdims=True)
    share = (1 / (1 + np.exp(-1.5 * mix)))[..., None]
    picture = palette[0] * (1 - share) + palette[1] * share
    value = mix / (np.abs(mix).max() + 1e-6)
    if rng.random() < 0.6:  # a floor
        floor = row > size * (0.5 + rng.uniform(0.62, 0.88))
        picture[floor] = 0.35 * picture[floor] + 0.65 * palette[2]
        value = np.where(floor, 0.4 * value + rng.uniform(-0.8, 0.8), value)
    for _ in range(rng.integers(0, 12)):  # furniture, trees, windows
        middle, half = rng.uniform(0, period, 2), rng.uniform(0.04, 0.28, 2) * size
        away_y = np.abs((row - middle[0] + size) % period - size)
        away_x = np.abs((column - middle[1] + size) % period - size)
        if rng.random() < 0.5:
            inside = (away_y < half[0]) & (away_x < half[1])
        else:
            inside = away_y**2 + away_x**2 < half[0] ** 2
        opaque = rng.uniform(0.4, 0.95)
        picture[inside] = (1 - opaque) * picture[inside] + opaque * rng.uniform(0, 255, 3)
        value[inside] = (1 - opaque) * value[inside] + opaque * rng.uniform(-1, 1)
    low, high = luma_range
    span = rng.uniform(0.5, 1.0) * (high - low)
    start = rng.uniform(low, high - span)
    picture = _with_luma(picture, start + span * (0.5 + 0.5 * np.clip(value, -1, 1)))
    return np.pad(picture, ((0, size), (0, size), (0, 0)), mode="wrap")


def draw_look(
    rng: np.random.Generator,
    size: int,
    person: Person | None = None,
    *,
    levers: Levers | None = None,
    acts: bool = True,
) -> Look:
    """A random place and figure for frames of ``size`` pixels, at least 55 grey levels of luma apart.

    With a ``person``, that figure in a random place. ``acts``: whether that place is one of acting, for levers.
    """
    light = rng.random() < 0.5
    ground_range = DARK_GROUND_LUMA if light else LIGHT_GROUND_LUMA
    low, high = LIGHT_FIGURE_LUMA if light else DARK_FIGURE_LUMA
    wear = {name: (rng.uniform(0, 255, 3), rng.uniform(0.3, 1.0)) for name in ("shirt", "trousers", "skin")}
    if person is not None:
        wear |= {name: (np.array(person.clothes), wear[name][1]) for name in ("shirt", "trousers")}
    colours = [_with_luma(wear[name][0], low + (high - low) * wear[name][1] * shade) for name, shade, _ in _LAYERS]
    facing = rng.uniform(0.15, 1.0)  # 0 from the side, 1 from the front; says nothing about the action
    look = Look(
        texture_HW3=_texture(rng, size, ground_range),
        height=rng.uniform(0.60, 0.82),
        thickness=rng.uniform(0.026, 0.045),
        body={
            "shoulder": facing * rng.uniform(0.09, 0.13), "hip": facing * rng.uniform(0.04, 0.07),
            "arm": rng.uniform(0.95, 1.12), "leg": rng.uniform(0.94, 1.05), "head": rng.uniform(0.065, 0.09),
        },
        colours=np.stack(colours),
        mirrored=bool(rng.random() < 0.5),
        ground=rng.uniform(0.90, 0.97),
        centre=rng.uniform(0.42, 0.58),
    )  # fmt: skip
    if person is not None:
        height, thickness = rng.uniform(*person.height), rng.uniform(*person.thickness)
        look = replace(look, hat=person.hat, height=height, thickness=thickness)
    return look if levers is None else _harder(look, rng, levers, acts)


def _harder(look: Look, rng: np.random.Generator, levers: Levers, acts: bool) -> Look:
    """The look with fainter, smaller figures, in a light that is warmer, in the mean, where it is a place of acting."""
    warmth = rng.standard_normal() + levers.scene_cue * (0.5 if acts else -0.5)
    texture = np.clip(look.texture_HW3 + _WARMTH * warmth * bool(levers.scene_cue), 0, 255)
    ground = texture.mean(axis=(0, 1))
    return replace(
        look, texture_HW3=texture, colours=ground + levers.contrast * (look.colours - ground),
        height=look.height * levers.figure_height,
    )  # fmt: skip


def _camera(rng: np.random.Generator, frames: int, size: int, amount: float) -> tuple[np.ndarray, np.ndarray]:
    """Offsets in pixels, (x, y): of the background [T, 2] and of the figure [T, 2]; ``amount`` scales them."""
    shake_T2 = rng.uniform(0.005, 0.03) * size * smooth_noise(rng, frames, 2, 15)  # a camera held by hand
    shake_T2 += (rng.uniform(0.0, 0.008) * size * rng.standard_normal((frames, 2))).astype(np.float32)
    shake_T2 *= np.float32(amount)
    pan = amount * rng.uniform(0.004, 0.018) * size * rng.choice((-1, 1)) if rng.random() < 0.6 else 0.0
    steps = pan * (1 + 0.3 * smooth_noise(rng, frames, 1, 20)[:, 0])  # a pan that follows the figure
    origin = rng.uniform(0, 2 * size), 0.5 * size
    ground_T2 = shake_T2 + np.stack([np.cumsum(steps) + origin[0], np.full(frames, origin[1])], axis=1)
    return ground_T2.astype(np.float32), -shake_T2


def _cut_out(texture_HW3: np.ndarray, offsets_T2: np.ndarray, size: int, out_THW3: np.ndarray) -> None:
    """Fill ``out`` with windows of the texture at sub-pixel offsets (bilinear)."""
    period = 2 * size
    whole = np.floor(offsets_T2)
    parts = offsets_T2 - whole
    for window, (x, y), (right, down) in zip(out_THW3, (whole % period).astype(int), parts):
        block = texture_HW3[y : y + size + 1, x : x + size + 1]
        rows = block[:-1] + down * (block[1:] - block[:-1])
        np.multiply(rows[:, 1:] - rows[:, :-1], right, out=window)
        window += rows[:, :-1]


def _draw_figure(frames_THW3: np.ndarray, points_TJ2: np.ndarray, look: Look, size: int) -> None:
    """Draw one figure per frame, limbs as capsules with an edge one pixel soft. ``points`` in pixels."""
    thick = look.thickness * look.height * size
    head = look.body["head"] * look.height * size
    for colour, (_, _, limbs) in zip(look.colours, _LAYERS):
        ends = [JOINTS.index(joint) for limb in limbs for joint in limb]
        box, corner = _box(frames_THW3, points_TJ2[:, ends], max(1.25 * thick, head) + 2, size)
        if not box.size:
            continue
        column = np.arange(corner[0], corner[0] + box.shape[2], dtype=np.float32)[None, None, :]
        row = np.arange(corner[1], corner[1] + box.shape[1], dtype=np.float32)[None, :, None]
        field: np.ndarray | None = None
        for first, second in limbs:
            start, end = points_TJ2[:, JOINTS.index(first)], points_TJ2[:, JOINTS.index(second)]
            radius = head if first == "head" else thick * (1.25 if first == "pelvis" else 1.0)
            distance = _segment_distance(column, row, start, end - start)
            distance -= radius
            field = distance if field is None else np.minimum(field, distance, out=field)
        assert field is not None  # every layer has limbs
        alpha = np.clip(0.5 - field, 0, 1, out=field)
        for channel in range(3):
            plane = box[..., channel]
            plane += alpha * (colour[channel] - plane)
    if look.hat:
        box, corner = _box(frames_THW3, points_TJ2, max(thick, head * (1 + 2.6 * look.hat)) + 2, size)
        if box.size:
            _draw_hat(box, points_TJ2 - corner, look, head)


def _box(frames_THW3: np.ndarray, points_TJ2: np.ndarray, reach: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The part of the frames within ``reach`` pixels of the points in any frame, a view, and its corner (x, y)."""
    low = np.clip(np.floor(points_TJ2.min(axis=(0, 1)) - reach).astype(int), 0, size)
    high = np.clip(np.ceil(points_TJ2.max(axis=(0, 1)) + reach).astype(int), 0, size)
    return frames_THW3[:, low[1] : high[1], low[0] : high[0]], low


def _draw_hat(box_THW3: np.ndarray, points_TJ2: np.ndarray, look: Look, head: float) -> None:
    """A brim across the top of the head and a cone on it, turning with the head; ``head`` is its radius."""
    top = points_TJ2[:, JOINTS.index("head")]
    up = top - points_TJ2[:, JOINTS.index("neck")]
    up /= np.maximum(np.hypot(up[:, :1], up[:, 1:]), 1e-6)
    across = np.stack([up[:, 1], -up[:, 0]], axis=1)
    top, size = top + 0.7 * head * up, head * look.hat
    parts = [(top - 2.6 * size * across, 5.2 * size * across, 0.45 * size)]
    parts += [(top, long * size * up, wide * size) for long, wide in ((0.5, 0.9), (1.1, 0.65), (1.7, 0.4))]
    column = np.arange(box_THW3.shape[2], dtype=np.float32)[None, None, :]
    row = np.arange(box_THW3.shape[1], dtype=np.float32)[None, :, None]
    field = np.minimum.reduce([_segment_distance(column, row, start, along) - width for start, along, width in parts])
    alpha = np.clip(0.5 - field, 0, 1)[..., None]
    box_THW3 += alpha * (look.colours[3] - box_THW3)  # the shirt's colour


def _segment_distance(column: np.ndarray, row: np.ndarray, start_T2: np.ndarray, along_T2: np.ndarray) -> np.ndarray:
    """[T, h, w] distance in pixels of each pixel from the segment start .. start + along."""
    x, y = column - start_T2[:, 0, None, None], row - start_T2[:, 1, None, None]  # [T,1,w], [T,h,1]
    length2 = np.maximum((along_T2**2).sum(axis=1), 1e-6)[:, None, None]
    dx, dy = along_T2[:, 0, None, None], along_T2[:, 1, None, None]
    share = x * (dx / length2) + y * (dy / length2)
    np.clip(share, 0, 1, out=share)
    off_x = x - share * dx
    share *= -dy
    share += y
    off_x *= off_x
    share *= share
    off_x += share
    return np.sqrt(off_x, out=off_x)


def draw_shot(
    pose_TP: np.ndarray,
    look: Look,
    size: int,
    rng: np.random.Generator,
    *,
    noise: float,
    light: float,
    levers: Levers | None = None,
    fps: int = 12,
) -> np.ndarray:
    """uint8 [T, size, size, 3] RGB: the figure of ``look`` going through ``pose_TP`` before a moving camera.

    ``noise`` scales the sensor noise and ``light`` the changes of lighting; 1 is the default amount, 0 none.
    With ``levers`` other people and things move behind the figure; these need the frames per second.
    """
    frames = len(pose_TP)
    more = levers or NO_LEVERS
    ground_T2, figure_T2 = _camera(rng, frames, size, more.camera)
    points_TJ2 = joints(pose_TP, **look.body) * (look.height * size)
    points_TJ2[..., 0] *= -1 if look.mirrored else 1
    points_TJ2 += figure_T2[:, None] + np.array([look.centre * size, look.ground * size], np.float32)
    gain_T = 1 + light * 0.05 * smooth_noise(rng, frames, 1, 18)[:, 0]
    tilt_T = light * 0.06 * smooth_noise(rng, frames, 1, 30)[:, 0]
    gain_TW = (gain_T[:, None] + tilt_T[:, None] * np.linspace(-1, 1, size, dtype=np.float32)).astype(np.float32)
    pixels = size * size * 3
    grain = (noise * rng.uniform(1.0, 5.0) * rng.standard_normal(4 * pixels, dtype=np.float32)).astype(np.float32)
    starts = rng.integers(0, 3 * pixels, frames)
    out_THW3 = np.empty((frames, size, size, 3), np.uint8)
    others = _draw_others(rng, frames, look, size, fps, more.others, figure_T2) if more.others else []
    things = [_draw_thing(rng, frames, size) for _ in range(rng.poisson(more.clutter))] if more.clutter else []
    work_THW3 = np.empty((_CHUNK_FRAMES, size, size, 3), np.float32)
    for first in range(0, frames, _CHUNK_FRAMES):
        part = slice(first, min(first + _CHUNK_FRAMES, frames))
        chunk = work_THW3[: part.stop - part.start]
        _cut_out(look.texture_HW3, ground_T2[part], size, chunk)
        for corners_T4, colour in things:
            _draw_rectangle(chunk, corners_T4[part], colour)
        for other_TJ2, other in others:
            _draw_figure(chunk, other_TJ2[part], other, size)
        _draw_figure(chunk, points_TJ2[part], look, size)
        chunk *= gain_TW[part, None, :, None]
        for frame, start in zip(chunk, starts[part]):
            frame += grain[start : start + pixels].reshape(frame.shape)
        np.clip(chunk, 0, 255, out=chunk)
        out_THW3[part] = chunk
    return out_THW3


def _draw_others(
    rng: np.random.Generator, frames: int, look: Look, size: int, fps: int, mean: float, shake_T2: np.ndarray
) -> list[tuple[np.ndarray, Look]]:
    """Other people of a shot, (joints in pixels [T, J, 2], their look): smaller, aside, moving all the time."""
    people = []
    for _ in range(min(rng.poisson(mean), 3)):
        height = rng.uniform(0.5, 0.85) * look.height
        side = rng.uniform(0.02, 0.28)
        other = replace(
            look, height=height, hat=0.0, mirrored=bool(rng.random() < 0.5), ground=look.ground - rng.uniform(0, 0.12),
            centre=side if rng.random() < 0.5 else 1 - side, colours=rng.permutation(look.colours),
        )  # fmt: skip
        points_TJ2 = joints(idle_pose(frames, fps, (), rng, restless=1.0), **other.body) * (height * size)
        points_TJ2[..., 0] *= -1 if other.mirrored else 1
        points_TJ2 += shake_T2[:, None] + np.array([other.centre * size, other.ground * size], np.float32)
        people.append((points_TJ2, other))
    return people


def _draw_thing(rng: np.random.Generator, frames: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A thing that moves through the background: its left, top, right and bottom edge in pixels [T, 4]; its colour."""
    half_2 = rng.uniform(0.03, 0.13, 2) * size
    speed_2 = rng.uniform(0.004, 0.03) * size * rng.choice((-1.0, 1.0), 2) * (1, rng.uniform(0, 0.4))
    path_T2 = rng.uniform(0, size, 2) + np.cumsum(speed_2 * (1 + 0.5 * smooth_noise(rng, frames, 2, 12)), axis=0)
    span_2 = size + 2 * half_2
    path_T2 = (path_T2 + half_2) % span_2 - half_2  # leaves on one side, comes back on the other
    edges_T4 = np.concatenate([path_T2 - half_2, path_T2 + half_2], axis=1)
    return np.clip(edges_T4.round(), 0, size).astype(int), rng.uniform(0, 255, 3).astype(np.float32)


def _draw_rectangle(frames_THW3: np.ndarray, edges_T4: np.ndarray, colour: np.ndarray) -> None:
    for frame, (left, top, right, bottom) in zip(frames_THW3, edges_T4):
        block = frame[top:bottom, left:right]
        block += 0.7 * (colour - block)


def draw_shots(
    pose_TP: np.ndarray,
    shots: Iterable[tuple[int, int, int]],
    looks: Mapping[int, Look],
    settings: Any,
    rng_of_shot: Callable[[int], np.random.Generator],
) -> np.ndarray:
    """uint8 [T, size_px, size_px, 3]: a video's ``shots`` (first, end, number of the look), one after another.

    ``settings`` have ``size_px``, ``fps``, ``noise``, ``light`` and ``levers``; ``rng_of_shot`` gives the generator of
    the shot that begins with a frame.
    """
    amounts = {name: getattr(settings, name) for name in ("noise", "light", "levers", "fps")}
    parts = [
        draw_shot(pose_TP[first:end], looks[look], settings.size_px, rng_of_shot(first), **amounts)
        for first, end, look in shots
    ]
    return np.concatenate(parts)
