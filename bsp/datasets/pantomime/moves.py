"""How the stick figures of Pantomime move: ten actions, idle motion, and the skeleton that carries them.

A pose is a row of :data:`CHANNELS` numbers: angles in radians in the picture plane, measured from straight
down and turning towards +x, elbows and knees relative to the limb above them, and two offsets in body
heights. All functions work on whole videos at once. Letters: T frames, P pose channels, J joints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from bsp.datasets.pantomime.figures.finer import FINER_ACTIONS
from bsp.datasets.pantomime.figures.restless import restless_angles
from bsp.datasets.pantomime.figures.waves import lift, smooth_noise, swing

CHANNELS = (
    "lean", "head", "shoulder_l", "elbow_l", "shoulder_r", "elbow_r",
    "hip_l", "knee_l", "hip_r", "knee_r", "flight", "shift",
)  # fmt: skip
NUM_ANGLES = 10  # the first ten channels are angles; flight (up) and shift (forward) are body heights
_AT = {name: position for position, name in enumerate(CHANNELS)}
_REST = {
    "shoulder_l": -0.18,
    "shoulder_r": 0.18,
    "elbow_l": 0.12,
    "elbow_r": -0.05,
    "hip_l": -0.10,
    "hip_r": 0.10,
}

JOINTS = (
    "pelvis", "neck", "head", "shoulder_l", "elbow_l", "hand_l", "shoulder_r", "elbow_r", "hand_r",
    "hip_l", "knee_l", "ankle_l", "toe_l", "hip_r", "knee_r", "ankle_r", "toe_r",
)  # fmt: skip


def _pose(phase: np.ndarray, **channels: np.ndarray | float) -> np.ndarray:
    """[T, P] float32 pose: the resting stance with the named channels replaced."""
    pose_TP = np.zeros((len(phase), len(CHANNELS)), np.float32)
    for name, value in {**_REST, **channels}.items():
        pose_TP[:, _AT[name]] = value
    return pose_TP


def _wave(phase: np.ndarray, size: float) -> np.ndarray:
    return _pose(phase, shoulder_r=2.15, elbow_r=0.5 + 0.95 * size * swing(phase))


def _jumping_jack(phase: np.ndarray, size: float) -> np.ndarray:
    up = lift(phase)
    arms, legs = 0.25 + 2.6 * up, 0.05 + 0.48 * size * up
    hop = 0.05 * np.abs(np.sin(2 * np.pi * phase))
    return _pose(
        phase,
        shoulder_l=-arms,
        shoulder_r=arms,
        elbow_l=-0.1,
        elbow_r=0.1,
        hip_l=-legs,
        hip_r=legs,
        flight=hop,
    )


def _crouch(down: np.ndarray) -> dict[str, np.ndarray]:
    """Legs and torso of a crouch; ``down`` in [0, 1]. Squat and jump share it and differ by what follows."""
    return {
        "hip_l": -0.05 + 1.25 * down, "knee_l": -2.0 * down,
        "hip_r": 0.05 + 1.15 * down, "knee_r": -2.0 * down, "lean": 0.5 * down,
    }  # fmt: skip


def _squat(phase: np.ndarray, size: float) -> np.ndarray:
    down = size * lift(phase)
    return _pose(phase, **_crouch(down), shoulder_l=-0.1 + 1.5 * down, shoulder_r=0.1 + 1.5 * down)


def _jump(phase: np.ndarray, size: float) -> np.ndarray:
    wave = swing(phase)
    air, down = np.maximum(wave, 0), 0.75 * np.maximum(-wave, 0)
    arms = 0.25 + 2.5 * air
    return _pose(
        phase, **_crouch(down), shoulder_l=-arms - 0.4 * down, shoulder_r=arms - 0.6 * down,
        flight=0.17 * size * air * (2 - air),
    )  # fmt: skip


def _walk(phase: np.ndarray, size: float) -> np.ndarray:
    stride, quarter = 0.55 * size * swing(phase), swing(phase + 0.25)
    return _pose(
        phase, lean=0.08, hip_l=stride, hip_r=-stride,
        knee_l=-0.12 - 0.9 * np.maximum(quarter, 0), knee_r=-0.12 - 0.9 * np.maximum(-quarter, 0),
        shoulder_l=-1.1 * stride, shoulder_r=1.1 * stride, elbow_l=0.5, elbow_r=0.5,
    )  # fmt: skip


def _kick(phase: np.ndarray, size: float) -> np.ndarray:
    up = lift(phase)
    return _pose(
        phase, lean=0.1 - 0.4 * up, hip_l=-0.05, hip_r=-0.55 + 2.15 * size * up,
        knee_l=-0.1, knee_r=-1.1 * (1 - up),
        shoulder_l=0.2 + 0.8 * up, shoulder_r=0.5 - 1.1 * up, elbow_l=0.5, elbow_r=0.4,
    )  # fmt: skip


def _windmill(phase: np.ndarray, size: float) -> np.ndarray:
    turn = swing(phase)
    return _pose(
        phase, lean=0.55 * size * turn, shoulder_l=-np.pi / 2 - 1.15 * size * turn,
        shoulder_r=np.pi / 2 - 1.15 * size * turn, elbow_l=0.0, elbow_r=0.0, hip_l=-0.38, hip_r=0.38,
    )  # fmt: skip


def _box(phase: np.ndarray, size: float) -> np.ndarray:
    wave = swing(phase)
    left, right = np.maximum(wave, 0), np.maximum(-wave, 0)
    return _pose(
        phase, lean=0.12 + 0.1 * wave, hip_l=0.30, hip_r=-0.30, knee_l=-0.25, knee_r=-0.15,
        shoulder_l=0.35 + 1.25 * size * left, elbow_l=2.1 - 2.05 * left,
        shoulder_r=0.25 + 1.35 * size * right, elbow_r=2.2 - 2.15 * right,
    )  # fmt: skip


def _bow(phase: np.ndarray, size: float) -> np.ndarray:
    down = size * lift(phase)
    return _pose(
        phase, lean=1.35 * down, head=0.25 * down, shift=-0.07 * down, hip_l=-0.08, hip_r=0.06,
        shoulder_l=-0.1 + 0.5 * down, shoulder_r=0.1 + 0.6 * down,
    )  # fmt: skip


def _arm_circles(phase: np.ndarray, size: float) -> np.ndarray:
    turn = 2 * np.pi * phase
    return _pose(phase, shoulder_l=-turn, shoulder_r=turn, elbow_l=0.0, elbow_r=0.0, hip_l=-0.16, hip_r=0.16)


ACTIONS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "arm circles": _arm_circles,
    "bow": _bow,
    "box": _box,
    "jump": _jump,
    "jumping jack": _jumping_jack,
    "kick": _kick,
    "squat": _squat,
    "walk": _walk,
    "wave": _wave,
    "windmill": _windmill,
}
ACTION_NAMES = tuple(ACTIONS)
ALL_ACTION_NAMES = (*ACTION_NAMES, *FINER_ACTIONS)  # the order enters the random keys

# Idle stances. Several are poses of an action, held still, so that a single pose does not reveal an action.
_STANCES: tuple[dict[str, float], ...] = (
    {},
    {},
    {"shoulder_l": -0.75, "elbow_l": 1.5, "shoulder_r": 0.75, "elbow_r": -1.5},  # hands on the hips
    {"shoulder_l": -0.3, "elbow_l": 1.5, "shoulder_r": 0.3, "elbow_r": -1.4},  # arms folded
    {"shoulder_r": 2.15, "elbow_r": 0.6},  # a hand in the air
    {"shoulder_r": 0.5, "elbow_r": 2.3, "head": 0.15},  # hand at the chin
    {
        "lean": 0.3,
        "shoulder_l": 0.25,
        "shoulder_r": 0.4,
        "hip_l": 0.5,
        "knee_l": -0.8,
        "hip_r": 0.4,
        "knee_r": -0.8,
    },
    {"shoulder_l": -1.3, "shoulder_r": 1.3, "elbow_l": 0.0, "elbow_r": 0.0},  # arms out
    {
        "shoulder_l": 0.35,
        "elbow_l": 2.1,
        "shoulder_r": 0.25,
        "elbow_r": 2.2,
        "hip_l": 0.3,
        "hip_r": -0.3,
    },  # guard
)


def action_pose(name: str, phase: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[T, P] pose of the action at ``phase`` (cycles, [T]), with this performer's amplitude and habits."""
    if rng.random() < 0.5:
        phase = -phase  # Choice: half the performances run backwards, so that "up, then down" is no class cue
    size = rng.uniform(0.85, 1.1)
    pose_TP = ACTIONS[name](phase, size) if name in ACTIONS else _pose(phase, **FINER_ACTIONS[name](phase, size))
    pose_TP[:, :NUM_ANGLES] += 0.06 * rng.standard_normal(NUM_ANGLES)
    pose_TP[:, :NUM_ANGLES] += 0.035 * smooth_noise(rng, len(phase), NUM_ANGLES, 12)
    return pose_TP


def running_phase(
    rng: np.random.Generator, *, frames: int, fps: int, tempo: float | np.ndarray, cuts: Sequence[int]
) -> np.ndarray:
    """[T] phase in cycles of an action at about ``tempo`` cycles/s, or [T] of them; half of the cuts jump in time."""
    speed = tempo / fps * (1 + 0.06 * smooth_noise(rng, frames, 1, 2 * fps)[:, 0])
    phase = rng.random() + np.cumsum(speed)
    for cut in cuts:
        phase[cut:] += rng.random() if rng.random() < 0.5 else 0.0
    return phase


def blend_ramp(half: int) -> np.ndarray:
    """[2 * half] float32 weights that rise smoothly from 0 to 1, 1/2 in the middle."""
    ramp = (np.arange(2 * half, dtype=np.float32) + 0.5) / (2 * half)
    return ramp * ramp * (3 - 2 * ramp)


def idle_pose(
    frames: int, fps: float, breaks: tuple[int, ...], rng: np.random.Generator, *, restless: float = 0.0
) -> np.ndarray:
    """[T, P] idle motion: stances held for 1-3 s, taken up in 3-6 frames; swaying, fidgeting, glances.

    At the frames in ``breaks`` (cuts) the stance is drawn anew without a transition. ``restless``: probability that a
    stretch is spent in movement as lively as an action, which belongs to no class (figures/restless.py).
    """
    pose_TP = np.zeros((frames, len(CHANNELS)), np.float32)
    start, before = 0, None
    while start < frames:
        stance = _pose(np.zeros(1), **_STANCES[rng.integers(len(_STANCES))])[0]
        stance[:NUM_ANGLES] += 0.10 * rng.standard_normal(NUM_ANGLES)
        end = start + max(2, round(rng.uniform(1.0, 3.0) * fps))
        end = min([end, frames, *(cut for cut in breaks if cut > start)])
        pose_TP[start:end] = stance
        if before is not None and start not in breaks:
            ramp = min(int(rng.integers(3, 7)), end - start)
            part = (np.arange(ramp, dtype=np.float32) + 0.5)[:, None] / ramp
            pose_TP[start : start + ramp] = before + part * part * (3 - 2 * part) * (stance - before)
        if restless and rng.random() < restless:
            pose_TP[start:end, :NUM_ANGLES] += restless_angles(rng, end - start, fps)
        start, before = end, stance
    angles = pose_TP[:, :NUM_ANGLES]
    angles += 0.07 * smooth_noise(rng, frames, NUM_ANGLES, 0.8 * fps)
    gesture = np.maximum(smooth_noise(rng, frames, NUM_ANGLES, 0.4 * fps) - 1.5, 0)  # rare, short, one joint each
    angles += 0.45 * gesture * np.array([0.2, 1, 1, 1, 1, 1, 0.3, -0.3, 0.3, -0.3], np.float32)
    angles[:, 0] += 0.05 * np.sin(2 * np.pi * (rng.uniform(0.2, 0.45) * np.arange(frames) / fps + rng.random()))
    return pose_TP


def blend_poses(first_TP: np.ndarray, second_TP: np.ndarray, weight_T: np.ndarray) -> np.ndarray:
    """``first`` at weight 0, ``second`` at 1; angles take the short way round."""
    step_TP = second_TP - first_TP
    angles = step_TP[:, :NUM_ANGLES]
    angles -= 2 * np.pi * np.round(angles / (2 * np.pi))
    return first_TP + weight_T[:, None].astype(np.float32) * step_TP


def joints(pose_TP: np.ndarray, *, shoulder: float, hip: float, arm: float, leg: float, head: float) -> np.ndarray:
    """[T, J, 2] float32 joint positions (x, y) in body heights, y down, ground at 0, pelvis over x = shift.

    ``shoulder``, ``hip``: half widths as seen (0 from the side); ``arm``, ``leg``: length factors; ``head``:
    radius. The lower foot stands on the ground, or ``flight`` above it.
    """
    column = {name: pose_TP[:, position] for name, position in _AT.items()}

    def towards(angle: np.ndarray, length: float) -> np.ndarray:
        return length * np.stack([np.sin(angle), np.cos(angle)], axis=1)

    lean = column["lean"]
    place = {"pelvis": np.zeros((len(lean), 2), np.float32)}
    place["neck"] = towards(np.pi - lean, 0.30)
    place["head"] = place["neck"] + towards(np.pi - lean - column["head"], 0.045 + head)
    across = np.stack([np.cos(lean), np.sin(lean)], axis=1)
    for side, sign in (("l", -1.0), ("r", 1.0)):
        upper = column[f"shoulder_{side}"]
        place[f"shoulder_{side}"] = place["neck"] + sign * shoulder * across + towards(-lean, 0.03)
        place[f"elbow_{side}"] = place[f"shoulder_{side}"] + towards(upper, 0.165 * arm)
        place[f"hand_{side}"] = place[f"elbow_{side}"] + towards(upper + column[f"elbow_{side}"], 0.165 * arm)
        thigh = column[f"hip_{side}"]
        shin = thigh + column[f"knee_{side}"]
        place[f"hip_{side}"] = np.tile(np.array([sign * hip, 0.0], np.float32), (len(lean), 1))
        place[f"knee_{side}"] = place[f"hip_{side}"] + towards(thigh, 0.25 * leg)
        place[f"ankle_{side}"] = place[f"knee_{side}"] + towards(shin, 0.24 * leg)
        place[f"toe_{side}"] = place[f"ankle_{side}"] + towards(shin + 1.45, 0.06)
    place_TJ2 = np.stack([place[name] for name in JOINTS], axis=1).astype(np.float32)
    ankles = [JOINTS.index("ankle_l"), JOINTS.index("ankle_r")]
    place_TJ2[..., 1] -= (place_TJ2[:, ankles, 1].max(axis=1) + column["flight"])[:, None]
    place_TJ2[..., 0] += column["shift"][:, None]
    return place_TJ2
