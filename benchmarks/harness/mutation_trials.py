"""Runs the tests on changed copies of the project, each copy in a forked process that has torch already."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shutil
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.mutants.mutant import TESTS, Mutant, NotOnce

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("src", "tests", "conf")
PRELOADED = (  # modules whose import takes as long as most of the tests
    "pytest",
    "hypothesis",
    "torch",
    "torch._dynamo",
    "torchvision",
    "torchcodec",
    "scipy.stats",
    "hydra",
    "mlflow.tracking",
    "PIL.Image",
    "rich.progress",
)
OWN = ("loaderlab", "tests", "benchmarks", "hydra_plugins")  # modules of the project: the copy's are imported instead
OPTIONS = ("-n0", "-x", "-q", "-rfE", "--tb=line", "--assert=plain", "--timeout=0", "-p", "no:cacheprovider")
FAILED = re.compile(r"^(?:FAILED|ERROR) [^ :]*/(test_\w+)\.py::(\w+)", re.MULTILINE)


@dataclass(frozen=True)
class Trial:
    """How the tests ended on a copy.

    Attributes:
        caught_by: the first test that failed, as ``file: test``; empty if none failed.
        problem: why the trial does not count; empty if it does.
        seconds: that it took.
        output: of pytest.
    """

    caught_by: str
    problem: str
    seconds: float
    output: str = ""

    @property
    def caught(self) -> bool:
        """Whether a test failed."""
        return bool(self.caught_by) and not self.problem


class _Running:
    """The tests on one copy, in a process of their own."""

    def __init__(self, root: Path, paths: Sequence[str]) -> None:
        self._output = root / "output.txt"
        self._began = time.monotonic()
        sys.stdout.flush()
        self._pid = os.fork()
        if self._pid == 0:
            self._test(root, paths)

    def _test(self, root: Path, paths: Sequence[str]) -> None:
        """Runs pytest, and ends the process."""
        code = 3
        try:
            os.setsid()  # so that the tests' own processes can be ended with it
            with self._output.open("wb") as output:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
            os.chdir(root)
            sys.path[:0] = [str(root / "src"), str(root)]
            os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])  # of the tests' own processes
            for name in [name for name in sys.modules if name.partition(".")[0] in OWN]:
                del sys.modules[name]
            import pytest

            code = int(pytest.main([*OPTIONS, *paths]))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)

    def poll(self, limit_s: float) -> Trial | None:
        """The trial; None if the tests have not ended yet."""
        seconds = time.monotonic() - self._began
        ended_pid, status = os.waitpid(self._pid, os.WNOHANG)
        if ended_pid == 0 and seconds < limit_s:
            return None
        if ended_pid == 0:
            self.kill()
            return Trial("", f"the tests did not end within {limit_s:g} s", seconds)
        self._end_group()
        return ended(os.waitstatus_to_exitcode(status), self._output.read_text(encoding="utf-8"), seconds)

    def kill(self) -> None:
        """Ends the process and those that it started."""
        self._end_group()
        os.waitpid(self._pid, 0)

    def _end_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)


def ended(code: int, output: str, seconds: float) -> Trial:
    """The trial from pytest's exit code and output: only a test that fails counts, not a file that cannot be imported."""
    first = FAILED.search(output)
    if code == 0 and first is None:
        return Trial("", "", seconds, output)
    if code == 1 and first is not None:
        return Trial(f"{first[1]}: {first[2]}", "", seconds, output)
    return Trial("", f"pytest did not run the tests (exit code {code})", seconds, output)


class Trials:
    """The trials of mutants. `unchanged` comes first.

    Args:
        folder: an empty folder for the copies.
        limit_s: the most time for one trial.
    """

    def __init__(self, folder: Path, limit_s: float) -> None:
        self._unchanged, self._folder, self._limit_s = folder / "unchanged", folder, limit_s
        os.environ["OMP_NUM_THREADS"] = "1"
        for name in PRELOADED:
            importlib.import_module(name)

    def unchanged(self, mutants: Sequence[Mutant]) -> Trial:
        """The trial of an unchanged copy, with the tests of all these mutants: none may fail."""
        for name in COPIED:
            shutil.copytree(ROOT / name, self._unchanged / name)
        shutil.copy2(ROOT / "pyproject.toml", self._unchanged)
        running = _Running(self._unchanged, sorted({path for mutant in mutants for path in mutant.test_paths}))
        try:
            while (trial := running.poll(self._limit_s)) is None:
                time.sleep(0.05)
        except BaseException:
            running.kill()
            raise
        return trial

    def of(self, mutants: Sequence[Mutant], jobs: int) -> Iterator[tuple[Mutant, Trial]]:
        """Each mutant with its trial, in the order in which they end; ``jobs`` of them run at the same time."""
        waiting, running = deque(mutants), dict[str, tuple[Mutant, _Running]]()
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    mutant = waiting.popleft()
                    try:
                        running[mutant.name] = mutant, self._start(mutant)
                    except NotOnce as problem:
                        yield mutant, Trial("", str(problem), 0.0)
                for mutant, tests in list(running.values()):
                    if (trial := tests.poll(self._limit_s)) is not None:
                        del running[mutant.name]
                        shutil.rmtree(self._folder / mutant.name)
                        yield mutant, trial
                time.sleep(0.05)
        finally:
            for _, tests in running.values():
                tests.kill()

    def _start(self, mutant: Mutant) -> _Running:
        root = self._folder / mutant.name
        shutil.copytree(self._unchanged, root)  # with the compiled modules of its trial
        mutant.apply(root)
        return _Running(root, mutant.test_paths)


def still_exists(caught_by: str) -> bool:
    """Whether the test that caught a mutant is still there."""
    file, _, name = caught_by.partition(": ")
    path = ROOT / TESTS / f"{file}.py"
    return path.is_file() and f"def {name}(" in path.read_text(encoding="utf-8")
