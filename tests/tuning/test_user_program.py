"""`loaderlab.tune`: what the first batch shows, where trials run, and what a planted trial measures."""

from __future__ import annotations

import errno
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch.utils.data import DataLoader

import loaderlab
from loaderlab.config import UserError, WrongUsage
from loaderlab.device.resolve import resolve_device
from loaderlab.system.processes import Terminated
from loaderlab.tuning import first_batch, user_process, user_program
from loaderlab.tuning.candidate import Candidate
from loaderlab.tuning.first_batch import Checked, checked, num_bytes, repeats
from loaderlab.tuning.prediction import Model
from loaderlab.tuning.sending import cannot_send
from loaderlab.tuning.trial import NO_SIZE, NOT_PINNED, Facts, Trial, TrialFailed
from loaderlab.tuning.tuned import Tuned, lines_of, tuned_of
from loaderlab.tuning.user_loader import LoaderSource, source_of
from loaderlab.tuning.user_probes import loader_alone
from loaderlab.tuning.user_process import TRIAL, FreshProcesses, ThisProcess
from loaderlab.tuning.user_program import ProgramEngine
from loaderlab.tuning.user_trial import Program, measure
from tests.tuning import answers
from tests.tuning import user_programs as programs
from tests.tuning.user_programs import BATCH, OneShard, Sleeping, Stream

SHORT_S = 0.1


def program(loader: Any, step: Any = programs.step) -> Program:
    return Program(source_of(loader), step, "cpu")


def slow_loader(sample_s: float = 0.002, **settings: Any) -> DataLoader[torch.Tensor]:
    return DataLoader(Sleeping(sample_s=sample_s), batch_size=BATCH, **settings)


@contextmanager
def engine_of(loader: Any, step: Any = programs.step) -> Iterator[ProgramEngine]:
    engine = ProgramEngine(program(loader, step), resolve_device("cpu"))
    try:
        yield engine
    finally:
        engine.close()


class Full:
    """`pickle` on a disk without space."""

    HIGHEST_PROTOCOL = 5

    def dump(self, program: Program, file: Any, protocol: int) -> None:
        file.write(b"x")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# ---- the first batch --------------------------------------------------------------------------------------------------


def test_the_first_batch_shows_its_size() -> None:
    assert checked(program(slow_loader(0))) == Checked(100, BATCH, BATCH * 8 * 4)
    assert checked(program(programs.make_batches)) == Checked(60, BATCH, BATCH * 2 * 4)


def test_a_step_that_fails_is_shown_once_with_the_line_that_fails() -> None:
    with pytest.raises(UserError) as error:
        checked(program(slow_loader(0), programs.failing_step))
    text = str(error.value)
    assert text.startswith("step: it fails with the first batch: ValueError: shapes do not match")
    assert 'raise ValueError("shapes do not match")' in text


def test_an_epoch_with_too_few_steps_is_refused() -> None:
    """The batch size in the error is small enough."""
    with pytest.raises(
        UserError, match=r"an epoch has 10 steps, and at least 15 are needed .* such as batch_size=13, or"
    ):
        checked(program(DataLoader(Sleeping(400), batch_size=40)))
    assert len(DataLoader(Sleeping(361), batch_size=13)) >= 15  # the fewest samples in 10 such steps


@pytest.mark.parametrize(("length", "collate_fn"), [(20, None), (400, programs.in_a_list)])
def test_no_batch_size_is_suggested_without_enough_samples_or_if_they_do_not_show(length: int, collate_fn: Any) -> None:
    loader = DataLoader(Sleeping(length), batch_size=length // 10, collate_fn=collate_fn)
    with pytest.raises(UserError, match="an epoch has 10 steps, .* Use a smaller batch size or more data"):
        checked(program(loader, lambda batch: None))


def test_an_epoch_whose_length_is_unknown_is_refused_when_it_ends() -> None:
    stream = DataLoader(Stream(shares=True), batch_size=40)
    assert checked(program(stream)).epoch_steps is None
    now = program(stream).source.current
    with pytest.raises(UserError, match=r"an epoch has 10 steps.* such as batch_size=13, or"):
        measure(program(stream), Trial(now, "", SHORT_S), own_process=False)


@pytest.mark.parametrize(
    ("loader", "expected"),
    [(slow_loader(0), ""), (DataLoader(Stream(shares=True), batch_size=4), "the loader has no length")],
)
def test_without_a_length_the_time_between_epochs_is_not_known(loader: DataLoader[Any], expected: str) -> None:
    with engine_of(loader, lambda batch: None) as engine:
        assert engine.facts().no_gaps == expected


def test_an_epoch_that_is_short_with_some_settings_costs_only_their_trial() -> None:
    """Each of two workers leaves out its incomplete batch: with one of them an epoch has 15, with two 14."""
    loader = DataLoader(Stream(shares=True), batch_size=26, drop_last=True)
    with engine_of(loader, lambda batch: None) as engine:
        assert engine.facts().in_process
        with pytest.raises(TrialFailed, match="an epoch has 14 steps"):
            engine.run(Trial(Candidate(makers=2, prefetch=2), "", SHORT_S))


def test_a_first_step_whose_process_is_killed_is_an_error_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(place: FreshProcesses) -> Checked:
        raise TrialFailed("its process was ended by SIGKILL (out of memory?)")

    monkeypatch.setattr(FreshProcesses, "check", killed)
    with engine_of(slow_loader(0)) as engine, pytest.raises(UserError, match=r"in a fresh process: (.*)SIGKILL"):
        engine.facts()


def test_an_empty_loader_is_refused() -> None:
    with pytest.raises(UserError, match="it has no batches"):
        checked(program(DataLoader(Sleeping(0), batch_size=4)))


def test_the_size_of_a_nested_batch() -> None:
    assert num_bytes({"a": torch.zeros(3), "b": [torch.zeros(2, dtype=torch.uint8), "text"]}) == 14


def test_batches_that_do_not_show_their_samples_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate of 0 could not be predicted from."""
    monkeypatch.setattr("loaderlab.tuning.user_probes.PROBE_S", SHORT_S)
    loader = slow_loader(0, collate_fn=programs.in_a_list)
    assert checked(program(loader)) == Checked(100, 1, 0, shows_samples=False)
    with engine_of(loader, lambda batch: time.sleep(0.004)) as engine:
        facts = engine.facts()
        assert [*facts.notes] == [NO_SIZE]
        measured = engine.run(Trial(Candidate(), "", SHORT_S, probes=True, alone=True))
    assert min(measured.rate, measured.ceiling or 0, measured.loader_alone or 0) > 0
    assert measured.cpu_s_per_sample is not None
    model = Model(facts, 2)
    model.learn(Candidate(), measured)
    assert model.predict(Candidate(makers=1, prefetch=2)) is not None


# ---- data that workers repeat -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shares", "constant", "expected"), [(False, False, True), (True, False, False), (False, True, False)]
)
def test_workers_that_repeat_the_data_are_noticed(shares: bool, constant: bool, expected: bool) -> None:
    """Constant samples show nothing: they are equal within one worker too."""
    stream = DataLoader(Stream(shares=shares, constant=constant), batch_size=4)
    assert repeats(source_of(stream)) is expected


def test_repeated_data_is_refused_with_the_fix() -> None:
    with pytest.raises(UserError, match=r"with N workers each sample comes N times(.|\n)*get_worker_info\(\)"):
        checked(program(DataLoader(Stream(shares=False), batch_size=4)))


@pytest.mark.parametrize(
    ("takes_copies", "pin_memory", "notes"), [(True, False, [NOT_PINNED]), (True, True, []), (False, False, [])]
)
def test_the_answer_says_that_pinned_memory_was_not_tried(
    takes_copies: bool, pin_memory: bool, notes: list[str]
) -> None:
    facts = Facts(Candidate(pin_memory=pin_memory), [], 100, 4, takes_copies=takes_copies)
    assert facts.own_notes(shows_samples=True) == notes


def test_two_workers_that_fail_are_no_repeated_data() -> None:
    """A trial with two workers reports the error, if there is one."""
    stream = DataLoader(OneShard(shares=True), batch_size=4)
    assert checked(program(stream)).batch_size == 4
    with pytest.raises(TrialFailed, match="more workers than shards"):
        ThisProcess(program(stream)).measure(Trial(Candidate(makers=2, prefetch=2), "", SHORT_S))


@pytest.mark.parametrize(("max_makers", "starts_workers"), [(None, True), (2, True), (1, False), (0, False)])
def test_two_workers_are_only_started_where_they_may_be_tried(
    max_makers: int | None, starts_workers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[LoaderSource] = []

    def repeats(source: LoaderSource) -> bool:
        started.append(source)
        return False

    monkeypatch.setattr(first_batch, "repeats", repeats)
    stream = DataLoader(Stream(shares=False), batch_size=4)
    checked(Program(source_of(stream), programs.step, "cpu", max_makers))
    assert bool(started) is starts_workers


def test_the_limit_of_workers_is_known_to_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    programs_checked: list[Program] = []

    def kept(engine: ProgramEngine, *_: Any) -> Tuned:
        programs_checked.append(engine._program)
        return tuned_of(answers.interrupted)

    monkeypatch.setattr(user_program, "answered", kept)
    loaderlab.tune(slow_loader(0), programs.step, device="cpu", max_makers=1)
    assert programs_checked[0].max_makers == 1


# ---- where trials run -------------------------------------------------------------------------------------------------


def test_what_cannot_be_pickled_is_named() -> None:
    assert cannot_send({"the step": programs.step}) == ""
    assert cannot_send({"a": 1, "the step": lambda batch: batch}).startswith("the step cannot be pickled: ")


def test_a_step_that_cannot_be_pickled_runs_in_this_process() -> None:
    with engine_of(slow_loader(0), lambda batch: None) as engine:
        facts = engine.facts()
        assert facts.in_process.startswith("the step cannot be pickled")
        assert engine.run(Trial(Candidate(), "", SHORT_S)).num_steps >= 15
    assert TRIAL not in os.environ


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        (
            "sent_bytes",
            lambda program: 2**60,
            "a copy of the loader and the step has 1,099,511,627,776 MiB, more than half",
        ),
        ("pickle", Full(), "a copy of the loader and the step cannot be written: [Errno 28] No space left on device"),
    ],
)
def test_a_program_too_large_to_be_copied_runs_in_this_process(
    name: str, value: Any, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing of it is left in the folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(user_process, name, value)
    with engine_of(slow_loader(0)) as engine:
        assert engine.facts().in_process.startswith(reason)
        assert not list(tmp_path.iterdir())


def test_a_collate_function_that_cannot_be_pickled_is_named() -> None:
    with engine_of(slow_loader(0, collate_fn=lambda samples: torch.stack(samples))) as engine:
        facts = engine.facts()
        assert facts.in_process.startswith("the loader's collate_fn cannot be pickled")
        assert facts.can_start == ("fork",)


def test_workers_that_spawn_cannot_get_a_lambda() -> None:
    loader = slow_loader(0, num_workers=1, multiprocessing_context="spawn", collate_fn=lambda samples: samples)
    with (
        engine_of(loader) as engine,
        pytest.raises(UserError, match="its workers start with spawn, and the loader's collate_fn cannot be pickled"),
    ):
        engine.facts()


def test_a_trial_in_this_process_that_fails_costs_only_itself() -> None:
    with pytest.raises(TrialFailed, match="ValueError: shapes do not match"):
        ThisProcess(program(slow_loader(0), programs.failing_step)).measure(Trial(Candidate(), "", SHORT_S))


@pytest.mark.parametrize("place", [ThisProcess, pytest.param(FreshProcesses, marks=pytest.mark.slow)])
def test_settings_that_the_loader_refuses_cost_only_their_trial(place: Any) -> None:
    """The checks before the first trial build it with at most one worker."""
    trials = place(program(programs.at_most_two_workers))
    try:
        with pytest.raises(TrialFailed) as error:
            trials.measure(Trial(Candidate(makers=3, prefetch=2, pin_memory=False), "", SHORT_S))
    finally:
        trials.close()
    assert str(error.value) == (
        "loader: the function at_most_two_workers was called with num_workers=3, but its DataLoader has num_workers=2: it must use all of "
        "its settings"
    )


@pytest.mark.slow
def test_trials_in_fresh_processes_leave_the_model_and_no_process_behind() -> None:
    with engine_of(slow_loader(0), Training()) as engine:
        training = engine._program.step
        before = training.model.weight.clone()  # type: ignore[attr-defined]
        facts = engine.facts()
        assert (facts.in_process, facts.batch_size, facts.epoch_steps) == ("", BATCH, 100)
        measured = engine.run(Trial(Candidate(makers=1, prefetch=2), "", SHORT_S, epoch_steps=20))
        assert measured.gap_ms is not None
        assert measured.start_s is not None
        assert torch.equal(training.model.weight, before)  # type: ignore[attr-defined]
    assert not [child for child in psutil.Process().children() if "loaderlab trial" in child.name()]


class Training:
    """A step with a model, which can be pickled."""

    def __init__(self) -> None:
        self.model = torch.nn.Linear(8, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1)

    def __call__(self, batch: torch.Tensor) -> None:
        self.model(batch).sum().backward()
        self.optimizer.step()


# ---- a trial ----------------------------------------------------------------------------------------------------------


def test_a_slow_loader_starves_the_step_and_a_worker_helps() -> None:
    """Without a worker a step takes 8 ms of waiting and 4 ms of work; the machine may only make both longer."""
    alone = measure(program(slow_loader()), Trial(Candidate(), "", SHORT_S), own_process=False)
    assert alone.starved_pct > 40
    assert alone.worker_mib is None
    helped = measure(program(slow_loader(0.0)), Trial(Candidate(makers=1, prefetch=2), "", SHORT_S), own_process=False)
    assert helped.starved_pct < alone.starved_pct
    assert helped.num_steps >= 15
    assert helped.worker_mib is not None


def test_more_workers_than_cores_are_tried_without_a_warning(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    crowd = Trial(Candidate(makers=2, prefetch=2), "", SHORT_S)
    assert measure(program(slow_loader(0.0)), crowd, own_process=False).num_steps >= 15
    assert not [entry for entry in recwarn if "worker" in str(entry.message)]


@pytest.mark.parametrize("loader", [slow_loader(0), DataLoader(Stream(shares=True), batch_size=BATCH)])
@pytest.mark.parametrize("persistent", [False, True])
def test_a_window_contains_the_end_of_an_epoch(loader: DataLoader[Any], persistent: bool) -> None:
    trial = Trial(Candidate(makers=1, prefetch=2, persistent=persistent), "", SHORT_S, epoch_steps=20)
    assert measure(program(loader), trial, own_process=False).gap_ms is not None


def test_without_a_limit_no_epoch_ends() -> None:
    measured = measure(program(slow_loader(0)), Trial(Candidate(), "", SHORT_S), own_process=False)
    assert measured.gap_ms is None


def test_the_probes_with_persistent_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader whose workers have been ended cannot be read again: each probe needs one of its own."""
    monkeypatch.setattr("loaderlab.tuning.user_probes.PROBE_S", SHORT_S)
    trial = Trial(Candidate(makers=1, prefetch=2, persistent=True), "", SHORT_S, probes=True, alone=True)
    measured = measure(program(slow_loader(0)), trial, own_process=False)
    assert None not in (measured.ceiling, measured.loader_alone, measured.contended)


def test_the_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loaderlab.tuning.user_probes.PROBE_S", SHORT_S)
    measured = measure(
        program(slow_loader()), Trial(Candidate(), "", SHORT_S, probes=True, alone=True), own_process=False
    )
    assert measured.ceiling is not None
    assert measured.loader_alone is not None
    assert measured.contended is not None
    assert measured.loader_cores is not None
    assert min(measured.ceiling, measured.loader_alone, measured.contended) > 0


def test_a_probe_whose_loader_fails_leaves_no_worker() -> None:
    kept = []

    def build() -> DataLoader[torch.Tensor]:
        kept.append(DataLoader(programs.Ending(), batch_size=BATCH, num_workers=1, persistent_workers=True))
        return kept[-1]

    before = set(psutil.Process().children())
    with pytest.raises(ValueError, match="a broken file"):
        loader_alone(build, 1)
    assert set(psutil.Process().children()) <= before


def test_a_step_that_changes_its_batch_has_no_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loaderlab.tuning.user_probes.PROBE_S", SHORT_S)
    trial = Trial(Candidate(), "", SHORT_S, probes=True, alone=True)
    measured = measure(program(slow_loader(0), programs.picky_step), trial, own_process=False)
    assert (measured.ceiling, measured.contended) == (None, None)
    assert measured.loader_alone is not None


# ---- SIGTERM ----------------------------------------------------------------------------------------------------------


def terminated_search(engine: Any, *_: Any) -> Tuned:
    """A search that is ended by SIGTERM, and says what is known."""
    try:
        engine.facts()
        signal.raise_signal(signal.SIGTERM)
    except KeyboardInterrupt:
        return tuned_of(answers.interrupted)
    raise AssertionError("it was not interrupted")


def test_sigterm_ends_a_search_with_its_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(user_program, "answered", terminated_search)
    monkeypatch.setattr(FreshProcesses, "check", lambda place: Checked(100, 4, 128))
    with pytest.raises(Terminated):
        loaderlab.tune(slow_loader(0), programs.step, device="cpu")
    assert capsys.readouterr().out.splitlines() == lines_of(answers.interrupted)
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_program_that_handles_sigterm_keeps_its_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[int] = []
    monkeypatch.setattr(user_program, "answered", lambda *_: signal.raise_signal(signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        loaderlab.tune(slow_loader(0), programs.step, device="cpu")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]


# ---- the function -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_makers": -1}, "max_makers=-1: must be at least 0"),
        ({"minutes": 0}, "minutes=0: must be above 0"),
        ({"max_starved_pct": 100}, "max_starved_pct=100: must be above 0 and below 100"),
        ({"memory_mib": 0}, "memory_mib=0: must be above 0"),
        ({"step": 3}, "step: int is not a function of a batch"),
    ],
)
def test_values_that_are_not_allowed(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(WrongUsage, match=message):
        loaderlab.tune(**{"loader": slow_loader(0), "step": programs.step, "device": "cpu", **arguments})
