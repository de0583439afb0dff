"""Profile own: sensible settings over a grid of videos and machines, and what --pretext means."""

from __future__ import annotations

import itertools

import pytest

from bsp.clips.plan import PAPER_KINDS, BoundaryKind
from bsp.encoders.tsm import EncoderSettings
from bsp.encoders.tsm_lite0 import TSMLite0Settings
from bsp_platform.plan.own import (
    DataFacts,
    MachineFacts,
    OwnConfig,
    choose,
    held_out_clips,
    named_encoder,
    random_width,
)
from bsp_platform.plan.own_pretext import classes_needed, parse_pretext
from bsp_platform.plan.profiles import smoke
from bsp_platform.plan.recipes import Stream
from bsp_platform.work.cluster.planning import Machine, make_plan

S = parse_pretext("S")
MACHINES = [
    MachineFacts(cpus=c, gpus=g) for c, g in ((1, 0), (2, 0), (4, 0), (8, 0), (64, 0), (8, 1), (16, 1), (96, 8))
]


def data(videos: int, side: int = 480, seconds: float = 10) -> DataFacts:
    return DataFacts(
        videos=videos, seconds=videos * seconds, short_side_px=side, decoded_mb=videos * seconds * 25 * side**2 * 4e-6
    )


def pick(videos: DataFacts, machine: MachineFacts, start: str = "image", stream: Stream = S, **options) -> OwnConfig:
    encoder = TSMLite0Settings() if start == "image" else EncoderSettings(depth=18, width=random_width(machine))
    choice = choose(videos, machine, stream, encoder=encoder, start=start, **options)
    assert all(reason and "\n" not in reason for reason in choice.reasons)
    return choice.config


@pytest.mark.parametrize("machine", MACHINES, ids=str)
@pytest.mark.parametrize("start", ["image", "random"])
def test_every_choice_fits_its_machine_and_makes_a_recipe(machine, start):
    for videos, side, method in itertools.product(
        (2, 20, 200, 5_000, 200_000, 1_000_000), (32, 64, 240, 1080), ("S", "two-head", "vanilla", "ds+ss")
    ):
        stream = parse_pretext(method)
        config = pick(data(videos, side), machine, start, stream)
        train = config.train
        assert train.batch_size % config.workers == 0
        assert train.batch_size // config.workers >= 8
        assert train.steps >= 40
        assert train.warmup_steps < train.steps / 10
        assert train.checkpoint_every_steps % train.log_every_steps == 0
        assert train.steps / train.log_every_steps >= 10  # there is something to see
        assert config.augment.size_px <= max(32, side)
        assert config.held_out_clips % 48 == 0
        profile = config.profile()
        recipe = profile.encoder_recipe(
            stream,
            trimmed="x",
            num_actions=5,
            workers=config.workers,
            seed=0,
            start="image" if start == "image" else "",
        )
        assert recipe.training.train == train
        on = "cuda" if machine.gpus else "cpu"
        plan = make_plan(profile, Machine(cpus=machine.cpus, gpus=machine.gpus), device=on, workers=config.workers)
        assert plan.processes == config.workers, "the machine has no room for what was chosen"
        assert plan.resources.makers_per_worker == config.makers_per_worker


def test_200_videos_on_two_cores_and_200_000_on_eight_gpus():
    small = pick(data(200), MachineFacts(cpus=2))
    assert (small.augment.size_px, small.train.batch_size, small.train.clips) == (112, 32, 9_984)
    assert small.workers == 2
    assert small.clips.gammas == (0.25, 4.0)
    large = pick(data(200_000), MachineFacts(cpus=96, gpus=8))
    assert (large.augment.size_px, large.workers, large.train.batch_size) == (224, 8, 512)
    assert large.train.clips == 10_000_000 // 512 * 512
    assert large.makers_per_worker == 11
    assert large.compile_training
    assert len(large.clips.gammas) == 4


def test_more_videos_are_never_trained_on_less():
    for machine in MACHINES:
        clips = [pick(data(videos), machine).train.clips for videos in (10, 100, 1_000, 10_000, 100_000)]
        assert clips == sorted(clips)


def test_minutes_decide_the_clips_by_what_was_measured():
    fast = MachineFacts(cpus=2, train_s=0.1, train_px=112, make_s=0.01)
    ten = pick(data(200), fast, minutes=10)
    # Two processes of 0.1 s and makers of 0.01 s share two cores: 2 / 0.11 clips a second, for 0.8 * 600 - 40 s.
    assert ten.train.clips == pytest.approx(440 * 2 / 0.11, rel=0.01)
    hour = pick(data(200), fast, minutes=60)
    assert hour.train.clips == pytest.approx((0.8 * 3600 - 40) * 2 / 0.11, rel=0.01)
    slow = MachineFacts(cpus=2, train_s=0.4, train_px=112, make_s=0.01)
    assert pick(data(200), slow, minutes=10).augment.size_px == 64  # rather smaller pictures than hardly any clips
    assert pick(data(200), slow, minutes=0.5).train.steps >= 2


def test_the_choice_is_a_pure_function():
    assert pick(data(200), MachineFacts(cpus=2)) == pick(data(200), MachineFacts(cpus=2))


def test_workers_that_are_given_are_taken():
    config = pick(data(200), MachineFacts(cpus=2), workers=3)
    assert (config.workers, config.train.batch_size) == (3, 30)


def test_the_settings_of_another_profile():
    config = OwnConfig.of_profile(smoke(), S, 1)
    assert config.train == smoke().train
    recipe = config.profile().encoder_recipe(S, trimmed="x", num_actions=4, workers=1, seed=0)
    assert recipe.training.clips.gammas == smoke().clips.gammas


@pytest.mark.parametrize(
    ("text", "method", "kinds"),
    [
        ("S", "classification", "dc+sc+ds+ss"),
        ("{dc,ss}", "classification", "dc+ss"),
        ("ss+dc", "classification", "dc+ss"),
        ("diff_class,same_speed", "classification", "dc+ss"),
        ("vanilla", "action", ""),
        ("regression", "regression", "dc+sc+ds"),
        ("regression:ds", "regression", "ds"),
        ("two-head", "two-head", "dc+sc+ds+ss"),
        ("distillation:dc+ss", "distillation", "dc+ss"),
    ],
)
def test_what_pretexts_are_called(text, method, kinds):
    stream = parse_pretext(text)
    assert (stream.method, "+".join(kind.short for kind in stream.kinds)) == (method, kinds)


def test_an_unknown_pretext_is_refused_with_what_there_is():
    with pytest.raises(ValueError, match=r"--pretext dx\+ss: give S .*dc, sc, ds, ss.* vanilla"):
        parse_pretext("dx+ss")


def test_which_pretexts_need_classes():
    needy = {"S", "dc+ss", "sc+ss", "vanilla", "two-head", "distillation:ds+ss", "regression"}
    for text in (*needy, "ds+ss", "regression:ds"):
        assert bool(classes_needed(parse_pretext(text))) == (text in needy), text
    assert PAPER_KINDS[:2] == (BoundaryKind.DIFF_CLASS, BoundaryKind.SAME_CLASS)


def test_encoders_by_name():
    assert named_encoder("tsm_r18w32", 16) == EncoderSettings(depth=18, width=32)
    assert named_encoder("tsm_r50", 64) == EncoderSettings(depth=50, width=64)
    assert named_encoder("tsm_lite0", 64) == TSMLite0Settings()
    for name in ("tsm_r19", "tsm_r18w", "r18", "tsm_r18wx"):
        with pytest.raises(ValueError, match=f"no encoder is called '{name}'; there are tsm_lite0, tsm_r18"):
            named_encoder(name, 16)


def test_held_out_clips_have_a_limit_of_memory():
    assert held_out_clips(10_000_000, 224, 8) * 8 * 224 * 224 * 3 <= 96 * 2**20
    assert held_out_clips(128, 32, 8) == 96
    assert held_out_clips(10_000_000, 64, 8) == 480
