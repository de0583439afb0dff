"""The plan of an experiment: its device, how many rows run at a time, and the resources of each row.

A profile's resources (plan/resources.py) are fitted to the machine before anything starts: fewer clip makers and
decoders where cores or memory are short, fewer processes where GPUs are, more decoders where cores would be idle. Only
a machine on which not even one of each kind fits is refused, with the numbers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from bsp_platform.plan.device import Device, choose_device, local_gpus, logical_gpus, no_gpu_here
from bsp_platform.plan.resources import TRIAL_CPUS, Resources
from bsp_platform.work.cluster.start import cluster_size, object_store_bytes, start_ray
from bsp_platform.work.cluster.stream_size import clip_bytes, machine_limit, memory_bytes, plan_within, store_plan

if TYPE_CHECKING:
    from bsp_platform.plan.options import Options
    from bsp_platform.plan.profiles import Profile

MAX_DECODERS = 24  # per extractor: at 170 snippets/s each, what an encoder (R18, 4,300 snippets/s) takes

# Choice: measured memory of a process of each kind, GiB; rough, so only two thirds of the memory are planned for.
_TRIAL_GB, _TRAINING_GB, _ON_GPU_GB = 0.3, 0.8, 3.0
_MAKER_GB, _EXTRACTOR_GB, _DECODER_GB, _HEAD_GB = 0.35, 0.8, 0.5, 1.0
_MEMORY_SHARE = 2 / 3


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The resources of Ray over all nodes, now or after growing."""

    cpus: float
    gpus: float
    memory_gb: float = 0.0  # 0 = not known
    joined: bool = False  # a cluster that was there already


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan, made before Ray is started on this machine."""

    device: str  # "cpu" or "cuda"
    machine: Machine
    resources: Resources  # of one row
    rows: int  # side by side
    processes: int  # of one training, on the machine as it is; with --workers more where it grows
    wish: Resources
    object_store_mb: int  # of a Ray that is started here

    def lines(self, profile: Profile, wanted: str) -> list[str]:
        """The plan with its reasons, as text."""
        ours, wish, machine = self.resources, self.wish, self.machine
        on = "a GPU" if self.device == "cuda" else "the CPU"
        where = "the Ray cluster" if machine.joined else "this machine"
        memory = f", {machine.memory_gb:.0f} GiB" if machine.memory_gb else ""
        logical = " (logical: computed on the CPU)" if self.device == "cuda" and logical_gpus() else ""
        first = (
            f"plan: --device {wanted}: {'GPU' if self.device == 'cuda' else 'CPU'}{logical}; {where} has "
            f"{_times(machine.cpus, 'CPU')}, {_times(machine.gpus, 'GPU')}{memory}; "
            f"{_times(self.rows, 'row')} at a time"
        )
        share = f", {ours.gpus_per_worker:g} of a GPU each" if 0 < ours.gpus_per_worker < 1 else ""
        training = f"  training on {on}: {_times(self.processes, 'process')}{share}"
        if self.processes < ours.train_workers:
            training += f" ({ours.train_workers} wished; more where there is room)"
        training += f", {_times(ours.makers_per_worker, 'clip maker')} each"
        if ours.makers_per_worker < wish.makers_per_worker:
            training += f" ({wish.makers_per_worker} wished; cores and memory allow no more)"
        training += ", compiled" if ours.compile_training else ""
        extraction = f"  extraction on {on}, {profile.feature_precision}: {_times(ours.extractors, 'encoder')}"
        if ours.decoders_per_extractor:
            extraction += f", {_times(ours.decoders_per_extractor, 'decoder')} each"
        store = "" if machine.joined else f"; object store {self.object_store_mb} MB"
        lines = [first, training, f"{extraction}; heads on {on}{store}"]
        if self.device == "cpu" and profile.augment.size_px >= 112:
            lines.append(
                f"  slow: a core trains on a clip or two of {profile.augment.size_px} px a second, and an encoder of "
                f"profile {profile.name} sees {profile.train.clips:,}; such profiles are meant for GPUs"
            )
        needed_gb = self.rows * row_gb(ours) + self.object_store_mb / 1024
        if machine.memory_gb and not machine.joined and needed_gb > machine.memory_gb:
            lines.append(
                f"  little memory: this takes about {needed_gb:.1f} GiB, and there are {machine.memory_gb:.1f}; the "
                "system may end processes"
            )
        return lines


def _times(number: float, what: str) -> str:
    plural = f"{what}es" if what.endswith("s") else f"{what}s"
    return f"{number:g} {what if number == 1 else plural}"


def fit(wish: Resources, machine: Machine) -> tuple[Resources, int, int]:
    """(resources of a row, rows at a time, training processes of a row now). ValueError if not one row fits."""
    smallest = wish.smallest()
    smallest.rows_at_a_time(machine.cpus, machine.gpus)
    budget_gb = machine.memory_gb * _MEMORY_SHARE or float("inf")

    def fits(row: Resources) -> bool:
        return row.row_cpus <= machine.cpus + 1e-9 and row.row_gpus <= machine.gpus + 1e-9 and row_gb(row) <= budget_gb

    def most(field: str, among: range | list[int], base: Resources) -> Resources:
        """The largest number that fits, at least the smallest; other fields stay."""
        changes: list[dict[str, Any]] = [{field: number} for number in among]
        tried = [replace(base, **change) for change in changes]
        return next((row for row in reversed(tried) if fits(row)), tried[0])

    sizes = [size for size in range(1, wish.train_workers + 1) if wish.train_workers % size == 0]
    row = most("train_workers", sizes, smallest)
    row = most("extractors", range(1, wish.extractors + 1), row)
    row = most("makers_per_worker", range(1, wish.makers_per_worker + 1), row)
    if wish.decoders_per_extractor:
        row = most("decoders_per_extractor", range(1, wish.decoders_per_extractor + 1), row)
    rows = max(1, row.rows_at_a_time(machine.cpus, machine.gpus))
    rows = max(1, min(rows, int(budget_gb / row_gb(row)) if machine.memory_gb else rows))
    if wish.decoders_per_extractor:
        spare = (machine.cpus / rows - TRIAL_CPUS) / row.extractors - row.cpus_per_extractor
        more = min(MAX_DECODERS, int(spare / row.cpus_per_decoder + 1e-6))
        if more > row.decoders_per_extractor:
            wider = most("decoders_per_extractor", range(row.decoders_per_extractor, more + 1), row)
            row = wider if rows * row_gb(wider) <= budget_gb else row
    return replace(row, train_workers=wish.train_workers), rows, row.train_workers


def row_gb(row: Resources) -> float:
    """Memory of one row, at most, GiB, without the object store."""
    training = row.train_workers * (
        (_ON_GPU_GB if row.gpus_per_worker else _TRAINING_GB)
        + row.makers_per_worker * (_MAKER_GB + row.frame_cache_mb / 1024)
    )
    extraction = row.extractors * (
        (_ON_GPU_GB if row.gpus_per_extractor else _EXTRACTOR_GB) + row.decoders_per_extractor * _DECODER_GB
    )
    return _TRIAL_GB + max(training, extraction, _ON_GPU_GB if row.gpus_per_head else _HEAD_GB)


def make_plan(profile: Profile, machine: Machine, *, device: Device, workers: int) -> Plan:
    """Device and resources for ``profile`` on ``machine``. ValueError, with the remedy, for what cannot be."""
    if machine.joined:
        remedy = "the Ray cluster has no GPU; add a node with one, say with --gpus how many the cluster may reach"
    else:
        remedy = no_gpu_here()
    chosen = choose_device(device, machine.gpus, remedy)
    if chosen == "cpu":
        machine = replace(machine, gpus=0.0)
    wish = profile.resources(workers, chosen)
    if not machine.joined:
        wish = replace(wish, wait_for_workers_s=0.0)  # no machine will be added
    resources, rows, processes = fit(wish, machine)
    store = store_plan(_clip_bytes(profile), machine.cpus, resources, machine_limit())
    return Plan(
        device=chosen,
        machine=machine,
        resources=resources,
        rows=rows,
        processes=processes,
        wish=wish,
        object_store_mb=store.object_store_mb,
    )


def _clip_bytes(profile: Profile) -> int:
    return clip_bytes(profile.clips.half_len, profile.augment.size_px)


def plan_lines(plan: Plan, options: Options) -> list[str]:
    """The plan as text, with the size of the stream of clips in Ray's object store; needs a running Ray."""
    cpus, _ = cluster_size()
    stream = plan_within(_clip_bytes(options.profile), cpus, plan.resources, object_store_bytes())
    return [*plan.lines(options.profile, options.device), f"  {stream}"]


def joins_a_cluster() -> bool:
    """Whether a running Ray will be joined instead of one started here."""
    import ray

    return ray.is_initialized() or bool(os.environ.get("RAY_ADDRESS"))


def refuse_early(options: Options) -> None:
    """ValueError for a plan that this machine cannot run, before videos are rendered or read."""
    if not joins_a_cluster():
        make_plan(options.profile, this_machine(options.cpus), device=options.device, workers=options.workers)


def start_planned(options: Options) -> Plan:
    """Start or join Ray with the plan of an experiment; Ray is started here only when the plan is made."""
    plan_on = partial(make_plan, options.profile, device=options.device, workers=options.workers)
    if not joins_a_cluster():
        plan = plan_on(this_machine(options.cpus))
        start_ray(
            cpus=options.cpus,
            gpus=int(plan.machine.gpus),
            object_store_mb=plan.object_store_mb,
            log_to_driver=True,
        )
        return plan
    start_ray(log_to_driver=True)
    return plan_on(joined_machine(options))


def this_machine(cpus: int | None) -> Machine:
    """The resources of a Ray that is started here."""
    return Machine(cpus=cpus or os.cpu_count() or 1, gpus=local_gpus(), memory_gb=memory_bytes() / 2**30)


def joined_machine(options: Options) -> Machine:
    """The resources of the running Ray, or those that it may grow to by --cpus and --gpus."""
    import ray

    cpus, gpus = cluster_size()
    if options.cpus or options.gpus is not None:  # it may grow; the memory of future nodes is unknown
        gpus = gpus if options.gpus is None else options.gpus
        return Machine(cpus=options.cpus or cpus, gpus=gpus, joined=True)
    have = ray.cluster_resources()
    memory = (have.get("memory", 0.0) + have.get("object_store_memory", 0.0)) / 2**30
    return Machine(cpus=cpus, gpus=gpus, memory_gb=memory, joined=True)
