"""Terminal output: complete in a wide window, fewer columns in a narrow one, plain lines in a log."""

from __future__ import annotations

import sys
from io import StringIO

import pytest
from rich.console import Console

from loaderlab.compare.comparison import compare
from loaderlab.report.arm_table import arm_table
from loaderlab.system import terminal as module
from loaderlab.system.terminal import Terminal
from tests.records import arms

COLUMNS = ("job", "status", "samples/s", "val acc", "host MiB")
ROWS = [["loader=native", "finished", "1,234", "0.9876", "987"], ["loader=dali [bold]", "failed", "–", "–", "–"]]


def shown(width: int, interactive: bool = False) -> tuple[Terminal, StringIO]:
    out = StringIO()
    return Terminal(Console(file=out, width=width, force_terminal=interactive, color_system=None)), out


def test_a_wide_table_is_complete_and_markup_is_text() -> None:
    terminal, out = shown(120)
    terminal.table("all jobs", COLUMNS, ROWS)
    for word in (*COLUMNS, "1,234", "0.9876", "987", "loader=dali [bold]"):
        assert word in out.getvalue()
    assert "987" in terminal.said[0]


def test_a_narrow_table_leaves_out_columns_before_the_last_one_and_names_them() -> None:
    terminal, out = shown(50)
    terminal.table("all jobs", COLUMNS, ROWS)
    assert "1,234" in out.getvalue()
    assert "host MiB" in out.getvalue()
    assert "too narrow for: val acc)" in out.getvalue()
    assert max(map(len, out.getvalue().splitlines())) <= 50
    assert "val acc" in terminal.said[0]  # the stored copy is complete


def arms_side_by_side() -> tuple[list[str], list[list[str]]]:
    """A real table, 126 characters wide, with a verdict of two words."""
    runs = arms({"native": [100.0, 101.0, 99.0]})
    runs += arms({"dali": [101.0, 100.0, 102.0], "spdl": [150.0, 152.0, 149.0]}, tags={"verdict": "partly starved"})
    comparison = compare("a sweep", runs)
    return arm_table(comparison, comparison.groups[0])


@pytest.mark.parametrize(
    ("width", "left_out"),
    [
        (80, "starved, val acc, host MiB, cores"),
        (100, "host MiB, cores"),
        (120, ""),
        (150, ""),
    ],
)
def test_the_verdict_is_shown_in_any_window(width: int, left_out: str) -> None:
    terminal, out = shown(width)
    columns, rows = arms_side_by_side()
    terminal.table("a sweep", columns, rows)
    table, _, message = out.getvalue().partition("(the window is too narrow for: ")
    assert "verdict" in table
    assert "partly" in table
    assert "starved" in table.replace("┃ starved", "")
    assert " ".join(message.split()) == (f"{left_out})" if left_out else "")
    assert max(map(len, table.splitlines())) <= width
    assert "partly starved" in terminal.said[0]
    assert all(column in terminal.said[0] for column in columns)


def test_headings_are_wrapped_before_a_column_is_left_out() -> None:
    columns = ["loader.num_workers", "n", "samples/s", "workers needed", "accelerators fed", "verdict"]
    rows = [["0", "3", "1,234", "1.91", "0.52", "starved"]]
    terminal, out = shown(75)
    terminal.table("a sweep", columns, rows)
    first, second = out.getvalue().splitlines()[2:4]
    assert [cell.strip() for cell in first.split("┃")[1:-1]] == ["loader.", "", "", "workers", "accelerators", ""]
    assert [cell.strip() for cell in second.split("┃")[1:-1]] == [
        "num_workers",
        "n",
        "samples/s",
        "needed",
        "fed",
        "verdict",
    ]
    terminal, out = shown(120)
    terminal.table("a sweep", columns, rows)
    assert "workers needed" in out.getvalue()


def test_a_long_verdict_is_wrapped_between_words() -> None:
    columns, rows = ["loader", "n", "samples/s", "verdict"], [["native", "3", "100", "partly starved (2 of 3)"]]
    terminal, out = shown(40)
    terminal.table("a sweep", columns, rows)
    lines = [line.split("│")[-2].strip() for line in out.getvalue().splitlines() if line.startswith("│")]
    assert lines == ["partly", "starved (2", "of 3)"]
    assert "partly starved (2 of 3)" in terminal.said[0]


def test_a_long_first_column_is_folded_before_a_column_is_left_out() -> None:
    terminal, out = shown(72)
    terminal.table("a sweep", COLUMNS, [["loader=native data.root=/a/long/path/of/images", *ROWS[0][1:]]])
    assert "too narrow" not in out.getvalue()
    assert "0.9876" in out.getvalue()
    assert max(map(len, out.getvalue().splitlines())) <= 72


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


@pytest.mark.parametrize("pause_s", [0.0, 3600.0])  # a slow and a fast training
def test_plain_progress_ends_with_the_total(pause_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REDRAW_S", pause_s)
    terminal, _ = shown(120)
    with terminal.progress("training", 95) as bar:
        for done in (*range(1, 96), 95):
            if bar.due(done):
                bar.update(done)
    assert terminal.said[-1] == "training 95/95"
    assert terminal.said.count("training 95/95") == 1
    assert len(terminal.said) == (1 if pause_s else module.PLAIN_LINES)


def test_a_terminal_shows_a_progress_bar() -> None:
    terminal, out = shown(120, interactive=True)
    with terminal.progress("training", 10) as bar:
        bar.update(5, "loss 0.5, 100 samples/s, wait 3 %")
    assert "5/10" in out.getvalue()
    assert "wait 3 %" in out.getvalue()


def test_a_total_that_was_wrong_is_left_out_until_it_is_corrected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REDRAW_S", 0.0)
    monkeypatch.setattr(module, "QUIET_S", 0.0)
    terminal, _ = shown(120)
    with terminal.progress("training", 10) as bar:
        bar.update(5)
        bar.update(12)
        bar.set_total(60)
        bar.update(30)
        assert not bar.due(33)  # a tenth of the new total is 6
        assert bar.due(36)
    assert terminal.said == ["training 5/10", "training 12", "training 30/60"]


def test_a_bar_shows_a_corrected_total() -> None:
    terminal, out = shown(120, interactive=True)
    with terminal.progress("training", 10) as bar:
        bar.update(12, "loss 0.5")
        assert "12/10" not in out.getvalue()
        assert "12/?" in out.getvalue()
        bar.set_total(60)
        bar.update(30, "loss 0.4")
        assert "30/60" in out.getvalue()


def test_a_reader_that_has_ended_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended(StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(module, "discard_stdout", lambda: None)
    monkeypatch.setattr(sys, "stdout", Ended())
    with pytest.raises(BrokenPipeError, match="the reader of stdout has ended"):
        Terminal().say("a line")
