"""The kinds of file that the fuzz tests mutate: small valid ones, made here, and how the project reads each.

A file's name, or that of its folder, is ``fuzzed``: every error must say it.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

NAME = "fuzzed"


@dataclass(frozen=True)
class Kind:
    name: str
    seeds: Callable[[Path], list[bytes]]  # valid files; made in the folder, which is kept beside them as "seeds"
    read: Callable[[Path], Any]  # what the project does with the file at this path
    suffix: str


def _json(*documents: Any) -> Callable[[Path], list[bytes]]:
    return lambda folder: [json.dumps(document, indent=1).encode() for document in documents]


def _text(*texts: str) -> Callable[[Path], list[bytes]]:
    return lambda folder: [text.encode() for text in texts]


def _also_gzipped(seeds: Callable[[Path], list[bytes]]) -> Callable[[Path], list[bytes]]:
    return lambda folder: [c for content in seeds(folder) for c in (content, gzip.compress(content, mtime=0))]


# --- annotations and results --------------------------------------------------------------------------------------

_SEGMENTS = [{"label": "Long jump", "segment": [1.5, 4.25]}, {"label": "Diving", "segment": ["2", "3.5"]}]
_ACTIVITYNET = {
    "version": "VERSION 1.3",
    "taxonomy": [],
    "database": {
        "v1": {"subset": "training", "duration": 10.5, "annotations": _SEGMENTS, "url": "x", "resolution": "1x1"},
        "v2": {"subset": "validation", "duration": 20, "annotations": _SEGMENTS[:1]},
    },
}
_DETECTIONS = {"results": {"v1": [{"label": "Diving", "score": 0.5, "segment": [0.0, 2.5]}], "v2": []}}
_CLIP = {
    "num_frames": 250,
    "path_video": "abseiling/abc_000000_000010.mp4",
    "fps": 25.0,
    "video_duration": 10.0,
    "path_frame": "abseiling/abc_000000_000010",
    "f1_consis": [0.5, 0.75],
    "f1_consis_avg": 0.625,
    "substages_myframeidx": [[25.0, 50.0], [30.0]],
    "substages_timestamps": [[1.0, 2.0], [1.2]],
}
_CHANGES = [[{"start_time": 1.0 + k, "end_time": 1.5 + k, "label": "EventChange (x)"} for k in range(2)]] * 3
_RAW = _CLIP | {"substages_timestamps": _CHANGES, "f1_consis": [0.5, 0.75, 0.5]}
_TAPOS = {"v1": {"s00004_0_100_7_931": {"subset": "val", "total_frames": 100, "substages": [0, 20, 50, 99]}}}


def _activitynet(path: Path) -> Any:
    from bsp.datasets.activitynet import load_activitynet

    return load_activitynet(path, None)


def _hacs(path: Path) -> Any:
    from bsp.datasets.activitynet import load_hacs

    return load_hacs(path, None)


def _detections(path: Path) -> Any:
    from bsp.datasets.results_json import prediction_columns
    from bsp.files.text import read_json

    return prediction_columns(read_json(path), videos=["v1"], class_names=["Diving"], name=str(path))


def _gebd(path: Path) -> Any:
    from bsp.datasets.gebd import load_gebd

    return load_gebd(path, subset="validation")


def _pickles(folder: Path) -> list[bytes]:
    arrays = _CLIP | {"substages_timestamps": [np.array([1.0, 2.0]), np.array([1.2])], "fps": np.float64(25)}
    documents = [{"abc_000000_000010": _CLIP}, {"abc_000000_000010": arrays}, {"abc": _RAW}, _TAPOS]
    return [pickle.dumps(document, protocol) for document in documents for protocol in (0, 2, 4, 5)]


def _kinetics(path: Path) -> Any:
    from bsp.datasets.kinetics import read_kinetics_csv

    return read_kinetics_csv(path)


def _moments(path: Path) -> Any:
    from bsp.datasets.charades_sta import read_moments

    return read_moments(path)


def _durations(path: Path) -> Any:
    from bsp.features.interchange import video_durations

    return video_durations(path)


def _thumos(path: Path) -> Any:
    from bsp.datasets.thumos14 import load_thumos14

    target = path.parent / NAME
    target.mkdir(exist_ok=True)
    columns = "video,type,type_idx,start,end,startFrame,endFrame\n"
    (target / "val_Annotation.csv").write_text(columns + "video_validation_0000051,Diving,5,67.5,75.9,2025,2277\n")
    shutil.copy(path, target / "test_Annotation.csv")
    return load_thumos14(target)


def _steps(path: Path) -> Any:
    from bsp.datasets.crosstask import read_steps

    return read_steps(path, 3)


def _tasks(path: Path) -> Any:
    from bsp.datasets.crosstask import read_tasks

    return read_tasks(path)


def _class_scores(path: Path) -> Any:
    from bsp.datasets.class_scores import read_class_scores

    return read_class_scores(path, ["Diving"], ["video_test_0000004"])


def _class_score_files(folder: Path) -> list[bytes]:
    np.save(folder / "scores.npy", np.ones((1574, 101), np.float32))
    document = {"class": ["Diving", "Billiards"], "results": {"video_test_0000004": [0.25, 0.5]}}
    return [json.dumps(document).encode(), (folder / "scores.npy").read_bytes()]


def _glove(path: Path) -> Any:
    from bsp.localization.grounding.words import load_glove

    return load_glove(path)


# --- features and weights -----------------------------------------------------------------------------------------


def _import(layout: str) -> Callable[[Path], Any]:
    def read(path: Path) -> Any:
        from bsp.features.interchange import Timing, import_features

        out = path.parent / "imported"
        shutil.rmtree(out, ignore_errors=True)
        timing = Timing(fps=25.0, stride_frames=8, snippet_frames=8)
        source = path.parent / NAME
        shutil.rmtree(source, ignore_errors=True)
        source.mkdir()
        shutil.copy(path, source / path.name)
        return import_features(source, out, layout=layout, timing=timing)

    return read


@cache
def _hdf5_reader() -> Any:
    from bsp.files.hdf5 import HDF5Reader

    return HDF5Reader()


def _arrays_of_hdf5(path: Path) -> Any:
    from bsp.features.interchange_files import NamedArray

    reader = _hdf5_reader()
    return [NamedArray(name=n, file=path, key=n, hdf5=reader).read() for n in reader.names(path)]


def _rows() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(6, 16)).astype(np.float32)


def _npy(folder: Path) -> list[bytes]:
    found = []
    for array in (_rows(), np.asfortranarray(_rows().astype(">f8")), _rows().astype(np.float16)[:, None, None]):
        np.save(folder / "a.npy", array)
        found.append((folder / "a.npy").read_bytes())
    return found


def _hdf5(folder: Path) -> list[bytes]:
    import h5py

    found = []
    for libver in ("earliest", "latest"):
        for keywords in ({}, {"chunks": (2, 16), "compression": "gzip", "shuffle": True}):
            with h5py.File(folder / "a.h5", "w", libver=libver) as file:
                for name in ("v_a", "v_b"):
                    file.create_dataset(name, data=_rows(), **keywords)
                file.create_group("v_c")["c3d_features"] = _rows()
            found.append((folder / "a.h5").read_bytes())
    return found


def _record(video_id: str = NAME) -> tuple[np.ndarray, Any]:
    from bsp.features.store import CODE_VERSION, FeatureInfo

    info = FeatureInfo(
        video_id=video_id, frames=48, fps=25.0, snippet_frames=8, stride_frames=8, offset_frames=0, size_px=32,
        mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), feature_width=16, snippets=6, encoder_hash="ab" * 32,
        code_version=CODE_VERSION,
    )  # fmt: skip
    return _rows(), info


def _sidecars(folder: Path) -> list[bytes]:
    from bsp.features.store import write_features

    write_features(folder, NAME, *_record())
    return [(folder / f"{NAME}.json").read_bytes()]


def _sidecar(path: Path) -> Any:
    from bsp.features.interchange import uniform_record
    from bsp.features.store import is_complete, read_features

    if not path.with_suffix(".npy").exists():
        np.save(path.with_suffix(".npy"), _rows())
    is_complete(path.parent, NAME)
    uniform_record(path.parent)
    return read_features(path.parent, NAME)


def _packed_features(folder: Path) -> list[bytes]:
    from bsp.features.store import pack_h5, write_features

    write_features(folder, NAME, *_record())
    return [pack_h5(folder, [NAME], folder / "all.h5").read_bytes()]


def _packed(path: Path) -> Any:
    from bsp.features.store import read_features_h5

    with contextlib.suppress(KeyError):  # as it promises for a video that the file has not
        return read_features_h5(path, NAME, reader=_hdf5_reader())


def _state_dict() -> dict[str, Any]:
    import torch

    from bsp.encoders.build import build_encoder
    from bsp.encoders.tsm import EncoderSettings

    generator = torch.Generator().manual_seed(0)
    state = build_encoder(EncoderSettings(depth=18, width=1, shift=False), 0).state_dict()
    return {k: torch.rand(v.shape, generator=generator).to(v.dtype) for k, v in state.items()}


def _checkpoints(zipped: bool) -> Callable[[Path], list[bytes]]:
    def seeds(folder: Path) -> list[bytes]:
        import torch

        found = []
        for content in (_state_dict(), {"epoch": 3, "state_dict": _state_dict(), "best": np.float64(0.5)}):
            torch.save(content, folder / "x.pth", _use_new_zipfile_serialization=zipped)
            found.append((folder / "x.pth").read_bytes())
        return found

    return seeds


def _safetensors(folder: Path) -> list[bytes]:
    import safetensors.torch

    return [safetensors.torch.save(_state_dict())]


def _weights(path: Path) -> Any:
    from bsp.encoders.checkpoints import checkpoint_settings

    return checkpoint_settings(path)


# --- our own files, damaged ---------------------------------------------------------------------------------------


def _manifests(folder: Path) -> list[bytes]:
    from bsp_platform.storage.manifests import make_manifest

    files = {"a.txt": {"bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}}
    return [json.dumps(make_manifest({"x": 1}, files, {"length": 5}, 1.5)).encode()]


def _manifest(path: Path) -> Any:
    from bsp_platform.storage.manifests import check_sizes, parse_manifest

    manifest = parse_manifest(path.read_bytes(), path)
    (path.parent / NAME).mkdir(exist_ok=True)
    (path.parent / NAME / "a.txt").write_text("abc")
    return check_sizes(path.parent / NAME, manifest["files"])


def _run_records(folder: Path) -> list[bytes]:
    from bsp_platform.tracking.record import RunRecord, ShownStage

    stage = ShownStage(name="heads/0123", prefix="training/gtad/", axis="epoch", files=("scores.json",), folder="gtad")
    record = RunRecord(experiment="x", key="p/1", name="r", started_ms=5, stages=(stage,), files={"t.md": "00"})
    return [json.dumps(asdict(record.with_numbers({"mAP": 1.5, "nan": float("nan")}))).encode()]


def _run_record(path: Path) -> Any:
    from bsp_platform.tracking.record import parse_record

    return parse_record(path.read_bytes(), str(path))


def _probe_cache(path: Path) -> Any:
    from bsp.video.probe_many import _ProbeCache

    root = "/videos"
    name = hashlib.blake2b(root.encode(), digest_size=8).hexdigest()
    for version in (2, 3):
        shutil.copy(path, path.parent / f"probes-v{version}-{name}.jsonl")
    cache = _ProbeCache(root, path.parent)
    return cache.get("a.mp4", (1000, 5))


def _probe_caches(folder: Path) -> list[bytes]:
    from bsp.video.probe_many import _ProbeCache
    from bsp.video.read import probe

    video = _video(folder, "mp4", "libx264")[0]
    (folder / "a.mp4").write_bytes(video)
    info = probe(folder / "a.mp4")
    cache = _ProbeCache("/videos", folder)
    with cache:
        cache.put("a.mp4", (1000, 5), info)
        cache.put("b.mp4", (1000, 5), info)
    return [cache.path.read_bytes()]


def _states(folder: Path) -> list[bytes]:
    from bsp_platform.work.pretraining import save_state

    save_state({"step": 5}, folder)
    return [(folder / "state.json").read_bytes()]


def _state(path: Path) -> Any:
    from bsp_platform.work.pretraining import load_state

    folder = path.parent / NAME
    folder.mkdir(exist_ok=True)
    shutil.copy(path.parent / "seeds" / "state.pt", folder / "state.pt")
    shutil.copy(path, folder / "state.json")
    return load_state(folder)


_ROW = {
    "label": "vanilla",
    "scores": {"mAP": {"mean": 5.0, "std": 0.5}},
    "paper": {"mAP": 6.0},
    "failures": {"1": "no"},
}
_CLAIM = {
    "text": "BSP adds", "metric": "mAP", "stated_by_paper": True, "paper_difference": 1.0, "mean": 0.5, "std": None,
    "verdict": "appears",
}  # fmt: skip
_TABLE = {
    "title": "Table", "about": "about", "seeds": 1, "duration_s": 5.0, "rows": [_ROW], "columns": ["mAP"],
    "paper_data": "x", "note": "", "claims": [_CLAIM], "profile": "mini", "hardware": "h", "commit": "c",
    "references": [],
}  # fmt: skip


def _report(path: Path) -> Any:
    from bsp_platform.report.report import write_report

    folder = path.parent / NAME / "table4" / "mini"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, folder / "table.json")
    return write_report(path.parent / NAME, "mini", ["table4"], {})


# --- videos -------------------------------------------------------------------------------------------------------


def _video(folder: Path, container: str, codec: str, **options: str) -> list[bytes]:
    import av

    path = folder / f"x.{container}"
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=Fraction(25), options={"threads": "1", **options})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(12):
            picture = np.full((48, 64, 3), 20 * number, np.uint8)
            picture[number : number + 16, number : number + 16] = 255 - 20 * number
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode())
    return [path.read_bytes()]


def _watch(path: Path) -> Any:
    """What is read are the frames that FFmpeg gives when it decodes the file from its beginning."""
    import av

    from bsp.video.read import iter_frames, probe, read_frames

    info = probe(path, time_limit_s=10.0)
    chunks = iter_frames(path, chunk_frames=8, reader=info.reader, time_limit_s=10.0)
    frames_THWC = np.concatenate(list(chunks))
    ends = read_frames(path, np.array([0, info.frames - 1]), reader=info.reader, time_limit_s=10.0)
    expected, whole = [], info.codec != "vp8"  # whose decoder flags no damage
    with av.open(str(path), metadata_errors="ignore") as container:
        container.streams.video[0].thread_type = "NONE"
        for frame in container.decode(video=0):
            expected.append(frame.to_ndarray(format="rgb24"))
            whole = whole and not frame.is_corrupt
    if len(expected) != len(frames_THWC) or not all(map(np.array_equal, expected, frames_THWC)):
        raise AssertionError(f"{info.reader} gives other frames than FFmpeg")
    # FFmpeg patches a damaged frame from those before it, which a jump to the last one does not decode.
    if whole and not np.array_equal(ends, [expected[0], expected[-1]]):
        raise AssertionError(f"{info.reader} gives other single frames than FFmpeg")


_H264 = {"preset": "ultrafast", "g": "5", "x264-params": "scenecut=0"}
VIDEOS = [
    Kind("mp4", lambda folder: _video(folder, "mp4", "libx264", **_H264), _watch, ".mp4"),
    Kind("mkv", lambda folder: _video(folder, "mkv", "libx264", **_H264), _watch, ".mkv"),
    Kind("webm", lambda folder: _video(folder, "webm", "libvpx", deadline="realtime"), _watch, ".webm"),
    Kind("avi", lambda folder: _video(folder, "avi", "mpeg4"), _watch, ".avi"),
]
_KINETICS = "label,youtube_id,time_start,time_end,split\nhigh jump,abcdefghijk,1,11,train\n"
_CHARADES = "AB12C 1.5 4.25##a person opens the door.\nXYZ 0.0 3##He sits.\n"
_THUMOS = "video,type,type_idx,start,end,startFrame,endFrame\nvideo_test_0000004,Diving,5,67.5,75.9,1,2\n"
_TASKS = "16815\nMake Tea\nhttps://x.org\n2\nboil water,pour\n\n1\nB\nhttps://y.org\n1\nmix\n"
FILES = [
    Kind("activitynet", _also_gzipped(_json(_ACTIVITYNET)), _activitynet, ".json"),
    Kind("hacs", _json(_ACTIVITYNET), _hacs, ".json"),
    Kind("detections", _json(_DETECTIONS), _detections, ".json"),
    Kind("gebd-json", _json({"abc": _CLIP}, {"abc": _RAW}, _TAPOS), _gebd, ".json"),
    Kind("gebd-pkl", _pickles, _gebd, ".pkl"),
    Kind("kinetics", _text(_KINETICS), _kinetics, ".csv"),
    Kind("charades", _also_gzipped(_text(_CHARADES)), _moments, ".txt"),
    Kind("durations", _json({"AB12C": 30.5, "XYZ": 12}, _ACTIVITYNET), _durations, ".json"),
    Kind("durations-csv", _text('id,subject,length\nAB12C,"x, y",30.5\nXYZ,z,12\n'), _durations, ".csv"),
    Kind("thumos", _text(_THUMOS), _thumos, ".csv"),
    Kind("steps", _text("1,0.5,2.25\n2,3,4\n3,5.5,6\n"), _steps, ".csv"),
    Kind("tasks", _text(_TASKS), _tasks, ".txt"),
    Kind("class-scores", _class_score_files, _class_scores, ".json"),
    Kind("glove", _also_gzipped(_text("the 0.5 -1.25 3e-2\ndoor 1 2 3\nperson 0.1 0.2 0.3\n")), _glove, ".txt"),
    Kind("npy", _npy, _import("opentad"), ".npy"),
    Kind("features-csv", _text("f0,f1,f2\n0.5,1,2\n3,4,-5e-3\n"), _import("csv"), ".csv"),
    Kind("hdf5", _hdf5, _arrays_of_hdf5, ".h5"),
    Kind("packed-hdf5", _packed_features, _packed, ".h5"),
    Kind("sidecar", _sidecars, _sidecar, ".json"),
    Kind("weights-zip", _checkpoints(True), _weights, ".pth"),
    Kind("weights-old", _checkpoints(False), _weights, ".pth"),
    Kind("safetensors", _safetensors, _weights, ".safetensors"),
    Kind("manifest", _manifests, _manifest, ".json"),
    Kind("run-record", _run_records, _run_record, ".json"),
    Kind("probe-cache", _probe_caches, _probe_cache, ".jsonl"),
    Kind("checkpoint", _states, _state, ".json"),
    Kind("report", _json(_TABLE), _report, ".json"),
]  # fmt: skip
KINDS = {kind.name: kind for kind in (*FILES, *VIDEOS)}
