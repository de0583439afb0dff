"""Do the paper's relations between rows appear in our runs? Decided by a rule, from each seed's scores.

A relation "appears" when the row that should be higher is higher with every seed, and the mean difference is
larger than the standard deviation of the differences; it is "reversed" when the same holds the other way round;
otherwise it is "within the noise". With one seed there is no spread: the verdict is the sign only.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from bsp_platform.plan.rows import Claim
from bsp_platform.report.table_files import mean_and_spread


def verdict(differences: Sequence[float]) -> str:
    """The rule above, on the differences (higher minus lower) of paired seeds; "not run" without any."""
    if not differences:
        return "not run"
    if len(differences) == 1:
        return "higher (one seed)" if differences[0] > 0 else "not higher (one seed)"
    mean, spread = statistics.fmean(differences), statistics.stdev(differences)
    if min(differences) > 0 and mean > spread:
        return "appears"
    if max(differences) < 0 and -mean > spread:
        return "reversed"
    return "within the noise"


def check_claims(claims: Sequence[Claim], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each claim (rows.Claim), with ``rows`` as in table.json: the differences of the seeds that both rows have,
    their mean and standard deviation (None with fewer than two), the paper's difference if it has both numbers, and
    the verdict. Percent points."""
    by_name = {row["name"]: row for row in rows}
    out = []
    for claim in claims:
        if claim.higher not in by_name or claim.lower not in by_name:
            continue  # rows left out on the command line
        high, low = by_name[claim.higher], by_name[claim.lower]
        ours = [row["scores"].get(claim.metric, {"seeds": {}})["seeds"] for row in (high, low)]
        differences = [ours[0][seed] - ours[1][seed] for seed in sorted(ours[0], key=int) if seed in ours[1]]
        paper = [row["paper"].get(claim.metric) for row in (high, low)]
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
                "verdict": verdict(differences),
            }
        )
    return out


def claim_lines(claims: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Header and a line per checked claim, for tables."""
    lines = [["relation", "metric", "ours", "paper", "verdict"]]
    for claim in claims:
        ours = mean_and_spread(claim["mean"], claim["std"], "+.2f")
        paper = f"{claim['paper_difference']:+.2f}" if claim["paper_difference"] is not None else ""
        if not claim["stated_by_paper"]:
            paper = "not in the paper"
        lines.append([claim["text"], claim["metric"], ours, paper, claim["verdict"]])
    return lines
