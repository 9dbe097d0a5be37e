"""Every result of an emulated accelerator is marked as emulated: names, tags, tables, pages, pictures and files.

A real run is in the same store, so that a table which mixes both would show.
"""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO, StringIO
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from PIL import Image
from rich.console import Console

from loaderlab.cli.compose import compose as hydra_compose
from loaderlab.cli.compose import typed
from loaderlab.config import PROJECT, CompareConfig, TrackingConfig
from loaderlab.runs import compare_runs
from loaderlab.runs.job import single
from loaderlab.runs.run import run
from loaderlab.system.terminal import Terminal
from loaderlab.tracking import open_store
from tests.conftest import compose

pytestmark = pytest.mark.slow  # it makes real sweeps
WORD = "emulated"
SETTINGS = ["accelerator=custom", "accelerator.step_ms=2", "accelerator.host_ms=0", "data=vectors", "steps=40"]
SETTINGS += ["data.num_samples=2000", "batch_size=32"]
REAL_ARM = "an arm of silicon"
REAL_RATE = 777.0
INPUTS = {"config.yaml", "overrides.yaml", "plan.json", "parity.json"}  # what was requested, not what was measured
LOGS = {"environment.json", "log.txt"}  # they keep their names, and their text says it
NO_LOSS = "no loss and no accuracy"  # this is said once
RESULTS_OF_OTHERS = re.compile(r"\bGPUs?\b|\bloss(es)?\b|\baccuracy\b", re.IGNORECASE)
TABLE_START = re.compile(r"^(┏|\| .* \|$)")


@dataclass
class Results:
    """Everything that the commands made: the recorded runs with their artifacts, the texts on the terminal, the files of a report."""

    runs: list[Run] = field(default_factory=list)
    artifacts: dict[str, bytes] = field(default_factory=dict)  # "name of the run: path" to content
    terminal: dict[str, str] = field(default_factory=dict)  # command to text
    report: dict[str, bytes] = field(default_factory=dict)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The results of an emulated run, an emulated sweep, and a comparison of all runs, including a real one."""
    folder = tmp_path_factory.mktemp("emulated")
    uri = f"sqlite:///{folder}/mlflow.db"
    made = Results()
    made.terminal["train"] = _one_run([*SETTINGS, f"tracking.uri={uri}"])
    arguments = ["-m", "loader.num_workers=0,1", *SETTINGS, "measure=bare", f"tracking.uri={uri}"]
    command = [sys.executable, "-m", "experiments.train", *arguments]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    made.terminal["sweep"] = done.stdout
    _record_a_real_run(uri)
    made.terminal["compare"] = _compare(["runs=all", f"output={folder}/report", f"tracking.uri={uri}"])
    made.report = {path.name: path.read_bytes() for path in (folder / "report").iterdir()}
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(TrackingConfig.experiment)
    assert experiment is not None
    for entry in client.search_runs([experiment.experiment_id]):
        if entry.info.run_name != REAL_ARM:
            made.runs.append(entry)
            made.artifacts |= _artifacts(client, entry, folder / "downloaded" / entry.info.run_id)
    return made


def _one_run(overrides: list[str]) -> str:
    terminal = Terminal(Console(file=StringIO(), width=150))
    config = compose(overrides)
    run(config, single(config, overrides), terminal)
    return "\n".join(terminal.said)


def _compare(overrides: list[str]) -> str:
    terminal = Terminal(Console(file=StringIO(), width=150))
    compare_runs.run_compare(typed(hydra_compose("compare", overrides), CompareConfig), terminal)
    return "\n".join(terminal.said)


def _record_a_real_run(uri: str) -> None:
    store = open_store(TrackingConfig(uri=uri), Path())
    tags = {"arm": REAL_ARM, "device.type": "cpu", "device.name": "a processor"}
    with store.start(REAL_ARM, None, tags) as tracked:
        tracked.params([("model.name", "cnn"), ("loader.name", "native"), ("repeat", 1), ("seed", 0)])
        for name, value in (("rate/samples_per_s", REAL_RATE), ("train/loss", 0.1), ("val/accuracy", 0.9)):
            tracked.metric(name, value, 1)


def _artifacts(client: MlflowClient, entry: Run, folder: Path) -> dict[str, bytes]:
    folder.mkdir(parents=True)
    root = Path(client.download_artifacts(entry.info.run_id, "", str(folder)))
    files = (path for path in root.rglob("*") if path.is_file())
    return {f"{entry.info.run_name}: {path.relative_to(root)}": path.read_bytes() for path in files}


def files(results: Results) -> Iterator[tuple[str, str, bytes]]:
    """(where, file name, content) of each artifact of an emulated run and each file of the report."""
    for where, content in results.artifacts.items():
        yield where, where.rpartition(": ")[2].rpartition("/")[2], content
    for name, content in results.report.items():
        if name.replace(f"_{WORD}", "") == name and name.replace(".", f"_{WORD}.") in results.report:
            continue  # a file of the real run, which has its own
        yield f"report: {name}", name, content


def texts(results: Results) -> Iterator[tuple[str, str]]:
    """(where, text) of each result that is a text: notes, tags, artifacts, files, and the terminal's text."""
    for entry in results.runs:
        yield f"{entry.info.run_name}: name", entry.info.run_name
        yield from ((f"{entry.info.run_name}: {name}", value) for name, value in entry.data.tags.items())
        yield from ((f"{entry.info.run_name}: metric", name) for name in entry.data.metrics)
    for where, name, content in files(results):
        yield where, name
        if not name.endswith(".png") and name not in INPUTS:
            yield where, content.decode()
    for command, text in results.terminal.items():
        yield f"{command}: terminal", _emulated_part(command, text)


def _emulated_part(command: str, text: str) -> str:
    """The text without the comparison of the real run, which comes first."""
    return text.partition("\nemulated ")[2] if command == "compare" else text


def test_the_names_and_tags_of_the_runs(results: Results) -> None:
    assert len(results.runs) == 4  # one run, a parent, and two jobs
    for entry in results.runs:
        tags = entry.data.tags
        named = [entry.info.run_name, tags["device.type"], tags["mlflow.note.content"].splitlines()[0]]
        if "sweep" not in tags:
            named += [tags["arm"], tags["device.name"], tags["verdict.because"]]
        else:
            named += [tags[f"headline.{WORD}"]]
            assert "headline" not in tags
        assert [text for text in named if WORD not in text] == []
        assert not [name for name in entry.data.params if name.startswith(("model.", "precision.", "optimizer."))]


def test_the_names_of_the_files(results: Results) -> None:
    names = [name for _, name, _ in files(results)]
    assert {"steps_emulated.csv", "breakdown_emulated.png", "report_emulated.md"} <= set(names)
    assert {"report_emulated.html", "comparison_emulated.json", "runs_emulated.csv", "phases_emulated.png"} <= set(
        names
    )
    assert [name for name in names if WORD not in name and name not in INPUTS | LOGS] == []


def test_the_text_of_the_files(results: Results) -> None:
    for where, name, content in files(results):
        if name.endswith(".png"):
            with Image.open(BytesIO(content)) as picture:
                assert WORD in picture.info["Title"], where
        elif name.endswith(".csv") and "steps" not in name:  # the steps are numbers only
            rows = list(csv.DictReader(StringIO(content.decode())))
            assert rows
            assert all(WORD in row["arm"] and WORD in row["device"] for row in rows), where
        elif name.endswith(".json") and "comparison" in name:
            comparison = json.loads(content)
            arms = [arm["arm"] for group in comparison["groups"] for arm in group["arms"]]
            assert all(WORD in text for text in (comparison["title"], comparison["headline"][0], *arms)), where
        elif name in LOGS or name.endswith((".md", ".html")):
            assert WORD in content.decode(), where


def test_the_headings_of_the_pages(results: Results) -> None:
    for where, name, content in files(results):
        if name.endswith(".html"):
            lines = content.decode().splitlines()
            own = ("How to read this page", "Caveats", "Not measured")
            headings = [line for line in lines if line.startswith(("<title>", "<h1>", "<h2>"))]
            headings = [line for line in headings if not any(text in line for text in own)]
            labels = re.findall(r'aria-label="([^"]*)"', content.decode())
            assert len(headings) > 5
            assert [text for text in (*headings, *labels) if WORD not in text] == [], where
            assert content.decode().count("<svg") == len(labels)
            titled = re.findall(r'<h2>[^<]*emulated[^<]*</h2>\s*<div class="scroll"><table>', content.decode())
            assert len(titled) == content.decode().count("<table>") == 1
        elif name.endswith(".md"):
            title = content.decode().splitlines()[0]
            assert title.startswith("# "), where
            assert WORD in title, where


def test_the_tables(results: Results) -> None:
    """The line before each table, or the last text before it, says that it is one of emulated results."""
    for where, text in texts(results):
        previous, count = "", 0
        for line in text.splitlines():
            if TABLE_START.match(line) and not previous.startswith("|"):
                count += 1
                marked = WORD in previous or f"| {WORD}" in line or "what" in line  # a run's own page has its title
                assert marked, f"{where}: {previous!r} before {line!r}"
            previous = line if line.strip() else previous
        if where in ("sweep: terminal", "train: terminal", "compare: terminal"):
            assert count or where == "compare: terminal"


def test_the_titles_on_the_terminal(results: Results) -> None:
    for command in ("sweep", "compare"):
        assert "\nemulated custom accelerator: " in results.terminal[command], command


def test_no_table_mixes_real_and_emulated_results(results: Results) -> None:
    for where, text in texts(results):
        assert REAL_ARM not in text, where
    real = {name: content for name, content in results.report.items() if WORD not in name}
    assert {"report.html", "comparison.csv", "runs.csv", "comparison.json"} <= set(real)
    for name, content in real.items():
        assert name.endswith(".png") or WORD not in content.decode(), name
    real_part, _, emulated_part = results.terminal["compare"].partition("\nemulated ")
    assert f"{REAL_RATE:.0f}" in real_part
    assert "samples/s" in emulated_part


def test_nothing_is_called_a_result_of_a_gpu_or_of_learning(results: Results) -> None:
    for where, text in texts(results):
        words = RESULTS_OF_OTHERS.findall(text.replace(NO_LOSS, ""))
        assert not RESULTS_OF_OTHERS.search(text.replace(NO_LOSS, "")), f"{where}: {words}"
        assert "learns" not in text, where
        assert "in learning" not in text, where
