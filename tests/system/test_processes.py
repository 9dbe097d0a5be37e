from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from loaderlab.config import PROJECT
from loaderlab.system.processes import undisturbed
from loaderlab.system.versions import has_gil

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(PROJECT / "src")}


def test_leaving_runs_the_atexit_handlers_without_the_shutdown() -> None:
    code = """
import atexit
from loaderlab.system.processes import leave
class Slow:
    def __del__(self):
        print("torn down")
kept = Slow()
atexit.register(print, "handler")
print("last line")
leave(7)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (7, ["last line", "handler"], "")


def test_whether_the_interpreter_has_a_gil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    assert not has_gil()
    monkeypatch.delattr(sys, "_is_gil_enabled")
    assert has_gil()


TRAINER = """
import multiprocessing, os, sys, time
import torch
from torch.utils.data import Dataset
from loaderlab.config import NativeLoader
from loaderlab.data.spec import Split, UserItems
from loaderlab.device.cpu import Cpu
from loaderlab.loaders.contract import EpochPlan
from loaderlab.loaders.native import Native

class Slow(Dataset):
    def __len__(self):
        return 40
    def __getitem__(self, index):
        if index > 3:
            time.sleep(60)
        return torch.zeros(2), 0

if __name__ == "__main__":
    split = Split(UserItems(Slow(), False, None, None, 2))
    config = NativeLoader(num_workers=2, start_method=sys.argv[1])
    loader = Native(config, split, EpochPlan(40, 2, False, False), Cpu())
    next(loader.epoch(0))
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux sends a signal when the parent dies")
def test_workers_end_with_a_trainer_that_is_killed(tmp_path: Path) -> None:
    """Each worker is inside an item that takes a minute, so only the kernel can end it earlier."""
    (tmp_path / "trainer.py").write_text(TRAINER)
    command = [sys.executable, str(tmp_path / "trainer.py"), "fork"]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as trainer:
        assert trainer.stdout is not None
        workers = [psutil.Process(int(pid)) for pid in trainer.stdout.readline().split()]
        assert len(workers) == 2
        trainer.kill()
    _, alive = psutil.wait_procs(workers, timeout=2)
    for worker in alive:
        worker.kill()
    assert alive == []


ORPHAN = """
import multiprocessing, os, time
from loaderlab.system import processes

def worker():
    time.sleep(1.0)  # the parent dies in the meantime
    processes.killed_with_parent()
    print("still alive", flush=True)

if __name__ == "__main__":
    child = multiprocessing.get_context("fork").Process(target=worker)
    child.start()
    os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux sends a signal when the parent dies")
def test_a_worker_whose_parent_is_already_dead_ends_at_once(tmp_path: Path) -> None:
    (tmp_path / "trainer.py").write_text(ORPHAN)
    command = [sys.executable, str(tmp_path / "trainer.py")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, env=ENVIRONMENT)
    assert (done.stdout, done.stderr) == ("", "")  # the pipe is closed when the worker has ended


def test_the_death_of_a_worker_is_deferred_while_the_store_is_written() -> None:
    """torch raises it in a SIGCHLD handler; another signal at the same time is not lost."""
    raised: list[int] = []

    def note(number: int, _: object) -> None:
        raised.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGCHLD, signal.SIGTERM)}
    try:
        with undisturbed():
            signal.raise_signal(signal.SIGCHLD)
            signal.raise_signal(signal.SIGTERM)
            assert raised == []
        assert raised == [signal.SIGTERM]
        raised.clear()
        with undisturbed():
            signal.raise_signal(signal.SIGCHLD)
        assert raised == [signal.SIGCHLD]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
