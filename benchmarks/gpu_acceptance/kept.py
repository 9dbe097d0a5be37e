"""A plugin of pytest that keeps how each test ended as soon as it has, so that a run that is cut goes on where it was:

    python -m pytest -m gpu -p benchmarks.gpu_acceptance.kept --kept=FOLDER

What has passed with this code is not run again; a test in which a run before was cut comes last, lest it cut this one too.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from loaderlab.config import PROJECT

FILE = "tests.jsonl"
WORST_LAST = ("passed", "skipped", "failed")


@dataclass(frozen=True)
class Outcome:
    """How a test ended: ``chosen`` (its turn has not come), ``begun`` (it was cut), ``passed``, ``skipped``, ``failed``.

    Attributes:
        code: by `code_digest`.
        why: it was skipped.
    """

    test: str
    outcome: str
    code: str
    why: str = ""


def code_digest() -> str:
    """Of all that a test runs: a commit says nothing of a file that was changed since, nor of a checkout without Git."""
    digest = hashlib.sha1()
    for folder in ("src", "tests", "conf"):
        for path in sorted((PROJECT / folder).rglob("*")):
            if path.suffix in (".py", ".yaml", ".html"):
                digest.update(path.relative_to(PROJECT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def read(folder: Path) -> dict[str, Outcome]:
    """The last that is known of each test, by its name; a line that was cut short is left out."""
    try:
        lines = (folder / FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    found = {}
    for line in lines:
        try:
            outcome = Outcome(**json.loads(line))
        except json.JSONDecodeError:
            continue
        found[outcome.test] = outcome
    return found


class Keeper:
    """Writes a line whenever something becomes of a test."""

    def __init__(self, folder: Path) -> None:
        self.before = read(folder)
        self._code = code_digest()
        self._file = (folder / FILE).open("a", encoding="utf-8")
        self._ended: dict[str, tuple[str, str]] = {}

    def _write(self, test: str, outcome: str, why: str = "") -> None:
        told = {"test": test, "outcome": outcome, "code": self._code, "why": why}
        self._file.write(json.dumps(told) + "\n")
        self._file.flush()

    def is_done(self, test: str) -> bool:
        known = self.before.get(test)
        return known is not None and known.outcome == "passed" and known.code == self._code

    def cut_one_before(self, test: str) -> bool:
        return test in self.before and self.before[test].outcome == "begun"

    @pytest.hookimpl(trylast=True)  # after `-m` has chosen
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        done = [item for item in items if self.is_done(item.nodeid)]
        config.hook.pytest_deselected(items=done)
        items[:] = sorted(
            (item for item in items if item not in done), key=lambda item: self.cut_one_before(item.nodeid)
        )
        for item in items:
            if not self.cut_one_before(item.nodeid):
                self._write(item.nodeid, "chosen")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._write(nodeid, "begun")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Of the three phases of a test the worst counts; written when all are over."""
        why = str(report.longrepr[2]).removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
        before = self._ended.pop(report.nodeid, ("passed", ""))
        worst = max(before, (report.outcome, why), key=lambda ended: WORST_LAST.index(ended[0]))
        if report.when == "teardown":
            self._write(report.nodeid, *worst)
        else:
            self._ended[report.nodeid] = worst

    def pytest_unconfigure(self) -> None:
        self._file.close()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kept", type=Path, required=True, help="the folder that keeps how each test ended")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Keeper(config.getoption("--kept")))
