"""Ten more actions, each close to one of the first ten: finer classes.

A function gives the channels of the pose (moves.py) that differ from the resting stance, as arrays [T] or numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bsp.datasets.pantomime.figures.waves import lift, swing

Channels = dict[str, np.ndarray | float]


def _clap(phase: np.ndarray, size: float) -> Channels:
    """Hands meet overhead; the legs of a jumping jack stay still."""
    up = 0.4 + 2.6 * size * lift(phase)
    return {"shoulder_l": -up, "shoulder_r": up, "elbow_l": -0.1, "elbow_r": 0.1, "hip_l": -0.2, "hip_r": 0.2}


def _conduct(phase: np.ndarray, size: float) -> Channels:
    """A wave of both forearms at the height of the chest."""
    beat = 0.9 * size * swing(phase)
    return {"shoulder_l": -0.7, "elbow_l": -1.2 + beat, "shoulder_r": 0.7, "elbow_r": 1.2 + beat}


def _crawl(phase: np.ndarray, size: float) -> Channels:
    """Arm circles one after the other, bent forward."""
    turn = 2 * np.pi * phase
    return {"lean": 0.45 * size, "shoulder_l": turn, "shoulder_r": turn + np.pi, "elbow_l": 0.0, "elbow_r": 0.0}


def _dip(phase: np.ndarray, size: float) -> Channels:
    """Half a squat, arms down."""
    down = 0.6 * size * lift(phase)
    return {"hip_l": 1.25 * down, "knee_l": -2.0 * down, "hip_r": 1.15 * down, "knee_r": -2.0 * down,
            "lean": 0.3 * down}  # fmt: skip


def _lunge(phase: np.ndarray, size: float) -> Channels:
    """One leg steps forward and bends."""
    down = size * lift(phase)
    return {"hip_l": 1.1 * down, "knee_l": -1.2 * down, "hip_r": -0.5 * down, "knee_r": -0.5 * down,
            "shoulder_l": -0.6, "elbow_l": 1.4, "shoulder_r": 0.6, "elbow_r": -1.4}  # fmt: skip


def _march(phase: np.ndarray, size: float) -> Channels:
    """Walk on the spot with high knees and still arms."""
    wave = swing(phase)
    left, right = size * np.maximum(wave, 0), size * np.maximum(-wave, 0)
    return {"hip_l": 1.3 * left, "knee_l": -1.5 * left, "hip_r": 1.3 * right, "knee_r": -1.5 * right}


def _punch_up(phase: np.ndarray, size: float) -> Channels:
    """Box, but overhead."""
    wave = swing(phase)
    left, right = size * np.maximum(wave, 0), size * np.maximum(-wave, 0)
    return {"shoulder_l": -0.5 - 2.3 * left, "elbow_l": -2.0 + 2.0 * left,
            "shoulder_r": 0.5 + 2.3 * right, "elbow_r": 2.0 - 2.0 * right}  # fmt: skip


def _side_bend(phase: np.ndarray, size: float) -> Channels:
    """A windmill's turns with the arms held up."""
    turn = 0.7 * size * swing(phase)
    return {"lean": turn, "shoulder_l": -2.7 - turn, "shoulder_r": 2.7 - turn, "hip_l": -0.2, "hip_r": 0.2}


def _side_kick(phase: np.ndarray, size: float) -> Channels:
    """A kick of the other, straight leg, to the back."""
    up = size * lift(phase)
    return {"lean": 0.5 * up, "hip_l": -0.1 - 1.4 * up, "knee_l": 0.0, "shoulder_l": -0.5 - 0.7 * up,
            "shoulder_r": 0.5 + 0.7 * up}  # fmt: skip


def _wave_both(phase: np.ndarray, size: float) -> Channels:
    """A wave of both hands."""
    beat = 0.5 + 0.95 * size * swing(phase)
    return {"shoulder_l": -2.15, "elbow_l": -beat, "shoulder_r": 2.15, "elbow_r": beat}


FINER_ACTIONS: dict[str, Callable[[np.ndarray, float], Channels]] = {
    "clap": _clap,
    "conduct": _conduct,
    "crawl": _crawl,
    "dip": _dip,
    "lunge": _lunge,
    "march": _march,
    "punch up": _punch_up,
    "side bend": _side_bend,
    "side kick": _side_kick,
    "wave both": _wave_both,
}
