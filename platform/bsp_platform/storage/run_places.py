"""Where Ray Train keeps a run: in the stage's folder, or on S3; what others could have put there is looked at first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bsp_platform.storage.errors import UnsafeName
from bsp_platform.storage.names import leaving_link, unsafe_checkpoint
from bsp_platform.storage.stages import StageStore

RECORD = "checkpoint_manager_snapshot.json"  # Ray Train's, JSON, in the folder of a run


def place_for_runs(store: StageStore, folder: Path, run: str) -> dict[str, Any]:
    """Where Ray Train keeps its run ``run`` of ``folder``, as arguments of its RunConfig.

    UnsafeName if what lies there from an earlier try would lead out of the folder: a checkpoint's name in Ray Train's
    record, a link, or an object's name.
    """
    place = folder.relative_to(store.root).as_posix()
    record = f"{place}/{run}/{RECORD}"
    unsafe = unsafe_checkpoint(store.read_note(record) or b"{}")
    if unsafe is not None:
        raise UnsafeName(
            f"{store.where(record)} names the checkpoint {unsafe!r}, which is no folder of the run: remove {folder},"
            f" and see who may write to this storage"
        )
    if not store.bucket:
        for name in (run, *(f"{run}/{path.name}" for path in folder.glob(f"{run}/*"))):
            if link := leaving_link(folder.parent, f"{folder.name}/{name}"):
                raise UnsafeName(f"{folder.parent / link} is a link that leaves its folder; remove it")
        return {"storage_path": str(folder)}
    from bsp_platform.storage.arrow_s3 import arrow_file_system

    store.bucket.sizes(place)  # UnsafeName
    file_system, path = arrow_file_system(store.bucket.where(place))
    return {"storage_path": path, "storage_filesystem": file_system}
