"""The record of the tuner in MLflow, and the file for ``+tuned=NAME``."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from loaderlab import config as config_package
from loaderlab.cli.compose import compose, typed
from loaderlab.config import PROJECT, NativeLoader, TrainConfig, TunedTrainConfig, UserError
from loaderlab.metrics import TABLE
from loaderlab.system.processes import Terminated
from loaderlab.system.terminal import quiet_terminal
from loaderlab.tracking import open_store
from loaderlab.tracking.store import Store
from loaderlab.tuning import suite_command
from loaderlab.tuning.answer import CERTIFIED, UNCONFIRMED, Answer, Confirmed, Predicted, Tried
from loaderlab.tuning.answer_figures import figures_of
from loaderlab.tuning.candidate import NATIVE, SPDL, Branch, Candidate
from loaderlab.tuning.suite import TrialRun
from loaderlab.tuning.suite_record import recording, save_settings
from loaderlab.tuning.trial import Facts, Measured
from tests.tuning.simulated import Simulated

NOW = Candidate(Branch(NATIVE), 4, 2, pin_memory=True, persistent=True, start_method="fork")
CHOSEN = replace(NOW, makers=2)
RUN = Measured(1000.0, 0.5, (0.0, 1.0), 20.0, 100, run_id="")


def answer(run_id: str = "") -> Answer:
    tried = Tried(CHOSEN, "predicted to be enough", Predicted(990.0, 1.25), replace(RUN, run_id=run_id))
    return Answer(
        grade=CERTIFIED,
        facts=Facts(NOW, (Branch(NATIVE),), 100, 64),
        max_starved_pct=5.0,
        chosen=CHOSEN,
        neighbour=None,
        fastest=NOW,
        tried=(tried,),
        excluded=(),
        confirmed={CHOSEN: Confirmed(CHOSEN, (RUN, RUN, RUN), 0.5, (0.25, 0.75), 1000.0)},
        certificate="with 2 workers the device is starved 0.5 % of the time",
        search_s=40.0,
        confirm_s=60.0,
        starts_s=20.0,
    )


@pytest.fixture
def config(make_config: Callable[..., TrainConfig]) -> TunedTrainConfig:
    train = make_config("loader.num_workers=4", "steps=5")
    return TunedTrainConfig(**{entry.name: getattr(train, entry.name) for entry in fields(TrainConfig)})


@pytest.fixture
def store(config: TunedTrainConfig) -> Store:
    return open_store(config.tracking, PROJECT)


def test_the_answer_is_recorded_with_its_trials_below(config: TunedTrainConfig, store: Store) -> None:
    with recording(config, store) as record:
        parent_id = record.for_trials.parent_id
        with store.start("2 workers", parent_id, {}) as child:
            pass
        record.answered(answer(child.run_id), "<p>a page</p>", b"a picture")
    parent, trial = store.run(parent_id), store.run(child.run_id)
    assert parent is not None
    assert trial is not None
    assert (parent.status, trial.parent_id, trial.status) == ("FINISHED", parent_id, "FINISHED")
    assert trial.tags["tune.predicted"] == "990 samples/s, starved 1.2 %"
    assert parent.tags["tune.chosen"] == "loader.num_workers=2 loader.prefetch_factor=2"
    assert parent.tags["tune.certificate"] == answer().certificate
    assert parent.tags["tune.grade"] == CERTIFIED
    assert parent.figures == figures_of(answer())
    assert parent.settings["loader.num_workers"] == "4"
    assert store.read(parent_id, "tune.html") == "<p>a page</p>"
    assert store.read(parent_id, "tune.png") == "a picture"
    text = store.read(parent_id, "tune.json")
    assert text is not None
    assert json.loads(text)["confirmed"][0]["candidate"]["makers"] == 2


def test_files_of_an_emulated_accelerator_have_names_that_say_so(config: TunedTrainConfig, store: Store) -> None:
    emulated = replace(answer(), facts=replace(answer().facts, emulated="emulated custom"))
    with recording(config, store) as record:
        parent_id = record.for_trials.parent_id
        record.answered(emulated, "<p>a page</p>", b"a picture")
    assert store.read(parent_id, "tune_emulated.html") == "<p>a page</p>"
    assert store.read(parent_id, "tune_emulated.png") == "a picture"
    assert store.read(parent_id, "tune.json") is None


def test_what_is_known_is_recorded_after_ctrl_c(config: TunedTrainConfig, store: Store) -> None:
    unconfirmed = replace(answer(), grade=UNCONFIRMED, confirmed={}, interrupted=True)
    parent_id = ""

    def interrupted() -> None:
        nonlocal parent_id
        with recording(config, store) as record:
            parent_id = record.for_trials.parent_id
            record.answered(unconfirmed, "", b"")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    parent = store.run(parent_id)
    assert parent is not None
    assert (parent.status, parent.tags["tune.grade"]) == ("KILLED", UNCONFIRMED)
    assert "tune/lost_pct" not in parent.figures
    assert store.read(parent_id, "tune.png") is None


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_between_trials_has_its_own_exit_code(
    number: signal.Signals, error: type[BaseException], config: TunedTrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As during the parity check. `loaderlab.cli.frame` makes the exit code of the exception."""

    class Interrupted(Simulated):
        def record_under(self, _: TrialRun) -> None:
            pass

        def refuses(self, _: Branch) -> str:
            signal.raise_signal(number)
            raise AssertionError("it was not interrupted")

    engine = Interrupted({Branch(NATIVE): lambda makers: 100.0, Branch(SPDL): lambda makers: 100.0}, lambda _: 1000.0)
    monkeypatch.setattr(suite_command, "SuiteEngine", lambda *_: engine)
    monkeypatch.setattr(suite_command, "png_of", lambda _: b"")
    monkeypatch.setattr("loaderlab.tuning.page.html", lambda *_: "")
    terminal = quiet_terminal()
    with pytest.raises(KeyboardInterrupt) as interrupt:
        suite_command.tune_run(config, [], terminal)
    assert interrupt.type is error
    assert terminal.said[-2].startswith("certificate: ")


def test_the_metrics_of_an_answer() -> None:
    figures = figures_of(answer())
    assert set(figures) == {name for name in TABLE if name.startswith("tune/")}
    assert (figures["tune/makers"], figures["tune/lost_pct"], figures["tune/lost_high_pct"]) == (2.0, 0.5, 0.75)
    assert set(figures_of(replace(answer(), chosen=None))) == {"tune/search_s", "tune/confirm_s", "tune/starts_s"}


def test_the_chosen_settings_are_used_by_name(
    config: TunedTrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_package, "store_root", lambda: tmp_path)
    for _ in range(2):  # a second answer replaces the first one
        assert save_settings(answer(), config, tmp_path) == tmp_path / "mlruns" / "tuned" / "chosen.yaml"
    assert [path.name for path in (tmp_path / "mlruns" / "tuned").iterdir()] == ["chosen.yaml"]
    loader = typed(compose("train", ["+tuned=chosen"]), TrainConfig).loader
    assert loader == NativeLoader(num_workers=2, prefetch_factor=2)
    assert save_settings(replace(answer(), chosen=None), config, tmp_path) is None


@pytest.mark.parametrize("changes", [{"grade": UNCONFIRMED}, {"interrupted": True}])
def test_settings_that_are_not_confirmed_replace_no_others(
    changes: dict[str, Any], config: TunedTrainConfig, tmp_path: Path
) -> None:
    path = save_settings(answer(), config, tmp_path)
    assert path is not None
    before = path.read_text()
    assert save_settings(replace(answer(), chosen=NOW, **changes), config, tmp_path) is None
    assert path.read_text() == before


def test_a_folder_that_cannot_be_written_is_named(config: TunedTrainConfig, tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    with pytest.raises(UserError, match="chosen.yaml: cannot be written: "):
        save_settings(answer(), config, tmp_path / "a file")
