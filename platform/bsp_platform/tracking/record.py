"""Records: small files of the storage, from which, with the stages, runs in MLflow can be written at any time.

``<storage>/runs/<experiment>/<hash of the key>/run.json`` holds what no stage holds: the run's name, parameters, tags,
scores, times and state. Curves and weights are read from the stages that it names; tables and figures lie beside it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from bsp_platform.plain_text import printable
from bsp_platform.storage.errors import StageDamaged
from bsp_platform.storage.manifests import MANIFEST
from bsp_platform.storage.names import leaving_link, stays_inside
from bsp_platform.storage.stages import StageStore
from bsp_platform.tracking.names import DECIMALS, PAPER, renamed, renamed_prefix

log = logging.getLogger(__name__)
RUNS = "runs"
FAILURE_TAG = "failure"  # why a run failed
TIME = "unix_time"  # of an entry of a stage's history: when it was made, in seconds; absent in older ones
_HISTORY = "history.json"
_RECORD = "run.json"
Status = Literal["RUNNING", "FINISHED", "FAILED"]


@dataclass(frozen=True, kw_only=True)
class Point:
    """A number at a step of a metric."""

    name: str
    value: float
    step: int = 0
    time_ms: int = 0  # 0 = when the run ended


@dataclass(frozen=True, kw_only=True)
class ShownStage:
    """A stage of which the run shows the curves (``history.json``) and some files."""

    name: str  # "encoders/<hash>"
    prefix: str  # before the names of its curves
    axis: Literal["step", "epoch"] = "step"
    files: tuple[str, ...] = ()
    folder: str = ""  # of the files in MLflow


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run. ``key`` says which row and seed of which configuration it is: MLflow has one run for each."""

    experiment: str
    key: str
    name: str
    started_ms: int
    parent: str = ""  # key of the run that it belongs to
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    points: tuple[Point, ...] = ()
    stages: tuple[ShownStage, ...] = ()
    files: dict[str, str] = field(default_factory=dict)  # beside the record: name and SHA-256
    status: Status = "RUNNING"
    ended_ms: int = 0  # 0 = it has not ended
    columns: tuple[str, ...] = ()  # of a parent: the metrics that its table shows, in order
    note: str = ""  # its description, Markdown
    data: dict[str, str] = field(default_factory=dict)  # data sets and their fingerprints

    @property
    def folder(self) -> str:
        """Name of its folder in the storage."""
        return f"{RUNS}/{self.experiment}/{hashlib.sha256(self.key.encode()).hexdigest()[:16]}"

    @property
    def content_hash(self) -> str:
        """Hash of all that the run shows."""
        return hashlib.sha256(_as_json(self)).hexdigest()[:16]

    def with_numbers(self, numbers: Mapping[str, float], step: int = 0, time_ms: int = 0) -> RunRecord:
        """The record with these numbers at ``step``; a number that it has already keeps its time."""
        points = {(point.name, point.step): point for point in self.points}
        for name, value in numbers.items():
            held = points.get((name, step))
            if held is None or repr(held.value) != repr(float(value)):
                points[name, step] = Point(name=name, value=float(value), step=step, time_ms=time_ms)
        return replace(self, points=tuple(points.values()))

    def with_state(self, status: Status, ended_ms: int = 0, failure: str = "") -> RunRecord:
        """The record with this state, and with this reason of a failure or none."""
        tags = {name: text for name, text in self.tags.items() if name != FAILURE_TAG}
        tags |= {FAILURE_TAG: printable(failure, lines=True)} if failure else {}
        return replace(self, status=status, ended_ms=ended_ms, tags=tags)


def new_record(
    experiment: str,
    key: str,
    name: str,
    params: Mapping[str, object],
    *,
    parent: str = "",
    tags: Mapping[str, str] | None = None,
    columns: Iterable[str] = (),
    note: str = "",
    data: Mapping[str, str] | None = None,
) -> RunRecord:
    """The record of a run that begins now."""
    return RunRecord(
        experiment=experiment, key=key, name=name, parent=parent, started_ms=now_ms(),
        columns=tuple(columns), note=note, data=dict(data or {}),
        tags={name: printable(text, lines=True) for name, text in (tags or {}).items()},
        params={name: printable(value, lines=True) for name, value in params.items()},
    )  # fmt: skip


def _as_json(record: RunRecord) -> bytes:
    return json.dumps(asdict(record), indent=1, sort_keys=True).encode()


def write_record(store: StageStore, record: RunRecord) -> None:
    """Write the record into the storage, over an earlier one with this key."""
    store.write_note(f"{record.folder}/{_RECORD}", _as_json(record))


def earlier_record(store: StageStore, record: RunRecord) -> RunRecord | None:
    """The run's record in the storage; a damaged one is named in the log and counts as absent."""
    name = f"{record.folder}/{_RECORD}"
    try:
        text = store.read_note(name)
        return None if text is None else _parse_in_place(text, store, name)
    except ValueError as error:
        log.warning("%s; it is written anew", error)
        return None


def opened(record: RunRecord, store: StageStore, *, running: bool = True) -> RunRecord:
    """The record merged with the run's earlier one in the storage; ``running``: the run starts or continues."""
    earlier = earlier_record(store, record)
    if earlier is None:
        return record
    record = replace(
        earlier, name=record.name, params=record.params, tags=earlier.tags | record.tags, columns=record.columns,
        note=record.note, data=record.data,
    )  # fmt: skip
    return record.with_state("RUNNING") if running else record


def all_records(store: StageStore) -> Iterator[RunRecord | ValueError]:
    """The records of all runs in the storage, parents first; for a damaged one the error that names it."""
    found: list[RunRecord | ValueError] = []
    for name in store.notes(RUNS):
        if name.endswith(f"/{_RECORD}"):
            try:
                found.append(_parse_in_place(store.read_note(name) or b"", store, name))
            except ValueError as error:
                found.append(error)
    return iter(sorted(found, key=lambda record: isinstance(record, RunRecord) and bool(record.parent)))


def _parse_in_place(text: bytes, store: StageStore, name: str) -> RunRecord:
    """As :func:`parse_record`; ValueError also for the record of another run, which was copied here."""
    record = parse_record(text, store.where(name))
    if name != f"{record.folder}/{_RECORD}":
        raise ValueError(f"{store.where(name)} is the record of another run, {record.name}; remove it")
    return record


def parse_record(text: bytes, where: str) -> RunRecord:
    """ValueError, naming the file, if it is no record, or names files outside of the storage."""
    from pydantic import TypeAdapter, ValidationError

    try:
        record = TypeAdapter(RunRecord).validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(map(str, first['loc']))} {first['msg']}".strip()
        raise ValueError(
            f"{where} is damaged ({what}); remove it, and run the command of its experiment again"
        ) from None
    names = [*record.files, record.experiment]
    names += [name for stage in record.stages for name in (stage.name, *stage.files)]
    outside = next((name for name in names if not stays_inside(name)), None)
    if outside is not None:
        raise ValueError(f"{where} names {outside!r}, which is no file of the storage; remove that record")
    return _renamed(record) if record.parent else record


def _renamed(record: RunRecord) -> RunRecord:
    """A row's record, perhaps of an earlier version, with today's names; the paper's scores were tags then."""
    given = {name: text for name, text in record.tags.items() if name.startswith("paper.") and _is_number(text)}
    columns = [name.removeprefix("paper.") for name in given]
    points: dict[tuple[str, int], Point] = {}
    for point in record.points:
        value = point.value if "/" in point.name else round(point.value, DECIMALS)
        name = renamed(point.name, columns)
        points[name, point.step] = replace(point, name=name, value=value)
    stages = tuple(replace(stage, prefix=renamed_prefix(stage.prefix)) for stage in record.stages)
    tags = {name: text for name, text in record.tags.items() if name not in given}
    record = replace(record, points=tuple(points.values()), stages=stages, tags=tags)
    return record.with_numbers({PAPER + name.removeprefix("paper."): float(text) for name, text in given.items()})


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?", text) is not None


def attach(store: StageStore, record: RunRecord, paths: Iterable[Path]) -> RunRecord:
    """The record with copies of these files, tables or figures, beside it."""
    files = dict(record.files)
    for path in paths:
        content = path.read_bytes()
        store.write_note(f"{record.folder}/{path.name}", content)
        files[path.name] = hashlib.sha256(content).hexdigest()
    return replace(record, files=files)


def attached(store: StageStore, record: RunRecord) -> Iterator[Path]:
    """Local paths of the files beside the record; missing ones are named in the log."""
    for name in record.files:
        name = f"{record.folder}/{name}"
        content, path = store.read_note(name), store.root / name
        if content is None or leaving_link(store.root, name):
            log.warning("%s is gone, or a link out of the storage; it is not sent", store.where(name))
            continue
        if store.bucket:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        yield path


def shown_stages(store: StageStore, record: RunRecord) -> Iterator[tuple[ShownStage, Path]]:
    """The record's stages and their folders. A missing or damaged stage is named in the log and left out, and so are
    files that its manifest does not list.
    """
    for stage in record.stages:
        folder = store.root / stage.name
        try:
            listed = store.check(folder, None)["files"]
        except FileNotFoundError:
            log.warning("%s is gone; its curves and files are not sent", store.where(f"{stage.name}/{MANIFEST}"))
        except StageDamaged as error:
            log.warning("%s; its curves and files are not sent", error)
        else:
            for name in {_HISTORY, *stage.files} - listed.keys():
                log.warning("%s does not list %s; it is not sent", store.where(f"{stage.name}/{MANIFEST}"), name)
            if _HISTORY in listed:
                yield replace(stage, files=tuple(name for name in stage.files if name in listed)), folder


def stage_points(stage: ShownStage, folder: Path, ended_ms: int) -> list[Point]:
    """All numbers of the stage's history."""
    history = json.loads((folder / _HISTORY).read_text("utf-8"))
    return [point for entry in history for point in entry_points(entry, stage.prefix, stage.axis, ended_ms)]


def entry_points(entry: Mapping[str, float], prefix: str, axis: str, ended_ms: int) -> list[Point]:
    """The numbers of an entry of a history, at the entry's time; older entries without a time get ``ended_ms``."""
    time_ms = int(1000 * entry[TIME]) if TIME in entry else ended_ms
    return [
        Point(name=prefix + name, value=float(value), step=int(entry[axis]), time_ms=time_ms)
        for name, value in entry.items()
        if name not in (axis, TIME) and isinstance(value, int | float)
    ]


def now_ms() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return int(time.time() * 1000)
