"""Every reader of text: its clean files, what is read of them, and the varieties in which programs write text."""

from __future__ import annotations

import codecs
import gzip
import json
import unicodedata

from bsp.datasets.activitynet import load_activitynet, load_hacs
from bsp.datasets.charades_sta import load_charades_sta, read_durations
from bsp.datasets.class_scores import read_class_scores
from bsp.datasets.crosstask import load_crosstask
from bsp.datasets.gebd import load_gebd_folder
from bsp.datasets.kinetics import read_kinetics_csv
from bsp.datasets.results_json import prediction_columns, read_video_ids
from bsp.datasets.thumos14 import load_thumos14
from bsp.features.interchange_files import find_arrays
from bsp.files.text import (
    read_json,
)
from bsp.localization.grounding.words import load_glove
from bsp.video.prepared_folder import find_videos as find_listed

APPLE_DOUBLE = b"\0\5\26\7\0\2\0\0\231"  # how a "._name" begins
NFC, NFD = "Café", "Cafe\u0301"
assert NFC != NFD == unicodedata.normalize("NFD", NFC)


# -- one file or folder per reader: its clean files, and what is read of them --


def database(**videos):
    return {"database": {name: {"subset": "validation", "duration": 9, "annotations": a} for name, a in videos.items()}}


def instance(label, start_s=1.0, end_s=2.0):
    return {"label": label, "segment": [start_s, end_s]}


GEBD = {
    "num_frames": 100, "path_video": "a/clip.mp4", "fps": 10, "video_duration": 10.0, "f1_consis": [1],
    "f1_consis_avg": 1.0, "substages_timestamps": [[2.5]], "substages_myframeidx": [[25]],
}  # fmt: skip
TASKS = "11\nMake Tea\nhttp://a.org/b\n2\nboil water,pour water\n\n22\nTire\nhttp://a.org/c\n1\nlift car\n\n"
CHARADES = "id,script,length\nAB1XY,Ünïcode,10.5\n"
READERS = {
    "ActivityNet": (
        {"a.json": json.dumps(database(v1=[instance(NFC)], v2=[]))},
        lambda f: load_activitynet(f / "a.json", None, subsets=["validation"]).videos,
    ),
    "HACS": (
        {"a.json": json.dumps(database(v1=[instance(NFC)], v2=[]))},
        lambda f: load_hacs(f / "a.json", None, subsets=["validation"]).videos,
    ),
    "detections": (
        {"a.json": json.dumps({"results": {"v1": [instance(NFC) | {"score": 0.5}]}})},
        lambda f: prediction_columns(read_json(f / "a.json"), videos=["v1"], class_names=[NFC]).label.tolist(),
    ),
    "THUMOS14": (
        {
            "val_Annotation.csv": "video,type,type_idx,start,end\nv1,Diving,26,0.0,3.5\nv1,Ambiguous,0,4,5\n",
            "test_Annotation.csv": "video,type,type_idx,start,end\nv2,Diving,26,0.5,3.5\n",
            "test_groundtruth.csv": "video-name,t-init,video-duration\nv2,0.2,33.75\n",
            "thumos_gt.json": json.dumps({"database": {"v2": {"subset": "test", "annotations": [instance("Diving")]}}}),
        },
        lambda f: (load_thumos14(f).videos, load_thumos14(f).class_names),
    ),
    "Charades-STA": (
        {
            "charades_sta_train.txt": "AB1XY 0.0 6.9##a person enters a café.\nAB1XY 1 2##person runs.\n",
            "charades_sta_test.txt": "CD2XY 3.18 9##person drinks water.\n",
            "Charades_v1_train.csv": CHARADES,
            "Charades_v1_test.csv": CHARADES.replace("AB1XY", "CD2XY"),
        },
        lambda f: (load_charades_sta(f).videos, load_charades_sta(f).moments),
    ),
    "durations": ({"a.json": '{"AB1XY": 10.5, "v2": "3"}'}, lambda f: read_durations(f / "a.json")),
    "CrossTask": (
        {
            "tasks_primary.txt": TASKS,
            "videos.csv": "11,video_1,http://a.org/v=1\n22,video_2,http://a.org/v=2\n",
            "annotations/11_video_1.csv": "1,0.5,2.5\n2,2.5,4.0\n",
            "annotations/22_video_2.csv": "1,0.5,2.5\n",
        },
        lambda f: (load_crosstask(f).tasks, load_crosstask(f).videos),
    ),
    "Kinetics": (
        {"a.csv": f"label,youtube_id,time_start,time_end,split,is_cc\n{NFC} au lait,abc,1,11,train,0\n"},
        lambda f: read_kinetics_csv(f / "a.csv"),
    ),
    "Kinetics-GEBD": (
        {"k400_train.json": json.dumps({"c1": GEBD}), "k400_val.json": json.dumps({"c2": GEBD})},
        lambda f: load_gebd_folder(f, find_files=False).videos,
    ),
    "class scores": (
        {"a.json": json.dumps({"class": [NFC, "walk"], "results": {"v1": [0.25, 0.75]}})},
        lambda f: {v: row.tolist() for v, row in read_class_scores(f / "a.json", ["walk", NFC], ["v1"]).items()},
    ),
    "blocked videos": ({"a.json": '["v1", "v2"]'}, lambda f: read_video_ids(f / "a.json")),
    "blocked videos, text": ({"a.txt": "v1\nv2\n"}, lambda f: read_video_ids(f / "a.txt")),
    "GloVe": (
        {"a.txt": f"the 0.5 -1 2\n{NFC} 4 5 6\nthe 7 8 9\n"},
        lambda f: (load_glove(f / "a.txt").words, load_glove(f / "a.txt").vectors.tolist()),
    ),
    "videos to prepare": ({"a.txt": f"b.mp4\nc d/{NFC}.mkv\n"}, lambda f: find_listed(f / "a.txt")[1]),
    "features as CSV": (
        {"v1.csv": "f0,f1\n0.5,1.5\n2.5,3.5\n", "v2.csv": "0,1\n0.25,nan\n"},
        lambda f: [(a.name, a.read().tobytes()) for a in find_arrays(f, "csv")],
    ),
}  # fmt: skip
VARIETIES = {
    "UTF-8 with mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "UTF-16, little end first": lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    "UTF-16, big end first": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "UTF-32": lambda text: codecs.BOM_UTF32_LE + text.encode("utf-32-le"),
    "Windows line ends": lambda text: text.replace("\n", "\r\n").encode(),
    "mark and Windows line ends": lambda text: codecs.BOM_UTF8 + text.replace("\n", "\r\n").encode(),
    "blanks at line ends": lambda text: text.replace("\n", " \n").encode(),
    "no last line end": lambda text: text.rstrip("\n").encode(),
    "gzip": lambda text: gzip.compress(text.encode()),
    "gzipped UTF-16": lambda text: gzip.compress(text.encode("utf-16")),
}


def write_files(folder, files, change=str.encode):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(change(text))
    return folder
