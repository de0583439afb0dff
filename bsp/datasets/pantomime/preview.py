"""Contact sheets of a rendered Pantomime data set, for visual inspection; read from the mp4 files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import av
import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

_CLIP_FRAMES = 8  # one snippet of consecutive frames
_ENLARGE = 2  # pixels of the sheet per pixel of the video


def _frames(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def write_preview(folder: Path, *, per_class: int = 2, untrimmed: int = 6) -> list[Path]:
    """Write ``preview_trimmed.png`` and ``preview_untrimmed.png`` beside the manifest; returns the paths."""
    return [_trimmed_sheet(folder, per_class), _untrimmed_sheet(folder, untrimmed)]


def _trimmed_sheet(folder: Path, per_class: int) -> Path:
    """Classes as rows, eight consecutive frames of ``per_class`` videos across."""
    with open(folder / "trimmed/train.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["label"] for row in rows})
    figure, axes = plt.subplots(len(names), per_class, squeeze=False, figsize=(8.4 * per_class, 1.12 * len(names)))
    for name, line in zip(names, axes):
        chosen = [row for row in rows if row["label"] == name][:per_class]
        for axis, row in zip(line, chosen):
            stem = f"{row['youtube_id']}_{int(row['time_start']):06d}_{int(row['time_end']):06d}"
            clip = _frames(folder / "trimmed/videos" / name / f"{stem}.mp4")[8 : 8 + _CLIP_FRAMES]
            axis.imshow(np.concatenate(clip, axis=1).repeat(_ENLARGE, 0).repeat(_ENLARGE, 1))
        for axis in line:
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=13)
    figure.suptitle("Pantomime (synthetic), trimmed: 8 consecutive frames of each clip")
    return _save(figure, folder / "preview_trimmed.png")


def _untrimmed_sheet(folder: Path, count: int) -> Path:
    """Film strips, one frame per second, over a bar: green the action segments, red lines the cuts."""
    database = json.loads((folder / "untrimmed/activitynet.json").read_text("utf-8"))["database"]
    truth = json.loads((folder / "untrimmed/truth.json").read_text("utf-8"))
    chosen = list(database)[:count]
    figure, axes = plt.subplots(len(chosen), 1, squeeze=False, figsize=(20, 1.45 * len(chosen)))
    for video_id, axis in zip(chosen, axes[:, 0]):
        frames = _frames(folder / f"untrimmed/videos/v_{video_id}.mp4")
        step, height = truth["fps"], frames.shape[1]
        strip = np.concatenate(frames[step // 2 :: step], axis=1)
        per_frame = strip.shape[1] / len(frames)
        axis.imshow(strip, extent=(0, strip.shape[1], height, 0))
        axis.add_patch(Rectangle((0, height), strip.shape[1], 12, color="lightgrey"))
        for note in database[video_id]["annotations"]:
            start, end = (time * step * per_frame for time in note["segment"])
            axis.add_patch(Rectangle((start, height), end - start, 12, color="tab:green"))
        for cut in truth["videos"][video_id]["cuts"]:
            axis.vlines(cut["frame"] * per_frame, height - 6, height + 12, color="tab:red", linewidth=2.5)
        axis.set(xlim=(0, strip.shape[1]), ylim=(height + 12, 0), xticks=[], yticks=[])
        axis.set_ylabel(truth["videos"][video_id]["label"], rotation=0, ha="right", va="center", fontsize=13)
    figure.suptitle("Pantomime (synthetic), untrimmed: one frame per second; green = action segments, red = cuts")
    return _save(figure, folder / "preview_untrimmed.png")


def write_grounding_preview(folder: Path, *, count: int = 6) -> Path:
    """Write ``preview.png`` beside the manifest of a grounding data set; returns the path.

    Film strips, two frames per second, over bars of the actions in the colour of the actor's clothes; red lines
    are the cuts; below, the sentences and the start of their moments in seconds.
    """
    truth = json.loads((folder / "truth.json").read_text("utf-8"))
    chosen = list(truth["videos"].items())[:count]
    figure, axes = plt.subplots(len(chosen), 1, squeeze=False, figsize=(24, 3.1 * len(chosen)))
    for (video_id, video), axis in zip(chosen, axes[:, 0]):
        frames, rows = _frames(folder / f"videos/{video_id}.mp4"), 2
        step, height = truth["fps"] // 2, frames.shape[1]
        picked = frames[step // 2 :: step]
        picked = picked[: len(picked) // rows * rows]
        for row, part in enumerate(np.split(picked, rows)):
            strip = np.concatenate(part, axis=1)
            per_frame, top = strip.shape[1] * rows / len(frames), row * (height + 14)
            start_x = -row * strip.shape[1]
            axis.imshow(strip, extent=(0, strip.shape[1], top + height, top))
            for moment in video["moments"]:
                x, width = start_x + moment["first"] * per_frame, (moment["end"] - moment["first"]) * per_frame
                colour = f"tab:{video['clothes'][moment['actor']]}".replace("tab:yellow", "gold")
                axis.add_patch(Rectangle((x, top + height), width, 10, facecolor=colour, edgecolor="black"))
                if 0 <= x + width / 2 < strip.shape[1]:
                    name = f"{video['actors'][moment['actor']]}: {moment['action']}"
                    axis.text(x + width / 2, top + height + 5, name, ha="center", va="center", fontsize=9)
            for cut in video["cuts"]:
                x = start_x + cut["frame"] * per_frame
                axis.vlines(x, top + height - 8, top + height + 10, color="magenta", linewidth=2.5)
        captions = []
        for sentence in video["sentences"]:
            start_s = video["moments"][sentence["moment"]]["first"] / truth["fps"]
            captions.append(f"{sentence['text']} ({sentence['kind']}: {start_s:.1f} s)")
        axis.set(xlim=(0, strip.shape[1]), ylim=(rows * (height + 14), 0), xticks=[], yticks=[])
        axis.set_xlabel("   ".join(captions), fontsize=10)
        axis.set_ylabel(video_id, rotation=0, ha="right", va="center", fontsize=13)
    figure.suptitle("Pantomime grounding (synthetic): two frames per second; bars = moments, magenta = cuts")
    return _save(figure, folder / "preview.png")


def write_stories_preview(folder: Path, *, per_split: int = 2) -> Path:
    """Write ``preview.png`` beside the manifest of a set of stories; returns the path.

    Film strips over bars of the acts (pale: done by halves); magenta lines are the cuts. Below a clip, one row of
    dots per annotator.
    """
    truth = json.loads((folder / "truth.json").read_text("utf-8"))
    clips: dict[str, list[list[float]]] = {}
    for path in folder.glob("clips/*.json"):
        clips |= {key: record["substages_timestamps"] for key, record in json.loads(path.read_text("utf-8")).items()}
    splits = dict.fromkeys(video["split"] for video in truth["videos"].values())
    chosen = [
        (video_id, truth["videos"][video_id])
        for split in splits
        for video_id in [key for key, video in truth["videos"].items() if video["split"] == split][:per_split]
    ]
    figure, axes = plt.subplots(len(chosen), 1, squeeze=False, figsize=(24, 1.7 * len(chosen)))
    for (video_id, video), axis in zip(chosen, axes[:, 0]):
        (path,) = folder.glob(f"{video['split'].split('_')[0]}/videos/{video_id}*.mp4")
        frames = _frames(path)
        picked = frames[((np.arange(25) + 0.5) * len(frames) / 25).astype(int)]
        strip, height = np.concatenate(picked, axis=1), frames.shape[1]
        per_frame = strip.shape[1] / len(frames)
        axis.imshow(strip, extent=(0, strip.shape[1], height, 0))
        for act in video["acts"]:
            x, width = act["first"] * per_frame, (act["end"] - act["first"]) * per_frame
            colour = "honeydew" if act["faint"] else "lightgreen"
            axis.add_patch(Rectangle((x, height), width, 14, facecolor=colour, edgecolor="black"))
            name = f"{act['action']} {act['tempo']:.1f}/s"
            axis.text(x + width / 2, height + 7, name, ha="center", va="center", fontsize=8)
        for cut in video["cuts"]:
            axis.vlines(cut["frame"] * per_frame, height - 6, height + 14, color="magenta", linewidth=2.5)
        raters = clips.get(video_id, [])
        for row, times in enumerate(raters):
            x = np.array(times) * truth["fps"] * per_frame
            axis.plot(x, np.full(len(x), height + 18 + 4 * row), "k.", markersize=5)
        axis.set(xlim=(0, strip.shape[1]), ylim=(height + 16 + 4 * len(raters), 0), xticks=[], yticks=[])
        label = f"{video['split']}\n{video_id}\n{len(frames) / truth['fps']:.1f} s"
        axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=11)
    figure.suptitle("Pantomime stories (synthetic): 25 frames of each; bars = acts, magenta = cuts, dots = raters")
    return _save(figure, folder / "preview.png")


def _save(figure: plt.Figure, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
