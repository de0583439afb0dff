"""Movement that is as lively as an action and belongs to no class."""

from __future__ import annotations

import numpy as np

from bsp.datasets.pantomime.figures.waves import smooth_noise, swing

# Range of the swing of each angle in radians, in the order of moves.CHANNELS: lean, head, then shoulder and elbow
# left and right, hip and knee left and right. Choice: sized so that hands and feet are as fast as in the actions.
_REACH = np.array([0.30, 0.2, 1.2, 1.0, 1.2, 1.0, 0.45, 0.7, 0.45, 0.7], np.float32)
_STILL = 0.35  # probability that an angle takes no part
_TEMPO = (0.8, 1.5)  # cycles/s


def restless_angles(rng: np.random.Generator, frames: int, fps: float) -> np.ndarray:
    """[frames, 10] float32 angles to add to a stance: a random movement that repeats itself, never quite.

    All angles share a tempo and differ in size, phase and in taking part at all.
    """
    tempo = rng.uniform(*_TEMPO) / fps * (1 + 0.15 * smooth_noise(rng, frames, 1, 1.5 * fps)[:, 0])
    phase = np.cumsum(tempo)[:, None] + rng.random(len(_REACH))
    size = _REACH * rng.uniform(0.3, 1.0, len(_REACH)) * (rng.random(len(_REACH)) >= _STILL)
    sign = np.array([1, 1, 1, 1, 1, 1, 1, -1, 1, -1], np.float32)
    wave = swing(phase)
    wave[:, [7, 9]] = 0.5 * (1 + wave[:, [7, 9]])  # knees bend one way
    return (size * sign * wave).astype(np.float32)
