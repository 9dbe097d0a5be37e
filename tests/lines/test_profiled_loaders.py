"""Real DataLoaders with a planted slow line, profiled in a real loop."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from loaderlab.diagnosis.evidence import Evidence
from loaderlab.diagnosis.line_figures import Wait, line_record
from loaderlab.lines.control import NOT_BEGUN, NOT_PREPARED, NOT_YET, Profiled, WorkerInit, WorkerProfile
from loaderlab.lines.sampler import IN_USE, MAIN_THREAD, StackSampler
from loaderlab.lines.ticker import STACK_SIGNAL
from loaderlab.lines.tree import tree
from tests.lines import planted
from tests.lines.planted import Calls, Computing, Sleeping, Stream, line_with

TRANSFORM = f"planted.py:{line_with(planted.__file__, '# planted: transform')} __call__"
OPERATOR = f"planted.py:{line_with(planted.__file__, '# planted: operator')} __getitem__"
NOTHING_MEASURED = Evidence(num_steps=0, wait_pct=0.0, starved_pct=0.0)


def profiled(loader: DataLoader[Any], seconds: float = 1.5, epoch: int = 10**9) -> Profiled:
    """The profile of a loop that waits for its loader. ``epoch``: number of batches after which the loop starts again."""
    profile = WorkerProfile(seconds)
    waits: list[Wait] = []
    count = 0
    try:
        while not profile.begun or profile.running:
            with profile.prepared(loader):
                batches = iter(loader)
            for _ in range(epoch):
                begin = time.perf_counter_ns()
                next(batches)
                if profile.running:
                    waits.append(Wait(begin, time.perf_counter_ns()))
                count += 1
                if count == 4:
                    profile.begin(loader.num_workers)
                if profile.begun and not profile.running:
                    break
                time.sleep(0.001)
        return line_record(profile.recording(), waits, loader.num_workers).profiled(NOTHING_MEASURED)
    finally:
        profile.close()


@pytest.mark.parametrize(
    ("dataset", "options", "epoch"),
    [
        (Sleeping(), {}, 10**9),
        pytest.param(Stream(), {}, 10**9, marks=pytest.mark.slow),
        (Sleeping(), {"num_workers": 1}, 10**9),
        (Sleeping(), {"num_workers": 2, "persistent_workers": True}, 20),
        (Stream(), {"num_workers": 2}, 10**9),
        pytest.param(Sleeping(), {"num_workers": 1}, 10, marks=pytest.mark.slow),  # a new worker for each epoch
        pytest.param(Sleeping(), {"num_workers": 2, "multiprocessing_context": "spawn"}, 10**9, marks=pytest.mark.slow),
        pytest.param(
            Sleeping(), {"num_workers": 1, "multiprocessing_context": "forkserver"}, 10**9, marks=pytest.mark.slow
        ),
    ],
)
def test_the_planted_line_ranks_first(dataset: Any, options: dict[str, Any], epoch: int) -> None:
    result = profiled(DataLoader(dataset, batch_size=4, **options), epoch=epoch)
    assert result.lines is not None, result.problem
    top = result.lines.top
    assert (top.line.place.rpartition("/")[2], top.title) == (TRANSFORM, "transform SlowTransform")
    assert top.wall_pct > 40  # 80 % of the sleeps; on a busy machine, the rest takes longer
    assert top.spends.startswith("waiting")
    assert top.cpu_pct < 50
    assert result.lines.cost_pct < 8
    assert result.lines.gain(top).loader_x > 2


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_time_of_an_operator_belongs_to_its_line(num_workers: int) -> None:
    result = profiled(DataLoader(Computing(), batch_size=4, num_workers=num_workers))
    assert result.lines is not None, result.problem
    assert result.lines.top.line.place.rpartition("/")[2] == OPERATOR
    assert result.lines.top.spends == "computing"


def test_calls_of_c_count_for_their_lines_with_and_without_the_gil() -> None:
    result = profiled(DataLoader(Calls(), batch_size=1, num_workers=1))
    assert result.lines is not None, result.problem
    for text in ("# planted: releases the GIL", "# planted: holds the GIL"):
        (part,) = [part for part in result.lines.lines if part.line.line == line_with(planted.__file__, text)]
        assert part.spends == "computing"
        assert part.wall_pct > 15


def test_a_worker_begins_as_without_a_profile(tmp_path: Path) -> None:
    """The user's own worker_init_fn runs in every worker, and the DataLoader has it again afterwards."""
    started = Started(tmp_path)
    loader = DataLoader(Sleeping(), batch_size=1, num_workers=2, worker_init_fn=started)
    profile = WorkerProfile()
    with profile.prepared(loader):
        batches = iter(loader)
    [next(batches) for _ in range(8)]  # of both workers
    assert loader.worker_init_fn is started
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]
    assert len(list(profile.folder.glob("*.stacks"))) == 1
    profile.close()
    assert not profile.folder.exists()


def test_workers_that_start_after_the_profile_are_not_sampled() -> None:
    profile = WorkerProfile()
    init = profile.worker_init(None)
    profile.close()
    init(0)
    assert not profile.folder.exists()


class Started:
    """A worker_init_fn that writes a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, worker: int) -> None:
        (self.folder / str(worker)).touch()


def test_the_random_numbers_of_the_program_stay_the_same() -> None:
    random.seed(3)
    expected = random.random()
    random.seed(3)
    assert profiled(DataLoader(Sleeping(), batch_size=4), seconds=0.5).lines is not None
    assert random.random() == expected


def test_a_signal_of_the_program_is_left_alone() -> None:
    def own(number: int, frame: object) -> None:
        raise AssertionError

    before = signal.signal(STACK_SIGNAL, own)
    try:
        assert profiled(DataLoader(Sleeping(), batch_size=4), seconds=0.5).problem == IN_USE
        assert signal.getsignal(STACK_SIGNAL) is own
    finally:
        signal.signal(STACK_SIGNAL, before)


def test_a_loop_in_another_thread_cannot_be_sampled() -> None:
    results: list[Profiled] = []
    loader = DataLoader(Sleeping(), batch_size=4)
    thread = threading.Thread(target=lambda: results.append(profiled(loader, seconds=0.5)))
    thread.start()
    thread.join()
    assert results[0].problem == MAIN_THREAD


def test_workers_that_were_already_running_are_not_sampled() -> None:
    loader = DataLoader(Sleeping(), batch_size=4, num_workers=1, persistent_workers=True)
    next(iter(loader))
    assert profiled(loader, seconds=0.5).problem == NOT_PREPARED


def test_a_loop_that_ended_before_its_profile() -> None:
    profile = WorkerProfile()
    assert profile.recording().problem == NOT_YET
    profile.end()
    result = line_record(profile.recording(), [], 0).profiled(NOTHING_MEASURED)
    profile.close()
    assert (result.lines, result.problem) == (None, NOT_BEGUN)
    assert result.sentence == f"no slow line: {NOT_BEGUN}"
    assert result.as_json()["problem"] == NOT_BEGUN


def test_the_tree_is_a_page_with_the_lines_of_the_loader() -> None:
    result = profiled(DataLoader(Sleeping(), batch_size=4, num_workers=1))
    page = tree(result.recording, "train.py")
    assert "SlowTransform.__call__" in page
    assert "test_profiled_loaders.py" not in page  # a forked worker has the frames of its program
    began = float(page.partition('"start_time": ')[2].partition(",")[0])
    assert 0 < time.time() - began < 60
    assert "src=" not in page.partition("<script>")[0]


BURST = """
import os, signal, subprocess, sys
from pathlib import Path
from loaderlab.lines.sampler import StackSampler
from loaderlab.lines.ticker import STACK_SIGNAL, TIME_SIGNAL

path = Path(sys.argv[1])
sampler = StackSampler(path)
assert not sampler.install()
sender = subprocess.Popen([sys.executable, "-c", f'''
import os, signal
for _ in range(5):
    os.kill({os.getpid()}, signal.SIGSTOP)
    for _ in range(300):
        os.kill({os.getpid()}, {STACK_SIGNAL})
        os.kill({os.getpid()}, {TIME_SIGNAL})
    os.kill({os.getpid()}, signal.SIGCONT)
'''])
while sender.poll() is None:
    sum(range(1000))
sampler.stop()
print(path.read_text().count("Stack (most recent call first)"))
"""


def test_a_process_that_gets_hundreds_of_signals_at_once_survives(tmp_path: Path) -> None:
    """As after a stop (SIGSTOP): if a handler could be interrupted by its own signal, their stack would overflow."""
    command = [sys.executable, "-c", BURST, str(tmp_path / "0-1.stacks")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "1500\n"), done.stderr


FORKED = """
import os, signal, subprocess, sys, time
from pathlib import Path
from loaderlab.lines.sampler import StackSampler
from loaderlab.lines.ticker import STACK_SIGNAL, TIME_SIGNAL

assert not StackSampler(Path(sys.argv[1]) / "0-1.stacks").install()
parent, (ready, written) = os.getpid(), os.pipe()
child = os.fork()
if not child:
    for number in (STACK_SIGNAL, TIME_SIGNAL):
        signal.signal(number, signal.SIG_DFL)
    assert not StackSampler(Path(sys.argv[1]) / "0-2.stacks").install()
    os.write(written, b".")
    while os.getppid() == parent:
        sum(range(1000))
os.read(ready, 1)
sender = subprocess.Popen([sys.executable, "-c", f'''
import os, time
for _ in range(2000):
    for process in ({parent}, {child}):
        os.kill(process, {STACK_SIGNAL})
        os.kill(process, {TIME_SIGNAL})
    time.sleep(0.0005)
'''])
while sender.poll() is None:
    sum(range(1000))
assert sender.returncode == 0
os.kill(child, signal.SIGKILL)
print(os.waitpid(child, 0)[1])
"""


def test_a_process_and_its_fork_are_sampled_at_once(tmp_path: Path) -> None:
    """As a worker that starts while the training process gets a signal: the fork has the signal handlers' stack of its parent."""
    done = subprocess.run([sys.executable, "-c", FORKED, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"{signal.SIGKILL}\n"), done.stderr


def test_a_worker_that_cannot_be_prepared_goes_on(tmp_path: Path) -> None:
    assert "could not be prepared" in StackSampler(tmp_path / "removed" / "0-1.stacks").install()
    WorkerInit(str(tmp_path / "removed"), None)(0)


def test_a_profile_that_cannot_be_started_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(subprocess, "Popen", refused)
    result = profiled(DataLoader(Sleeping(), batch_size=4), seconds=0.5)
    assert result.problem == "the sampling could not be started: OSError: no more processes"
