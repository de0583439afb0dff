"""What ``bsp check``, ``bsp extract`` and ``bsp compare-features`` say, as lines of text."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from bsp.datasets.own import is_table
from bsp.features.compare import Comparison
from bsp.survey.annotations import CheckedAnnotations
from bsp.survey.listing import Listing
from bsp.survey.videos import VideoRow
from bsp_platform.plain_text import duration

TRAINED_BY = {"actions": "gtad", "moments": "grounding", "boundaries": "boundaries --way head"}
NAMED = 20  # videos or faults that are named; reports and --json have all
_WORST = 5  # videos of a comparison


def train_line(checked: CheckedAnnotations | None, annotations: Path | None) -> str:
    """The command that trains on these annotations, with settings chosen for them."""
    labels = Path("labels.csv") if annotations is None else annotations
    head = TRAINED_BY[checked.what if checked else "actions"]
    own = "" if is_table(labels) else " --profile own"
    return f"bsp train {head} --features FEATURES --annotations {shlex.quote(str(labels))} --out MODEL{own}"


def video_lines(listing: Listing, rows: Sequence[VideoRow], report: Path) -> Iterator[str]:
    """Videos that cannot be used, then remarks on others, names, and the sum."""
    lost = [row for row in rows if not row.usable]
    noted = [*lost, *(row for row in rows if row.usable and row.problem)]
    for row in noted[:NAMED]:
        yield f"{'remark' if row.usable else 'CANNOT BE USED'}: {row.path}: {row.problem}; {row.remedy}"
    if len(noted) > NAMED:
        yield f"... and {len(noted) - NAMED} more, in {report}"
    yield from name_lines(listing)
    seconds = sum(row.duration_s for row in rows if row.usable)
    uneven, turned = sum(row.variable_rate for row in rows), sum(row.rotation % 360 != 0 for row in rows)
    yield (
        f"{len(rows)} videos: {len(rows) - len(lost)} can be used ({duration(seconds)}), {len(lost)} cannot;"
        f" {uneven} of variable rate, {turned} turned; {report}"
    )


def name_lines(listing: Listing) -> Iterator[str]:
    """What was done about names, and what was passed over."""
    renamed = [video for video in listing.videos if video.renamed]
    for video in renamed[:NAMED]:
        yield f"name: {video.path} is {video.video_id!r}: {video.renamed}"
    if len(renamed) > NAMED:
        yield f"... and {len(renamed) - NAMED} more names"
    if listing.others or listing.hidden:
        named = ", ".join(map(os.path.basename, listing.others[:5])) + (", ..." if len(listing.others) > 5 else "")
        shown = f" ({named})" if named else ""
        yield f"passed over: {len(listing.others)} files that are no videos{shown}, {listing.hidden} hidden"


def annotation_lines(checked: CheckedAnnotations) -> Iterator[str]:
    """Faults, remarks, and the sum."""
    findings = sorted(checked.findings, key=lambda finding: not finding.grave)
    for finding in findings[:NAMED]:
        yield f"{'fault' if finding.grave else 'remark'}: {finding}"
    if len(findings) > NAMED:
        yield f"... and {len(findings) - NAMED} more; --json has all"
    grave = sum(finding.grave for finding in findings)
    yield (
        f"annotations: {len(checked.instances)} instances of {len({one.label for one in checked.instances})} labels in"
        f" {len(checked.videos)} videos; {grave} faults, {len(findings) - grave} remarks"
    )


def comparison_lines(found: Comparison, a: Path, b: Path) -> Iterator[str]:
    """What two folders of features share, and where they differ."""
    yield f"{len(found.videos)} videos in both, {len(found.only_a)} only in {a}, {len(found.only_b)} only in {b}"
    for folder, names in ((a, found.only_a), (b, found.only_b)):
        if names:
            yield f"only in {folder}: {', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''}"
    off_grid = [video.video_id for video in found.videos if not video.same_grid]
    if off_grid:
        yield f"other snippets or times in {len(off_grid)} videos, such as {off_grid[0]}"
    if any(video.cosine for video in found.videos):
        least, median = found.cosine
        yield f"cosine of the snippets: least {least:.6f}, median {median:.6f}"
        unequal = sorted((video for video in found.videos if not video.equal and video.cosine), key=lambda v: v.worst)
        for video in unequal[:_WORST]:
            yield f"  {video.video_id}: least cosine {video.worst:.6f}, largest difference {video.difference:.2g}"
    for field, ours, theirs, count in found.records[:NAMED]:
        yield f"record: {field} is {ours} in {a}, {theirs} in {b} ({count} videos)"
    yield "equal" if found.equal else "different"
