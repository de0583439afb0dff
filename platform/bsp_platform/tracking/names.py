"""Names of metrics: MLflow shows them by what stands before the slash, in the order of the alphabet. So the table's
scores come first, then the paper's, our other scores, training curves, what a run used, and MLflow's own ``system/``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

OURS, PAPER, OTHERS, TRAINING, USAGE = "ours/", "paper/", "scores/", "training/", "usage/"
DECIMALS = 2  # Choice: as the paper prints percents, and the table beside it; scores.json holds all digits


def metric_name(name: str) -> str:
    """MLflow refuses most punctuation in names: "mAP@0.50" is "mAP_0.50" there, "dc+ss" is "dc_ss"."""
    return re.sub(r"[^\w/.\- :]", "_", name)


def score_name(name: str, columns: Collection[str]) -> str:
    """Of a score of ours: the table's ``columns`` stand beside the paper's."""
    return (OURS if name in columns else OTHERS) + name


def our_scores(scores: Mapping[str, float], columns: Collection[str]) -> dict[str, float]:
    """Our scores in percent as metrics, rounded."""
    return {score_name(name, columns): round(float(value), DECIMALS) for name, value in scores.items()}


def paper(scores: Mapping[str, float]) -> dict[str, float]:
    """The paper's scores of the same row."""
    return {PAPER + name: float(value) for name, value in scores.items()}


def pretexts(scores: Iterable[tuple[int, str, float, object]]) -> dict[str, float]:
    """Held-out scores of a row's pretexts (stream from 0, statistic, value, chance)."""
    return {
        f"{OTHERS}pretext_{f'{stream + 1}_' if stream else ''}{name}": float(value) for stream, name, value, _ in scores
    }


def usage(numbers: Mapping[str, float]) -> dict[str, float]:
    """What a run took: seconds, arithmetic, memory."""
    return {USAGE + name: float(value) for name, value in numbers.items()}


def renamed(name: str, columns: Collection[str]) -> str:
    """Today's name of a row's metric of an earlier version: scores stood bare, and the others elsewhere."""
    if "/" not in name:
        return score_name(name, columns)
    if name.startswith("seconds/"):
        return f"{USAGE}seconds_{name.removeprefix('seconds/')}"
    return USAGE + name.removeprefix("cost/") if name.startswith("cost/") else name


def renamed_prefix(prefix: str) -> str:
    """Today's prefix of a row's curves, which was "pretrain/" or that of a head."""
    return prefix if prefix.startswith(TRAINING) else TRAINING + prefix
