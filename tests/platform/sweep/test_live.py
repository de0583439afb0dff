"""What a person sees: a line per row and minute, a warning that names the bottleneck, and nothing of Ray."""

import io
import subprocess
import sys
import time

import numpy as np
import pytest

from bsp_platform.plain_text import duration
from bsp_platform.plan.resources import Resources
from bsp_platform.sweep.live import DOING, LiveView, waiting
from bsp_platform.work.bottleneck import MAKER, MakerClock, MakerTimes, WaitWatch, bottleneck


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def lines_of(news: list[tuple[float, dict]], cell=("row", 0)) -> list[str]:
    """What the console says when ``news`` come at their seconds."""
    console, clock = io.StringIO(), Clock()
    with LiveView([cell], 1, console, clock) as view:
        for clock.now, item in news:
            view.update(cell, item)
    return console.getvalue().splitlines()[1:]  # the first says how many rows there are


def record(step: int, **more) -> dict:
    measured = {"step": step, "loss": 1.5, "clips_per_s": 210.0, "data_wait_share": 0.031}
    return {"encoder": "enc", "step": step, "steps": 1000, "skipped": 0, "record": measured, **more}


def test_a_row_gets_one_line_a_minute():
    news = [(0, {"stage": "pretrain enc"})] + [(5 * k, record(10 * k)) for k in range(1, 37)]
    lines = lines_of(news)
    assert lines[0] == "[     0 s] row seed 0: pretrain enc"
    assert [line[:10] for line in lines[1:]] == ["[    60 s]", "[   120 s]", "[   180 s]"]
    # 10 steps in 5 s, so the 880 steps after step 120 take 440 s.
    assert lines[1] == (
        "[    60 s] row seed 0: pretrain enc: step 120/1000 (12%), loss 1.500, 210 clips/s, waiting for data 3%, "
        "7 min 20 s left"
    )


def test_a_stage_says_how_it_ended_and_a_new_one_is_said_at_once():
    news = [
        (0, {"stage": "pretrain enc"}),
        (30, record(1000, skipped=2)),
        (31, {"stage": "features activitynet", "at": 5, "total": 20, "rate": 2.5}),
        (41, {"stage": "features activitynet", "at": 10, "total": 20, "rate": 2.5}),
        (50, {"stage": "finished"}),
    ]
    assert [line[11:] for line in lines_of(news)] == [
        "row seed 0: pretrain enc",
        "row seed 0: pretrain enc: step 1000/1000 (100%), loss 1.500, 210 clips/s, waiting for data 3%, "
        "2 clips skipped",
        "row seed 0: features activitynet",
        "row seed 0: features activitynet: 10/20 (50%), 2.5 videos/s, 20 s left",
        "row seed 0: finished",
    ]


def test_what_a_checkpoint_reports_does_not_wipe_out_the_loss():
    bare = {"encoder": "enc", "step": 20, "steps": 1000, "skipped": 0}
    assert "step 20/1000 (2%), loss 1.500" in lines_of([(0, record(10)), (61, bare)])[-1]


def test_whatever_a_pretext_measures_is_shown_and_speed_in_words():
    measured = {"loss": 1.5, "sharpness": 0.25, "learning_rate": 0.01, "unix_time": 1.7e9, "makers_busy": 0.5}
    news = {"encoder": "enc", "step": 20, "steps": 1000, "record": measured}
    assert lines_of([(0, news), (61, news)])[-1].endswith(": step 20/1000 (2%), loss 1.500, sharpness 0.250")


def test_the_time_left_of_a_continued_row_counts_from_where_it_continued():
    # The first 500 steps were made by an earlier process. 120 steps in 60 s, so 380 more take 190 s.
    line = lines_of([(100, record(500)), (150, record(600)), (160, record(620))])[-1]
    assert line.endswith("3 min 10 s left")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.6, "1 min"), (61, "1 min 1 s"), (3600, "1 h"), (3725, "1 h 2 min"), (90000, "1 d 1 h")],
)
def test_durations_have_two_units_at_most(seconds, words):
    assert duration(seconds) == words


# --- where the time of the clip makers goes -----------------------------------------------------------------------


def shares(busy=0.97, decoding=0.8, computing=0.95, machine=0.5) -> dict[str, float]:
    return dict(zip(("makers_busy", "makers_decoding", "makers_computing", "machine_busy"),
                    (busy, decoding, computing, machine), strict=True))  # fmt: skip


@pytest.mark.parametrize(
    ("measured", "spilled", "cause", "remedy"),
    [
        (shares(), 0, "82% of it decoding", "raise makers_per_worker (now 12), or run bsp prepare"),
        (shares(decoding=0.3), 0, "synthesis and augmentation", "raise makers_per_worker (now 12)"),
        (shares(computing=0.2), 0, "79% of it waiting for storage", "faster or nearer disk"),
        (shares(machine=0.99), 0, "no CPU of the machine is free", "bsp prepare"),
        (shares(busy=0.3), 2000, "2000 MB went from the object store to disk", "/dev/shm"),
        (shares(busy=0.3), 0, "nothing to do 70% of the time, so handing clips over", "--workers"),
        ({}, 0, "report nothing", "Ray's log"),
    ],
)
def test_the_bottleneck_and_the_setting_are_named(measured, spilled, cause, remedy):
    found, advice = bottleneck(measured, Resources(makers_per_worker=12), spilled)
    assert cause in found
    assert remedy in advice


def warnings_of(waits: list[float], every_s: float = 10.0) -> list[tuple[float, str]]:
    clock = Clock()
    watch = WaitWatch(Resources(), clock=clock)
    found = []
    for k, wait in enumerate(waits):
        clock.now = every_s * k
        text = watch.record("row", {"data_wait_share": wait, **shares()})
        if text:
            found.append((clock.now, text))
    return found


def test_waiting_at_the_start_is_no_reason_for_a_warning():
    assert warnings_of([1.0] + [0.1] * 30) == []
    assert warnings_of([1.0] * 6) == []  # 50 s after the start are not yet a minute


def test_a_minute_of_waiting_gives_one_warning():
    ((at, text),) = warnings_of([0.0] * 10 + [0.5] * 20)
    # Of the last minute k tens of seconds at 50%: above 20% from the third (25%) on, the record of 120 s.
    assert at == 120
    assert text.startswith("training waited for data 25% of the last minute: the clip makers are busy 97%")


def test_records_longer_than_a_minute_count_by_themselves():
    assert [at for at, _ in warnings_of([0.0, 0.0, 0.3], every_s=300)] == [600]


@pytest.mark.parametrize(("every_s", "at_s"), [(7.0, 63.0), (40.0, 80.0), (59.0, 118.0), (0.7, 60.2)])
def test_records_need_not_divide_the_minute(every_s, at_s):
    ((at, text),) = warnings_of([0.97] * 100, every_s)
    assert at == pytest.approx(at_s)
    assert "waited for data 97%" in text


def test_makers_say_where_their_time_went():
    clock, sums = MakerClock(), MakerTimes()

    def spin(seconds: float) -> None:
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    decode = clock.timed(spin)
    for _ in range(2):
        with clock:
            decode(0.03)
            spin(0.01)
    batch = {"label": np.zeros(4), MAKER: clock.column(4)}
    assert batch[MAKER].shape == (4, 5)
    (out,) = sums.watch([batch])
    assert set(out) == {"label"}
    taken = sums.take()
    assert 0 < taken["makers_decoding"] < taken["makers_busy"] <= 1
    assert taken["makers_computing"] / taken["makers_busy"] <= 1.2  # one thread, up to the clocks' steps
    assert taken["makers_decoding"] / taken["makers_computing"] > 0.5  # three quarters of the work
    assert sums.take() == {}


# --- Ray's own output ---------------------------------------------------------------------------------------------

NOISY = """
import logging, os, sys
from pathlib import Path
from bsp_platform.sweep.ray_log import RayLog
print("before")
with RayLog(Path(sys.argv[1])) as log:
    print("a worker printed this")
    os.write(2, b"the core wrote this\\n")
    os.system("echo a child process said this")
    logging.getLogger("ray.data").error("a logger of Ray")
    logging.getLogger("bsp.clips.catalog").warning("a video is broken")
    print("our line", file=log.console)
print("after")
if sys.argv[2] == "fail":
    raise SystemExit("error: it failed")
"""


@pytest.mark.parametrize("end", ["well", "fail"])
def test_only_our_own_lines_reach_the_console(tmp_path, end):
    log = tmp_path / "logs" / "x.log"
    done = subprocess.run([sys.executable, "-c", NOISY, log, end], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["before", "our line", "after"]
    failed = ["error: it failed"] if end == "fail" else []
    assert done.stderr.splitlines() == ["WARNING: a video is broken", *failed]
    assert sorted(log.read_text().splitlines()) == [  # in the order of flushing
        "a child process said this",
        "a logger of Ray",
        "a worker printed this",
        "the core wrote this",
    ]


def test_what_is_said_while_the_program_ends_goes_to_the_log(tmp_path):
    script = (
        "import atexit, os, sys; from pathlib import Path\n"
        "atexit.register(lambda: os.write(2, b'shutting down\\n'))\n"  # as Ray does when it is imported
        "from bsp_platform.sweep.ray_log import RayLog\n"
        "with RayLog(Path(sys.argv[1])): pass\n"
        "print('the last line')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "x.log"], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("the last line\n", "")
    assert (tmp_path / "x.log").read_text() == "shutting down\n"


def test_what_a_stage_waits_for_is_said_at_once_and_so_is_its_first_progress():
    news = [
        (0, {"stage": "pretrain enc"}),
        (1, {"stage": "pretrain enc", DOING: "starting the training process"}),
        (2, {"stage": "pretrain enc", DOING: "starting the training process"}),
        (9, {"stage": "pretrain enc", DOING: "first clips"}),
        (14, record(10)),
        (20, record(20)),
    ]
    assert lines_of(news) == [
        "[     0 s] row seed 0: pretrain enc",
        "[     1 s] row seed 0: pretrain enc: starting the training process ...",
        "[     9 s] row seed 0: pretrain enc: first clips ...",
        "[    14 s] row seed 0: pretrain enc: step 10/1000 (1%), loss 1.500, 210 clips/s, waiting for data 3%",
    ]


def test_waiting_says_what_for_without_a_terminal():
    console = io.StringIO()
    with waiting("starting Ray", console):
        assert console.getvalue() == "starting Ray ...\n"
