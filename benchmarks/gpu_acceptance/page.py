"""Writes the results of all parts as one page."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu_acceptance import kept
from benchmarks.gpu_acceptance.criteria import Criterion, criteria
from benchmarks.gpu_acceptance.kept import Outcome
from benchmarks.gpu_acceptance.parts import LADDER_VECTORS, PARTS, Setting
from benchmarks.gpu_acceptance.running import State, read, state_of, sweep_of
from loaderlab.compare.arms import Comparison
from loaderlab.config import PROJECT, UserError
from loaderlab.metrics import JOULES_PER_SAMPLE, POWER_W
from loaderlab.report import page
from loaderlab.report.arm_table import arm_table
from loaderlab.report.markdown import markdown_table
from loaderlab.runs import compare_runs
from loaderlab.system.causes import described
from loaderlab.tracking.store import Store

RESULTS = PROJECT / "docs" / "results"
LADDER_PAGE = PROJECT / "docs" / "results.md"
LADDER_PLACE = ("<!-- the ladder: replaced by --ladder -->", "<!-- end of the ladder -->")
MACHINE = ("processor", "cores_available", "device")  # the fields that identify a machine
OUTCOME_TEXTS = {"begun": "did not finish", "chosen": "not run"}  # of tests; other outcomes are their own text


@dataclass
class Results:
    """The results of all parts.

    Attributes:
        states: the runs of each part, by its name.
        tests: the outcome of each test, by its name.
    """

    states: Mapping[str, State]
    environment: dict[str, Any] | None = None
    overhead: dict[str, Any] | None = None
    tests: Mapping[str, Outcome] = field(default_factory=dict)
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    stores: dict[str, Store] = field(default_factory=dict)

    @property
    def criteria(self) -> list[Criterion]:
        """The targets, each with its result."""
        cores = None if self.environment is None else self.environment["machine"]["cores_available"]
        return list(criteria(self.comparisons, self.overhead, self.tests.values(), cores))

    def tests_with(self, outcome: str) -> list[Outcome]:
        """The tests with this outcome."""
        return [test for test in self.tests.values() if test.outcome == outcome]


def gather(setting: Setting) -> Results:
    """The results in a folder."""
    results = Results({part.name: state_of(setting, part) for part in PARTS}, tests=kept.read(setting.folder / "tests"))
    for part in PARTS:
        if not results.states[part.name].turns:  # the files there belong to another sweep
            continue
        file = setting.folder / part.name / "found.json"
        if sweep := sweep_of(setting, part):
            try:
                results.comparisons[part.name] = compare_runs.comparison_of_sweep(*sweep)
            except UserError:  # no job has finished
                continue
            results.stores[part.name] = sweep[0]
        elif file.exists():
            setattr(results, part.name, read(file))
    return results


def compose(results: Results, pictures: Mapping[str, str], data_folder: str) -> str:
    """The page in Markdown.

    Args:
        pictures: for each sweep its picture in Markdown, or the reason why there is none.
        data_folder: the folder next to the page, with the data of its tables.
    """
    assert results.environment is not None
    judged = results.criteria
    turns = [turn for state in results.states.values() for turn in state.turns]
    commits = sorted({turn.commit for turn in turns})
    days = sorted({turn.began[:10] for turn in turns})
    lines = [
        f"# {results.environment['machine']['device']}",
        "",
        f"Measured by `python -m benchmarks.gpu_acceptance`, {' to '.join(dict.fromkeys((days[0], days[-1])))}, at commit {', '.join(commits)}. "
        f"{sum(criterion.reached is True for criterion in judged)} of {len(judged)} targets are reached"
        f"{_count(judged, None, 'not measured or not shown')}{_count(judged, False, 'not reached')}.",
        "",
        markdown_table(
            ["target", "", "measured"],
            [[criterion.target, criterion.verdict, criterion.measured] for criterion in judged],
        ),
    ]
    for part in PARTS:
        lines += [f"## {part.title}", "", *_state(results.states[part.name])]
        if part.name == "environment":
            lines += _environment(results.environment)
        elif part.name == "tests":
            lines += _tests(results, data_folder)
        elif part.name == "overhead":
            lines += _overhead(results.overhead, data_folder)
        elif part.name in results.comparisons:
            lines += [page.markdown(results.comparisons[part.name], [pictures[part.name]]).rstrip("\n")]
            lines += [
                f"- metrics: [of each arm]({data_folder}/{part.name}.csv), [of each run]({data_folder}/{part.name}.runs.csv)",
                "",
            ]
        elif results.states[part.name].turns:
            lines += ["No job has finished.", ""]
    return "\n".join([*lines, "## Energy", "", *_energy(results.comparisons)])


def _count(judged: list[Criterion], reached: bool | None, label: str) -> str:
    count = sum(criterion.reached is reached for criterion in judged)
    return f", {count} {label}" if count else ""


def _state(state: State) -> list[str]:
    """Why results of a part are missing; empty if the part is done."""
    match state.status:
        case "not run":
            return ["Not run.", ""]
        case "cut":
            return [f"Stopped after {state.seconds:.0f} s: some results are missing.", ""]
        case "failed":
            return [f"Ended with exit code {state.turns[-1].exit_code}: some results are missing.", ""]
    return []


def _environment(environment: Mapping[str, Any]) -> Iterator[str]:
    """The machine as a list."""
    load, storage = environment["load"], environment["storage"]
    for name, value in environment["machine"].items():
        if name not in ("host", "load_average"):
            yield f"- {name.replace('_', ' ')}: {_as_text(value)}"
    yield f"- under load (matrix products): {_as_text({key: round(value, 1) if isinstance(value, float) else value for key, value in load.items() if key not in ('held_down', 'problem')})}"
    if load.get("problem"):
        yield f"- clocks and power were not measured: {load['problem']}"
    elif "held_down" in load:
        yield f"- clock limited by: {_as_text({name: f'{share} % of the samples' for name, share in load['held_down'].items()}) or 'nothing'}"
    yield f"- storage: {storage['write_mib_per_s']:,.0f} MiB/s written, {storage['read_mib_per_s']:,.0f} MiB/s read, one file of {storage['size_mib']} MiB"
    yield ""


def _as_text(value: Any) -> str:
    return (
        ", ".join(f"{key.replace('_', ' ')} {entry}" for key, entry in value.items())
        if isinstance(value, dict)
        else str(value)
    )


def _tests(results: Results, data_folder: str) -> Iterator[str]:
    counts = Counter(OUTCOME_TEXTS.get(test.outcome, test.outcome) for test in results.tests.values())
    if not counts:
        return
    for kind in ("passed", "failed", "skipped"):
        counts.setdefault(kind, 0)
    yield f"`pytest -m gpu`: {', '.join(f'{count} {kind}' for kind, count in counts.items())}; [all by name]({data_folder}/{kept.FILE})."
    yield ""
    for outcome in ("failed", "begun", "chosen"):
        yield from (f"- {OUTCOME_TEXTS.get(outcome, outcome)}: `{test.test}`" for test in results.tests_with(outcome))
    for why, count in Counter(test.why for test in results.tests_with("skipped")).most_common():
        yield f"- skipped {count}: {why}"
    yield ""


def _overhead(overhead: Mapping[str, Any] | None, data_folder: str) -> list[str]:
    if overhead is None:
        return []
    ratios = {
        "metered / bare step": overhead["ratio"],
        "ceiling / loop written by hand": overhead["ceiling"]["by_hand"],
        "ceiling / DALI's replay evaluator": overhead["ceiling"]["evaluator"],
    }
    rows = [[name, f"{value:.4f}", f"{low:.4f} to {high:.4f}"] for name, (value, low, high) in ratios.items()]
    return [
        f"{overhead['model']}, a step takes {overhead['step_ms']:.3f} ms; [all results]({data_folder}/overhead.json).",
        "",
        markdown_table(["ratio", "median", "95 % CI"], rows),
    ]


def _energy(comparisons: Mapping[str, Comparison]) -> list[str]:
    """The energy of each arm that measured it: median and range over its runs."""
    rows = []
    for part in PARTS:
        for arm in comparisons[part.name].arms if part.name in comparisons else ():
            if joules := sorted(run.figures[JOULES_PER_SAMPLE] for run in arm.runs if JOULES_PER_SAMPLE in run.figures):
                watts = arm.median(POWER_W)
                cells = [
                    f"{arm.median(JOULES_PER_SAMPLE):.4g}",
                    f"{joules[0]:.4g} to {joules[-1]:.4g}",
                    str(len(joules)),
                ]
                rows.append([part.title, arm.label, *cells, "–" if watts is None else f"{watts:.0f}"])
    if not rows:
        return ["Not measured: no run has recorded it.", ""]
    return [
        "Energy of the whole board by NVML's counter (from its power if the counter does not change), from the first measured step of each epoch to its end.",
        "",
        markdown_table(["part", "arm", "J/sample", "range", "n", "W"], rows),
    ]


def conclude(setting: Setting, requested: Sequence[str], name: str | None, ladder: bool) -> int:
    """Writes the page if there is a GPU, and prints what is missing.

    Returns:
        0 if every part of ``requested`` is done, no test failed and every picture was drawn.
    """
    results = gather(setting)
    complete = True
    if results.environment is None:
        complete = False
        print(
            f"error: the machine was not measured, so no page can be written: see {setting.folder}/environment/output.txt",
            file=sys.stderr,
        )
    elif setting.trial:
        _print_trial(results)
    else:
        target, undrawn = write(results, name)
        print(f"written: {target}")
        if ladder:
            print(
                "docs/results.md: "
                + (
                    "its ladder is now this machine's"
                    if publish_ladder(results, target)
                    else "unchanged, because no ladder on vectors has finished"
                )
            )
        for part, why in undrawn.items():
            complete = False
            print(f"{part}: its picture could not be drawn: {why}", file=sys.stderr)
    if undone := [part for part in requested if results.states[part].status != "done"]:
        print(f"not done: {', '.join(undone)}. Type the command again to continue", file=sys.stderr)
    if failed := results.tests_with("failed"):
        print(f"{len(failed)} tests failed: {setting.folder / 'tests' / 'output.txt'}", file=sys.stderr)
    return 0 if complete and not undone and not failed else 1


def _print_trial(results: Results) -> None:
    with tempfile.TemporaryDirectory() as folder:  # the same steps as with a GPU; the page is discarded
        pictures, undrawn = draw(results, Path(folder))
        text = compose(results, pictures, "data")
    num_done = sum(state.status == "done" for state in results.states.values())
    print(
        f"trial run on the CPU: {num_done} of {len(results.states)} parts ran at a small size; their page of {len(text):,} characters was composed and discarded"
    )
    if undrawn:
        print(f"not drawn: {undrawn}", file=sys.stderr)
    print("not measured, because they need a GPU:")
    for criterion in criteria({}, None, (), None):
        print(f"  {criterion.target}")
    print(
        f"no page is written without a GPU; {len(results.tests_with('skipped'))} tests were skipped because they need one"
    )


def write(results: Results, name: str | None) -> tuple[Path, dict[str, str]]:
    """Writes docs/results/<gpu>.md, and next to it a folder with its data: tests, metrics and pictures of every sweep.

    Returns:
        The page, and for each sweep without a picture the reason.

    Raises:
        UserError: a page of another machine has this name.
    """
    assert results.environment is not None
    machine = results.environment["machine"]
    name = name or re.sub("[^a-z0-9]+", "-", machine["device"].lower()).strip("-")
    data_folder = RESULTS / name
    environment_file = data_folder / "environment.json"
    if environment_file.exists():
        other = read(environment_file)["machine"]
        if any(other[field] != machine[field] for field in MACHINE):
            raise UserError(
                f"docs/results/{name}.md is the page of another machine ({other['processor']}, {other['cores_available']} cores). "
                f"Choose another name: --name {name}-{machine['cores_available']}-cores"
            )
    data_folder.mkdir(parents=True, exist_ok=True)
    environment = {**results.environment, "machine": {key: value for key, value in machine.items() if key != "host"}}
    environment_file.write_text(json.dumps(environment, indent=1) + "\n", encoding="utf-8")
    if results.overhead is not None:
        (data_folder / "overhead.json").write_text(json.dumps(results.overhead, indent=1) + "\n", encoding="utf-8")
    lines = [
        json.dumps({"test": test.test, "outcome": test.outcome, "why": test.why}) for test in results.tests.values()
    ]
    (data_folder / kept.FILE).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    pictures, undrawn = draw(results, data_folder)
    target = RESULTS / f"{name}.md"
    target.write_text(compose(results, pictures, name), encoding="utf-8")
    return target, undrawn


def draw(results: Results, data_folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Writes the picture and the metrics of each sweep into a folder.

    Returns:
        For each sweep its picture in Markdown or the reason why there is none; and the reason of each sweep without a
        picture. An error in a picture must not lose a page that took hours to measure.
    """
    pictures, undrawn = {}, {}
    for part, comparison in results.comparisons.items():
        try:
            with tempfile.TemporaryDirectory() as folder:
                compare_runs.save(comparison, results.stores[part], Path(folder))
                for file, suffix in (
                    (compare_runs.PICTURE, "png"),
                    ("comparison.csv", "csv"),
                    ("runs.csv", "runs.csv"),
                ):
                    shutil.copy(Path(folder) / file, data_folder / f"{part}.{suffix}")
            pictures[part] = f"![{part}]({data_folder.name}/{part}.png)"
        except Exception as error:
            undrawn[part] = described(error)
            pictures[part] = f"Its picture could not be drawn: {undrawn[part]}"
    return pictures, undrawn


def publish_ladder(results: Results, target: Path) -> bool:
    """Replaces the ladder of docs/results.md by that of a machine's page.

    Returns:
        False if the machine has no such ladder.
    """
    if LADDER_VECTORS not in results.comparisons:
        return False
    comparison = results.comparisons[LADDER_VECTORS]
    where = os.path.relpath(target.with_suffix(""), LADDER_PAGE.parent)
    facts = page.facts(comparison)
    lines = [markdown_table(*arm_table(comparison, group)) for group in comparison.groups]
    lines += [f"![each rung's training loop, and how much of it waits for data]({where}/{LADDER_VECTORS}.png)", ""]
    lines += [
        f"`python -m experiments.train study=ladder`, {facts.get('device', 'several devices')}: {facts.get('work', '')}; {facts['runs']}. "
        f"[All results]({where}.md). The published study is not known in full: compare the ratios, not the seconds."
    ]
    text = LADDER_PAGE.read_text(encoding="utf-8")
    before, opened, rest = text.partition(LADDER_PLACE[0])
    _, closed, after = rest.partition(LADDER_PLACE[1])
    assert opened, f"docs/results.md has no {LADDER_PLACE[0]}"
    assert closed, f"docs/results.md has no {LADDER_PLACE[1]}"
    # the empty line: a table that follows a comment at once is none for MkDocs
    LADDER_PAGE.write_text("\n".join([before + opened, "", *lines, "", closed + after]), encoding="utf-8")
    return True
