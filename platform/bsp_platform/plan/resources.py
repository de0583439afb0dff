"""What a row of a sweep would like to have, by profile and device. cluster/planning.py fits it to the machine."""

from __future__ import annotations

from dataclasses import replace

from bsp_platform.work.cluster.start import Resources

# Choice: four rows of the embedded profiles share a GPU. Their networks are so small that a step waits for its kernels
# to be launched, which a GPU can take from several processes in turns; more than four gain little, and each holds
# about 0.6 GB of the GPU for itself.
SHARE = 0.25


def laptop_resources(workers: int = 1, device: str = "cpu") -> Resources:
    """Profiles smoke and mini: one row per core, or one row of ``workers`` data-parallel processes."""
    row = Resources(frame_cache_mb=384)
    if workers > 1:
        # Training is the wide part; its processes keep one core each, clips are made in the gaps.
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
        wait_for_workers_s=120.0,  # an autoscaler's machines do not come at the same time
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
