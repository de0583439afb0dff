"""The resources that a row of a sweep asks for, by profile and device; cluster/planning.py fits them to the machine."""

from __future__ import annotations

from dataclasses import dataclass, replace

TRIAL_CPUS = 0.01  # a trial only waits for others; Ray refuses 0

# Choice: four rows of the embedded profiles share a GPU. Their networks are so small that a step waits for its kernels
# to be launched, so several processes can share the GPU; more than four gain little, and each takes about 0.6 GB of
# its memory.
SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one row of a sweep may use at a time. CPUs are Ray's logical CPUs."""

    train_workers: int = 1  # data-parallel training processes at most; with less room, fewer (work/elastic.py)
    wait_for_workers_s: float = 0.0  # with room for one of them, how long to wait for the others before starting
    compile_training: bool = False  # torch.compile: faster on GPUs; like the kind of GPU it changes the last bits
    cpus_per_worker: float = 0.55  # CPUs of a training process
    gpus_per_worker: float = 0.0  # 0 = train on the CPU
    makers_per_worker: int = 1  # clip-making actors feeding each training process
    cpus_per_maker: float = 0.4
    frame_cache_mb: int = 0  # decoded videos that a clip maker keeps, MiB; 0 = off; pays when all fit
    extractors: int = 1  # feature extraction actors
    cpus_per_extractor: float = 0.95
    gpus_per_extractor: float = 0.0
    decoders_per_extractor: int = 0  # tasks that decode for it; 0 = it decodes itself, on a CPU
    cpus_per_decoder: float = 1.0
    cpus_per_head: float = 0.95  # training and scoring a localisation head
    gpus_per_head: float = 0.0

    def __post_init__(self) -> None:
        if min(self.train_workers, self.makers_per_worker, self.extractors) < 1:
            raise ValueError(
                f"train_workers {self.train_workers}, makers_per_worker {self.makers_per_worker} and "
                f"extractors {self.extractors} must be at least 1"
            )
        if bool(self.gpus_per_extractor) != bool(self.decoders_per_extractor):
            raise ValueError(
                f"gpus_per_extractor {self.gpus_per_extractor:g} and decoders_per_extractor "
                f"{self.decoders_per_extractor}: on a GPU others decode, on a CPU none"
            )

    @property
    def row_cpus(self) -> float:
        """CPUs of one row, at most."""
        training = self.train_workers * (self.cpus_per_worker + self.makers_per_worker * self.cpus_per_maker)
        extraction = self.extractors * (self.cpus_per_extractor + self.decoders_per_extractor * self.cpus_per_decoder)
        return TRIAL_CPUS + max(training, extraction, self.cpus_per_head)

    @property
    def row_gpus(self) -> float:
        """GPUs of one row, at most."""
        return max(
            self.train_workers * self.gpus_per_worker,
            self.extractors * self.gpus_per_extractor,
            self.gpus_per_head,
        )

    def smallest(self) -> Resources:
        """The least that a row can run with."""
        return replace(
            self,
            train_workers=1,
            makers_per_worker=1,
            extractors=1,
            decoders_per_extractor=min(1, self.decoders_per_extractor),
        )

    def rows_at_a_time(self, cpus: float, gpus: float = 0.0) -> int:
        """How many rows fit side by side; 1 if a row fits with a single process of each kind.

        ValueError, with the numbers and the remedy, if not even that does.
        """
        fit = int((cpus + 1e-9) // self.row_cpus)
        if self.row_gpus:
            fit = min(fit, int((gpus + 1e-9) // self.row_gpus))
        smallest = self.smallest()
        if fit < 1 and self != smallest:
            return min(1, smallest.rows_at_a_time(cpus, gpus))
        if fit < 1:
            raise ValueError(
                f"one row needs {self.row_cpus:.2f} CPUs and {self.row_gpus:.2f} GPUs (one training process), but "
                f"there are {cpus:g} CPUs and {gpus:g} GPUs; join a larger cluster"
            )
        return fit


def laptop_resources(workers: int = 1, device: str = "cpu") -> Resources:
    """Profiles smoke and mini: one row per core, or one row of ``workers`` data-parallel processes."""
    row = Resources(frame_cache_mb=384)
    if workers > 1:
        # Training takes the most; its processes keep one core each, clip makers use the rest.
        row = replace(row, train_workers=workers, cpus_per_worker=0.7, cpus_per_maker=0.25)
    if device == "cpu":
        return row
    return replace(
        row,
        # Processes of one training talk through NCCL, which refuses two on a GPU; the result does not depend on their
        # number, so on one GPU one process does the work of all.
        gpus_per_worker=SHARE if workers == 1 else 1.0,
        cpus_per_extractor=0.45,
        gpus_per_extractor=SHARE,
        decoders_per_extractor=1,
        cpus_per_decoder=0.5,
        gpus_per_head=SHARE,
    )


def paper_resources(workers: int = 1, device: str = "cuda") -> Resources:
    """Profiles paper and paper-r50: a GPU for each process. On CPUs they work, slowly."""
    if device == "cpu":
        # At 224 px a core makes clips many times faster than another one trains on them.
        return Resources(train_workers=workers, wait_for_workers_s=120.0, cpus_per_worker=0.85, cpus_per_maker=0.1)
    return Resources(
        train_workers=workers,
        cpus_per_worker=0.95,  # with the trial's tiny share and one maker or decoder, two cores are enough
        gpus_per_worker=1.0,
        wait_for_workers_s=120.0,  # an autoscaler's machines start one after another
        compile_training=True,
        makers_per_worker=12,
        cpus_per_maker=1.0,
        extractors=max(1, workers),
        cpus_per_extractor=0.95,
        gpus_per_extractor=1.0,
        decoders_per_extractor=12,
        cpus_per_head=1.95,
        gpus_per_head=1.0,
    )
