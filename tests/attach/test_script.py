"""A script under ``loaderlab watch`` behaves as it does without it: exit code, stdout, and what it sees of its surroundings."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from loaderlab.cli.watch import start

BARE = [sys.executable]
WATCHED = [sys.executable, "-m", "loaderlab", "watch"]


def run(command: list[str], folder: Path, typed: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, cwd=folder, input=typed, capture_output=True, timeout=120, check=False)


def write(folder: Path, text: str, name: str = "script.py") -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))


def both(
    folder: Path, text: str, *arguments: str
) -> tuple[subprocess.CompletedProcess[bytes], subprocess.CompletedProcess[bytes]]:
    write(folder, text)
    return run([*BARE, "script.py", *arguments], folder), run([*WATCHED, "script.py", *arguments], folder)


# ---- exit codes and output -------------------------------------------------------------------------------------------


ENDS = {
    "end": ("print('end')", 0),
    "exit 0": ("import sys; print('zero'); sys.exit(0)", 0),
    "exit 1": ("import sys; sys.exit(1)", 1),
    "exit 7": ("import sys; sys.stdout.write('no newline'); sys.exit(7)", 7),
    "exit none": ("import sys; sys.exit()", 0),
    "exit text": ("import sys; sys.exit('text')", 1),
    "exception": ("def f():\n    raise ValueError('bad')\nf()", 1),
    "os._exit": ("import os, sys; print('x'); sys.stdout.flush(); os._exit(5)", 5),
    "os.abort": ("import os; os.abort()", -signal.SIGABRT),
    "Ctrl-C": ("import os, signal; os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT),
    "SIGTERM": ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    "syntax": ("x = (", 1),
    "bytes": ("import sys; sys.stdout.buffer.write(bytes(range(256)))", 0),
    "atexit": ("import atexit; atexit.register(print, 'later'); print('sooner')", 0),
    "thread": (
        "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()",
        0,
    ),
    "excepthook": ("import sys\nsys.excepthook = lambda *e: print('mine', e[0].__name__)\n1/0", 1),
}


@pytest.mark.parametrize("name", ENDS)
def test_exit_code_and_stdout_are_those_of_the_script(name: str, tmp_path: Path) -> None:
    text, code = ENDS[name]
    bare, watched = both(tmp_path, text)
    assert bare.returncode == code
    assert watched.returncode == code
    assert watched.stdout == bare.stdout
    assert set(bare.stderr.splitlines()) <= set(watched.stderr.splitlines()), watched.stderr.decode()
    dies = name in ("SIGTERM", "os.abort", "syntax")
    assert (b"loaderlab: script.py: inconclusive: cannot judge" in watched.stderr) is not dies


def test_a_traceback_has_no_frame_of_this_package(tmp_path: Path) -> None:
    bare, watched = both(tmp_path, ENDS["exception"][0])
    assert watched.stderr.startswith(bare.stderr)


def test_an_interrupt_passes_through(tmp_path: Path) -> None:
    write(tmp_path, "import time; print('ready', flush=True); time.sleep(60)")
    process = subprocess.Popen(
        [*WATCHED, "script.py"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt\nloaderlab: script.py: inconclusive: cannot judge" in errors


# ---- surroundings ----------------------------------------------------------------------------------------------------


SEEN = {
    "argv": "import sys; print(sys.argv)",
    "path": "import sys, os; print(os.path.samefile(sys.path[0], '.'), len([p for p in sys.path if p == sys.path[0]]))",
    "names": "print(__name__, __file__, __package__, __spec__, type(__loader__).__name__, sorted(globals()))",
    "main": "import sys; print(sys.modules['__main__'].__dict__ is globals())",
    "no torch": "import sys; print('torch' in sys.modules, 'numpy' in sys.modules)",
    "pickle": "import pickle\nclass C:\n    x = 3\nprint(pickle.loads(pickle.dumps(C())).x)",
    "source": "import inspect\ndef f():\n    return 1\nprint(inspect.getsource(f))",
    "signals": "import signal as s; print(s.getsignal(s.SIGINT) is s.default_int_handler, s.getsignal(s.SIGTERM))",
    "fork": "import os\nif os.fork() == 0:\n    print('child', flush=True); os._exit(3)\nprint(os.wait()[1] >> 8)",
    "threads": "import threading; print(threading.active_count(), threading.current_thread().name)",
    "encoding": "import sys; print(sys.stdout.encoding, sys.stdout.errors, sys.stdout.isatty())",
    "environment": "import os; print(sorted(os.environ))",
    "stdin": "print(input())",
    "import near": "import near; print(near.WHERE)",
}


def test_the_script_sees_what_it_sees_without_us(tmp_path: Path) -> None:
    write(tmp_path, "WHERE = __file__", "near.py")
    parts = [f"print({name!r})\n{textwrap.dedent(text)}" for name, text in SEEN.items()]
    write(tmp_path, "\n".join(parts))
    arguments = ["script.py", "--steps", "3", "-m", "x"]
    bare = run([*BARE, *arguments], tmp_path, b"typed\n")
    watched = run([*WATCHED, *arguments], tmp_path, b"typed\n")
    assert bare.returncode == watched.returncode == 0, watched.stderr.decode()
    assert watched.stdout == bare.stdout


@pytest.mark.parametrize("annotations", [True, False])
def test_our_own_future_imports_do_not_reach_the_script(annotations: bool, tmp_path: Path) -> None:
    text = "def f(x: int): pass\nprint(f.__annotations__)"
    bare, watched = both(tmp_path, f"{'from __future__ import annotations' * annotations}\n{text}")
    assert watched.stdout == bare.stdout


@pytest.mark.parametrize(
    "method",
    ["fork", pytest.param("spawn", marks=pytest.mark.slow), pytest.param("forkserver", marks=pytest.mark.slow)],
)
def test_processes_of_the_script(method: str, tmp_path: Path) -> None:
    text = f"""
        import multiprocessing, sys

        def work(number):
            return number * 2, __name__, sys.argv

        print("imported as", __name__)
        if __name__ == "__main__":
            with multiprocessing.get_context("{method}").Pool(1) as pool:
                print(pool.map(work, [1, 2]))
    """
    bare, watched = both(tmp_path, text, "one")
    assert bare.returncode == watched.returncode == 0, watched.stderr.decode()
    assert sorted(watched.stdout.splitlines()) == sorted(bare.stdout.splitlines())
    assert "it started another process, which was not measured" in " ".join(watched.stderr.decode().split())


@pytest.mark.parametrize(("target", "text"), [("nothing", "No module named nothing"), ("bad", "SyntaxError")])
def test_a_module_that_cannot_start_has_no_verdict(target: str, text: str, tmp_path: Path) -> None:
    write(tmp_path, "x = (", "bad.py")
    bare, watched = run([*BARE, "-m", target], tmp_path), run([*WATCHED, "-m", target], tmp_path)
    assert watched.returncode == bare.returncode == 1
    assert text in watched.stderr.decode()
    assert b"loaderlab: " not in watched.stderr


def test_a_pool_that_is_never_shut_down_ends(tmp_path: Path) -> None:
    text = "from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(2)\nprint(pool.submit(int, 3).result())"
    bare, watched = both(tmp_path, text)
    assert (watched.returncode, watched.stdout) == (bare.returncode, bare.stdout) == (0, b"3\n")


def test_a_forked_child_that_ends_normally_publishes_nothing(tmp_path: Path) -> None:
    write(tmp_path, "import os, sys\nif os.fork() == 0:\n    sys.exit(4)\nprint(os.wait()[1] >> 8)")
    watched = run([*WATCHED, "--json", "result.json", "script.py"], tmp_path)
    assert (watched.returncode, watched.stdout) == (0, b"4\n")
    assert watched.stderr.count(b"loaderlab: ") == 1


def test_without_stderr_nothing_goes_to_stdout(tmp_path: Path) -> None:
    write(tmp_path, "import sys; sys.stderr = None; print('only this')")
    watched = run([*WATCHED, "script.py"], tmp_path)
    assert (watched.returncode, watched.stdout) == (0, b"only this\n")


@pytest.mark.parametrize("target", ["package.module", "package", "package.nested"])
def test_modules(target: str, tmp_path: Path) -> None:
    body = """
        import sys
        from . import near
        from .near import WHERE
        print(__name__, __package__, __spec__.name, sys.argv[1:], sys.path[0] == __import__('os').getcwd(), WHERE)
    """
    write(tmp_path, "", "package/__init__.py")
    write(tmp_path, "WHERE = 'near'", "package/near.py")
    write(tmp_path, body, "package/module.py")
    write(tmp_path, body, "package/__main__.py")
    write(tmp_path, "raise SystemExit(4)", "package/nested.py")
    bare = run([*BARE, "-m", target, "a"], tmp_path)
    watched = run([*WATCHED, "-m", target, "a"], tmp_path)
    assert bare.returncode == watched.returncode == (4 if target == "package.nested" else 0), watched.stderr.decode()
    assert watched.stdout == bare.stdout


def test_a_folder_with_a_main(tmp_path: Path) -> None:
    write(tmp_path, "import sys; print(__name__, sys.argv, sys.path[0])", "program/__main__.py")
    bare, watched = run([*BARE, "program", "a"], tmp_path), run([*WATCHED, "program", "a"], tmp_path)
    assert bare.returncode == watched.returncode == 0, watched.stderr.decode()
    assert watched.stdout == bare.stdout


def test_a_script_in_another_folder_imports_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path, "import near, sys; print(near.__file__, sys.argv, __file__)", "there/script.py")
    write(tmp_path, "", "there/near.py")
    bare, watched = run([*BARE, "there/script.py"], tmp_path), run([*WATCHED, "there/script.py"], tmp_path)
    assert watched.stdout == bare.stdout


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.py"], "nothing.py: No such file or directory. Type the path of a script"),
        (["empty"], "empty: is a folder without a __main__.py"),
        ([], "the script is missing"),
        (["--json", "nowhere/result.json", "script.py"], "cannot be written: No such file or directory"),
        (["--html", "empty", "script.py"], "--html empty: is a folder"),
        (["--fail-if-starved", "101", "script.py"], "must be 0 to 100"),
        (["--steps", "0", "script.py"], "must be a whole number of at least 1"),
        (["--steps"], "its value N is missing"),
        (["--jsn", "x", "script.py"], "--jsn: there is no such option. Did you mean --json?"),
        (["--uri", "x", "script.py"], "--uri: is only for --record"),
        (["-m"], "the name of a module must follow. Type for example: "),
        (["--json", "/dev/null", "script.py"], "--json /dev/null: is not a regular file"),
        (["--json", "a", "--html", "a", "script.py"], "is the file of --json too"),
    ],
)
def test_bad_input_is_reported_before_the_script_starts(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write(tmp_path, "print('started')")
    assert start(arguments) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "script.py"]


def test_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert start(["--help"]) == 0
    text = capfd.readouterr().out
    for word in (
        "--record NAME",
        "--json FILE",
        "--html FILE",
        "--fail-if-starved PCT",
        "--steps N",
        "-m package.module",
    ):
        assert word in text
