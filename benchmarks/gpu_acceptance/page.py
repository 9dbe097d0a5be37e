"""What all parts have found, as one page."""

from __future__ import annotations

import json
import shutil
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.gpu_acceptance.parts import PARTS, Part, Setting
from benchmarks.gpu_acceptance.targets import targets
from loaderlab import comparing
from loaderlab.config import PROJECT, TrackingConfig, UserError
from loaderlab.report import page
from loaderlab.report.comparison import Comparison
from loaderlab.report.table import markdown_table
from loaderlab.tracking import Store

RESULTS = PROJECT / "docs" / "results"


@dataclass
class Found:
    """Of every part that has left something.

    Attributes:
        states: how each part went (its ``part.json``).
        tests: outcome by name, and why those that were skipped were.
    """

    states: Mapping[str, Mapping[str, Any]]
    environment: dict[str, Any] | None = None
    overhead: dict[str, Any] | None = None
    tests: dict[str, str] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    stores: dict[str, Store] = field(default_factory=dict)


def begun(setting: Setting, part: Part) -> tuple[Store, str] | None:
    """Where the part's sweep is recorded, and its run's id; None where none has been begun."""
    try:
        store = Store(TrackingConfig(uri=setting.store, experiment=part.name), PROJECT, create=False)
    except UserError:
        return None
    newest = store.newest_sweep()
    return None if newest is None else (store, newest.run_id)


def gather(setting: Setting, states: Mapping[str, Mapping[str, Any]]) -> Found:
    found = Found(states)
    for part in PARTS:
        file = setting.folder / part.name / "found.json"
        if part.overrides:
            if (sweep := begun(setting, part)) is None:
                continue
            store, run_id = sweep
            try:
                found.comparisons[part.name] = comparing.of_sweep(store, run_id)
            except UserError:  # none of its jobs has finished
                continue
            found.stores[part.name] = store
        elif file.exists():
            setattr(found, part.name, json.loads(file.read_text()))
    found.tests, found.skipped = outcomes(setting.folder / "tests" / "junit.xml")
    return found


def outcomes(junit: Path) -> tuple[dict[str, str], Counter[str]]:
    """``passed``, ``failed`` or ``skipped`` of each test by name, and how often each reason to skip one was given."""
    if not junit.exists():
        return {}, Counter()
    ended: dict[str, str] = {}
    reasons: Counter[str] = Counter()
    for case in ET.parse(junit).iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        ended[f"{case.get('classname')}.{case.get('name')}"] = outcome
        reasons.update(child.get("message") or "no reason given" for child in case if child.tag == "skipped")
    return ended, reasons


def compose(found: Found, pictures: Mapping[str, str]) -> str:
    """The page in Markdown.

    Args:
        pictures: of a part, the path of its picture beside the page.
    """
    assert found.environment is not None
    machine = found.environment["machine"]
    told = list(targets(found.comparisons, found.overhead, found.tests, machine["cores_available"]))
    commits = sorted({str(state["commit"]) for state in found.states.values() if state.get("commit")})
    lines = [
        f"# {machine['device']}",
        "",
        f"Measured by `python -m benchmarks.gpu_acceptance`, {date.today().isoformat()}, on commit {', '.join(commits) or 'unknown'}. "
        f"{sum(target.reached is True for target in told)} of {len(told)} targets are reached"
        f"{_count(told, None, 'not measured')}{_count(told, False, 'not reached')}.",
        "",
        markdown_table(["target", "", "measured"], [[target.what, target.verdict, target.measured] for target in told]),
        *_environment(found.environment),
        *_tests(found),
    ]
    for part in PARTS:
        if part.overrides:
            lines += [f"## {part.title}", "", *_state(found.states[part.name])]
            if part.name in found.comparisons:
                links = [f"![{part.title}]({pictures[part.name]})"] if part.name in pictures else []
                lines += [page.markdown(found.comparisons[part.name], links)]
                lines += (
                    [f"All figures: [{part.name}.csv]({Path(pictures[part.name]).with_suffix('.csv')})", ""]
                    if links
                    else []
                )
    lines += [f"## {next(part.title for part in PARTS if part.name == 'overhead')}", "", *_overhead(found)]
    return "\n".join(lines)


def _count(told: list[Any], reached: bool | None, word: str) -> str:
    count = sum(target.reached is reached for target in told)
    return f", {count} {word}" if count else ""


def _state(state: Mapping[str, Any]) -> list[str]:
    """Nothing to say of a part that is done."""
    match state.get("status"):
        case None:
            return ["Not run.", ""]
        case "cut":
            return [
                f"Cut after {state['seconds']:.0f} s: what is missing is listed below."
                if "seconds" in state
                else "Cut.",
                "",
            ]
        case "failed":
            return [f"Ended with exit code {state['exit_code']}.", ""]
    return []


def _environment(found: Mapping[str, Any]) -> Iterator[str]:
    """The machine as a list."""
    machine, gpu, storage = found["machine"], found["gpu"], found["storage"]
    yield f"## {PARTS[0].title}"
    yield ""
    for name, value in machine.items():
        if name in ("host", "load_average"):
            continue
        yield f"- {name.replace('_', ' ')}: " + (
            ", ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, dict) else str(value)
        )
    if gpu:
        yield "- GPU at the start: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in gpu.items())
    yield f"- storage: {storage['write_mib_per_s']:,.0f} MiB/s written, {storage['read_mib_per_s']:,.0f} MiB/s read back, one file of {storage['size_mib']} MiB"
    yield ""


def _tests(found: Found) -> Iterator[str]:
    ended = Counter(found.tests.values())
    yield f"## {PARTS[1].title}"
    yield ""
    yield from _state(found.states["tests"])
    yield f"`pytest -m gpu`: {ended['passed']} passed, {ended['failed']} failed, {ended['skipped']} skipped."
    yield ""
    yield from (f"- failed: `{name}`" for name, outcome in found.tests.items() if outcome == "failed")
    yield from (f"- skipped {count}: {reason}" for reason, count in found.skipped.most_common())
    yield ""


def _overhead(found: Found) -> list[str]:
    if found.overhead is None:
        return _state(found.states["overhead"])
    told = found.overhead
    rows = [
        [name, f"{value:.4f}", f"{low:.4f} to {high:.4f}"]
        for name, (value, low, high) in (
            ("metered / bare step", told["ratio"]),
            ("ceiling / loop by hand", told["ceiling"]["by_hand"]),
            ("ceiling / DALI's replay evaluator", told["ceiling"]["evaluator"]),
        )
    ]
    return [
        f"{told['model']}, a step of {told['step_ms']:.3f} ms.",
        "",
        markdown_table(["ratio", "median", "95 %"], rows),
    ]


def conclude(setting: Setting, states: Mapping[str, Mapping[str, Any]], asked: Sequence[str]) -> int:
    """Says what is missing; writes the page where there is a GPU.

    Returns:
        0 where every part of ``asked`` is done and no test failed.
    """
    found = gather(setting, states)
    undone = [name for name in asked if states[name].get("status") != "done"]
    failed = [name for name, outcome in found.tests.items() if outcome == "failed"]
    if setting.dry:
        composed = (
            f", and the page from them ({len(compose(found, {})):,} characters, not kept)" if found.environment else ""
        )
        print(
            f"dry run on the CPU: {sum(state.get('status') == 'done' for state in states.values())} of {len(states)} parts ran at a small size{composed}"
        )
        print("not measured, since only a GPU can show it:")
        machine = None if found.environment is None else found.environment["machine"]["cores_available"]
        for target in targets({}, None, {}, machine):
            print(f"  {target.what}")
        print(f"no page is written without a GPU; {found.skipped.total()} tests were skipped for want of one")
    elif found.environment is None:
        print("error: nothing is known of the machine: the part `environment` is missing, so no page is written", file=sys.stderr)  # fmt: skip
        return 1
    else:
        print(f"written: {write(found)}")
    if undone:
        print(f"not done: {', '.join(undone)}. Type the command again to go on", file=sys.stderr)
    if failed:
        print(f"{len(failed)} tests failed: {setting.folder / 'tests' / 'output.txt'}", file=sys.stderr)
    return 1 if undone or failed else 0


def write(found: Found) -> Path:
    """docs/results/<gpu>.md, and beside it a folder with the figures of each sweep as CSV and its picture."""
    assert found.environment is not None
    name = "".join(char if char.isalnum() else "-" for char in found.environment["machine"]["device"].lower())
    beside = RESULTS / name
    beside.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for part, comparison in found.comparisons.items():
        made = beside / f".{part}"
        made.mkdir(exist_ok=True)
        comparing.write(comparison, found.stores[part], made)
        shutil.copy(made / comparing.PICTURE, beside / f"{part}.png")
        shutil.copy(made / "comparison.csv", beside / f"{part}.csv")
        shutil.rmtree(made)
        pictures[part] = f"{name}/{part}.png"
    target = RESULTS / f"{name}.md"
    target.write_text(compose(found, pictures), encoding="utf-8")
    return target
