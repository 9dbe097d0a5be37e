"""The page of an answer: it is self-contained, its texts are escaped, and it fits into a narrow window."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from loaderlab.tuning import page
from loaderlab.tuning.answer import Answer
from tests.tuning import answers
from tests.tuning.answers import ANSWERS, EVIL

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EACH = pytest.mark.parametrize("answer", ANSWERS.values(), ids=list(ANSWERS))


@EACH
def test_a_page_loads_nothing_and_runs_nothing(answer: Answer) -> None:
    text = page.html(answer, EVIL)
    assert EVIL not in text
    assert "<script" not in text
    assert 'src="' not in text
    assert text.count("<svg ") == (answer is not answers.nothing_ran)


def test_a_page_shows_the_answer() -> None:
    text = page.html(answers.certified, "tune")
    assert "<p>With 3 workers the device is starved 0.4 % of the time" in text
    assert "<pre><code>loader.num_workers=3 loader.prefetch_factor=2 " in text
    assert "<pre><code>DataLoader(dataset, batch_size=64, num_workers=3, " in text
    assert "Not certified" not in text
    assert "7 workers need 2,940 MiB" in text
    assert "<p>What is missing: 4.6 cores would feed it" in page.html(answers.nothing_feeds, "tune")
    assert "Not certified: not separable." in page.html(answers.not_separable, "tune")


def test_caveats_are_shown() -> None:
    text = page.html(answers.in_process, "tune")
    assert "cannot be sent to another process" in text
    assert "&lt;img src=x" in text


def test_the_texts_to_type_can_be_replaced() -> None:
    text = page.html(answers.certified, "tune", lambda candidate: f"workers: {candidate.makers}", lambda _: "")
    assert "<pre><code>workers: 3</code></pre></div>" in text


def test_without_matplotlib_the_page_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(page, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name))
    text = page.html(answers.certified, "tune")
    assert "<svg" not in text
    assert "The picture needs matplotlib" in text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")
def test_a_page_fits_into_a_narrow_window(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    problems: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for number, answer in enumerate(ANSWERS.values()):
            file = tmp_path / f"{number}.html"
            file.write_text(page.html(answer, "tune"), encoding="utf-8")
            for width in (400, 1200):
                view = browser.new_page(viewport={"width": width, "height": 800})
                view.on("console", lambda message: problems.append(message.text))
                view.goto(file.as_uri())
                assert view.evaluate("document.documentElement.scrollWidth") <= width
                view.close()
        browser.close()
    assert problems == []
