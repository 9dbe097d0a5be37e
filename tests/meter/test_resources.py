"""What the kernel reports about this process and its descendants."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from loaderlab.meter import resources


@contextmanager
def child(code: str) -> Iterator[subprocess.Popen[str]]:
    """A process that runs the code, prints that it is done, and waits for a line of input."""
    command = [sys.executable, "-c", f"{code}\nprint('done', flush=True)\ninput()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        yield process
        process.communicate("\n")


@pytest.fixture
def cold_file(tmp_path: Path) -> Path:
    """A file of 4 MiB that is not in the page cache."""
    path = tmp_path / "cold"
    with path.open("wb") as file:
        file.write(os.urandom(4 << 20))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return path


def read() -> int:
    count = resources.read_bytes()
    if count is None:
        pytest.skip("this kernel does not count what a process reads (/proc/self/io)")
    return count


def test_read_bytes_counts_what_a_child_fetched_from_storage(cold_file: Path) -> None:
    before = read()
    with child(f"open({str(cold_file)!r}, 'rb').read()"):
        alive = read()
        if alive == before:
            pytest.skip("the file system keeps its files in memory (tmpfs), or does not count what is read")
        assert alive - before >= 4 << 20
    assert read() >= alive, "an ended child's count is added to the process that waited for it"


def test_read_bytes_does_not_count_the_file_cache(tmp_path: Path) -> None:
    warm = tmp_path / "warm"
    warm.write_bytes(os.urandom(16 << 20))
    warm.read_bytes()
    before = read()
    warm.read_bytes()
    assert read() - before < 8 << 20


def test_read_bytes_is_absent_if_the_kernel_does_not_report_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: Path, encoding: str) -> str:
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert resources.read_bytes() is None


def test_worker_cpu_seconds_are_the_childrens_alone() -> None:
    before, all_before = resources.worker_cpu_seconds(), resources.cpu_seconds()
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    while resources.cpu_seconds() < all_before + 0.2:  # this process's own time must not be counted
        pass
    own = resources.cpu_seconds() - all_before
    assert resources.worker_cpu_seconds() - before < 0.1
    with child(burn) as worker:
        alive = resources.worker_cpu_seconds() - before
        assert alive >= 0.28  # the kernel's ticks are 10 ms
        assert resources.worker_cpu_seconds(leave_out=[worker.pid]) - before < 0.1
    assert resources.worker_cpu_seconds() - before >= alive - 1e-6, "an ended worker's time is not lost"
    assert resources.cpu_seconds() - all_before >= own + 0.28


def test_a_process_that_ends_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with child("") as process:
        gone = psutil.Process(process.pid)
    monkeypatch.setattr(resources, "_tree", lambda: [psutil.Process(), gone])
    assert resources.worker_cpu_seconds() >= 0
    assert resources.cpu_seconds() > 0
    read()
