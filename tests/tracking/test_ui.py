"""The MLflow UI in a real browser: the parent run of a sweep, its child runs, their charts and pictures."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loaderlab.config import PROJECT as ROOT
from loaderlab.config import TrainConfig
from loaderlab.runs import job, run
from loaderlab.system.terminal import Terminal
from loaderlab.tracking import open_store
from tests.served import served

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]


@pytest.fixture
def swept(make_config: Callable[..., TrainConfig], terminal: Terminal) -> tuple[str, str, str, str]:
    """The store, the experiment, the parent run and one child run of a sweep of two jobs."""
    configs = {name: make_config(f"loader={name}", "epochs=3") for name in ("native", "dali")}
    config = configs["native"]
    store = open_store(config.tracking, ROOT)
    with store.start("sweep loader=native,dali", None, {}) as parent:
        parent.tags({"mlflow.note.content": "| job | samples/s |\n|---|---|\n| loader=native | 123 |\n"})
        for name, config in configs.items():
            child = run.run(config, job.Job(f"loader={name}", f"loader={name}", parent.run_id), terminal)
    return store.uri, store.experiment_id, parent.run_id, child.run_id


@pytest.fixture
def address(swept: tuple[str, str, str, str]) -> Iterator[str]:
    """The address of a UI, started with the command of `make ui`."""
    with served([sys.executable, "-m", "experiments.ui", "--store", swept[0]], ROOT) as address:
        yield address


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")
def test_the_ui_shows_a_sweep(address: str, swept: tuple[str, str, str, str], tmp_path: Path) -> None:
    from playwright.sync_api import expect, sync_playwright

    _, experiment, parent, child = swept
    page_of = f"{address}/#/experiments/{experiment}/runs"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page(viewport={"width": 2000, "height": 1000})
        expect.set_options(timeout=40_000)

        page.goto(page_of)
        expect(page.get_by_text("sweep loader=native,dali").first).to_be_visible()
        expect(page.get_by_text("3 matching runs")).to_be_visible()

        page.get_by_role("button", name="Views").click()
        page.get_by_text("Runs and verdicts").click()
        # a column appears only if a run has its value: these runs have no ceiling and no bottleneck
        for column in ("verdict", "rate/samples_per_s", "starvation/starved_pct"):
            expect(page.get_by_role("columnheader", name=column).first).to_be_visible()

        page.goto(f"{page_of}/{parent}")
        for name in ("loader=native", "loader=dali"):
            expect(page.get_by_role("link", name=name).first).to_be_visible()
        expect(page.get_by_text("samples/s").first).to_be_visible()  # the table in the description of the parent run

        page.goto(f"{page_of}/{child}")
        expect(page.get_by_text("Finished").first).to_be_visible()
        expect(page.get_by_role("link", name="sweep loader=native,dali").first).to_be_visible()
        expect(page.get_by_text("imagefolder").first).to_be_visible()  # the dataset

        page.goto(f"{page_of}/{child}/model-metrics")
        page.get_by_placeholder("Search metric charts").fill("train/loss")
        expect(page.get_by_role("heading", name="loss", exact=True)).to_be_visible()
        expect(page.get_by_text("loader=dali (train/loss)")).to_be_visible()

        page.goto(f"{page_of}/{child}/artifacts/breakdown.png")
        picture = page.locator("img[src*='breakdown'], img[src^='blob:']").first
        expect(picture).to_be_visible()
        page.screenshot(path=tmp_path / "breakdown.png")
        browser.close()


def test_a_port_in_use_is_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "experiments.ui", "--port", str(port)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert f"--port={port}: cannot listen" in done.stderr
    assert f"make ui PORT={port + 1}" in done.stderr
    assert "Traceback" not in done.stderr
