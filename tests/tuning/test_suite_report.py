"""The end of `loaderlab tune`: a store or a folder that fails loses nothing of the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import cast

import pytest

from loaderlab.config import TrainConfig, TunedTrainConfig, UserError
from loaderlab.system.terminal import quiet_terminal
from loaderlab.tuning import suite_command
from loaderlab.tuning.suite_record import SuiteRecord
from loaderlab.tuning.words import qualified
from tests.tuning import answers


class Broken:
    """The record in a store that fails, if it has an error."""

    ui_text = "recorded: here"

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    def answered(self, *_: object) -> None:
        if self.error is not None:
            raise self.error


@pytest.fixture
def config(
    make_config: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> TunedTrainConfig:
    monkeypatch.setattr(suite_command, "store_root", lambda: tmp_path / "root")
    train = make_config()
    return TunedTrainConfig(**{entry.name: getattr(train, entry.name) for entry in fields(TrainConfig)})


def said(config: TunedTrainConfig, record: Broken, error: type[BaseException] | None) -> list[str]:
    """What is printed about a certified answer."""
    terminal = quiet_terminal()

    def report() -> None:
        suite_command._report(config, answers.certified, cast(SuiteRecord, record), terminal)

    if error is None:
        report()
    else:
        with pytest.raises(error, match="no space"):
            report()
    return terminal.said


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (UserError("no space"), UserError),
        (OSError("no space"), UserError),
        (KeyboardInterrupt("no space"), KeyboardInterrupt),
    ],
)
def test_a_store_that_fails_loses_nothing(
    error: BaseException, raised: type[BaseException], config: TunedTrainConfig, tmp_path: Path
) -> None:
    lines = said(config, Broken(error), raised)
    assert lines[-2] == f"certificate: {qualified(answers.certified)}"
    assert (tmp_path / "root" / "mlruns" / "tuned" / "chosen.yaml").exists()


def test_a_folder_that_fails_loses_nothing(config: TunedTrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> Path:
        raise UserError("no space")

    monkeypatch.setattr(suite_command, "save_settings", fails)
    lines = said(config, Broken(), UserError)
    assert lines[0] == "recorded: here"
    assert lines[-2] == f"certificate: {qualified(answers.certified)}"


def test_the_settings_of_an_interrupted_search_are_printed_and_not_saved(
    config: TunedTrainConfig, tmp_path: Path
) -> None:
    terminal = quiet_terminal()
    answer = replace(answers.interrupted, tried=())
    suite_command._report(config, answer, cast(SuiteRecord, Broken()), terminal)
    assert "not saved, because it is not confirmed. To use it: " in terminal.said[1]
    assert "loader.num_workers=3" in terminal.said[1]
    assert not (tmp_path / "root").exists()
