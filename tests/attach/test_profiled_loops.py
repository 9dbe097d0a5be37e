"""The slow line of a watched loop and of a watched program."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from loaderlab import watch
from loaderlab.attach.hooks import STACK
from loaderlab.attach.loader_facts import facts_of
from loaderlab.attach.profiled_loop import FROM_WORKERS
from loaderlab.attach.profiled_program import LEAST_WARMUP, READ, ProfiledProgram, _read
from loaderlab.attach.recorder import recorder
from loaderlab.attach.watch import Watch
from loaderlab.config import UserError
from loaderlab.lines.control import NOT_BEGUN
from loaderlab.lines.sampler import MAIN_THREAD
from loaderlab.metrics import LINES_SHARE_PCT, STARVED_PCT
from tests.lines import planted
from tests.lines.planted import Computing, Sleeping, line_with

LINE = line_with(planted.__file__, "# planted: transform")
SCRIPT = f"""
import sys
import time

import torch
from torch.utils.data import DataLoader

sys.path.insert(0, {str(Path(planted.__file__).parents[2])!r})
from tests.lines.planted import Sleeping

if __name__ == "__main__":
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    end = time.monotonic() + float(sys.argv[2])
    while time.monotonic() < end:
        for batch in DataLoader(Sleeping(), batch_size=4, num_workers=int(sys.argv[1])):  # a new loader for each epoch
            model(batch).sum().backward()
            optimizer.step()
            time.sleep(0.002)
            if time.monotonic() > end:
                break
"""


def looped(meter: Watch, loader: Iterable[Any], seconds: float) -> None:
    """A loop of so many seconds, in epochs of 15 steps."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for position, batch in enumerate(meter.batches(loader)):
            time.sleep(0.002)
            meter.step(num_samples=len(batch))
            if position == 14:
                break


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_slow_line_of_a_loop(num_workers: int) -> None:
    with watch("cpu", warmup_steps=5) as meter:
        meter.profile_workers(0.6)
        looped(
            meter,
            DataLoader(Sleeping(), batch_size=4, num_workers=num_workers, persistent_workers=num_workers > 0),
            1.6,
        )
    lines = meter.slow_lines()
    assert lines is not None, str(meter.verdict())
    assert (lines.top.line.line, lines.num_workers) == (LINE, num_workers)
    assert f"planted.py:{LINE} __call__" in str(meter.verdict())
    assert "SlowTransform" in meter.slow_lines_html()
    assert meter.figures()[LINES_SHARE_PCT] == lines.top.wall_pct
    assert lines.waits_pct == pytest.approx(meter.figures()[STARVED_PCT], abs=25)  # of the measured steps


def test_the_profiled_steps_are_not_measured() -> None:
    with watch("cpu", warmup_steps=5) as meter:
        meter.profile_workers(0.6)
        looped(meter, DataLoader(Sleeping(), batch_size=4), 1.4)
    steps = meter._loop().steps
    profiled = [step.step for step in steps if step.disturbed]
    assert profiled == list(range(5, 5 + len(profiled)))
    assert 0.3 <= sum(steps[number].host_ns for number in profiled) / 1e9 < 1.0  # without the time between epochs
    assert len(steps) > 5 + len(profiled)


class Wrapped:
    """An iterable that reads a loader."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        yield from self._loader


def test_workers_inside_another_iterable_cannot_be_seen() -> None:
    loader = DataLoader(Sleeping(), batch_size=4, num_workers=1, persistent_workers=True)
    with watch("cpu", warmup_steps=5) as meter:
        meter.profile_workers(0.5)
        looped(meter, Wrapped(loader), 1.0)
    assert meter.slow_lines() is None
    assert f"no slow line: {FROM_WORKERS}" in str(meter.verdict())


def test_a_loop_that_is_too_short_says_so() -> None:
    with watch("cpu") as meter:
        meter.profile_workers()
        looped(meter, DataLoader(Sleeping(), batch_size=4), 0.0)
    assert meter.slow_lines() is None
    assert "no slow line: the training ended before the profile began" in str(meter.verdict())


def test_what_is_refused() -> None:
    with watch("cpu") as meter:
        with pytest.raises(UserError, match=r"profile_workers\(90\): must be 0.5 to 60 seconds"):
            meter.profile_workers(90)
        with pytest.raises(UserError, match=r"Call meter.profile_workers\(\) before the loop"):
            meter.slow_lines_html()
        meter.profile_workers(1)
        with pytest.raises(UserError, match="called twice"):
            meter.profile_workers(1)


def watched(tmp_path: Path, num_workers: int, seconds: float, *options: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, "-m", "loaderlab", "watch", "--profile-workers", *options, str(script)]
    return subprocess.run(
        [*command, str(num_workers), str(seconds)], capture_output=True, text=True, timeout=100, cwd=tmp_path
    )


@pytest.mark.parametrize("num_workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_the_slow_line_of_a_program(tmp_path: Path, num_workers: int) -> None:
    done = watched(tmp_path, num_workers, 2.5, "--json", "result.json", "--html", "page.html")
    assert done.returncode == 0, done.stderr
    assert f"planted.py:{LINE} __call__ (transform SlowTransform, waiting" in " ".join(done.stderr.split())
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["slow_lines"]
    assert (result["top"]["line"], result["top"]["stage"], result["num_workers"]) == (LINE, "transform", num_workers)
    assert "Slow lines" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "SlowTransform" in (tmp_path / "page.slow_lines.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_recorded_run_has_the_slow_line_and_its_files(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'store.db'}"
    done = watched(tmp_path, 1, 8, "--record", "slow", "--uri", store)
    assert done.returncode == 0, done.stderr
    from mlflow import MlflowClient

    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("loaderlab")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert f"planted.py:{LINE} __call__" in run.data.tags["slow_line"]
    assert f"planted.py:{LINE} __call__" in run.data.tags["mlflow.note.content"]
    names = {entry.path for entry in client.list_artifacts(run.info.run_id)}
    assert {"slow_lines.html", "slow_lines.json", "slow_lines_table.json"} <= names
    assert "slow_lines_table.json" in run.data.tags["mlflow.loggedArtifacts"]
    assert "## Slow lines" in run.data.tags["mlflow.note.content"]
    assert run.data.metrics[STARVED_PCT] > 20  # of the steps after the profile
    assert run.data.metrics[LINES_SHARE_PCT] > 40


@pytest.mark.slow
def test_a_program_that_ends_in_its_warmup_has_no_slow_line(tmp_path: Path) -> None:
    done = watched(tmp_path, 0, 0.0)
    assert "Slow line: none. The training ended before the profile began" in " ".join(done.stderr.split())


def test_a_loop_inside_the_loop_is_not_profiled() -> None:
    """As an evaluation: its loader is another one."""
    with watch("cpu", warmup_steps=5) as meter:
        meter.profile_workers(0.6)
        end = time.monotonic() + 1.6
        for position, batch in enumerate(meter.batches(DataLoader(Computing(), batch_size=4))):
            meter.step(num_samples=len(batch))
            if position % 50:
                continue
            for inner in meter.batches(DataLoader(Sleeping(), batch_size=4)):
                meter.step(num_samples=len(inner))
                break
            if time.monotonic() > end:
                break
    lines = meter.slow_lines()
    assert lines is not None, str(meter.verdict())
    assert lines.top.line.line != LINE
    assert not any(part.line.line == LINE for part in lines.lines)


def test_a_worker_that_waits_for_the_trainer_is_not_busy() -> None:
    """A forked worker has the frames of its program, in which the meter reads its batches."""
    with watch("cpu", warmup_steps=5) as meter:
        meter.profile_workers(1.2)
        end = time.monotonic() + 2.8
        for batch in meter.batches(DataLoader(Sleeping(), batch_size=4, num_workers=1)):
            time.sleep(0.12)
            meter.step(num_samples=len(batch))
            if time.monotonic() > end:
                break
    lines = meter.slow_lines()
    assert lines is not None, str(meter.verdict())
    assert lines.busy_pct < 80  # about 17; 67 on a machine that was overloaded
    assert lines.stages[-1].stage.kind == "waiting"


def test_loaders_of_one_line_differ_by_their_data() -> None:
    """{name: DataLoader(data[name]) for name in ("train", "val")}: an evaluation is not part of the training's profile."""
    train, again, other = (DataLoader(TensorDataset(torch.zeros(count))) for count in (40, 40, 10))
    for loader in (train, again, other):
        loader.__dict__[STACK] = (("train.py:3 make",), (7,))
    read = _read(train)
    assert read.number == _read(again).number != _read(other).number
    assert read.has(facts_of(train, 0, *train.__dict__[STACK]))
    assert not read.has(facts_of(other, 1, *other.__dict__[STACK]))


@pytest.fixture
def recording() -> Iterator[None]:
    """A program is recorded, and this thread trains."""
    recorder.start(None, None)
    recorder.step_thread = threading.get_ident()
    yield
    recorder.stop()


def iterator_of(loader: DataLoader[Any]) -> SimpleNamespace:
    return SimpleNamespace(**{READ: _read(loader)})


def problem_after_steps(program: ProfiledProgram) -> str:
    """Why a program has no slow lines after its optimizer's first steps; empty if it has some."""
    for _ in range(LEAST_WARMUP):
        program._stepped(None, (), {})
    program.end()
    return program.profile(recorder.events()).record.recording.problem


@pytest.mark.usefixtures("recording")
def test_a_loader_without_workers_that_a_thread_reads_cannot_be_sampled() -> None:
    program = ProfiledProgram()
    iterator = iterator_of(DataLoader(Sleeping()))
    reader = threading.Thread(target=program._noted(lambda _: None), args=(iterator,))
    reader.start()
    reader.join()
    assert problem_after_steps(program) == MAIN_THREAD


@pytest.mark.usefixtures("recording")
def test_a_step_that_torch_compile_traces_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the hook would be part of the compiled code."""
    program = ProfiledProgram()
    program._noted(lambda _: None)(iterator_of(DataLoader(Sleeping())))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert problem_after_steps(program) == NOT_BEGUN
