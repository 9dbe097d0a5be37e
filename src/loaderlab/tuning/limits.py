"""Which candidates do not fit on this machine, and why: they are not tried. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from loaderlab.tuning.candidate import DALI, RESIDENT, SPDL, Candidate

MIB = 2**20
MOST_MAKERS = 64  # more are never tried
OWN_FILES, FILES_PER_WORKER = 40, 5  # open files of a training process, and what each worker adds to them
MOST_LOADING_S = 20.0  # a resident loader may take this long to load all samples
SHARE = 0.9  # of what is free that a candidate may use, because other programs need some too; and of the cores that are then busy


@dataclass(frozen=True)
class Machine:
    """What this machine has for the loader of one rank.

    Attributes:
        cores: that the rank may use: those of the machine divided by its ranks.
        memory_bytes: that the loader may use; memory_name says why: ``are 90% of what is free``.
        free_bytes: that the loader and its training process may use together; None: no process is started for a trial, or unknown.
        shm_bytes: free in /dev/shm; None if batches do not pass through it.
        open_files: that a process may have.
        max_makers: by the settings; None: no limit.
        device_bytes: free memory of the device, for a resident loader; None: its tensors are in host memory.
    """

    cores: int
    memory_bytes: int
    memory_name: str = "may be used"
    free_bytes: int | None = None
    shm_bytes: int | None = None
    open_files: int = 1024
    max_makers: int | None = None
    device_bytes: int | None = None


@dataclass(frozen=True)
class Needs:
    """What the loader needs, as far as it is measured. None: not known yet.

    Attributes:
        worker_bytes: proportional memory of one worker.
        process_bytes: of the training process, without its workers.
        batch_bytes: of one batch.
        cores_per_maker: CPU seconds per second of a busy maker: 1 if it computes all the time, 0 if it only waits.
        samples_bytes: all samples on the device; loading_s: the time to load them.
    """

    worker_bytes: float | None = None
    process_bytes: float | None = None
    batch_bytes: float | None = None
    cores_per_maker: float | None = None
    samples_bytes: float | None = None
    loading_s: float | None = None


def limit(candidate: Candidate, machine: Machine, needs: Needs) -> str:
    """Why a candidate does not fit; empty if it does, or if nothing is known that speaks against it."""
    if candidate.branch.backend == RESIDENT:
        return _resident_limit(machine, needs)
    makers, kind = candidate.makers, "threads" if candidate.branch.backend in (SPDL, DALI) else "workers"
    if machine.max_makers is not None and makers > machine.max_makers:
        return f"the largest number of {kind} was set to {machine.max_makers}"
    if makers > MOST_MAKERS:
        return f"more than {MOST_MAKERS} {kind} are never tried"
    busy = needs.cores_per_maker
    if makers > 1 and busy is not None and (makers - 1) * busy >= SHARE * machine.cores:
        return f"{makers - 1} {kind} already use all {machine.cores} cores ({busy:.2f} cores each)"
    if candidate.branch.backend in (SPDL, DALI):
        return _queue_limit(candidate, machine, needs)
    return _memory_limit(candidate, machine, needs) or _files_limit(makers, machine)


def _queue_limit(candidate: Candidate, machine: Machine, needs: Needs) -> str:
    """Threads have no memory of their own, but their batches are queued."""
    queued = candidate.batches_ahead * (needs.batch_bytes or 0.0)
    if queued <= machine.memory_bytes:
        return ""
    return (
        f"{candidate.batches_ahead} batches need {_mib(queued)}, and {_mib(machine.memory_bytes)} {machine.memory_name}"
    )


def _memory_limit(candidate: Candidate, machine: Machine, needs: Needs) -> str:
    if not candidate.makers:
        return ""
    queued = candidate.batches_ahead * (needs.batch_bytes or 0.0)
    if machine.shm_bytes is not None and queued > SHARE * machine.shm_bytes:
        return (
            f"{candidate.batches_ahead} batches need {_mib(queued)} in /dev/shm, and {_mib(machine.shm_bytes)} are free"
        )
    if needs.worker_bytes is None:
        return ""
    needed = candidate.makers * needs.worker_bytes + queued
    parts = f"{candidate.makers} workers of {_mib(needs.worker_bytes)} and {_mib(queued)} of batches"
    if needed > machine.memory_bytes:
        return f"{parts} need {_mib(needed)}, and {_mib(machine.memory_bytes)} {machine.memory_name}"
    process = needs.process_bytes or 0.0
    if machine.free_bytes is None or needed + process <= machine.free_bytes:
        return ""
    return (
        f"{parts} and the training process of {_mib(process)} need {_mib(needed + process)}, and {_mib(machine.free_bytes)} "
        f"are {SHARE:.0%} of what was free before it started"
    )


def _files_limit(makers: int, machine: Machine) -> str:
    needed = OWN_FILES + FILES_PER_WORKER * makers
    if makers and needed > machine.open_files:
        return f"{makers} workers need about {needed} open files, and ulimit -n allows {machine.open_files}"
    return ""


def _resident_limit(machine: Machine, needs: Needs) -> str:
    if needs.samples_bytes is None:
        return "the size of the samples is not known"
    if machine.device_bytes is None and needs.samples_bytes > machine.memory_bytes:
        return f"the samples need {_mib(needs.samples_bytes)}, and {_mib(machine.memory_bytes)} {machine.memory_name}"
    if machine.device_bytes is not None and needs.samples_bytes > SHARE * machine.device_bytes:
        return f"the samples need {_mib(needs.samples_bytes)}, and the device has {_mib(machine.device_bytes)} free"
    if needs.loading_s is not None and needs.loading_s > MOST_LOADING_S:
        return f"loading all samples would take {needs.loading_s:,.0f} s, more than {MOST_LOADING_S:.0f} s"
    return ""


def most_workers(machine: Machine, needs: Needs, prefetch: int = 2) -> int | None:
    """The largest number of workers for which there is memory; None if memory is no limit below `MOST_MAKERS`."""
    for makers in range(1, MOST_MAKERS + 1):
        if _memory_limit(Candidate(makers=makers, prefetch=prefetch), machine, needs):
            return makers - 1
    return None


def _mib(size: float) -> str:
    return f"{size / MIB:,.0f} MiB" if size >= 10 * MIB else f"{size / MIB:.1f} MiB"
