"""Standard streams that are closed, full, or unable to encode a character."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loaderlab.config import PROJECT
from loaderlab.system.files import encodable

SAYS = (
    "from loaderlab.system.processes import leave\n"
    "from loaderlab.system.streams import prepare_streams\n"
    "from loaderlab.system.terminal import Terminal\n"
    "prepare_streams(); Terminal().say('1.02\\xd7 of \\xfcn\\xefcode \\udcff'); leave(0)"
)
POSIX = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def run_redirected(redirection: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The result of a program that prints one line, run by a shell with redirected streams."""
    command = ["sh", "-c", f'exec "$0" -c "$1" {redirection}', sys.executable, SAYS]
    return subprocess.run(
        command, cwd=PROJECT, env=os.environ | environment, capture_output=True, encoding="utf-8", timeout=60
    )


def test_a_closed_stderr_does_not_change_the_exit_code() -> None:
    done = run_redirected("2>&- <&-")
    assert (done.returncode, done.stderr) == (0, "")
    assert "1.02× of ünïcode" in done.stdout


def test_output_to_a_closed_stderr_does_not_reach_stdout() -> None:
    """`print` writes to stdout if its file is None."""
    code = "import sys; from loaderlab.system.streams import prepare_streams; prepare_streams(); print('x', file=sys.stderr)"
    command = ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, code]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, encoding="utf-8", timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_full_stdout_gives_one_line_and_an_exit_code() -> None:
    done = run_redirected(">/dev/full")
    assert done.returncode == 1
    assert done.stderr == (
        "error: stdout cannot be written: No space left on device. Runs that were recorded are complete\n"
    )


def test_a_locale_that_lacks_a_character_does_not_end_a_run() -> None:
    done = run_redirected("", **POSIX)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "1.02\\xd7 of \\xfcn\\xefcode \\udcff\n"


@pytest.mark.parametrize("arguments", ["--help", "loader=null"])
def test_a_closed_stdout_is_refused(arguments: str) -> None:
    command = ["sh", "-c", 'exec "$0" -m experiments.train "$1" >&-', sys.executable, arguments]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, encoding="utf-8", timeout=60)
    assert done.returncode == 1
    assert done.stderr == "error: stdout is closed (>&-). To discard what is printed, type: >/dev/null\n"


def test_help_in_a_locale_without_utf8_and_on_a_full_stdout() -> None:
    start = ["sh", "-c", 'exec "$0" -m experiments.train --help', sys.executable]
    environment = os.environ | POSIX
    done = subprocess.run(start, cwd=PROJECT, env=environment, capture_output=True, encoding="utf-8", timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    start[2] += " >/dev/full"
    done = subprocess.run(start, cwd=PROJECT, capture_output=True, encoding="utf-8", timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_a_removed_working_folder_gives_one_line(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("gone")
    command = ["sh", "-c", 'rmdir "$(pwd)"; exec "$0" -m experiments.train', sys.executable]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(PROJECT / "src"), str(PROJECT)])}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=60)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: the working folder was removed")
    assert "Traceback" not in done.stderr


@given(st.text(st.characters()), st.sampled_from(["utf-8", "ascii", "latin-1", "cp1252"]))
def test_any_text_becomes_encodable_and_encodable_text_is_unchanged(text: str, encoding: str) -> None:
    result = encodable(text, encoding)
    result.encode(encoding)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        assert result != text
    else:
        assert result == text
