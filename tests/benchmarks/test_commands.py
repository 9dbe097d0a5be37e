"""Every benchmark answers --help at once, and names an option that is not valid."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.harness import options
from loaderlab.config import PROJECT

COMMANDS = sorted((PROJECT / "benchmarks").glob("*.py"))
HEAVY = {"torch", "mlflow", "nvidia", "matplotlib", "scipy"}


def help_text(*start: str) -> str:
    """The output of --help; its last line lists the heavy modules that were imported."""
    code = (
        "import atexit, runpy, sys\n"
        f"atexit.register(lambda: print('imported', sorted({HEAVY!r} & set(sys.modules))))\n"
        "start = sys.argv[1]; sys.argv = [start, '--help']\n"
        "runpy.run_path(start, run_name='__main__') if start.endswith('.py') else"
        " runpy.run_module(start, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code, *start], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "start", [*(str(path) for path in COMMANDS), "benchmarks.gpu_acceptance"], ids=lambda start: start.split("/")[-1]
)
def test_help_imports_no_heavy_module(start: str) -> None:
    text = help_text(start)
    assert text.startswith("usage: ")
    assert text.splitlines()[-1] == "imported []"


def test_benchmark_started_by_its_path_names_a_wrong_option() -> None:
    command = [sys.executable, "benchmarks/planted_truths.py", "--repeats", "0"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "error: argument --repeats: 0: must be above 0" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", "x"], "argument --count: x: must be a whole number"),
        (["--count", "-3"], "argument --count: -3: must be above 0"),
        (["--seconds", "x"], "argument --seconds: x: must be a number"),
        (["--seconds", "nan"], "argument --seconds: nan: must be above 0"),
        (["--size", "500"], "argument --size: 500: must be WIDTHxHEIGHT, like 500x375"),
        (["rounds=3"], "unrecognized arguments: rounds=3"),  # the old spelling
    ],
)
def test_bad_options(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = options.parser("What it does.")
    parser.add_argument("--count", type=options.count)
    parser.add_argument("--seconds", type=options.number_above_0)
    parser.add_argument("--size", type=options.size)
    with pytest.raises(SystemExit) as exit_info:
        parser.parse_args(arguments)
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


def test_help_shows_defaults() -> None:
    parser = options.parser("What it does.\n\n    its commands")
    parser.add_argument("--count", type=options.count, default=3, help="of runs")
    parser.add_argument("--name", help="of the file")
    text = parser.format_help()
    assert "of runs (default: 3)" in text
    assert "None" not in text
    assert "\n    its commands\n" in text  # the lines of the description are kept
