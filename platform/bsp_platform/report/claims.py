"""Do the paper's relations between rows appear in our runs? Decided by the paired analysis of bsp/statistics/paired.py.

A relation "appears" when the whole 95% interval of the difference is above 0, it is "reversed" when it is below, and
otherwise there is "no difference larger than x", the end of the interval that is farther from 0. With one seed the
interval knows the videos alone, and the verdict says so; without predictions to resample it knows the seeds alone; with
neither it is the sign only.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bsp.statistics.paired import Difference, paired_difference
from bsp_platform.plan.rows import Claim
from bsp_platform.report.resampling import Resampled, Samples
from bsp_platform.report.table_files import mean_and_spread

APPEARS, REVERSED, NO_DIFFERENCE, NOT_RUN = "appears", "reversed", "no difference", "not run"
ONE_SEED = " (one seed)"


def verdict(differences: Sequence[float], found: Difference | None) -> str:
    """The rule above, without the number; "not run" without any difference."""
    if not differences:
        return NOT_RUN
    if found is None:
        return ("higher" if differences[0] > 0 else "not higher") + ONE_SEED
    return found.verdict + (ONE_SEED if found.seeds == 1 else "")


def holds(claim: Mapping[str, Any]) -> bool:
    """Whether a checked claim's verdict is for it."""
    return str(claim["verdict"]).removesuffix(ONE_SEED) in (APPEARS, "higher")


def verdict_text(claim: Mapping[str, Any]) -> str:
    """A checked claim's verdict with the size of a difference that there could still be, in percent points."""
    text = str(claim["verdict"])
    if claim.get("bound") is None or not text.startswith(NO_DIFFERENCE):
        return text
    return text.replace(NO_DIFFERENCE, f"{NO_DIFFERENCE} larger than {claim['bound']:.2f}")


def check_claims(
    claims: Sequence[Claim], rows: Sequence[dict[str, Any]], resampled: Resampled | None = None
) -> list[dict[str, Any]]:
    """For each claim (rows.Claim), with ``rows`` as in table.json: the differences of the seeds that both rows have,
    their mean and standard deviation (None with fewer than two), the paper's difference if it has both numbers; the
    analysis of the differences (None where there is none): "low" and "high" of the interval, "bound" and "detectable",
    "error_of_seeds" and "error_of_videos", the number of "videos" that were resampled; and the verdict. Percent
    points."""
    by_name = {row["name"]: row for row in rows}
    out = []
    for claim in claims:
        if claim.higher not in by_name or claim.lower not in by_name:
            continue  # rows left out on the command line
        high, low = by_name[claim.higher], by_name[claim.lower]
        ours = [row["scores"].get(claim.metric, {"seeds": {}})["seeds"] for row in (high, low)]
        seeds = [seed for seed in sorted(ours[0], key=int) if seed in ours[1]]
        differences = [ours[0][seed] - ours[1][seed] for seed in seeds]
        paper = [row["paper"].get(claim.metric) for row in (high, low)]
        samples, videos = _paired_samples(claim, [int(seed) for seed in seeds], resampled or {})
        found = paired_difference(differences, samples, videos=videos)
        out.append(
            {
                "text": claim.text,
                "metric": claim.metric,
                "higher": claim.higher,
                "lower": claim.lower,
                "stated_by_paper": claim.paper,
                "paper_difference": paper[0] - paper[1] if None not in paper else None,
                "differences": differences,
                "mean": statistics.fmean(differences) if differences else None,
                "std": statistics.stdev(differences) if len(differences) > 1 else None,
                "videos": videos,
                **{
                    name: getattr(found, name, None)
                    for name in ("low", "high", "bound", "detectable", "error_of_seeds", "error_of_videos")
                },
                "verdict": verdict(differences, found),
            }
        )
    return out


def _paired_samples(claim: Claim, seeds: Sequence[int], resampled: Resampled) -> tuple[np.ndarray | None, int]:
    """Differences on the same samples, float64 [K, B], of the seeds that both rows have samples for, and the number of
    videos; None and 0 if there are none, or if the rows were not scored on the same videos."""
    pairs: list[tuple[Samples, Samples]] = []
    for seed in seeds:
        high, low = (resampled.get((name, seed), {}).get(claim.metric) for name in (claim.higher, claim.lower))
        if high is not None and low is not None and high.videos == low.videos:
            pairs.append((high, low))
    if not pairs or len({high.videos for high, _ in pairs}) > 1:
        return None, 0
    return np.stack([high.values - low.values for high, low in pairs]), len(pairs[0][0].videos)


def claim_lines(claims: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Header and a line per checked claim, for tables."""
    lines = [["relation", "metric", "ours", "95% interval", "seen from", "paper", "verdict"]]
    for claim in claims:
        ours = mean_and_spread(claim["mean"], claim["std"], "+.2f")
        paper = f"{claim['paper_difference']:+.2f}" if claim["paper_difference"] is not None else ""
        if not claim["stated_by_paper"]:
            paper = "not in the paper"
        interval = f"{claim['low']:+.2f} to {claim['high']:+.2f}" if claim.get("low") is not None else ""
        seen = f"{claim['detectable']:.2f}" if claim.get("detectable") is not None else ""
        lines.append([claim["text"], claim["metric"], ours, interval, seen, paper, verdict_text(claim)])
    return lines


def how_told(claims: Sequence[Mapping[str, Any]]) -> str:
    """One sentence on what the intervals know, for under a table; "" where there is no interval."""
    known = [claim for claim in claims if claim.get("low") is not None]
    if not known:
        return ""
    videos = sorted({claim["videos"] for claim in known if claim.get("error_of_videos") is not None})
    counts = f"{videos[0]}" if len(videos) == 1 else f"{videos[0]} to {videos[-1]}" if videos else ""
    of_videos = f"paired bootstrap of {counts} test videos" if videos else ""
    of_seeds = "spread of the seeds" if any(c["error_of_seeds"] is not None for c in known) else ""
    without = len([claim for claim in known if claim.get("error_of_videos") is None])
    left = f"; {without} of {len(known)} without videos" if without and videos else ""
    both = " and ".join(part for part in (of_videos, of_seeds) if part)
    return f"Intervals: {both}{left}. Seen from: the smallest true difference that would be seen in 4 of 5 such runs."
