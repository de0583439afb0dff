"""Records of runs in the storage: what is read is what was written, and of this run."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from bsp_platform.storage.stages import StageStore
from bsp_platform.tracking.record import RunRecord, all_records, earlier_record, new_record, opened, write_record


@pytest.fixture
def storage(tmp_path) -> StageStore:
    return StageStore(tmp_path / "storage")


def record_file(storage: StageStore, record: RunRecord) -> Path:
    return storage.root / record.folder / "run.json"


def test_text_that_is_no_unicode_can_be_read_again(storage):
    name = b"clip_\xff.mp4".decode("utf-8", "surrogateescape")  # as Python gives the name of such a file
    record = new_record("exp", "k", "run", {"file": name}, tags={"note": name}).with_state("FAILED", 1, f"{name}: bad")
    write_record(storage, record)
    assert earlier_record(storage, record) == record
    for text in (record.params["file"], record.tags["note"], record.tags["failure"]):
        assert "\\udcff" in text  # spelt out
        text.encode()  # also MLflow can


def test_the_record_of_another_run_is_not_taken_for_this_one(storage, caplog):
    ours, other = (new_record("exp", key, f"run {key}", {}) for key in ("ours", "other"))
    write_record(storage, other)
    copied = record_file(storage, ours)
    copied.parent.mkdir(parents=True)
    copied.write_bytes(record_file(storage, other).read_bytes())
    with caplog.at_level(logging.WARNING):
        assert opened(ours, storage) == ours
    assert str(copied) in caplog.text
    error, record = sorted(all_records(storage), key=lambda found: isinstance(found, RunRecord))
    assert str(copied) in str(error)
    assert record == other
