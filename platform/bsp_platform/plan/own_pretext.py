"""Pretexts by the names that ``bsp pretrain --pretext`` takes, and which of them need classes."""

from __future__ import annotations

from bsp.clips.plan import PAPER_KINDS, BoundaryKind
from bsp.pretraining.pretexts import PRETEXTS
from bsp_platform.plan.recipes import FUSIONS, Stream

ONE_VIDEO = ("arrow-of-time", "speediness", "pace")  # plain clips: neither kinds of boundary nor classes
NEEDS_CLASSES = (BoundaryKind.DIFF_CLASS, BoundaryKind.SAME_CLASS)  # two videos, of which the class is known


def parse_pretext(text: str) -> Stream:
    """What ``--pretext`` asks for.

    ``S`` (the four kinds), ``vanilla`` (action classes), kinds as ``dc+ss`` or ``{dc,ss}``, ``regression:dc+sc``,
    ``two-head`` or ``distillation``, both also with kinds behind a colon, ``arrow-of-time``, ``speediness``,
    ``pace``, or another name of PRETEXTS. ValueError for anything else.
    """
    name, _, behind = text.strip().partition(":")
    if name.lower() in ("vanilla", "action"):
        return Stream(method="action")
    if name in FUSIONS:
        return Stream(method=name, kinds=_kinds(behind) if behind else PAPER_KINDS)
    if name == "regression":
        moving = tuple(kind for kind in PAPER_KINDS if kind != BoundaryKind.SAME_SPEED)
        return Stream(method=name, kinds=_kinds(behind) if behind else moving)
    if name in ONE_VIDEO:
        if behind:
            raise ValueError(f"--pretext {text}: {name} has no kinds of boundary; leave :{behind} out")
        return Stream(method=name)
    if name in PRETEXTS:
        return Stream(method=name, kinds=_kinds(behind) if behind else PAPER_KINDS)
    return Stream(method="classification", kinds=_kinds(text))


def _kinds(text: str) -> tuple[BoundaryKind, ...]:
    if text.strip().upper() == "S":
        return PAPER_KINDS
    known = {kind.short: kind for kind in PAPER_KINDS} | {kind.name.lower(): kind for kind in PAPER_KINDS}
    names = text.strip().strip("{}").replace("+", ",").lower().split(",")
    try:
        return tuple(sorted({known[name.strip()] for name in names}))
    except KeyError:
        raise ValueError(
            f"--pretext {text}: give S (all four kinds), some of {', '.join(kind.short for kind in PAPER_KINDS)} as "
            f"dc+ss, vanilla, regression:dc+sc, two-head, distillation, {', '.join(ONE_VIDEO[:-1])} or {ONE_VIDEO[-1]}"
        ) from None


def classes_needed(stream: Stream) -> str:
    """Why a pretext needs classes, in words; "" if it does not, as those of ``ONE_VIDEO``."""
    if stream.method == "action":
        return "it classifies them"
    if stream.method in FUSIONS:
        return f"{stream.method} classifies them beside the boundaries"
    if stream.method not in ("classification", "regression"):
        return ""  # a pretext of one's own says so when it plans its clips
    kinds = [f"{kind.short} ({kind.name.lower().replace('_', '-')})" for kind in stream.kinds if kind in NEEDS_CLASSES]
    return f"{' and '.join(kinds)} join two videos by their classes" if kinds else ""


def default_pretext(has_classes: bool) -> str:
    """All four kinds with classes; without, those that one video is enough for."""
    return "S" if has_classes else "ds+ss"
