"""Runs the commands whose output a page shows, and puts what they print into the page: python -m tests.page_outputs [PAGE …].

A block of commands is followed by ``<!-- output -->`` or ``<!-- output: REGULAR EXPRESSION -->`` and a block of text. The
expression says which lines are shown; lines that are left out become one ``…``. Commands with the same text run once. Needs
about 15 minutes, since it trains; results depend on what else the machine does.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from loaderlab.config import PROJECT
from tests.pages import BLOCK, SHOWN, WRITTEN, Block, blocks, make_inputs

CHECKOUT = "/home/you/loaderlab"  # the output names no folder of this machine
WIDTH = "118"
# the console script of a checkout that is not installed
INSTALLED = (
    r"python -m loaderlab \1" if (PROJECT / "src/loaderlab/__main__.py").exists() else r"python -m experiments.\1"
)


def printed(block: Block, folder: Path) -> str:
    """What a block's commands print, one after the other, as a reader would see it; errors and exit codes included."""
    text = re.sub(r"^loaderlab (\w+)", INSTALLED, block.text.replace("/path/to", str(folder)), flags=re.MULTILINE)
    done = subprocess.run(
        ["bash", "-c", text],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{PROJECT}:{PROJECT / 'src'}:{folder}", "COLUMNS": WIDTH},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.stdout.replace(str(folder), "/path/to").replace(str(PROJECT), CHECKOUT)


def excerpt(output: str, lines: str) -> str:
    """The lines of an output that match, with ``…`` for each stretch that is left out."""
    shown: list[str] = []
    for line in output.strip("\n").splitlines():
        if not lines or re.search(lines, line):
            shown.append(line.rstrip())
        elif shown and shown[-1] != "…":
            shown.append("…")
    return "\n".join(shown).removesuffix("…").rstrip("\n") + "\n"


def update(page: Path, folder: Path, known: dict[str, str]) -> None:
    """Puts the outputs into a page."""
    for block in blocks(page):
        if not block.shows:
            continue
        if block.text not in known:
            print(f"{page.name}: {block.text.strip()}", flush=True)
            known[block.text] = printed(block, folder)
        text = page.read_text(encoding="utf-8")
        opened = next(match for match in BLOCK.finditer(text) if match["text"] == block.text)
        shown = SHOWN.match(text, opened.end())
        assert shown is not None
        start, end = shown.span("output")
        page.write_text(text[:start] + excerpt(known[block.text], block.lines) + text[end:], encoding="utf-8")


def main(names: list[str]) -> None:
    """Updates the named pages, or all."""
    pages = [page for page in WRITTEN if not names or page.stem in names or page.name in names]
    known: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made).resolve()
        make_inputs(folder, num_images=480)
        for page in pages:
            update(page, folder, known)


if __name__ == "__main__":
    main(sys.argv[1:])
