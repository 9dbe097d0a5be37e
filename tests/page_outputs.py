"""Runs the commands whose output a page shows, and writes the output into the page: python -m tests.page_outputs [PAGE …].

A block of commands is followed by ``<!-- output -->`` or ``<!-- output: REGULAR EXPRESSION -->`` and a block of text. The
expression selects the lines to show; lines that are left out become one ``…``. A run or sweep that several pages show runs once. All
runs together take about 15 minutes on an idle machine, and their results depend on other programs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import textwrap
from collections import Counter
from pathlib import Path

from loaderlab.config import PROJECT
from tests.pages import BLOCK, SHOWN, WRITTEN, Block, blocks, make_inputs

HOME = "/home/you"  # replaces the home folder of this machine
CHECKOUT = f"{HOME}/loaderlab"  # and the folder of the checkout
WIDTH = 110  # characters, of the terminal
LINE = 84  # characters of a sentence that fit into a page of the site without scrolling
BORDERS = tuple("┏┃┡│└├")  # of the rows of a table
# the console script of a checkout that is not installed
INSTALLED = (
    r"python -m loaderlab \1" if (PROJECT / "src/loaderlab/__main__.py").exists() else r"python -m experiments.\1"
)


class Runner:
    """Runs commands one after the other, and reuses the output of a run or sweep that several pages show."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._known, self._exit_code = folder, dict[str, str](), 0

    def printed(self, block: Block) -> str:
        """The output of a block's commands, including errors, as a reader would see it."""
        return "".join(map(self._output, block.commands))

    def _output(self, command: str) -> str:
        if command in self._known:
            return self._known[command]
        if command.startswith("source "):  # the environment is already active
            return ""
        print(command, flush=True)
        text = re.sub(r"^loaderlab (\w+)", INSTALLED, command.replace("/path/to", str(self._folder)))
        done = subprocess.run(
            ["bash", "-c", f"(exit {self._exit_code}); {text}"],
            cwd=self._folder,
            env=os.environ | {"PYTHONPATH": f"{PROJECT}:{PROJECT / 'src'}:{self._folder}", "COLUMNS": str(WIDTH)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._exit_code = done.returncode
        output = (
            done.stdout.replace(str(self._folder), "/path/to")
            .replace(str(PROJECT), CHECKOUT)
            .replace(str(Path.home()), HOME)
        )
        if not command.startswith(
            ("loaderlab compare", "python -m experiments.compare", "echo ")
        ):  # their output depends on the latest sweep
            self._known[re.sub(r"^python -m experiments\.", "loaderlab ", command)] = output
            self._known[command] = output
        return output


def excerpt(output: str, lines: str) -> str:
    """The lines of an output that match, with ``…`` for each group of lines that is left out.

    Rows of a table are left out without a mark; of several tables, only the last is shown. A long sentence is broken between words, as in a terminal.
    """
    shown: list[str] = []
    before = ""
    printed = output.strip("\n").splitlines()
    last_table = max((index for index, line in enumerate(printed) if line.startswith("┏")), default=0)
    for index, line in enumerate(printed):
        is_row = line.startswith(BORDERS)
        if (not lines or re.search(lines, line)) and not (is_row and index < last_table):
            shown += [line.rstrip()] if is_row else textwrap.wrap(line, LINE, break_long_words=False) or [""]
        elif shown and shown[-1] != "…" and not (is_row and before.startswith(BORDERS)):
            shown.append("…")
        before = line
    return "\n".join(shown).removesuffix("…").rstrip("\n") + "\n"


def update(page: Path, runner: Runner) -> None:
    """Writes the outputs into a page."""
    shown_before = Counter[str]()  # a page can have the same commands twice
    for block in blocks(page):
        index = shown_before[block.text]
        shown_before[block.text] += 1
        if not block.shows:
            continue
        output = excerpt(runner.printed(block), block.lines)
        text = page.read_text(encoding="utf-8")
        opened = [match for match in BLOCK.finditer(text) if match["text"] == block.text][index]
        shown = SHOWN.match(text, opened.end())
        assert shown is not None
        start, end = shown.span("output")
        page.write_text(text[:start] + output + text[end:], encoding="utf-8")


def main(names: list[str]) -> None:
    """Updates the named pages in this order, or all."""
    pages = [page for name in names for page in WRITTEN if page.stem == Path(name).stem] if names else WRITTEN
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        make_inputs(folder, num_images=480)
        runner = Runner(folder)
        for page in pages:
            update(page, runner)


if __name__ == "__main__":
    main(sys.argv[1:])
