"""A measured loop as HTML: what it shows, that texts are escaped, and that it loads nothing."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser

import numpy as np
import pytest

from loaderlab.device.step_times import DeviceStep
from loaderlab.diagnosis.evidence import Advice
from loaderlab.diagnosis.verdict import Verdict
from loaderlab.meter.step import Step
from loaderlab.report import loop_html, wait_chart

ADVICE = (Advice("more workers", "loader.num_workers", 4, 2.0), Advice("measure more steps"))
VERDICT = Verdict("starved", "loader", 4.0, "starved of data 75.0 % of the time", ADVICE)
FIGURES = {"time/step_ms": 40.0, "time/wait_ms": 30.0, "time/compute_ms": 9.0, "time/other_ms": 1.0}
EVIL = '<img src=x onerror="alert(1)">&amp;'


def steps(waits_ms: Sequence[float], per_epoch: int = 10**9) -> list[Step]:
    return [
        Step(number // per_epoch, number, number % per_epoch, 4, (int(1e6 * wait), 0, 10_000_000, 0, 0))
        for number, wait in enumerate(waits_ms)
    ]


def shown(steps: Sequence[Step] = (), figures: Mapping[str, float] = FIGURES, **options: Sequence[Step] | None) -> str:
    return loop_html.fragment("a loop", VERDICT, figures, steps, **options)  # type: ignore[arg-type]


class Tags(HTMLParser):
    """Counts the open elements; every element must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        """An element of an SVG that closes itself."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if self.open and self.open[-1] != "style" else ""


def words(html: str) -> str:
    """The visible text."""
    tags = Tags(html)
    assert tags.open == []
    return " ".join(tags.text.split())


def bars(html: str, colour: str) -> list[tuple[int, float]]:
    """The column and the height of each bar of a colour, in percent of the axis."""
    path = re.search(rf'<path d="([^"]*)" fill="{colour}"', html)
    return [] if path is None else [(int(x), 100 - float(y)) for x, y in re.findall(r"M(\d+) 100V([\d.]+)h1", path[1])]


def test_the_verdict_with_all_advice() -> None:
    html = shown()
    text = words(html)
    assert '<span class="grade" style="background:#B3400A">starved</span> of data 75.0 % of the time.' in html
    assert "Bottleneck: loader." in text
    assert "Try loader.num_workers=4: more workers (gain at most 2.00x)." in text
    assert "To do: measure more steps." in text


def test_the_parts_of_a_mean_step_add_up_to_the_bar() -> None:
    html = shown()
    widths = [float(width) for width in re.findall(r'<rect x="[\d.]+" width="([\d.]+)"', html)]
    assert widths == [75.0, 22.5, 2.5]
    text = words(html)
    assert "Mean step: 40.00 ms" in text
    assert "wait for the batch 30.00 ms (75.0 %)" in text
    assert "forward, backward, optimizer 9.00 ms (22.5 %)" in text
    assert "transfer" not in text  # not measured


def test_a_part_below_zero_takes_no_place() -> None:
    """The rest of a step is a difference of two clocks."""
    html = shown(figures={"time/wait_ms": 30.0, "time/compute_ms": 10.0, "time/other_ms": -0.01})
    assert [float(width) for width in re.findall(r'width="([\d.]+)" height', html)] == [75.0, 25.0, 0.0]


def test_values_that_are_not_finite_are_left_out() -> None:
    figures = {**FIGURES, "time/transfer_ms": math.nan, "rate/samples_per_s": math.inf, "starvation/starved_pct": 75.0}
    text = words(shown(figures=figures))
    assert "nan" not in text.lower()
    assert "throughput" not in text
    assert "device starved of data75.0 % of the window" in text
    assert "CI" not in text  # there is no interval
    interval = {"starvation/starved_low_pct": 70.0, "starvation/starved_high_pct": 80.0}
    assert "75.0 % of the window (95 % CI 70.0 to 80.0)" in words(shown(figures=figures | interval))


def test_nothing_was_measured() -> None:
    verdict = Verdict("inconclusive", None, None, "no step was measured")
    html = loop_html.fragment("", verdict, {}, [])
    assert words(html) == "inconclusive: no step was measured."
    assert "<svg" not in html


def test_one_step() -> None:
    html = shown(steps([7.0]), {})
    ((column, height),) = bars(html, "#D55E00")
    assert column == 0
    assert height == pytest.approx(7 / 8 * 100, abs=0.1)
    assert "step 0" in words(html)
    assert "The only step is left out as warm-up." in words(shown(steps([7.0]), {}, window=[]))


def test_steps_that_never_wait() -> None:
    assert bars(shown(steps([0.0] * 5), {}), "#D55E00") == []


def test_one_slow_batch_among_many_stays_visible() -> None:
    waits = np.full(90_000, 0.1)
    waits[54_321] = 35.0
    html = shown(steps(waits.tolist()))
    ((column, height),) = [bar for bar in bars(html, "#D55E00") if bar[1] > 50]
    assert column == 54_321 // 150
    assert height == pytest.approx(35 / 40 * 100, abs=0.1)
    text = words(html)
    assert "Each column shows the longest wait of up to 150 steps." in text
    assert "longer than the axis" not in text
    assert len(html) < 50_000


def test_a_wait_that_would_flatten_all_others_is_cut_and_named() -> None:
    waits = [1.0] * 100
    waits[42] = 5_000.0
    html = shown(steps(waits), {"time/step_ms": 8.0})
    assert dict(bars(html, "#D55E00"))[42] == 100
    assert dict(bars(html, "#D55E00"))[41] == pytest.approx(100 / 80, abs=0.1)  # the axis ends at ten mean steps
    assert "One wait is longer than the axis: 5,000 ms at step 42." in words(html)


def test_steps_outside_the_window_are_grey_and_explained() -> None:
    every = steps([50.0, 5.0, *[1.0] * 8], per_epoch=5)
    assert "left out" not in words(shown(every))
    html = shown(every, window=every[2:])
    assert [x for x, _ in bars(html, wait_chart.LEFT_OUT)] == [0, 1]
    assert [x for x, _ in bars(html, "#D55E00")] == list(range(2, 10))
    assert "The first 2 steps are left out as warm-up." in words(html)
    of_each_epoch = [step for step in every if step.step not in (0, 1, 5)]
    text = words(shown(every, window=of_each_epoch))
    assert "3 steps at the start of the loop and of each epoch are left out as warm-up." in text


@pytest.mark.parametrize(("per_epoch", "columns"), [(10, ["10", "20"]), (1200, ["400"])])
def test_the_starts_of_epochs_are_marked(per_epoch: int, columns: list[str]) -> None:
    count = 30 if per_epoch == 10 else 1800
    html = shown(steps([1.0] * count, per_epoch))
    marks = re.search(r'<path d="((?:M\d+ 0V100)+)"', html)
    assert marks is not None
    assert re.findall(r"M(\d+) 0V100", marks[1]) == columns
    assert "Dashed lines: starts of epochs." in words(html)


def test_too_many_epochs_are_counted_instead() -> None:
    html = shown(steps([1.0] * 500, per_epoch=5))
    assert "0V100" not in re.sub(r"M\d+ 100V", "", html)
    assert "The starts of 100 epochs are not marked." in words(html)


def test_on_a_device_with_its_own_clock_two_waits_are_shown() -> None:
    """The host waits 4 ms in each step; the device has work for 3 ms of them."""
    timed = [
        Step(0, number, number, 4, (4_000_000, 0, 0, 0, 0), device=DeviceStep(1.0, 0.0, 7.0, 0.0, 0.0, 0.0))
        for number in range(3)
    ]
    html = shown(timed, {"time/step_ms": 8.0})
    assert [bars(html[at:], "#D55E00")[0][1] for at in (0, html.rindex("<path"))] == [50, 12.5]
    text = words(html)
    assert "host wait for the batch" in text
    assert "device starved of data" in text


def test_texts_are_escaped() -> None:
    name = EVIL + "x" * 5_000
    verdict = Verdict("starved", EVIL, None, EVIL, (Advice(EVIL, EVIL, EVIL), Advice(EVIL)), EVIL)
    fragment = loop_html.fragment(name, verdict, FIGURES, steps([1.0] * 20), [EVIL])
    html = loop_html.page(name, [fragment], {EVIL: EVIL})
    assert "<img" not in html
    assert html.count("&lt;img src=x onerror=&quot;alert(1)&quot;&gt;&amp;amp;") == 13
    assert words(fragment).count(EVIL) == 9


def test_a_page_loads_nothing_and_can_be_written() -> None:
    one = shown(steps([1.0] * 20))
    html = loop_html.page("caf\udce9.py", [one, one], {"device": "a device"})  # a file name that is not UTF-8
    assert html.encode("utf-8").startswith(b"<!doctype html>")
    assert html.count('class="loaderlab-loop"') == 2
    assert "device: a device" in html
    assert "default-src 'none'" in html
    assert not re.findall(r"<script|https?://|url\(|(?:src|href)=", html)


def test_it_needs_only_packages_of_the_base_installation() -> None:
    code = (
        "import sys, loaderlab.report.loop_html; "
        "print([name for name in ('matplotlib', 'jinja2', 'mlflow', 'hydra', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
