"""The callbacks for Hugging Face's and Lightning's trainers, with small doubles of the frameworks and simulated time."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import loaderlab
from loaderlab.attach.events import Kind
from loaderlab.attach.recorder import recorder
from loaderlab.attach.session import Session
from loaderlab.config import UserError
from loaderlab.diagnosis.evidence import Advice
from tests.attach import fake_frameworks as fakes
from tests.attach.fake_frameworks import Work
from tests.attach.planted_time import BATCH, clock

NAMES = ["TransformersCallback", "LightningCallback"]
WAIT, STARVED = "starvation/wait_pct", "starvation/starved_pct"


@pytest.fixture(autouse=True)
def simulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("loaderlab.attach.hooks.perf_counter_ns", clock)
    monkeypatch.setattr("loaderlab.attach.session._counters", dict)
    fakes.install(monkeypatch)
    yield
    fakes.forget()


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(name: str) -> Callable[..., Any]:
    return lambda **options: getattr(loaderlab, name)(**options)


def trainer_of(callback: Any, work: Work, rank: int = 0) -> Any:
    if type(callback).__name__ == "LightningCallback":
        return fakes.LightningTrainer(work, callback, rank)
    trainer = sys.modules["transformers"].Trainer(work, callback, rank)
    trainer.fit = trainer.train
    return trainer


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_starved_share_is_the_planted_one(make: Callable[..., Any], accumulate: int, capsys: Any) -> None:
    callback = make()
    assert (callback.reading, callback.verdict, callback.figures) == (None, None, {})
    assert trainer_of(callback, Work(accumulate=accumulate)).fit() == "trained"
    assert callback.figures[STARVED] == pytest.approx(25)  # 10 of 40 ms
    assert callback.figures["time/step_ms"] == pytest.approx(40 * accumulate, rel=0.03)
    assert callback.verdict.grade == "starved"
    printed = capsys.readouterr()
    assert printed.out == ""
    assert callback.verdict.because in " ".join(printed.err.split())
    assert printed.err.count("loaderlab:") == 1


def test_a_loader_that_was_created_before_the_callback_is_located(make: Callable[..., Any], name: str) -> None:
    getattr(loaderlab, name)  # the program imports it
    work = Work()
    callback = make()
    trainer_of(callback, work).fit()
    (loader,) = callback.reading.loaders
    assert loader.made_at.startswith("tests/attach/fake_frameworks.py:")
    assert (loader.facts.title, loader.facts.batch_size) == ("DataLoader", BATCH)
    assert callback.reading.others == ()  # the sanity check is not part of the training


def test_metrics_and_verdict_reach_the_logger_before_it_ends(make: Callable[..., Any]) -> None:
    callback = make(log=True)
    trainer = trainer_of(callback, Work())
    trainer.fit()
    assert callback.figures.items() <= trainer.integration.scalars.items()
    assert trainer.integration.texts == {"verdict": str(callback.verdict)}


def test_nothing_is_logged_unless_requested(make: Callable[..., Any]) -> None:
    trainer = trainer_of(make(), Work())
    trainer.fit()
    assert not {WAIT, STARVED} & trainer.integration.scalars.keys()
    assert trainer.integration.texts == {}


@pytest.mark.parametrize("error", [RuntimeError("broken batch"), KeyboardInterrupt()])
def test_an_exception_passes_through_and_the_verdict_is_printed(
    make: Callable[..., Any], error: BaseException, capsys: Any
) -> None:
    callback = make(log=True)
    trainer = trainer_of(callback, Work(fails_at=30, error=error))
    with pytest.raises(type(error)) as raised:
        trainer.fit()
    assert raised.value is error
    assert callback.figures[STARVED] == pytest.approx(25)
    assert "starved of data 25.0 %" in capsys.readouterr().err
    assert trainer.integration.scalars[STARVED] == callback.figures[STARVED]


def test_each_training_is_measured_anew(make: Callable[..., Any]) -> None:
    callback = make()
    work = Work()
    for wait_ms, share in ((10, 25), (30, 50)):
        work.loader.dataset.wait_ms = wait_ms  # type: ignore[attr-defined]
        trainer_of(callback, work).fit()
        assert callback.figures[STARVED] == pytest.approx(share)
        assert len(callback.reading.job.loop.steps) == 40
        assert callback.reading.job.facts.title == "DataLoader"


def test_a_training_after_a_failed_one_is_measured(make: Callable[..., Any]) -> None:
    callback = make()
    with pytest.raises(RuntimeError):
        trainer_of(callback, Work(fails_at=3, error=RuntimeError())).fit()
    assert callback.verdict.grade == "inconclusive"
    trainer_of(callback, Work()).fit()
    assert callback.figures[STARVED] == pytest.approx(25)


def test_a_training_that_was_given_up_without_an_event_is_dropped(make: Callable[..., Any], capsys: Any) -> None:
    callback = make()
    callback._begin(0)  # transformers retries with a smaller batch size after running out of memory, for example
    trainer_of(callback, Work()).fit()
    assert callback.figures[STARVED] == pytest.approx(25)
    assert capsys.readouterr().err.count("loaderlab:") == 1


def test_an_evaluation_alone_is_not_measured(make: Callable[..., Any], capsys: Any) -> None:
    callback = make(log=True)
    trainer = trainer_of(callback, Work())
    trainer.validate()
    assert callback.reading is None
    assert capsys.readouterr().err == ""
    assert trainer.integration.scalars == {}


def test_evaluations_during_the_training_do_not_count(make: Callable[..., Any]) -> None:
    callback = make()
    trainer_of(callback, Work(evaluates_at=(10, 20, 30))).fit()
    assert callback.figures[STARVED] == pytest.approx(25)
    assert [entry.role for entry in callback.reading.others] == ["evaluation"]


def test_another_measurement_goes_on(make: Callable[..., Any], capsys: Any) -> None:
    session = Session()
    session.start()
    callback = make()
    assert trainer_of(callback, Work()).fit() == "trained"
    session.stop()
    assert "not measured: another measurement" in capsys.readouterr().err
    assert callback.reading is None
    assert session.reading().job.figures[STARVED] == pytest.approx(25)


def test_a_measurement_that_has_reached_its_number_of_steps_is_kept(make: Callable[..., Any]) -> None:
    session = Session(max_steps=30)
    session.start()
    trainer_of(make(), Work()).fit()
    trainer_of(make(), Work(wait_ms=30)).fit()
    session.stop()
    assert session.reading().job.figures[STARVED] == pytest.approx(25)


def test_a_pass_over_a_loader_that_spans_two_measurements_begins_anew_in_the_second() -> None:
    work, session = Work(), Session()
    batches = iter(work.loader)
    for _ in range(2):
        session.start()
        for _ in range(20):
            work.micro_batch(next(batches))
            work.step()
        session.stop()
        rows = recorder.events().rows
        assert [row.kind for row in rows].count(Kind.START) == 1
        assert {row.passed for row in rows if row.kind == Kind.BATCH} == {rows[0].passed} == {1}
        assert session.reading().job.facts.title == "DataLoader"


def test_a_fault_of_the_measurement_does_not_end_the_training(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def fail(self: Session) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(Session, "reading", fail)
    callback = make(log=True)
    assert trainer_of(callback, Work()).fit() == "trained"
    assert callback.reading is None
    assert "ZeroDivisionError: planted" in capsys.readouterr().err


def test_a_logger_that_fails_does_not_end_the_training(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    callback = make(log=True)
    trainer = trainer_of(callback, Work())

    def fail(*args: Any, **others: Any) -> None:
        if WAIT in f"{args} {others}":
            raise OSError("no space left")

    monkeypatch.setattr(trainer.integration, "on_log", fail, raising=False)
    monkeypatch.setattr(trainer.integration, "log_metrics", fail, raising=False)
    assert trainer.fit() == "trained"
    printed = capsys.readouterr().err
    assert "no space left" in printed
    assert "starved of data 25.0 %" in printed


def test_another_rank_prints_one_line_and_has_its_own_file(
    make: Callable[..., Any], tmp_path: Path, capsys: Any
) -> None:
    callback = make(log=True, json=tmp_path / "result.json")
    trainer_of(callback, Work(), rank=1).fit()
    printed = capsys.readouterr().err
    assert len(printed.splitlines()) == 1
    assert "rank 1: starved of data 25.0 %" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["result.rank1.json"]
    assert json.loads((tmp_path / "result.rank1.json").read_text())["verdict"] == "starved"


def test_max_steps_ends_the_measurement(make: Callable[..., Any]) -> None:
    callback = make(max_steps=20)
    trainer_of(callback, Work()).fit()
    assert len(callback.reading.job.loop.steps) == 20


def test_options_are_checked_before_the_training(make: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="max_steps=0: must be at least 1"):
        make(max_steps=0)
    with pytest.raises(UserError, match="cannot be written"):
        make(html=tmp_path / "missing" / "page.html")


def test_a_framework_that_is_not_installed_names_the_extra(
    name: str, make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.remove(monkeypatch)
    package, extra = ("transformers", "hf") if name == "TransformersCallback" else ("lightning", "lightning")
    with pytest.raises(UserError, match=rf"{name} needs {package}, which is not installed.*\[{extra}\]"):
        make()


def test_lightning_under_its_other_name(monkeypatch: pytest.MonkeyPatch) -> None:
    other = type("Callback", (fakes.LightningCallbackBase,), {})
    monkeypatch.setitem(sys.modules, "pytorch_lightning", SimpleNamespace(Callback=other))
    monkeypatch.delitem(sys.modules, "lightning.pytorch")
    assert isinstance(loaderlab.LightningCallback(), other)


def test_advice_names_the_settings_of_the_framework() -> None:
    from loaderlab.attach.lightning_callback import in_lightning_terms
    from loaderlab.attach.transformers_callback import in_arguments

    def advice(setting: str, value: str | int | bool) -> Advice:
        return Advice("more", setting, value)

    workers, precision = advice("loader.num_workers", 3), advice("precision", "bf16")
    assert in_arguments(workers) == "TrainingArguments(dataloader_num_workers=3)"
    assert in_arguments(precision) == "TrainingArguments(bf16=True)"
    assert in_arguments(advice("precision", "tf32")) == in_arguments(advice("", "")) == ""
    blocking = "TrainingArguments(accelerator_config={'non_blocking': True})"
    assert in_arguments(advice("loader.non_blocking", True)) == blocking
    assert in_lightning_terms(workers) == "DataLoader(num_workers=3)"
    assert in_lightning_terms(precision) == 'Trainer(precision="bf16-mixed")'
    assert in_lightning_terms(advice("loader.non_blocking", True)) == ""


def test_a_trainer_with_its_own_loader_gets_advice_for_the_loader() -> None:
    base = sys.modules["transformers"].Trainer
    own = type("Own", (base,), {"get_train_dataloader": lambda self: self.work.loader})
    for kind, words in ((base, "TrainingArguments(dataloader_num_workers="), (own, "DataLoader(num_workers=")):
        callback = loaderlab.TransformersCallback()
        kind(Work(wait_ms=100), callback).train()
        assert words in str(callback.verdict)
