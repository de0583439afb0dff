"""Do annotations fit the videos? Every fault of a file with its place, field, value and remedy, not only the first.

Files: ActivityNet's JSON layout, or a CSV whose first line names ``video,start_s,end_s`` and ``label`` or ``sentence``,
or ``video,time_s``.
This looks at a file as it is written, and goes on after a fault. What it finds good is given to the loader of the
training (bsp/datasets/own.py, results_json.py) in the end, whose refusal is the last finding.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from bsp.datasets.own import COLUMNS, What, read_lines
from bsp.datasets.results_json import check_ground_truth
from bsp.errors import AnnotationError
from bsp.files.spelling import name_remark
from bsp.files.text import clean_id, clean_label, read_csv, read_json, read_table

OVER_S = 0.5  # Choice: an end so little after the video's is rounding; loaders clip it
_CUTOFF = 0.8  # similarity above which two labels are probably one: two letters exchanged in a word of five


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fault, or (``grave`` False) something to look at."""

    file: str
    place: str  # "line 3", or "database.v1.annotations[0]"
    field: str
    value: str
    problem: str
    remedy: str
    grave: bool = True  # it would stop the training, or lose the instance

    def __str__(self) -> str:
        value = f" {self.value!r:.80}" if self.value else ""
        return f"{self.file}: {self.place}: {self.field}{value}: {self.problem}; {self.remedy}"


@dataclass(frozen=True, kw_only=True)
class AnnotatedInstance:
    """An instance that can be used: seconds, start before end (equal, and no label, for a boundary)."""

    video_id: str
    start_s: float
    end_s: float
    label: str  # class, or sentence


@dataclass(frozen=True, kw_only=True)
class CheckedAnnotations:
    """What a file of annotations holds, and what is wrong with it."""

    instances: tuple[AnnotatedInstance, ...]
    findings: tuple[Finding, ...]
    videos: tuple[str, ...]  # ids that the file names
    subsets: Mapping[str, int]  # videos of each; empty for a CSV file
    what: What = "actions"


@dataclass(frozen=True)
class _Row:
    place: str
    video: Any
    start: Any
    end: Any
    label: Any
    start_field: str = "start_s"
    end_field: str = "end_s"
    label_field: str = "label"


def check_annotations(path: str | Path, durations: Mapping[str, float] | None) -> CheckedAnnotations:
    """Check the file. ``durations``: seconds by id of all readable videos; None = the videos are not at hand.

    AnnotationError where the file cannot be read at all.
    """
    name = str(path)
    findings: list[Finding] = []
    subsets: Counter[str] = Counter()
    what: What = "actions"
    if name.lower().endswith((".json", ".json.gz")):
        named, rows = _json_rows(read_json(path), name, findings, subsets)
    else:
        what = _what(path)
        named, rows = _csv_rows(path, what)
    clean: list[tuple[_Row, AnnotatedInstance]] = []
    for row in rows:
        found = _instance(row, name, findings)
        if found is not None:
            clean.append((row, found))
    if durations is not None:
        clean = [(row, one) for row, one in clean if _fits_video(row, one, durations, name, findings)]
        findings += _names(named, durations, name)
    clean = _unlike(clean, name, findings)
    findings += _labels(clean, name)
    if not any(finding.grave for finding in findings):
        findings += _refused(path, name, what)
    if not clean and not any(finding.grave for finding in findings):
        findings.append(_finding(name, "the file", "", "", "has no instance", "write at least one"))
    ids = tuple(dict.fromkeys(video for _, video in named))
    instances = tuple(instance for _, instance in clean)
    return CheckedAnnotations(
        instances=instances, findings=tuple(findings), videos=ids, subsets=dict(subsets), what=what
    )


def _finding(file: str, place: str, field: str, value: Any, problem: str, remedy: str, grave: bool = True) -> Finding:
    return Finding(file=file, place=place, field=field, value=str(value), problem=problem, remedy=remedy, grave=grave)


def _csv_rows(path: str | Path, what: What) -> tuple[list[tuple[str, str]], list[_Row]]:
    """((place, id) of each video once, rows). AnnotationError for a wrong header or a line with too few fields."""
    columns = COLUMNS[what]
    start, end, label = columns[1:] if what != "boundaries" else ("time_s", "", "")
    header = ",".join(columns)
    rows: list[_Row] = []
    named: dict[str, str] = {}
    for line, cells in read_table(path, columns, remedy=f"the first line must be {header}"):
        if not cells["video"] or any(cells[column] for column in columns[1:]) or what == "moments":  # else without any
            texts = (cells[start], cells.get(end, ""), cells.get(label, ""))
            rows.append(_Row(f"line {line}", cells["video"], *texts, start, end, label))
        if cells["video"]:
            named.setdefault(clean_id(cells["video"]), f"line {line}")
    return [(place, video) for video, place in named.items()], rows


def _refused(path: str | Path, name: str, what: What) -> Iterator[Finding]:
    """What the loader of the training refuses besides."""
    try:
        if name.lower().endswith((".json", ".json.gz")):
            check_ground_truth(read_json(path), name)
        else:
            read_lines(path, what)
    except AnnotationError as error:
        problem, _, remedy = str(error).removeprefix(f"{name}: ").rpartition("; ")
        yield _finding(name, "the file", "", "", problem or remedy, remedy if problem else "correct it")


def _what(path: str | Path) -> What:
    """What a CSV file lists, by its header."""
    _, names = next(read_csv(path), (1, []))
    if "time_s" in names and "start_s" not in names:
        return "boundaries"
    return "moments" if "sentence" in names and "label" not in names else "actions"


def _json_rows(
    document: Any, name: str, findings: list[Finding], subsets: Counter[str]
) -> tuple[list[tuple[str, str]], list[_Row]]:
    database = document.get("database") if isinstance(document, dict) else None
    if not isinstance(database, dict):
        raise AnnotationError(f"{name}: no object 'database'; the layout is ActivityNet's: " + _LAYOUT)
    rows: list[_Row] = []
    named: dict[str, str] = {}
    for raw, record in database.items():
        place = f"database.{raw}"
        video = raw.strip() and clean_id(raw)
        if not video or video in named:
            what = "names a video a second time" if video else "an empty id"
            findings.append(_finding(name, place, "id", raw, what, "keep one" if video else "write the video's id"))
            continue
        named[video] = place
        if not isinstance(record, dict):
            findings.append(_finding(name, place, "", record, "is no object", f"the layout is {_LAYOUT}"))
            continue
        subset = record.get("subset")
        if not isinstance(subset, str) or not subset.strip():
            problem = "is missing" if subset is None else "is no name"
            findings.append(_finding(name, place, "subset", subset or "", problem, 'write "training" or "validation"'))
        else:
            subsets[clean_label(subset)] += 1
        duration = record.get("duration")
        if duration is not None and not (_number(duration) or 0) > 0:
            findings.append(_finding(name, place, "duration", duration, "is not above 0", "write the seconds"))
        annotations = record.get("annotations")
        if annotations is None and str(subset).strip().casefold() in ("testing", "test"):
            continue
        if not isinstance(annotations, list):
            problem = "is missing" if annotations is None else "is no list"
            findings.append(_finding(name, place, "annotations", annotations or "", problem, "write [] if it has none"))
            continue
        for number, item in enumerate(annotations):
            where = f"{place}.annotations[{number}]"
            segment = item.get("segment") if isinstance(item, dict) else None
            if not isinstance(segment, list) or len(segment) != 2:
                findings.append(
                    _finding(name, where, "segment", segment, "is not two times", "write [start, end] in seconds")
                )
                continue
            rows.append(_Row(where, raw, segment[0], segment[1], item.get("label"), "segment[0]", "segment[1]"))
    for wanted in ("training", "validation"):
        if wanted not in subsets:
            present = ", ".join(f"{key} ({count} videos)" for key, count in subsets.items()) or "none"
            close = get_close_matches(wanted, subsets, n=1, cutoff=0.4)
            remedy = f"{close[0]!r} is probably meant: rename it" if close else "give some videos this subset"
            findings.append(
                _finding(name, "database", "subset", wanted, f"no video has it (there are: {present})", remedy, False)
            )
    return [(place, video) for video, place in named.items()], rows


_LAYOUT = (
    '{"database": {ID: {"subset": "training", "duration": 61.2, "annotations": [{"label": "jump", "segment":'
    " [3.5, 7.0]}]}}}"
)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _instance(row: _Row, name: str, findings: list[Finding]) -> AnnotatedInstance | None:
    """The row's instance; None, with the reasons among the findings, if it cannot be one."""
    before = len(findings)
    times: list[float] = []
    for field, value in ((row.start_field, row.start), (row.end_field, row.end))[: 2 if row.end_field else 1]:
        number = _number(value)
        shown = "" if value is None else value
        if number is None or not math.isfinite(number):
            seconds = _clock(value)
            remedy = f"write {seconds:g} (seconds)" if seconds is not None else "write seconds, such as 12.5"
            findings.append(_finding(name, row.place, field, shown, "is no finite number", remedy))
            continue
        if number < 0:
            findings.append(_finding(name, row.place, field, shown, "lies before the video begins", "write 0 or more"))
        times.append(number)
    if row.label_field and (not isinstance(row.label, str) or not row.label.strip()):
        findings.append(
            _finding(name, row.place, row.label_field, row.label or "", "is empty", f"write the {row.label_field}")
        )
    if not isinstance(row.video, str) or not row.video.strip():
        findings.append(_finding(name, row.place, "video", row.video or "", "is empty", "write the video's name"))
    if len(findings) > before:
        return None
    start_s, end_s = (times[0], times[-1])
    if not row.end_field:
        return AnnotatedInstance(video_id=clean_id(row.video), start_s=start_s, end_s=start_s, label="")
    if end_s <= start_s:
        what = "end before start" if end_s < start_s else "no length: start and end are equal"
        remedy = "exchange the two, if that is meant" if end_s < start_s else "correct one of the two"
        findings.append(_finding(name, row.place, row.end_field, row.end, f"{what} ({row.start})", remedy))
        return None
    return AnnotatedInstance(video_id=clean_id(row.video), start_s=start_s, end_s=end_s, label=clean_label(row.label))


def _clock(value: Any) -> float | None:
    """Seconds of "1:02.5" or "0:01:02"."""
    parts = [_number(part) for part in str(value).split(":")]
    if not 2 <= len(parts) <= 3:
        return None
    seconds = 0.0
    for part in parts:
        if part is None or not math.isfinite(part):
            return None
        seconds = 60 * seconds + part
    return seconds


def _fits_video(
    row: _Row, one: AnnotatedInstance, durations: Mapping[str, float], name: str, findings: list[Finding]
) -> bool:
    """Whether the instance begins within its video. A video that is not there is no matter of the single row."""
    if one.video_id not in durations:
        return True
    length = durations[one.video_id]
    if one.start_s >= length:
        problem = f"after the end of the video, which is {length:.2f} s long"
        remedy = "correct it; are the times in seconds?"
        findings.append(_finding(name, row.place, row.start_field, row.start, problem, remedy))
        return False
    if one.end_s > length + OVER_S:
        problem = f"after the end of the video, which is {length:.2f} s long"
        findings.append(
            _finding(name, row.place, row.end_field, row.end, problem, f"write {length:.2f}; it is cut there", False)
        )
    return True


def _names(named: Sequence[tuple[str, str]], durations: Mapping[str, float], name: str) -> Iterable[Finding]:
    """Annotated videos that are not there, and videos without an annotation."""
    used = set()
    for place, video in named:
        if video in durations:
            used.add(video)
            continue
        meant = _one_of(video, durations) or name_remark([video], durations) or _close(video, list(durations))
        yield _finding(
            name, place, "video", video, "no readable video has this name",
            meant or "copy the video into the folder, or remove its annotations",
        )  # fmt: skip
    for video in durations:
        if video not in used:
            yield _finding(
                name, "the file", "video", video, "has no annotation", "annotate it, or leave it out of training", False
            )


def _one_of(video: str, known: Iterable[str]) -> str:
    """For a name that several files have: their ids (bsp/survey/listing.py)."""
    longer = [one for one in known if one.endswith(f"__{video}") or one.rpartition("_")[0] == video]
    return f"several files have this name: write {' or '.join(map(repr, longer[:5]))}" if len(longer) > 1 else ""


def _close(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=1, cutoff=_CUTOFF)
    return f"{close[0]!r} is probably meant" if close else ""


def _unlike(
    clean: list[tuple[_Row, AnnotatedInstance]], name: str, findings: list[Finding]
) -> list[tuple[_Row, AnnotatedInstance]]:
    """Without instances that are there already; each is a finding."""
    first: dict[AnnotatedInstance, str] = {}
    is_csv = not name.lower().endswith((".json", ".json.gz"))  # whose loader refuses them; published files have some
    kept = []
    for row, one in clean:
        if one in first:
            findings.append(
                _finding(name, row.place, row.label_field, row.label, f"the same as {first[one]}", "remove it", is_csv)
            )
        else:
            first[one] = row.place
            kept.append((row, one))
    return kept


def _labels(clean: Sequence[tuple[_Row, AnnotatedInstance]], name: str) -> Iterable[Finding]:
    """Labels that are probably another one misspelt: rarer, and nearly equal."""
    of_class = [(row, one) for row, one in clean if row.label_field == "label"]
    counts = Counter(one.label for _, one in of_class)
    place = {one.label: row.place for row, one in reversed(of_class)}
    ordered = [label for label, _ in counts.most_common()]
    for rank, label in enumerate(ordered):
        others = ordered[:rank]
        meant = name_remark([label], others, labels=True) if others else ""
        if not meant and counts[label] <= 2 and len(label) > 3 and not any(char.isdigit() for char in label):
            meant = _close(label, others)
        if meant:
            times = f"occurs {counts[label]} times" if counts[label] > 1 else "occurs once"
            only_case = any(label.casefold() == other.casefold() for other in others)  # loaders refuse that
            yield _finding(name, place[label], "label", label, times, f"{meant}; write one of them", only_case)
