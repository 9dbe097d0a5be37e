"""``loaderlab tune script.py``: the options, the question, and trials of a script. Real processes."""

from __future__ import annotations

import errno
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from loaderlab.attach.script import Program
from loaderlab.config import PROJECT, TrackingConfig, UserError
from loaderlab.tracking import open_store
from loaderlab.tuning import tuned, user_record
from loaderlab.tuning.candidate import Candidate
from loaderlab.tuning.lost import lost
from loaderlab.tuning.scratch_copy import planned
from loaderlab.tuning.script import start
from loaderlab.tuning.script_engine import ScriptEngine
from loaderlab.tuning.script_order import LoaderPlace, Order, Outcome, is_enough, read_order, read_outcome, write
from loaderlab.tuning.script_trial import allowed
from loaderlab.tuning.settings import arguments_of
from loaderlab.tuning.trial import Measured, Trial, TrialFailed
from tests.attach.sleeping_model import MODEL
from tests.tuning import answers

SHARED = """
import sys, time
import torch
from torch.utils.data import DataLoader, Dataset


class Sleeping(Dataset):
    def __len__(self):
        return 4000

    def __getitem__(self, index):
        time.sleep(0.002)
        return {"inputs": torch.ones(3), "labels": torch.tensor(0)}
"""
PLAIN = """
def make(dataset, **settings):
    return DataLoader(dataset, batch_size=4, **settings)


model = Model()
optimizer = torch.optim.SGD(model.parameters(), 0.1)
training, validation = make(Sleeping(), shuffle=True), make(Sleeping())
open("written.txt", "w").write("x")
what = sys.argv[1] if len(sys.argv) > 1 else ""
if what == "sets" and training.num_workers:
    training.prefetch_factor = 4
if what == "fails":
    raise ValueError("no such data")
print("validation workers:", validation.num_workers, flush=True)
for epoch in range(3):
    try:
        for number, batch in enumerate(training):
            model(**batch)["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
            if what == "short" and number == 5:
                sys.exit(0)
            if what == "workers fail" and training.num_workers:
                raise SystemError("workers are not possible here")
    except RuntimeError:
        print("caught")
"""
# as Accelerate does: the loader that is read is a second one, which the same line creates for training and evaluation
PREPARED = """
class Shard(DataLoader):
    pass


def prepared(loader):
    return Shard(
        loader.dataset, batch_sampler=loader.batch_sampler, num_workers=loader.num_workers,
        prefetch_factor=loader.prefetch_factor, persistent_workers=loader.persistent_workers)


model = Model()
optimizer = torch.optim.SGD(model.parameters(), 0.1)
loaders = [prepared(DataLoader(Sleeping(), batch_size=4, num_workers=1)) for _ in range(1)]
validation = prepared(DataLoader(Sleeping(), batch_size=4))
print("validation workers:", validation.num_workers, flush=True)
for number, batch in enumerate(loaders[0]):
    model(**batch)["loss"].backward()
    if number % 2:
        optimizer.step()
        optimizer.zero_grad()
"""
HUGGING_FACE = """
from transformers import Trainer, TrainingArguments

arguments = TrainingArguments(
    output_dir="out", per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=400, report_to="none",
    save_strategy="no", use_cpu=True, disable_tqdm=True)
Trainer(model=Model(), args=arguments, train_dataset=Sleeping()).train()
"""
TWO = Candidate(makers=2, prefetch=2, pin_memory=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "train.py").write_text(SHARED + MODEL + PLAIN)
    (folder / "trainer.py").write_text(SHARED + MODEL + HUGGING_FACE)
    (folder / "prepared.py").write_text(SHARED + MODEL + PREPARED)
    return folder


@contextmanager
def engine_of(
    folder: Path, *arguments: str, script: str = "train.py", steps: int | None = None
) -> Iterator[ScriptEngine]:
    engine = ScriptEngine(Program(script, False, arguments), folder, planned(folder), steps)
    try:
        yield engine
    finally:
        engine.close()


# ---- real scripts -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_trials_of_a_script(folder: Path) -> None:
    with engine_of(folder) as engine:
        facts = engine.facts()
        assert facts.current == Candidate(makers=0, pin_memory=False)
        assert (facts.batch_size, facts.epoch_steps) == (4, None)  # no epoch ended
        assert facts.no_gaps == "the script is stopped before an epoch ends"
        assert facts.batch_bytes == 4 * (3 * 4 + 8)
        assert engine.made_at.startswith("train.py:")
        first = engine.run(Trial(facts.current, "", 0.3))
        assert first.starved_pct > 20
        second = engine.run(Trial(TWO, "", 0.3))
        assert second.worker_mib is not None  # it has workers
        assert second.num_steps >= 15
        assert "validation workers: 0" in (engine._own / "trial2.log").read_text()
        own = engine._own
    assert sorted(path.name for path in folder.iterdir()) == ["prepared.py", "train.py", "trainer.py"]
    assert not own.exists()
    assert not [child for child in psutil.Process().children(recursive=True) if "script_trial" in str(child.cmdline())]


@pytest.mark.slow
def test_a_script_that_fails_is_shown_with_its_output(folder: Path) -> None:
    with engine_of(folder, "fails") as engine, pytest.raises(UserError) as error:
        engine.facts()
    text = str(error.value)
    assert text.startswith("train.py cannot be tuned: the script failed: ValueError: no such data")
    assert 'raise ValueError("no such data")' in text


@pytest.mark.slow
def test_a_trial_that_fails_costs_only_itself(folder: Path) -> None:
    with engine_of(folder, "workers fail", steps=25) as engine:
        facts = engine.facts()
        with pytest.raises(TrialFailed, match="SystemError: workers are not possible here") as error:
            engine.run(Trial(TWO, "", 0.3))
        assert "\n" not in str(error.value)
        assert engine.run(Trial(facts.current, "", 0.3)).num_steps >= 15


@pytest.mark.slow
def test_a_script_that_ends_too_early(folder: Path) -> None:
    with (
        engine_of(folder, "short") as engine,
        pytest.raises(UserError, match="cannot be tuned: only 1 step was measured"),
    ):
        engine.facts()


@pytest.mark.slow
def test_a_trial_that_steps_ended_too_early_names_the_option(folder: Path) -> None:
    with engine_of(folder, script="prepared.py", steps=21) as engine:
        engine.facts()
        with pytest.raises(TrialFailed, match=r"--steps 21 ended the script too early: type --steps 34 or more"):
            engine.run(Trial(Candidate(makers=3, prefetch=5), "", 0.3))


@pytest.mark.slow
def test_a_script_whose_trainer_creates_the_loader_again(folder: Path) -> None:
    with engine_of(folder, script="prepared.py") as engine:
        facts = engine.facts()
        assert (facts.current.makers, facts.batch_size) == (1, 8)
        assert engine.run(Trial(TWO, "", 0.3)).num_steps >= 15
        assert engine.run(Trial(Candidate(makers=0), "", 0.3)).worker_mib is None
        assert "validation workers: 0" in (engine._own / "trial2.log").read_text()


@pytest.mark.slow
def test_a_script_with_a_trainer(folder: Path) -> None:
    pytest.importorskip("transformers")
    with engine_of(folder, script="trainer.py") as engine:
        facts = engine.facts()
        assert (facts.current.makers, facts.batch_size) == (0, 8)
        assert engine.run(Trial(TWO, "", 0.3)).worker_mib is not None
    assert not (folder / "out").exists()


# ---- the result of a start --------------------------------------------------------------------------------------------

FIRST = Outcome(
    measured=Measured(100.0, 3.0, (2.0, 4.0), 10.0, 40),
    place=LoaderPlace(("train.py:3 <module>",), (4,)),
    made_at="train.py:3",
    num_workers=2,
    prefetch_factor=2,
    batch_size=64,
    epoch_steps=100,
)


@contextmanager
def engine_with(folder: Path, monkeypatch: pytest.MonkeyPatch, *outcomes: Outcome) -> Iterator[ScriptEngine]:
    """An engine whose starts have ended with these outcomes and one line of output."""
    left = list(outcomes)

    def run(engine: ScriptEngine, order: Order, _: Path) -> int:
        engine._log.write_text("a line of output")
        write(Path(order.result), left.pop(0))
        return 0

    monkeypatch.setattr(ScriptEngine, "_run", run)
    with engine_of(folder) as engine:
        yield engine


def crossing(outcome: Outcome) -> Outcome:
    """The outcome of a start in which an epoch ended."""
    assert outcome.measured is not None
    return replace(outcome, measured=replace(outcome.measured, gap_ms=200.0))


def test_the_time_between_epochs_counts_in_all_runs_or_in_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine_with(folder, monkeypatch, FIRST, crossing(FIRST)) as engine:
        facts = engine.facts()
        assert lost(engine.run(Trial(TWO, "", 0.3)), facts.epoch_steps)[0] == 3.0
        assert facts.no_gaps == "the script is stopped before an epoch ends"
    with engine_with(folder, monkeypatch, crossing(FIRST)) as engine:
        facts = engine.facts()
        assert (facts.epoch_steps, facts.no_gaps) == (100, "")


def test_only_the_first_failure_shows_the_output(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Outcome("the script failed: OSError: the disk is gone")
    with (
        engine_with(folder, monkeypatch, failed) as engine,
        pytest.raises(UserError, match="gone(.|\n)*a line of output"),
    ):
        engine.facts()
    with engine_with(folder, monkeypatch, FIRST, failed) as engine:
        engine.facts()
        with pytest.raises(TrialFailed) as error:
            engine.run(Trial(TWO, "", 0.3, round=1))
    assert str(error.value) == failed.problem


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (
            replace(FIRST, num_workers=4),
            "num_workers=4 instead of 2: the program sets it itself after it has created the loader at train.py:3",
        ),
        (replace(FIRST, prefetch_factor=8), "prefetch_factor=8 instead of 2: the program sets it itself"),
    ],
)
def test_a_program_that_sets_the_settings_itself(
    outcome: Outcome, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine_with(folder, monkeypatch, FIRST, outcome) as engine:
        engine.facts()
        with pytest.raises(TrialFailed, match=f"its training loader has {message}"):
            engine.run(Trial(TWO, "", 0.3, round=1))


def test_a_queue_length_without_workers_has_no_effect(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine_with(folder, monkeypatch, FIRST, replace(FIRST, num_workers=0, prefetch_factor=8)) as engine:
        engine.facts()
        assert engine.run(Trial(Candidate(makers=0), "", 0.3)).rate == 100.0


@pytest.mark.parametrize(
    ("batch_size", "message"),
    [
        (
            64,
            "an epoch has 14 steps, and at least 15 are needed to measure. Set batch_size=29 for the DataLoader made at train.py:3",
        ),
        (0, "an epoch has 14 steps, and at least 15 are needed to measure. Use a smaller batch size or more data"),
    ],
)
def test_a_short_epoch_names_a_batch_size(
    batch_size: int, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = replace(FIRST, batch_size=batch_size, epoch_steps=14)
    with engine_with(folder, monkeypatch, short) as engine, pytest.raises(UserError, match=message):
        engine.facts()


@pytest.mark.slow
def test_a_script_that_sets_its_queue_length(folder: Path) -> None:
    with engine_of(folder, "sets") as engine:
        engine.facts()
        with pytest.raises(TrialFailed, match="prefetch_factor=4 instead of 2"):
            engine.run(Trial(TWO, "", 0.3))


# ---- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0", "train.py"], "--steps 0: must be a whole number of at least 1"),
        (["--steps", "20", "train.py"], "--steps 20: a trial needs at least 21 steps, 15 of them to measure"),
        (["--max-makers", "-1", "train.py"], "--max-makers -1: must be a whole number of at least 0"),
        (["--max-starved", "0", "train.py"], "--max-starved 0: must be above 0 and below 100"),
        (["--minutes", "nan", "train.py"], "--minutes nan: must be a number above 0"),
        (["--uri", "http://host", "train.py"], "--uri: is only for --record"),
        (["--yes=1", "train.py"], "--yes: has no value"),
        (["--max_makers", "1", "train.py"], "there is no such option. Did you mean --max-makers?"),
        (["nowhere.py"], "nowhere.py: No such file or directory. Type the path of a script: loaderlab tune train.py"),
        ([], "the script is missing"),
    ],
)
def test_bad_usage(
    arguments: list[str],
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    assert start(arguments) == 2
    assert message in capsys.readouterr().err


def test_help_lists_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert start(["--help"]) == 0
    assert "--max-makers N" in capsys.readouterr().out


def test_a_person_is_asked_once_before_the_first_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert start(["--minutes", "1", "train.py", "--name", "two words"]) == 2
    text = capsys.readouterr().err
    assert text.count("train.py will be started several times") == 1
    assert "--yes --minutes 1 train.py --name 'two words'" in text


@pytest.mark.parametrize("world_size", ["2", "two"])
def test_several_ranks_are_refused(
    world_size: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WORLD_SIZE", world_size)
    assert start(["--yes", "train.py"]) == 2
    assert "not under torchrun" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_search_with_its_answer(
    number: int,
    code: int,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def ended(engine: ScriptEngine, *_: object) -> tuned.Tuned:
        assert engine._own.exists()
        with suppress(KeyboardInterrupt):
            signal.raise_signal(number)
        return tuned.tuned_of(answers.interrupted)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(tuned, "answered", ended)
    assert start(["--yes", "train.py"]) == code
    assert capsys.readouterr().out.splitlines()[-3:] == tuned.lines_of(answers.interrupted)
    assert [path.name for path in tmp_path.iterdir()] == ["project"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def recorded_answer(arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a command whose search has already ended."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(tuned, "answered", lambda *_: tuned.tuned_of(answers.certified))
    return start(["--yes", "--json", "answer.json", *arguments, "train.py"])


def test_an_answer_is_recorded_with_its_trials(
    folder: Path, store_uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--uri", store_uri, "--experiment", "of_a_test"]
    assert recorded_answer(["--record", "mine", *place], folder, monkeypatch) == 0
    out = capsys.readouterr().out
    assert "recorded: " in out
    assert out.splitlines()[-3:] == tuned.lines_of(answers.certified)
    runs = open_store(TrackingConfig(uri=store_uri, experiment="of_a_test"), PROJECT).runs()
    (parent,) = [run for run in runs if run.parent_id is None]
    assert (parent.name, parent.tags["tune.grade"]) == ("mine", "certified")
    assert len([run for run in runs if run.parent_id == parent.run_id]) == len(runs) - 1 > 3


def test_an_answer_that_cannot_be_recorded_is_printed_and_written(
    folder: Path, store_uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> str:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(user_record, "recorded", fails)
    assert recorded_answer(["--record", "mine", "--uri", store_uri], folder, monkeypatch) == 1
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-3:] == tuned.lines_of(answers.certified)
    assert "error: the answer cannot be recorded: " in shown.err
    assert (folder / "answer.json").exists()


# ---- the files between the processes, the settings, the end ----------------------------------------------------------


def order(**changes: object) -> Order:
    values: dict[str, object] = {
        "program": "train.py",
        "is_module": False,
        "arguments": ("a",),
        "result": "r.json",
        "seconds": 1.0,
        "starter": os.getpid(),
        **changes,
    }
    return Order(**values)  # type: ignore[arg-type]


def test_an_order_and_an_outcome_are_read_as_they_were_written(tmp_path: Path) -> None:
    place = LoaderPlace(("train.py:3 make", "train.py:9 <module>"), (4, 20))
    sent = order(place=place, settings=arguments_of(TWO), linked_files=("big.bin",))
    write(tmp_path / "order.json", sent)
    assert read_order(tmp_path / "order.json") == sent
    outcome = Outcome("", Measured(100.0, 3.0, (2.0, 4.0), 10.0, 40), place, "train.py:3", batch_size=4)
    write(tmp_path / "outcome.json", outcome)
    assert read_outcome(tmp_path / "outcome.json") == outcome


def test_settings_that_replace_those_of_the_program() -> None:
    without = allowed(arguments_of(Candidate(makers=0)))
    assert (without["num_workers"], without["timeout"], without["persistent_workers"]) == (0, 0, False)
    assert without["prefetch_factor"] is None
    with_two = allowed(arguments_of(TWO))
    assert (with_two["num_workers"], with_two["prefetch_factor"], with_two["persistent_workers"]) == (2, 2, False)
    assert "multiprocessing_context" not in with_two


def test_when_a_script_is_stopped() -> None:
    assert not is_enough(21, 5, 1, 9.0, order())  # 15 steps are measured
    assert is_enough(22, 5, 1, 9.0, order())
    assert not is_enough(500, 5, 1, 0.9, order())
    assert is_enough(30, 5, 1, 0.1, order(max_steps=30))
