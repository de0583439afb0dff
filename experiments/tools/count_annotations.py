"""Load every published annotation file of a folder with the project's loaders, and count videos and annotations.

python experiments/tools/count_annotations.py --annotations DIR                # half a minute, no video is needed
python experiments/tools/count_annotations.py --annotations DIR --json FILE    # the same for programs

Files are recognised by their usual names (docs/datasets.md), plain or gzipped. What a loader leaves out is counted and
named, and so is every file of the folder that none of them reads.
"""

import hashlib
import logging
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console

from bsp.datasets.activitynet import LocalizationDataset, load_activitynet, load_hacs
from bsp.datasets.charades_sta import SUBSETS, load_charades_sta
from bsp.datasets.class_scores import read_class_scores
from bsp.datasets.crosstask import load_crosstask
from bsp.datasets.gebd import load_gebd
from bsp.datasets.kinetics import read_kinetics_csv
from bsp.datasets.thumos14 import load_thumos14
from bsp.errors import AnnotationError
from bsp.files.text import is_hidden
from bsp.metrics.boundaries import MIN_CONSISTENCY
from bsp_platform.plain_text import escape_unencodable, plain_table, printable, say
from bsp_platform.storage.files import write_json


@dataclass(frozen=True, kw_only=True)
class Count:
    """What a loader found in one subset."""

    data: str
    subset: str
    videos: int
    instances: int  # actions, sentences, steps or boundaries
    classes: int = 0  # 0: there are none
    remarks: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()  # by the loader, each with its reason


class Folder:
    """The files of a folder by name, without ".gz", and which of them were read."""

    def __init__(self, path: Path, scratch: Path):
        self.path, self.scratch = path, scratch
        self.unread = sorted(p.name for p in path.iterdir() if not is_hidden(p))

    def take(self, *patterns: str) -> list[Path]:
        """The files whose name matches one of the patterns, also gzipped; they count as read from now on."""
        found = [name for name in self.unread if any(Path(name.removesuffix(".gz")).match(p) for p in patterns)]
        self.unread = [name for name in self.unread if name not in found]
        return [self.path / name for name in found]


def count_kinetics(folder: Folder) -> Iterator[Count]:
    """Rows, videos and classes of the official CSV files."""
    for path in folder.take("kinetics*.csv"):
        rows = read_kinetics_csv(path)
        videos, classes = len({row.youtube_id for row in rows}), len({row.label for row in rows})
        yield Count(data="Kinetics", subset=path.name, videos=videos, instances=len(rows), classes=classes)


def count_activitynet(folder: Folder) -> Iterator[Count]:
    """ActivityNet-1.3 and published class scores for it."""
    for path in folder.take("activitynet_v1-3.json", "activity_net.v1-3*.json"):
        data = load_activitynet(path, None)
        yield from _localization("ActivityNet-1.3", data)
        scores = folder.take("cuhk*.json", "new_3ensemble*.json")
        yield from (_class_scores(file, data, "validation") for file in scores)


def count_hacs(folder: Folder) -> Iterator[Count]:
    """HACS Segments."""
    for path in folder.take("HACS_segments*.json"):
        yield from _localization("HACS Segments", load_hacs(path, None))


def count_thumos(folder: Folder) -> Iterator[Count]:
    """THUMOS14 as released with G-TAD, and published class scores for it."""
    if not folder.take("*val_Annotation.csv"):
        return
    data = load_thumos14(folder.path)
    folder.take("*test_Annotation.csv", "*test_groundtruth.csv", "*thumos_gt.json")
    yield from _localization("THUMOS14", data)
    for path in folder.take("*untrimmednet*.npy", "uNet_test.npy"):
        yield _class_scores(path, data, "test")


def count_charades(folder: Folder) -> Iterator[Count]:
    """Charades-STA: sentences, and odd moments."""
    if not folder.take("charades_sta_*.txt"):
        return
    data = load_charades_sta(folder.path)
    folder.take("charades_durations.json", "Charades_v1_*.csv")
    ends_s = {video.video_id: video.duration_s for video in data.videos}
    for subset in SUBSETS:
        moments = data.moments[subset]
        late = sum(moment.end_s > ends_s[moment.video_id] for moment in moments)
        empty = sum(moment.end_s <= moment.start_s for moment in moments)
        yield Count(
            data="Charades-STA",
            subset=subset,
            videos=sum(video.subset == subset for video in data.videos),
            instances=len(moments),
            remarks=_some((late, "end after their video"), (empty, "are empty or run backwards")),
            left_out=data.dropped if subset == "train" else (),
        )


def count_crosstask(folder: Folder) -> Iterator[Count]:
    """CrossTask's release, as a folder or packed."""
    found = folder.take("crosstask_release", "crosstask_release.tar")
    if not found:
        return
    release = found[0]
    if not release.is_dir():
        with tarfile.open(release) as archive:
            archive.extractall(folder.scratch, filter="data")
        release = folder.scratch / "crosstask_release"
    data = load_crosstask(release)
    steps = sum(len(task.steps) for task in data.tasks)
    for subset in ("training", "test"):
        videos = [video for video in data.videos if video.subset == subset]
        ids = sorted(video.video_id for video in videos)
        digest = hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]
        overlap = sum(any(a.end_s > b.start_s for a, b in zip(v.steps, v.steps[1:])) for v in videos)
        yield Count(
            data="CrossTask",
            subset=subset,
            videos=len(videos),
            instances=sum(len(video.steps) for video in videos),
            classes=steps,
            remarks=(f"{len(data.tasks)} tasks; ids {digest}", *_some((overlap, "videos with overlapping steps"))),
        )


def count_gebd(folder: Folder) -> Iterator[Count]:
    """Kinetics-GEBD and TAPOS, in any of the published layouts."""
    endings = (".pkl", ".json")
    names = [f"{stem}{ending}" for stem in ("k400_*", "kinetics_gebd*", "tapos*") for ending in endings]
    for path in folder.take(*names):
        subset = "training" if "train" in path.name else "validation"
        data = load_gebd(path, subset=subset)
        annotators = Counter(len(video.boundaries_s) for video in data.videos)
        by = ", ".join(f"{clips} by {number}" for number, clips in sorted(annotators.items()))
        unsure = sum(video.consistency_avg < MIN_CONSISTENCY for video in data.videos)
        yield Count(
            data="TAPOS" if "tapos" in path.name else "Kinetics-GEBD",
            subset=f"{subset} ({path.name})",
            videos=len(data.videos),
            instances=sum(len(times) for video in data.videos for times in video.boundaries_s),
            remarks=(f"annotators: {by}", *_some((unsure, f"clips of consistency below {MIN_CONSISTENCY}"))),
            left_out=data.dropped,
        )


COUNTERS: tuple[Callable[[Folder], Iterator[Count]], ...] = (
    count_kinetics, count_activitynet, count_hacs, count_thumos, count_charades, count_crosstask, count_gebd,
)  # fmt: skip


def _localization(name: str, data: LocalizationDataset) -> Iterator[Count]:
    for subset in dict.fromkeys(video.subset for video in data.videos):
        videos = [video for video in data.videos if video.subset == subset]
        instances = [(video, instance) for video in videos for instance in video.instances]
        late = sum(instance.end_s > video.duration_s for video, instance in instances)
        empty = sum(instance.end_s <= instance.start_s for _, instance in instances)
        other = sum(instance.label not in data.class_names for _, instance in instances)
        yield Count(
            data=name,
            subset=subset,
            videos=len(videos),
            instances=len(instances),
            classes=len({instance.label for _, instance in instances} & set(data.class_names)),
            remarks=_some(
                (late, "end after their video"),
                (empty, "are empty or run backwards"),
                (other, "are of no class"),
                (sum(not video.instances for video in videos), "videos without an instance"),
            ),
        )
    if data.dropped:
        total = sum(len(video.instances) for video in data.videos)
        yield Count(data=name, subset="all", videos=len(data.videos), instances=total, left_out=data.dropped)


def _class_scores(path: Path, data: LocalizationDataset, subset: str) -> Count:
    """How often the best class of a video is one that occurs in it."""
    videos = [video for video in data.videos if video.subset == subset and video.instances]
    scores = read_class_scores(path, data.class_names, [video.video_id for video in videos])
    right = sum(
        data.class_names[scores[video.video_id].argmax()] in {instance.label for instance in video.instances}
        for video in videos
    )
    return Count(
        data="class scores",
        subset=f"{subset} ({path.name})",
        videos=len(videos),
        instances=0,
        classes=len(data.class_names),
        remarks=(f"best class right for {right}",),
    )


def _some(*counts: tuple[int, str]) -> tuple[str, ...]:
    return tuple(f"{number} {what}" for number, what in counts if number)


@click.command(help=__doc__.split("\n\n")[0])
@click.option("--annotations", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the counts there.")
def main(annotations: Path, json_path: Path | None) -> None:
    """Print the table, and write it as JSON."""
    escape_unencodable()
    logging.disable(logging.WARNING)  # the table has what the loaders log
    with tempfile.TemporaryDirectory() as scratch:
        folder = Folder(annotations, Path(scratch))
        try:
            counts = [count for counter in COUNTERS for count in counter(folder)]
        except AnnotationError as error:
            raise click.ClickException(printable(error, lines=True)) from error
        finally:
            logging.disable(logging.NOTSET)
    rows = []
    for c in counts:
        numbers = [f"{number:,}" if number else "" for number in (c.videos, c.instances, c.classes, len(c.left_out))]
        rows.append((c.data, c.subset, *numbers, "; ".join(c.remarks)))
    header = ("data", "subset", "videos", "instances", "classes", "left out", "remarks")
    Console(width=160).print(plain_table(header, rows, title=str(annotations)))
    for c in counts:
        for line in c.left_out[:10]:
            say(f"left out: {line}")
        if len(c.left_out) > 10:
            say(f"... and {len(c.left_out) - 10} more of {c.data}")
    say(f"files not read: {', '.join(folder.unread) or 'none'}")
    if json_path is not None:
        write_json(json_path, {"counts": [asdict(count) for count in counts], "files_not_read": folder.unread})


if __name__ == "__main__":
    main()
