"""The MLflow run of `loaderlab.tune(record=…)`."""

from __future__ import annotations

import inspect
from typing import Any, cast

import pytest

import loaderlab
from loaderlab.config import PROJECT, TrackingConfig, TuneConfig, UserError
from loaderlab.tracking import open_store
from loaderlab.tuning import tuned, user_record
from loaderlab.tuning.answer import Answer
from loaderlab.tuning.answer_figures import figures_of
from loaderlab.tuning.trial import Engine
from loaderlab.tuning.user_record import FIGURES, recorded, trials_of
from tests.tuning import answers


@pytest.fixture
def tracking(store_uri: str) -> TrackingConfig:
    return TrackingConfig(uri=store_uri, experiment="of_a_test")


def test_the_answer_has_its_metrics_its_picture_and_its_trials(tracking: TrackingConfig) -> None:
    text = recorded("mine", answers.nothing_feeds, tracking)
    assert text.startswith("recorded: ")
    store = open_store(tracking, PROJECT)
    runs = store.runs()
    (parent,) = [run for run in runs if run.parent_id is None]
    assert (parent.name, parent.status, parent.figures) == ("mine", "FINISHED", figures_of(answers.nothing_feeds))
    assert store.read(parent.run_id, "tune.png")
    children = [run for run in runs if run.parent_id == parent.run_id]
    assert len(children) == len(runs) - 1 == len(list(trials_of(answers.nothing_feeds))) == 4 + 3 * 3
    (died,) = [run for run in children if run.status == "FAILED"]
    assert died.tags["error"] == "the worker was killed: out of memory"
    last = next(run for run in children if run.name == "2 workers, round 3")
    assert last.tags["tune.candidate"].startswith("num_workers=2 prefetch_factor=2")
    assert (last.tags["tune.reason"], last.tags["tune.round"]) == ("confirmation", "3")
    assert (last.tags["arm"], last.settings["loader.num_workers"]) == ("2 workers", "2")
    assert (last.figures["rate/samples_per_s"], last.figures["starvation/starved_pct"]) == (902, 56.0)


def test_the_metrics_of_a_trial_exist() -> None:
    assert set(FIGURES.values()) <= set(vars(answers.measured(1000, 1.0)))


def answered(answer: Answer, tracking: TrackingConfig, monkeypatch: pytest.MonkeyPatch) -> tuned.Tuned:
    """The result of a search that has already ended."""
    monkeypatch.setattr(tuned, "search", lambda *_, **__: answer)
    return tuned.answered(cast(Engine, None), TuneConfig(), "mine", tracking)


def test_the_place_of_the_record_is_printed(
    tracking: TrackingConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answered(answers.no_workers, tracking, monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("recorded: ")
    assert tracking.uri in lines[0]


@pytest.mark.parametrize("error", [UserError("no space"), OSError("no space"), KeyboardInterrupt("no space")])
def test_an_answer_that_cannot_be_recorded_is_printed(
    error: BaseException,
    tracking: TrackingConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(*_: object) -> str:
        raise error

    monkeypatch.setattr(user_record, "recorded", fails)
    with pytest.raises(type(error), match="no space"):
        answered(answers.certified, tracking, monkeypatch)
    assert capsys.readouterr().out.splitlines()[-3:] == tuned.lines_of(answers.certified)


def test_the_store_is_chosen_as_in_watch() -> None:
    def default(function: Any, name: str) -> Any:
        return inspect.signature(function).parameters[name].default

    for name in ("record", "uri", "experiment"):
        assert default(loaderlab.tune, name) == default(loaderlab.watch, name)
