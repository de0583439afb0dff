"""Run by test_storage_sweep.py as a program: one small table with storage in a folder and on S3, on one Ray.

python s3_sweep.py FOLDER s3://BUCKET/PREFIX     prints one JSON line per run
"""

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from bsp.pretraining.loop import TrainSettings
from bsp_platform.plan.options import Options
from bsp_platform.storage.stages import StageStore
from bsp_platform.sweep.run import run
from small_sweep import PRETEXTS, small_profile

FOLDER, ADDRESS = Path(sys.argv[1]), sys.argv[2]


def run_with(storage: str | Path, name: str) -> None:
    profile = small_profile(videos_per_class=2)
    train = TrainSettings(clips=80, batch_size=8, learning_rate=0.02, log_every_steps=5, checkpoint_every_steps=5)
    options = Options(
        profile=replace(profile, train=train), rows=("vanilla",), storage=storage, results=FOLDER / name,
        tracking_home=FOLDER / "mlflow", cpus=2,
    )  # fmt: skip
    status = run(PRETEXTS, options)
    table = json.loads((FOLDER / name / "small" / "small" / "table.json").read_text())
    print("RUN " + json.dumps({"name": name, "status": status, "scores": table["rows"][0]["scores"]}), flush=True)


def main() -> None:
    os.environ["BSP_CACHE"] = str(FOLDER / "cache")
    run_with(FOLDER / "storage", "folder")
    store = StageStore(ADDRESS)
    for made in ("pantomime", "catalogs"):  # the same videos, not rendered again
        shutil.copytree(FOLDER / "storage" / made, store.root / made)
    run_with(ADDRESS, "s3")
    shutil.rmtree(store.root)
    for made in ("pantomime", "catalogs"):
        shutil.copytree(FOLDER / "storage" / made, store.root / made)
    for name in store.bucket.sizes("heads"):
        store.bucket.move(f"heads/{name}", f"before/{name}")
    run_with(ADDRESS, "without cache and head")
    shutil.rmtree(store.root / "heads")
    run_with(ADDRESS, "again")


if __name__ == "__main__":
    main()
