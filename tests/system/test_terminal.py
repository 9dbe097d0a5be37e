"""What a person reads: whole in a wide window, without its last columns in a narrow one, plain lines in a log."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from loaderlab.system import terminal as module
from loaderlab.system.terminal import Terminal

COLUMNS = ("job", "status", "samples/s", "val acc", "host MiB")
ROWS = [["loader=native", "finished", "1,234", "0.9876", "987"], ["loader=dali [bold]", "failed", "–", "–", "–"]]


def shown(width: int, interactive: bool = False) -> tuple[Terminal, StringIO]:
    out = StringIO()
    return Terminal(Console(file=out, width=width, force_terminal=interactive, color_system=None)), out


def test_a_wide_table_is_whole_and_markup_is_text() -> None:
    terminal, out = shown(120)
    terminal.table("all jobs", COLUMNS, ROWS)
    for word in (*COLUMNS, "1,234", "0.9876", "987", "loader=dali [bold]"):
        assert word in out.getvalue()
    assert "987" in terminal.said[0]


def test_a_narrow_table_leaves_its_last_columns_out_and_says_so() -> None:
    terminal, out = shown(50)
    terminal.table("all jobs", COLUMNS, ROWS)
    assert "1,234" in out.getvalue()
    assert "too narrow for: val acc, host MiB" in out.getvalue()
    assert max(map(len, out.getvalue().splitlines())) <= 50
    assert "host MiB" in terminal.said[0]  # what is kept is whole


def test_plain_progress_is_a_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REDRAW_S", 0.0)
    terminal, out = shown(120)
    with terminal.progress("training", 1000) as bar:
        for done in range(1, 1001):
            if bar.due(done):
                bar.update(done, f"loss {1 / done:.3f}")
    lines = out.getvalue().splitlines()
    assert 8 <= len(lines) <= module.PLAIN_LINES
    assert lines[0] == "training 100/1000 loss 0.010"


def test_a_bar_where_a_person_looks() -> None:
    terminal, out = shown(120, interactive=True)
    with terminal.progress("training", 10) as bar:
        bar.update(5, "loss 0.5, 100 samples/s, wait 3 %")
    assert "5/10" in out.getvalue()
    assert "wait 3 %" in out.getvalue()
