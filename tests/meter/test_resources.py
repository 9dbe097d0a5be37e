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

from loaderlab.config import PROJECT
from loaderlab.meter import resources

BURN = "import time\nwhile time.process_time() < 0.3: pass"
GRANDCHILD = f"""
import subprocess, sys
code = {BURN + chr(10) + "print('burnt', flush=True)" + chr(10) + "input()"!r}
below = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
below.stdout.readline()
"""


@contextmanager
def child(code: str, script: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process that runs the code, as a script if one is named, prints that it is done, and waits for a line of input."""
    code = f"{code}\nprint('done', flush=True)\ninput()"
    if script is not None:
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(code)
    command = [sys.executable, "-c", code] if script is None else [sys.executable, str(script), "--workers=2"]
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


def test_the_cpu_time_of_an_ended_child_is_not_lost() -> None:
    before = resources.cpu_seconds()
    with child(BURN):
        alive = resources.cpu_seconds() - before
        assert alive >= 0.28  # the kernel's ticks are 10 ms
    assert resources.cpu_seconds() - before >= alive - 1e-6


def test_a_worker_that_has_ended_keeps_its_time_until_it_is_waited_for() -> None:
    before = resources.cpu_seconds()
    worker = subprocess.Popen([sys.executable, "-c", BURN])
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
    assert psutil.Process(worker.pid).status() == psutil.STATUS_ZOMBIE
    assert resources.cpu_seconds() - before >= 0.28
    worker.wait()
    assert resources.cpu_seconds() - before >= 0.28


def test_a_process_that_ends_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with child("") as process:
        gone = psutil.Process(process.pid)
    monkeypatch.setattr(resources, "_tree", lambda: [psutil.Process(), gone])
    assert resources.cpu_seconds() > 0
    read()


COMPILER = "site-packages/torch/_inductor/compile_worker/__main__.py"


@pytest.mark.parametrize(
    ("script", "counted"),
    [(None, True), ("worker/__main__.py", True), (COMPILER, False), ("src/loaderlab/meter/nvml.py", False)],
)
def test_compile_workers_and_the_sampler_are_not_counted(tmp_path: Path, script: str | None, counted: bool) -> None:
    """A child with a child of its own: both count, or neither."""
    with child(GRANDCHILD, None if script is None else tmp_path / script) as process:
        below = {each.pid for each in psutil.Process(process.pid).children()}
        assert len(below) == 1
        all_pids = {process.pid, *below}
        assert {each.pid for each in resources._tree()} & all_pids == (all_pids if counted else set())
        assert resources.own_pids() >= all_pids, "they are our own processes on a GPU, not foreign ones"


def output_of(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_torchs_own_compile_workers_are_not_counted() -> None:
    """Fails if a version of torch starts them by another script."""
    code = """
import os
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "2"
import psutil
from torch._inductor.async_compile import AsyncCompile, shutdown_compile_workers
from loaderlab.meter import resources
AsyncCompile.wait_pool_ready()
print(len(psutil.Process().children(recursive=True)), len(resources._tree()))
shutdown_compile_workers()
"""
    num_children, num_counted = map(int, output_of(code))
    assert num_children >= 3  # the pool's process and two workers
    assert num_counted == 1  # the training process


def test_workers_of_any_kind_are_counted() -> None:
    """The workers of a fork server are not children of the training process, but of the server."""
    code = """
from torch.utils.data import DataLoader
from loaderlab.meter import resources
for method in ("fork", "forkserver"):
    batches = iter(DataLoader(list(range(64)), num_workers=2, multiprocessing_context=method))
    next(batches)
    counted = {process.pid for process in resources._tree()}
    print(sum(worker.pid in counted for worker in batches._workers))
"""
    assert output_of(code) == ["2", "2"]
