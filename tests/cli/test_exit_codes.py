"""One table of exit codes for all commands."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from loaderlab.cli import exit_table, train
from loaderlab.cli.frame import framed
from loaderlab.cli.main import main
from loaderlab.config import PROJECT, ExitCode, Failed, GateFailed, GateNotJudged, TrainConfig, UserError, refuse
from loaderlab.config.exit_codes import MEANINGS
from loaderlab.runs import job, run, start
from loaderlab.system.processes import Terminated
from loaderlab.system.terminal import Terminal


def test_every_code_has_a_meaning_and_a_line() -> None:
    assert set(MEANINGS) == set(ExitCode)
    assert [line.split()[0] for line in exit_table.lines()[1:]] == ["0", "1", "2", "3", "130", "143"]


def test_the_page_is_current() -> None:
    assert (PROJECT / "docs" / "exit_codes.md").read_text(encoding="utf-8") == exit_table.markdown()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("the disk is full"), 1),
        (Failed("2 of 3 jobs did not finish"), 1),
        (refuse("batch_size", 0, "must be at least 1", "batch_size=1"), 2),
        (GateFailed("too slow"), 3),
        (GateNotJudged("no baseline"), 3),
        (KeyboardInterrupt(), 130),
        (Terminated(), 143),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_exit_code_of_each_error(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise error

    assert framed("train", work) == code
    assert capsys.readouterr().out == ""


def test_too_few_samples_are_wrong_usage_even_after_the_start_of_a_run(
    make_config: Callable[..., TrainConfig], terminal: Terminal
) -> None:
    config = make_config("batch_size=100000", "steps=2")
    with pytest.raises(UserError, match="batch_size=100000: there are .* drop_last=true drops a short batch") as raised:
        run.run(config, job.single(config, []), terminal)
    assert raised.value.exit_code == ExitCode.WRONG_USAGE


def test_a_job_of_ranks_that_was_typed_wrong_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong_usage, code in ((True, ExitCode.WRONG_USAGE), (False, ExitCode.FAILED)):
        result = job.RunResult("", "FAILED", error="batch_size=9: too large", wrong_usage=wrong_usage)
        monkeypatch.setattr(start, "start_run", lambda *_, result=result: result)
        assert main("train", TrainConfig, train.job, ["launch=local"]) == code
        assert capsys.readouterr().err == "\nerror: batch_size=9: too large\n"


def test_a_setting_rejected_after_the_start_of_a_run_is_a_failed_run(
    make_config: Callable[..., TrainConfig], terminal: Terminal
) -> None:
    config = make_config("device=cuda:99", "steps=2")
    with pytest.raises(UserError, match="device=cuda:99") as raised:
        run.run(config, job.single(config, []), terminal)
    assert raised.value.exit_code == ExitCode.FAILED
