"""The files of an answer: checked before the first trial, written after it was printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from loaderlab.config import UserError, WrongUsage
from loaderlab.tuning import script, script_engine, tuned
from loaderlab.tuning.answer_files import AnswerFiles
from loaderlab.tuning.tuned import Tuned
from tests.tuning.answers import ANSWERS

ANSWER = ANSWERS["certified"]


def test_a_file_that_cannot_be_written_is_refused_without_a_trace(tmp_path: Path) -> None:
    new = tmp_path / "new.json"
    AnswerFiles("train.py", new).checked()
    assert not new.exists()
    with pytest.raises(WrongUsage, match=r"missing/page\.html: cannot be written: No such file or directory"):
        AnswerFiles("train.py", new, tmp_path / "missing" / "page.html").checked()


def test_an_error_in_one_file_does_not_prevent_the_other(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    with pytest.raises(UserError, match=r"missing/a\.json: cannot be written") as error:
        AnswerFiles("train.py", tmp_path / "missing" / "a.json", page).write(ANSWER)
    assert "\n" not in str(error.value)
    assert page.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_the_command_checks_its_files_before_the_script_starts(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.py").touch()
    monkeypatch.chdir(tmp_path)
    assert script.start(["--yes", option, "missing/answer", "train.py"]) == 2
    error = capsys.readouterr().err
    assert "missing/answer: cannot be written" in error
    assert "will be started" not in error


def test_the_answer_is_printed_before_a_file_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder of the file is removed during the search."""
    project, results = tmp_path / "project", tmp_path / "results"
    project.mkdir()
    results.mkdir()
    (project / "train.py").touch()
    monkeypatch.chdir(project)

    def answered(engine: script_engine.ScriptEngine, *_: object) -> Tuned:
        assert "first start: train.py" in capsys.readouterr().out
        results.rmdir()
        return Tuned(ANSWER)

    monkeypatch.setattr(tuned, "answered", answered)
    assert script.start(["--yes", "--json", str(results / "a.json"), "train.py"]) == 1
    printed = capsys.readouterr()
    assert ANSWER.certificate in printed.out
    assert printed.err.splitlines()[-1].startswith(f"error: {results / 'a.json'}: cannot be written")


def test_files_are_written_although_nobody_reads_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.py").touch()
    monkeypatch.chdir(tmp_path)

    def show(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(tuned, "answered", lambda *_: Tuned(ANSWER))
    monkeypatch.setattr(script, "show", show)
    with pytest.raises(BrokenPipeError):
        script.start(["--yes", "--json", str(tmp_path / "a.json"), "train.py"])
    assert (tmp_path / "a.json").stat().st_size
