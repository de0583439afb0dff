"""Waves and noise that movements are made of."""

from __future__ import annotations

import numpy as np


def swing(phase: np.ndarray) -> np.ndarray:
    """Rounded triangle wave in [-1, 1], 0 and rising at phase 0; phase in cycles.

    Choice: nearly constant speed between the turning points (a sine spends its cycle changing speed), so that a change
    of playback speed inside a clip is visible.
    """
    return np.arcsin(0.96 * np.sin(2 * np.pi * phase)) / np.arcsin(0.96)


def lift(phase: np.ndarray) -> np.ndarray:
    """The same wave in [0, 1], lowest at phase 0."""
    return 0.5 * (1 + swing(phase - 0.25))


def smooth_noise(rng: np.random.Generator, frames: int, columns: int, every: float) -> np.ndarray:
    """[frames, columns] float32 noise, unit variance at knots ``every`` frames apart, smooth between them."""
    knots = rng.standard_normal((int(frames / every) + 3, columns))
    at = np.arange(frames) / every + rng.random()
    low = at.astype(int)
    part = (at - low)[:, None]
    part = part * part * (3 - 2 * part)
    return (knots[low] * (1 - part) + knots[low + 1] * part).astype(np.float32)
