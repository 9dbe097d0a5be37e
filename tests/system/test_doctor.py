"""Each check of the doctor, on invented machines."""

from __future__ import annotations

import errno

import pytest

from loaderlab.system import doctor
from loaderlab.system.doctor import GIB, MIB, Check


@pytest.mark.parametrize(
    ("check", "state", "message"),
    [
        (doctor.cores(8, None), "ok", "8 by affinity, no quota"),
        (doctor.cores(8, 0.5), "warning", "0.5 by the cgroup quota: less than one core"),
        (doctor.shm(GIB, GIB, writable=True), "ok", "1,024 of 1,024 MiB free"),
        (doctor.shm(64 * MIB, 32 * MIB, writable=True), "warning", "--shm-size=8g"),
        (doctor.shm(64 * 1024, 64 * 1024, writable=True), "fails", doctor.SHM),
        (doctor.shm(GIB, GIB, writable=False), "fails", "cannot be written"),
        (doctor.shm(None, 0, writable=False), "fails", "missing"),
        (doctor.descriptors(1024, 16), "ok", "1,024 at most, about 92 needed"),
        (doctor.descriptors(64, 0), "ok", "64 at most, about 12 needed"),
        (doctor.descriptors(64, 8), "warning", "ulimit -n 4096"),
        (doctor.descriptors(64, 12), "fails", doctor.FILES),
        (doctor.descriptors(16, 0, doctor.SPDL_FILES), "fails", doctor.FILES),
        (doctor.cache("/cache", writable=True), "ok", "/cache"),
        (doctor.cache("/cache", writable=False), "warning", "Set XDG_CACHE_HOME"),
        (doctor.memory(64 * GIB, None), "ok", "64.0 GiB available, no limit"),
        (doctor.memory(64 * GIB, GIB), "warning", "1.0 GiB by the cgroup"),
        (doctor.memory(100 * MIB, None), "fails", doctor.MEMORY),
        (doctor.encoding("utf-8", "UTF-8"), "ok", "files UTF-8"),
        (doctor.encoding("ascii", "ANSI_X3.4-1968"), "warning", "such as \\xd7 for a multiplication sign. Set LC_ALL"),
        (doctor.user("ann", "/home/ann", temporary=False, writable=True), "ok", "ann, HOME /home/ann"),
        (doctor.user("1234", "/", temporary=False, writable=False), "warning", "Set HOME"),
        (doctor.user("1234", "/tmp/x", temporary=True, writable=True), "warning", "Set HOME"),
        (doctor.folders("/a", "/tmp"), "ok", "working /a, temporary /tmp"),
        (doctor.folders(None, "/tmp"), "fails", doctor.CWD),
        (doctor.folders("/a", None), "fails", doctor.TEMPORARY),
        (doctor.disk("outputs", "outputs", 10 * GIB), "ok", "10.0 GiB free in outputs"),
        (doctor.disk("outputs", "outputs", 100 * MIB), "warning", "less than 1 GiB"),
        (doctor.disk("outputs", "outputs", 0), "fails", doctor.DISK),
        (doctor.disk("outputs", "outputs", None), "fails", "cannot be written"),
        (doctor.clock(1.8e9), "ok", "2027-01-15"),
        (doctor.clock(0), "fails", "Set the clock"),
        (doctor.driver(["A100"], "570.1"), "ok", "570.1: A100"),
        (doctor.driver([], ""), "ok", "runs are on the CPU"),
        (doctor.driver([], "", emulated=True), "ok", "GPU: none is needed, since the accelerator is emulated"),
        (doctor.driver(["A100"], "570.1", emulated=True), "ok", "A100; not used, since the accelerator is emulated"),
        (doctor.store("sqlite:///a", ""), "ok", "sqlite:///a can be written"),
        (doctor.store("sqlite:///a", "tracking.uri=sqlite:///a: is a folder"), "fails", "is a folder"),
        (doctor.device("cpu AMD", ""), "ok", "cpu AMD"),
        (doctor.device("", "device=cuda: none here"), "fails", "none here"),
    ],
)
def test_a_check(check: Check, state: str, message: str) -> None:
    assert check.state == state
    assert check.name == "user" or check.text.isascii()  # readable on a stdout without other characters
    assert message in check.text
    assert "\n" not in str(check)
    assert str(check).startswith(state)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError("Unable to allocate 728. TiB"), doctor.MEMORY),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), doctor.MEMORY),
        (RuntimeError("unable to allocate shared memory(shm) for file </t>: No space left on device (28)"), doctor.SHM),
        (OSError(errno.EMFILE, "Too many open files"), doctor.FILES),
        (RuntimeError("received 0 items of ancdata: Too many open files"), doctor.FILES),
        (OSError(errno.ENOSPC, "No space left on device"), doctor.DISK),
        (ValueError("shapes differ"), ""),
        (FileNotFoundError(errno.ENOENT, "No such file"), ""),
    ],
)
def test_errors_are_explained_in_the_words_of_the_checks(error: Exception, message: str) -> None:
    assert doctor.cause(error) == message
