"""Limits of a machine, and the reasons that a user reads."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from loaderlab.tuning.candidate import DALI, RESIDENT, SPDL, Branch, Candidate
from loaderlab.tuning.limits import MIB, Machine, Needs, limit, most_workers
from loaderlab.tuning.this_machine import this_machine
from loaderlab.tuning.trial import Facts

MACHINE = Machine(cores=4, memory_bytes=900 * MIB)
NEEDS = Needs(worker_bytes=200 * MIB, batch_bytes=10 * MIB, cores_per_maker=0.2)


def workers(makers: int, prefetch: int = 2) -> Candidate:
    return Candidate(makers=makers, prefetch=prefetch)


def test_memory_is_that_of_the_workers_and_their_batches() -> None:
    assert limit(workers(4), MACHINE, NEEDS) == ""  # 800 + 80 of 900
    reason = "4 workers of 200 MiB and 160 MiB of batches need 960 MiB, and 900 MiB may be used"
    assert limit(workers(4, 4), MACHINE, NEEDS) == reason
    assert most_workers(MACHINE, NEEDS) == 4
    assert most_workers(MACHINE, replace(NEEDS, worker_bytes=None)) is None


def test_the_training_process_needs_memory_too() -> None:
    """Free memory is read before the process of a trial exists; the user's own limit is for the loader alone."""
    machine, needs = replace(MACHINE, free_bytes=1500 * MIB), replace(NEEDS, process_bytes=800 * MIB)
    assert limit(workers(3), machine, needs) == ""  # 600 + 60 + 800 of 1,500
    reason = (
        "4 workers of 200 MiB and 80 MiB of batches and the training process of 800 MiB need 1,680 MiB, and 1,500 MiB are 90% of "
        "what was free before it started"
    )
    assert limit(workers(4), machine, needs) == reason
    assert limit(workers(4), replace(machine, free_bytes=None), needs) == ""
    assert most_workers(machine, needs) == 3


def test_threads_have_no_memory_of_their_own() -> None:
    for backend in (SPDL, DALI):
        assert limit(Candidate(Branch(backend), 8, 3), MACHINE, NEEDS) == ""


def test_queued_batches_of_threads_need_memory() -> None:
    large = replace(NEEDS, batch_bytes=100 * MIB)
    reason = "11 batches need 1,100 MiB, and 900 MiB may be used"
    assert limit(Candidate(Branch(SPDL), 3, 3), MACHINE, large) == reason
    assert limit(Candidate(Branch(DALI), 3, 3), MACHINE, large) == ""
    assert limit(Candidate(Branch(DALI), 3, 10), MACHINE, large).startswith("10 batches need 1,000 MiB")


def test_dev_shm() -> None:
    machine = replace(MACHINE, shm_bytes=64 * MIB)
    assert limit(workers(2), machine, NEEDS) == ""
    assert limit(workers(3), machine, NEEDS) == "6 batches need 60 MiB in /dev/shm, and 64 MiB are free"


def test_cores_are_a_limit_only_if_makers_compute() -> None:
    busy = replace(NEEDS, worker_bytes=None, cores_per_maker=0.98)
    assert limit(workers(4), MACHINE, busy) == ""
    assert limit(workers(5), MACHINE, busy) == "4 workers already use all 4 cores (0.98 cores each)"
    assert limit(workers(18), MACHINE, replace(busy, cores_per_maker=0.2)) == ""
    assert limit(workers(1), replace(MACHINE, cores=1), busy) == ""


def test_open_files() -> None:
    """With ``ulimit -n 64``, 4 workers start and 6 do not: measured."""
    machine = replace(MACHINE, open_files=64, memory_bytes=2**40)
    assert limit(workers(4), machine, NEEDS) == ""
    assert limit(workers(6), machine, NEEDS) == "6 workers need about 70 open files, and ulimit -n allows 64"


def test_the_users_own_limit() -> None:
    two = replace(MACHINE, max_makers=2)
    assert limit(workers(3), two, NEEDS) == "the largest number of workers was set to 2"
    assert limit(Candidate(Branch(SPDL), 3, 3), two, NEEDS) == "the largest number of threads was set to 2"
    assert limit(workers(0), replace(MACHINE, max_makers=0), NEEDS) == ""


def test_a_function_that_builds_a_loader_has_workers() -> None:
    own = Candidate(Branch("own"), 65, 2)
    machine = Machine(cores=64, memory_bytes=2**40)
    assert limit(own, machine, Needs()) == "more than 64 workers are never tried"


@pytest.mark.parametrize(
    ("machine", "needs", "reason"),
    [
        (MACHINE, NEEDS, "the size of the samples is not known"),
        (MACHINE, replace(NEEDS, samples_bytes=2**29, loading_s=3), ""),
        (MACHINE, replace(NEEDS, samples_bytes=2**30), "the samples need 1,024 MiB, and 900 MiB may be used"),
        (
            replace(MACHINE, device_bytes=2**30),
            replace(NEEDS, samples_bytes=2**30),
            "the samples need 1,024 MiB, and the device has 1,024 MiB free",
        ),
        (MACHINE, replace(NEEDS, samples_bytes=1, loading_s=90), "loading all samples would take 90 s, more than 20 s"),
    ],
)
def test_samples_on_the_device(machine: Machine, needs: Needs, reason: str) -> None:
    assert limit(Candidate(Branch(RESIDENT)), machine, needs) == reason


def test_this_machine() -> None:
    facts = Facts(Candidate(), [Branch()], 100, 32, device_bytes=5, uses_host_cores=False)
    machine = this_machine(facts, max_makers=3, memory_mib=7)
    assert machine.cores >= 1
    assert (machine.memory_bytes, machine.memory_name) == (7 * MIB, "are the limit that was set")
    assert machine.free_bytes is not None
    assert machine.free_bytes > machine.memory_bytes
    in_process = this_machine(replace(facts, in_process="a closure"), max_makers=None, memory_mib=None)
    assert in_process.free_bytes is None  # the process exists already
    assert (machine.max_makers, machine.device_bytes, machine.shm_bytes) == (3, 5, None)
    for on_host in (replace(facts, uses_host_cores=True), replace(facts, emulated="emulated resnet50_a100")):
        assert this_machine(on_host, max_makers=None, memory_mib=7).device_bytes is None
    in_dev_shm = this_machine(replace(facts, in_dev_shm=True), max_makers=None, memory_mib=None)
    assert in_dev_shm.shm_bytes == pytest.approx(shutil.disk_usage("/dev/shm").free, rel=0.2)
