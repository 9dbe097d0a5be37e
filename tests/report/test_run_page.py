"""One run as rows of text and as a page."""

from __future__ import annotations

import subprocess
import sys

from loaderlab.report import run_page


def test_metrics_that_were_not_measured_have_no_row() -> None:
    rows = run_page.figure_rows({"rate/samples_per_s": 1234.5, "val/accuracy": 0.5})
    assert rows == [("throughput, steady state", "1,234 samples/s"), ("validation accuracy, last", "0.5000")]


def test_a_part_is_indented_below_the_row_that_it_belongs_to() -> None:
    rows = run_page.figure_rows(
        {"starvation/delivery_pct": 1.25, "time/wait_ms": 1.0, "time/step_ms": 3.0, "starvation/starved_pct": 33.3}
    )
    assert rows == [
        ("step, mean", "3.00 ms"),
        ("  wait for the batch", "1.00 ms"),
        ("device starved of data", "33.3 % of the window"),
        ("  starved while the batch was on its way", "1.2 % of the window"),
    ]
    assert "| wait for the batch | 1.00 ms | `time/wait_ms` |" in run_page.markdown(
        "a run", {}, {"time/wait_ms": 1.0}, None
    )


def test_a_page_shows_names_as_text() -> None:
    page = run_page.markdown("a run", {"data": "<script>|"}, {"val/loss": 0.25}, None)
    assert "<script>" not in page
    assert "| validation loss, last | 0.2500 | `val/loss` |" in page


def test_the_page_of_one_run_needs_no_comparison() -> None:
    code = (
        "import sys, loaderlab.report.run_page; "
        "print([name for name in sys.modules if 'loaderlab.compare' in name or 'matplotlib' in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
