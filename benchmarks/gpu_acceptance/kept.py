"""A pytest plugin that stores the outcome of each test at once, so that an interrupted run can continue:

    python -m pytest -m gpu -p benchmarks.gpu_acceptance.kept --kept=FOLDER

Tests that passed with this code are not run again. The meter's tests come first, because all other results depend on the meter. A
test that interrupted an earlier run comes last, because it may interrupt this one as well.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from loaderlab.config import PROJECT

FILE = "tests.jsonl"
FIRST = "tests/meter/"
WORST_LAST = ("passed", "skipped", "failed")


@dataclass(frozen=True)
class Outcome:
    """The outcome of a test: ``chosen`` (not started), ``begun`` (interrupted), ``passed``, ``skipped``, ``failed``.

    Attributes:
        code: the value of `code_digest` at the time.
        why: the reason why it was skipped.
    """

    test: str
    outcome: str
    code: str
    why: str = ""


def code_digest() -> str:
    """A digest of all files that a test uses: a commit would miss uncommitted changes and a checkout without Git."""
    digest = hashlib.sha1()
    for folder in ("src", "tests", "conf"):
        for path in sorted((PROJECT / folder).rglob("*")):
            if path.suffix in (".py", ".yaml", ".html"):
                digest.update(path.relative_to(PROJECT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def read(folder: Path) -> dict[str, Outcome]:
    """The last outcome of each test, by its name; an incomplete line is left out."""
    try:
        lines = (folder / FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    outcomes = {}
    for line in lines:
        try:
            outcome = Outcome(**json.loads(line))
        except json.JSONDecodeError:
            continue
        outcomes[outcome.test] = outcome
    return outcomes


class Keeper:
    """Writes a line when a test is chosen, starts or ends."""

    def __init__(self, folder: Path) -> None:
        self.before = read(folder)
        self._code = code_digest()
        self._file = (folder / FILE).open("a", encoding="utf-8")
        self._ended: dict[str, tuple[str, str]] = {}

    def _write(self, test: str, outcome: str, why: str = "") -> None:
        line = {"test": test, "outcome": outcome, "code": self._code, "why": why}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def is_done(self, test: str) -> bool:
        """Whether the test has passed with this code."""
        before = self.before.get(test)
        return before is not None and before.outcome == "passed" and before.code == self._code

    def interrupted_before(self, test: str) -> bool:
        """Whether an earlier run was interrupted in the test."""
        return test in self.before and self.before[test].outcome == "begun"

    @pytest.hookimpl(trylast=True)  # after `-m` was applied
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        done = [item for item in items if self.is_done(item.nodeid)]
        config.hook.pytest_deselected(items=done)
        left = (item for item in items if item not in done)
        items[:] = sorted(
            left, key=lambda item: (self.interrupted_before(item.nodeid), not item.nodeid.startswith(FIRST))
        )
        for item in items:
            if not self.interrupted_before(item.nodeid):
                self._write(item.nodeid, "chosen")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._write(nodeid, "begun")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Writes the worst outcome of the three phases of a test after the last one."""
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
    parser.addoption("--kept", type=Path, required=True, help="folder in which the outcome of each test is stored")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Keeper(config.getoption("--kept")))
