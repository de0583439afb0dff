"""Damaged stages of a row are named, put aside and made again; the scores are those of the undisturbed run."""

import json
import shutil
from pathlib import Path

import pytest

from bsp_platform.storage.stages import StageStore
from row_without_ray import row, undisturbed  # noqa: F401 (fixtures)

pytestmark = pytest.mark.long  # videos, processes or whole trainings


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def change_a_digit_of_a_hash(path: Path) -> None:
    text = path.read_text()
    at = text.index('"sha256": "') + len('"sha256": "')
    path.write_text(text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :])


def change_a_time(path: Path) -> None:
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "seconds": manifest["seconds"] + 1}))


DAMAGES = {
    "a truncated manifest of features": ("features", "manifest.json", cut),
    "a changed digit of a hash in a manifest": ("encoders", "manifest.json", change_a_digit_of_a_hash),
    "a changed number in a manifest": ("encoders", "manifest.json", change_a_time),
    "a flipped bit in features": ("features", "*.npy", flip_a_bit),
    "truncated features": ("features", "*.npy", cut),
    "a flipped bit in the record of features": ("features", "*o*.json", flip_a_bit),
    "a flipped bit in encoder.pt": ("encoders", "encoder.pt", flip_a_bit),
    "a flipped bit in class scores": ("class_scores", "class_scores.json", flip_a_bit),
    "a flipped bit in the scores of a head": ("heads", "scores.json", flip_a_bit),
}


@pytest.mark.fault
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_put_aside_and_made_good(damage, row, undisturbed, tmp_path, caplog, fault_row):  # noqa: F811
    kind, pattern, break_it = DAMAGES[damage]
    storage = tmp_path / "storage"
    shutil.copytree(undisturbed[0], storage)
    victim = min(p for p in (storage / kind).glob(f"*/{pattern}") if p.name != "manifest.json" or pattern == p.name)
    others = {p: p.stat().st_mtime_ns for p in (storage / kind).rglob("*.npy") if p.stem != victim.stem}
    break_it(victim)
    broken = victim.read_bytes()
    readers = {"encoders": ["features", "heads"], "heads": []}.get(kind, ["heads"])
    for after, recipe in row.recipes.stages():  # what reads the damaged stage is made again, else nobody looks at it
        if after in readers:
            StageStore(storage).put_aside(after, recipe)
    scores = row.run(storage)
    assert str(victim.parent) in caplog.text
    assert kind in row.made
    kept = [p for p in (storage / "replaced").rglob(victim.name) if p.read_bytes() == broken]
    assert kept, "what was damaged is not kept"
    assert {p: p.stat().st_mtime_ns for p in others} == others, "whole features were made again"
    if kind == "features" and pattern != "manifest.json":
        assert row.extracted == [victim.stem]
    remade = f"{kind} made again" + (f", {len(row.extracted)} of 8 videos" if kind == "features" else "")
    fault_row(damage, f"named in the log, put aside, {remade}", equal=scores == undisturbed[1])
