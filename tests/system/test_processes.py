from __future__ import annotations

import subprocess
import sys

import pytest

from loaderlab.config import PROJECT
from loaderlab.system.versions import has_gil


def test_leaving_runs_the_atexit_handlers_and_no_teardown() -> None:
    code = """
import atexit
from loaderlab.system.processes import leave
class Slow:
    def __del__(self):
        print("torn down")
kept = Slow()
atexit.register(print, "handler")
print("last line")
leave(7)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (7, ["last line", "handler"], "")


def test_whether_the_interpreter_has_its_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    assert not has_gil()
    monkeypatch.delattr(sys, "_is_gil_enabled")
    assert has_gil()
