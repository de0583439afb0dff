"""Five simulated annotators of event boundaries, and how far they agree, as in Kinetics-GEBD."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bsp.datasets.pantomime.stories_plan import NOTES, StoryPlan, StorySettings, performances, rng_of

RATERS = 5
DISTANCES = tuple(k / 20 for k in range(1, 11))  # share of the clip's length: 0.05, 0.10, ..., 0.50
_END_S, _APART_S = 0.3, 0.6  # the release drops what is nearer to an end of the clip, or to an earlier boundary
# Choice: chances that an attentive annotator misses a boundary, by what one sees: a cut is the plainest, a change
# of speed the subtlest.
_MISSED = {"cut": 0.05, "action": 0.08, "speed": 0.4}
_CARE = (0.0, 0.25)  # an annotator's share of boundaries missed for want of attention, drawn per clip
_JITTER_S = (0.05, 0.25)  # an annotator's standard deviation of times, drawn per clip
_EXTRA = 0.4  # boundaries on average that an annotator sees where nothing happens


def boundary_kinds(plan: StoryPlan) -> dict[int, str]:
    """What one sees at each generic boundary (frame): "cut", else "action" (begins, ends), else "speed"."""
    kinds = dict.fromkeys(plan.boundaries, "speed")
    edges = {frame for acts in performances(plan) for frame in (acts[0].first, acts[-1].end)}
    kinds |= dict.fromkeys(edges & kinds.keys(), "action")
    kinds |= dict.fromkeys(plan.cuts, "cut")
    return dict(sorted(kinds.items()))


def rate(settings: StorySettings, plan: StoryPlan) -> list[list[float]]:
    """Boundaries in seconds, sorted, per annotator; times as the release's processing leaves them.

    No boundary is nearer than 0.3 s to an end of the clip, none within 0.6 s after another one.
    """
    rng = rng_of(settings, plan.split, plan.number, NOTES)
    length_s = plan.frames / settings.fps
    kinds = boundary_kinds(plan)
    raters = []
    for _ in range(RATERS):
        care, jitter_s = rng.uniform(*_CARE), rng.uniform(*_JITTER_S)
        seen = [frame for frame, kind in kinds.items() if rng.random() >= max(care, _MISSED[kind])]
        times = np.array(seen) / settings.fps + jitter_s * rng.standard_normal(len(seen))
        times = np.sort([*times, *rng.uniform(0, length_s, rng.poisson(_EXTRA))])
        kept: list[float] = []
        for time_s in times:
            if _END_S <= time_s <= length_s - _END_S and (not kept or time_s - kept[-1] > _APART_S):
                kept.append(round(float(time_s), 5))
        raters.append(kept)
    return raters


def consistency(raters: Sequence[Sequence[float]], length_s: float) -> list[float]:
    """Per annotator, the mean F1 of the others against this one, in 0..1; needs two annotators or more.

    Choice: F1 of the benchmark's own rule (nearest unused time, within a share of the clip's length), averaged over
    its ten distances and over the other annotators. The paper says that F1 between annotators is averaged over
    several tolerances; the release holds the results only, not the program.
    """
    return [
        float(np.mean([
            _f1(other, one, share * length_s)
            for k, other in enumerate(raters) if k != j
            for share in DISTANCES
        ]))
        for j, one in enumerate(raters)
    ]  # fmt: skip


def _f1(found: Sequence[float], truth: Sequence[float], within_s: float) -> float:
    """F1 of ``found`` against ``truth``: in the order of ``truth``, each takes the nearest one left."""
    left = list(found)
    matched = 0
    for time_s in truth:
        nearest = min(left, key=lambda other: abs(other - time_s), default=np.inf)
        if abs(nearest - time_s) <= within_s:
            left.remove(nearest)
            matched += 1
    # 2 * matched / (both counts) is F1 of precision and recall; two empty lists agree.
    return 2 * matched / (len(found) + len(truth)) if found or truth else 1.0
