"""The differences that the comparison of recorded output reports, and those that it ignores."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import record_equality
from benchmarks.harness import masks, recorded_output
from loaderlab import metrics
from loaderlab.config import TrackingConfig
from loaderlab.tracking import open_store

RUN = {
    "status": "FINISHED",
    "metrics": {metrics.RATE: "number, one step", metrics.TRAIN_LOSS: "number, several steps"},
    "params": {"batch_size": "64", "data.root": "<folder>/digits"},
    "tags": {"verdict": "<text>", "arm": "loader=native"},
    "data sets": [],
    "artifacts": {
        "steps.csv": ["epoch", "step"],
        "report.md": ["# a run", "| step | # ms |"],
        "breakdown.png": "<file>",
    },
}
DUMP: dict[str, Any] = {
    "experiments": {"loaderlab": {}},
    "runs": {"a run": RUN},
    "report": {"comparison.json": {"": "dict", ".title": "str"}},
}


def written(folder: Path, dumped: dict[str, Any]) -> str:
    folder.mkdir(exist_ok=True)
    (folder / record_equality.RECORDS).write_text(json.dumps(dumped))
    return str(folder)


def test_equal_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", written(tmp_path / "a", DUMP), written(tmp_path / "b", DUMP)]
    assert record_equality.main(arguments) == 0
    assert capsys.readouterr().out == "equal: 14 fields of 1 runs and 4 files\n"


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (
            lambda run: run["metrics"].pop(metrics.RATE),
            [f"only before: runs / a run / metrics / {metrics.RATE} = number, one step"],
        ),
        (
            lambda run: run["metrics"].update({metrics.RATE: "number, several steps"}),
            [
                f"differs:     runs / a run / metrics / {metrics.RATE}",
                "    - number, one step",
                "    + number, several steps",
            ],
        ),
        (
            lambda run: run["tags"].update({"kind": run["tags"].pop("arm")}),
            [
                "only before: runs / a run / tags / arm = loader=native",
                "only after:  runs / a run / tags / kind = loader=native",
            ],
        ),
        (
            lambda run: run["params"].update(batch_size="32"),
            ["differs:     runs / a run / params / batch_size", "    - 64", "    + 32"],
        ),
        (
            lambda run: run["artifacts"].pop("breakdown.png"),
            ["only before: runs / a run / artifacts / breakdown.png = <file>"],
        ),
        (
            lambda run: run["artifacts"].update({"steps.csv": ["epoch", "index"]}),
            ["differs:     runs / a run / artifacts / steps.csv", "    -step", "    +index"],
        ),
    ],
    ids=["missing metric", "steps of a metric", "renamed tag", "changed param", "lost artifact", "changed CSV header"],
)
def test_reported_differences(
    change: Callable[[dict[str, Any]], Any], lines: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = copy.deepcopy(DUMP)
    change(changed["runs"]["a run"])
    arguments = ["compare", written(tmp_path / "before", DUMP), written(tmp_path / "after", changed)]
    assert record_equality.main(arguments) == 1
    *reported, last = capsys.readouterr().out.splitlines()
    assert reported == lines
    fields = sum(not line.startswith(" ") for line in lines)
    assert last == f"different: {fields} of 14 fields of 1 runs and 4 files"


def test_a_folder_without_records(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="records.json cannot be read"):
        record_equality.main(["compare", str(tmp_path), str(tmp_path)])
    with pytest.raises(SystemExit, match="not a checkout"):
        record_equality.main(["record", "--checkout", str(tmp_path), "--to", str(tmp_path / "new")])


REPORT = """# loader=native repeat=2

**inconclusive**: only 14 steps were measured; measured: starved of data 20.2 % of the time (95 % CI 12.0 to 28.5).

- try measure more steps

- **device**: cpu (2 cores), 1 torch threads

| figure | value | metric |
|---|---:|---|
| step, mean | 27.12 ms | `time/step_ms` |
"""
NOISIER = """# loader=native repeat=2

**starved** of data 29.1 % of the time (95 % CI 26.0 to 32.5).

Bottleneck: interference.

- **device**: cpu (2 cores), 1 torch threads

| figure | value | metric |
|---|---:|---|
| step, mean | 1,127.3 ms | `time/step_ms` |
"""


def test_conclusions_of_noisy_runs_are_ignored() -> None:
    assert masks.lines(REPORT) == masks.lines(NOISIER)
    for old, new in (("step, mean", "mean step"), (" ms", " s"), ("**device**", "**machine**"), ("step_ms", "step_s")):
        assert masks.lines(REPORT) != masks.lines(NOISIER.replace(old, new)), new


COMPARISON = """# sweep loader=native,dali

dali is shown to be faster than native: 1.50x (1.4 to 1.6).

![the comparison](comparison.png)

| loader | n | samples/s | gain | verdict |
| --- | --- | ---: | ---: | ---: |
| native | 3 | 2,360 | baseline | fed |

**Measured with**

- samples: 1438 training
"""
NOISIER_COMPARISON = """# sweep loader=native,dali

No arm is shown to be faster than native.

What a faster loader could give is not clear.

![the comparison](comparison.png)

| loader | n | samples/s | gain | note | verdict |
| --- | --- | ---: | ---: | ---: | ---: |
| native | 3 | 1,360 | baseline | see below | inconclusive (2 of 3) |

**Caveats**

- native: measured while other programs ran

**Measured with**

- samples: 1438 training
"""


def test_remarks_on_noise_are_ignored() -> None:
    assert masks.lines(COMPARISON) == masks.lines(NOISIER_COMPARISON)
    for old, new in (("samples/s", "rate"), ("Measured with", "Facts"), ("samples: ", "data: "), ("native |", "own |")):
        assert masks.lines(COMPARISON) != masks.lines(NOISIER_COMPARISON.replace(old, new)), new


PAGE = """<html><head><style>p { margin: 1rem; }</style></head><body><h1>sweep</h1>
<div class="answer"><p>{answer}</p></div>
<table><thead><tr><th>loader</th><th>gain</th>{head}<th>wait</th></tr></thead>
<tbody><tr><td>dali</td><td>{gain}</td>{cell}<td>{wait} %</td></tr></tbody></table>
{remarks}<h2>When does each arm wait for data?</h2>
<figure><svg><!-- time in the loop, s --><!-- {wait} -->{legend}</svg><figcaption>Each step.</figcaption></figure>
</body></html>"""


def page(**values: str) -> str:
    text = PAGE
    for name in ("answer", "head", "gain", "cell", "wait", "remarks", "legend"):
        text = text.replace(f"{{{name}}}", values.get(name, ""))
    return text


def test_a_page_is_compared_by_its_words() -> None:
    quiet = page(answer="dali is faster.", gain="1.5x", wait="15.2")
    noisy = page(
        answer="No arm is shown to be faster.</p><p>It is not clear.",
        head="<th>note</th>",
        gain="0.9x (0.7-1.3)\nno difference shown",
        cell="<td>too noisy</td>",
        wait="3",
        remarks='<h2>Caveats</h2><ul class="remarks"><li>dali: too noisy</li></ul>',
        legend="<!-- n.d.s.: no difference shown -->",
    )
    assert masks.page(quiet) == masks.page(noisy)
    for old, new in (
        ("time in the loop", "time"),
        ("Each step.", "Every step."),
        ("<th>wait</th>", "<th>data wait</th>"),
        ("1rem", "2rem"),
        ("<td>dali", "<td>DALI"),
        ("When does", "Where does"),
    ):
        assert masks.page(quiet) != masks.page(noisy.replace(old, new)), new


def test_json_is_compared_by_keys_and_types() -> None:
    first = {"runs": [{"id": "a", "gain": None, "notes": []}, {"id": "b", "gain": 1.5, "notes": ["too noisy"]}]}
    second = {"runs": [{"id": "c", "gain": 1.2, "notes": ["too noisy"]}, {"id": "d", "gain": None, "notes": []}]}
    assert masks.tree(first) == masks.tree(second)
    assert masks.tree(first)[".runs[].gain"] == "float or null"
    assert masks.tree({"f02f29c10e27b208": 1}) == masks.tree({"fc02eccfaf522e9b": 2})
    assert masks.tree({"n": 1}) != masks.tree({"n": 1.0})
    assert masks.tree({"n": 1}) != masks.tree({"m": 1})


def test_masked_text() -> None:
    assert masks.masked("3 of 2,360 samples, fp32, torch 2.15.0, 1e-05") == "# of # samples, fp32, torch #, #"
    assert masks.masked("run 5f78cab7779f46dcbdb60624e913a5b5") == "run <run>"


def test_columns_that_only_some_runs_have() -> None:
    text = f"arm,{metrics.RATE},{metrics.CHANGE_STEP}\n1,2,3\n"
    assert masks.content("comparison.csv", text, {}) == ["arm", metrics.RATE]


def test_a_store_as_fields(store_uri: str, tmp_path: Path) -> None:
    store = open_store(TrackingConfig(uri=store_uri, experiment="sweeps"), tmp_path)
    report, artifacts = tmp_path / "report", tmp_path / "artifacts"
    for folder in (report, artifacts / "inner"):
        folder.mkdir(parents=True)
    (report / "runs.csv").write_text("run_id,name\n1,2\n")
    (artifacts / "inner" / "steps.csv").write_text("epoch,step\n0,1\n")
    (artifacts / "picture.png").write_bytes(b"\x89PNG")
    with store.start("a run", None, {"verdict": "fed", "bottleneck": "storage", "cores": "2", "say": "3 runs"}) as run:
        run.params([("batch_size", 64), ("data.root", f"{tmp_path}/digits")])
        run.metric(metrics.RATE, 10.5, 3)
        run.metric(metrics.SKIPPED_SAMPLES, 2.0, 3)
        run.metric(metrics.TRAIN_LOSS, 1.5, 1)
        run.metric(metrics.TRAIN_LOSS, 1.25, 2)
        run.metric(metrics.CHANGE_STEP, 100.0, 3)
        run.artifacts(artifacts)
    dumped = recorded_output.dump(store_uri, report, {str(tmp_path): "<folder>"})
    (dumped_run,) = dumped["runs"].values()
    assert dumped_run["metrics"] == {
        metrics.RATE: "number, one step",
        metrics.SKIPPED_SAMPLES: "whole number, one step",
        metrics.TRAIN_LOSS: "number, several steps",
    }
    assert dumped_run["params"] == {"batch_size": "64", "data.root": "<folder>/digits"}
    tags = {name: dumped_run["tags"].get(name) for name in ("verdict", "bottleneck", "cores", "say")}
    assert tags == {"verdict": "<text>", "bottleneck": None, "cores": "2", "say": "# runs"}
    assert dumped_run["artifacts"] == {"inner/steps.csv": ["epoch", "step"], "picture.png": "<file>"}
    assert dumped["report"] == {"runs.csv": ["run_id", "name"]}
